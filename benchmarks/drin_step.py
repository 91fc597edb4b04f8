"""One training step of DRIN at the paper's sizes (64 mentions; texts 768, pictures 2,048 wide), by number of
candidates.

    python benchmarks/drin_step.py [--threads 2] [--device cpu] [--candidates 10 25 50 100 200] [--json OUT]

Synthetic features in memory, every candidate a different entity (the worst case); the four kinds of edges, one pair in
ten without. A step is encoding, graph, loss, gradients and Adam. Each number of candidates is measured in a process of
its own: the median of --repeats steps after two, by the clock and by the process's CPU time (of all threads; what is
left to trust where others share the cores), and the growth of peak memory over what features and head take. What a
candidate more adds should stay the same from row to row. Under a minute on idle cores.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _measure import machine, now, synchronise

from foundation import device as devices
from heads.base import Batch, Ragged, Rows, make_head
from heads.config import load_config
from heads.config.drin import RELATIONS

TOKENS, TEXT, IMAGE = 24, 768, 2048
# glibc maps arrays over 32 MB anew each time: above 160 candidates that costs as much as the arithmetic of the head.
HEAP = {"MALLOC_MMAP_THRESHOLD_": str(1 << 30), "MALLOC_TRIM_THRESHOLD_": str(1 << 33)}
GROWTH = (("cpu_seconds", 1000), ("mb", 1))
SHAPES = {
    "text.pooled": (TEXT,),
    "text.tokens": (TEXT,),
    "text.offsets": (2,),
    "image.pooled": (IMAGE,),
    **{f"pairs.{name}": () for name in RELATIONS.values()},
}


def rows(n: int, device: torch.device, tokens: bool) -> Rows:
    """n rows of random fp16 features; with token states for mentions."""
    columns = Rows(
        {
            "text.ok": torch.ones(n, dtype=torch.bool, device=device),
            "image.ok": torch.ones(n, dtype=torch.bool, device=device),
        }
    )
    columns["text.pooled"] = torch.randn(n, TEXT, device=device, dtype=torch.float16)
    columns["image.pooled"] = torch.rand(n, IMAGE, device=device, dtype=torch.float16)
    if tokens:
        lengths, place = torch.full((n,), TOKENS), torch.arange(TOKENS, dtype=torch.int32).repeat(n)
        columns["text.tokens"] = Ragged(torch.randn(n * TOKENS, TEXT, device=device, dtype=torch.float16), lengths)
        columns["text.offsets"] = Ragged(torch.stack([3 * place, 3 * place + 2], 1).to(device), lengths)
        columns["text.span"] = torch.tensor([[6, 11]], device=device).repeat(n, 1)
    return columns


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Seconds of a step and MB that it takes at `options.one` candidates."""
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    device = torch.device(devices.choose(options.device))
    precision = devices.choose_precision("auto", device.type, training=True)
    config = load_config("drin", {})
    head = make_head("drin", config, SHAPES).to(device)
    optimizer = torch.optim.AdamW(head.parameters(), lr=config.lr)
    b, r = config.batch_size, options.one
    lists = torch.arange(b * r, device=device).view(b, r)
    pairs = {
        name: torch.rand(b, r, device=device).masked_fill(torch.rand(b, r, device=device) < 0.1, torch.nan)
        for name in RELATIONS.values()
    }
    batch = Batch(rows(b, device, True), rows(b * r, device, False), lists[:, 0].clone(), lists, pairs)
    before = _memory(device, fresh=True)
    times = []
    for _ in range(options.repeats + 2):
        started = now()
        with devices.autocast(device.type, precision):
            loss, _ = head.loss(batch)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        synchronise(device)
        times.append(now() - started)
    seconds, busy = np.median(times[2:], 0).tolist()
    return {
        "candidates": r,
        "seconds": seconds,
        "cpu_seconds": busy,
        "mb": (_memory(device) - before) / 1e6,
    }


def _memory(device: torch.device, fresh: bool = False) -> int:
    """Bytes at the peak so far; fresh: the peak starts here."""
    if device.type == "cuda":
        if fresh:
            torch.cuda.reset_peak_memory_stats()
        return torch.cuda.max_memory_allocated()
    if fresh:
        Path("/proc/self/clear_refs").write_text("5")  # Linux: the high-water mark is set to what is resident now
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))


def main() -> None:
    """Measure each number of candidates and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--candidates", type=int, nargs="+", default=[10, 25, 50, 100, 200])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options)))
        return
    results: list[dict[str, Any]] = []
    name = machine(torch.device(devices.choose(options.device)))
    print(f"{name}\n\n| candidates | step, ms | CPU, ms | memory, MB | CPU ms per candidate | MB per candidate |")
    print("|---|---|---|---|---|---|")
    for count in options.candidates:
        settings = {"one": count, "threads": options.threads, "device": options.device, "repeats": options.repeats}
        words = [word for option, value in settings.items() for word in (f"--{option}", str(value))]
        done = subprocess.run(
            [sys.executable, __file__, *words], capture_output=True, text=True, check=True, env={**os.environ, **HEAP}
        )
        result = json.loads(done.stdout)
        growth = [
            f"{scale * (result[key] - results[-1][key]) / (count - results[-1]['candidates']):.2f}" if results else ""
            for key, scale in GROWTH
        ]
        results.append(result)
        print(
            f"| {count} | {1000 * result['seconds']:.0f} | {1000 * result['cpu_seconds']:.0f} | {result['mb']:.0f} | "
            f"{' | '.join(growth)} |",
            flush=True,
        )
    if options.json:
        options.json.write_text(json.dumps({"machine": name, "steps": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()

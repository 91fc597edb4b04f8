"""One training step of DRIN at the paper's sizes, by the number of candidates: 64 mentions, width 768, BERT's 768, ResNet-152's 2,048.

    python benchmarks/drin_step.py [--threads 2] [--device cpu] [--candidates 10 25 50 100 200] [--json OUT]

Synthetic features in memory, every candidate a different entity (the worst case); the four kinds of edges, one pair in ten without. A step is
encoding, graph, loss, gradients and Adam. Each number of candidates is measured in a process of its own: the median of --repeats steps after two, by
the clock and by the process's CPU time (of all threads; what is left to trust where others share the cores), and the growth of peak memory over what
features and head take. What a candidate more adds should stay the same from row to row. Under a minute on idle cores.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from full_kb_scoring import machine, synchronise

from heads.base import Batch, Ragged, Rows, make_head
from heads.config import load_config
from heads.config.drin import RELATIONS
from heads.device import autocast, pick_device, pick_precision
from heads.training import make_optimizer

TOKENS, TEXT, IMAGE = 24, 768, 2048
# glibc maps arrays over 32 MB anew each time: above 160 candidates that costs as much as the arithmetic, and is no property of the head.
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
    made = Rows(
        {
            "text.ok": torch.ones(n, dtype=torch.bool, device=device),
            "image.ok": torch.ones(n, dtype=torch.bool, device=device),
        }
    )
    made["text.pooled"] = torch.randn(n, TEXT, device=device, dtype=torch.float16)
    made["image.pooled"] = torch.rand(n, IMAGE, device=device, dtype=torch.float16)
    if tokens:
        lengths, place = torch.full((n,), TOKENS), torch.arange(TOKENS, dtype=torch.int32).repeat(n)
        made["text.tokens"] = Ragged(torch.randn(n * TOKENS, TEXT, device=device, dtype=torch.float16), lengths)
        made["text.offsets"] = Ragged(torch.stack([3 * place, 3 * place + 2], 1).to(device), lengths)
        made["text.span"] = torch.tensor([[6, 11]], device=device).repeat(n, 1)
    return made


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Seconds of a step and MB that it takes at `options.one` candidates."""
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    device = pick_device(options.device)
    precision = pick_precision("auto", device)
    config = load_config("drin", {})
    head = make_head("drin", config, SHAPES).to(device)
    _, optimizer = make_optimizer(head, config)
    b, r = config.batch_size, options.one
    lists = torch.arange(b * r, device=device).view(b, r)
    pairs = {
        name: torch.rand(b, r, device=device).masked_fill(torch.rand(b, r, device=device) < 0.1, torch.nan)
        for name in RELATIONS.values()
    }
    batch = Batch(rows(b, device, True), rows(b * r, device, False), lists[:, 0].clone(), lists, pairs)
    before = _memory(device, fresh=True)
    seconds, busy = [], []
    for _ in range(options.repeats + 2):
        started, started_busy = time.perf_counter(), time.process_time()
        with autocast(device, precision):
            loss, _ = head.loss(batch)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        synchronise(device)
        seconds.append(time.perf_counter() - started)
        busy.append(time.process_time() - started_busy)
    return {
        "candidates": r,
        "seconds": statistics.median(seconds[2:]),
        "cpu_seconds": statistics.median(busy[2:]),
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
    results = []
    print(
        f"{machine(pick_device(options.device))}\n\n| candidates | step, ms | CPU, ms | memory, MB | CPU ms per candidate more | MB per candidate more |"
    )
    print("|---|---|---|---|---|---|")
    for count in options.candidates:
        command = [
            sys.executable,
            __file__,
            "--one",
            str(count),
            "--threads",
            str(options.threads),
            "--device",
            options.device,
        ]
        made = subprocess.run(
            [*command, "--repeats", str(options.repeats)],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, **HEAP},
        )
        result = json.loads(made.stdout)
        more = [
            f"{scale * (result[key] - results[-1][key]) / (count - results[-1]['candidates']):.2f}" if results else ""
            for key, scale in GROWTH
        ]
        results.append(result)
        print(
            f"| {count} | {1000 * result['seconds']:.0f} | {1000 * result['cpu_seconds']:.0f} | {result['mb']:.0f} | {' | '.join(more)} |",
            flush=True,
        )
    if options.json:
        options.json.write_text(
            json.dumps({"machine": machine(pick_device(options.device)), "steps": results}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()

"""Time and memory of every head at the papers' sizes: `python benchmarks/head_costs.py [--device cpu] [--heads mimic,dwe] [--kb 2048] [--json OUT]`.

Features as in `paper_sizes.py`, read as the commands read them: mapped, or resident on the GPU where they fit. Each row is a process of its own:

epochs   `heads.training.run_epoch` over the first --steps steps of an epoch after three to warm up; an epoch of 18,092 mentions is that many times
         as long (--steps 0: a whole epoch is run). Memory is what training adds to the loaded process at its peak (anonymous, mapped shards are not
         counted; on a GPU, what torch allocated beside the resident features), and the size of the features it reads, all records counted.
full KB  `heads.scoring.score_kb` of the 5,169 test mentions against the first --kb entities (0: all 109,976); the whole is extrapolated: encoding the
         mentions once, then time linear in entities.

`dsmip prompts` runs ViT-B/32-size towers of random weights live. About 5 minutes on 2 idle cores. `--heads ''` leaves epochs out, `--kb -1` scoring.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from full_kb_scoring import machine, synchronise
from heads.device import pick_device, pick_precision, repeatable
from paper_sizes import CANDIDATES, ENTITIES, SPLITS, VOCABULARY, PaperSizes, full_bytes

from heads.base import make_head
from heads.config import load_config
from heads.data import Bundle
from heads.methods._clip_blocks import Tower, tower
from heads.scoring import encode, score_kb
from heads.training import make_optimizer, run_epoch

HEADS: dict[str, tuple[str, dict[str, Any]]] = {
    "drin": ("drin", {}),
    "mimic": ("mimic", {}),
    "dwe": ("dwe", {}),
    "dsmip text": ("dsmip", {"stage": "text"}),
    "dsmip visual": ("dsmip", {"stage": "visual"}),
    "dsmip prompts": ("dsmip", {"stage": "prompts"}),
    "dsmip": ("dsmip", {}),
    **{name: (name, {}) for name in ("bert", "clip", "clip_text", "jmel", "dzmned", "melhi", "ghmfc")},
}
FULL_KB = ("mimic", "dwe", "dsmip")
WARM = 3
LIVE_ON_CPU = {"steps": 1, "batch_size": 8}
"""The stage that runs CLIP's blocks live: steps and mentions per step on a CPU; its time is linear in mentions."""


class Peak:
    """The most memory, in bytes, that is taken while it is entered beyond what was taken before."""

    def __init__(self, device: torch.device) -> None:
        self.cuda = device.type == "cuda"

    def __enter__(self) -> "Peak":
        self.before = self.bytes = self._now()
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()
        return self

    def _now(self) -> int:
        if self.cuda:
            return torch.cuda.memory_allocated()
        status = Path("/proc/self/status").read_text()
        return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("RssAnon"))

    def _watch(self) -> None:
        while not self.cuda and not self.stop.wait(0.02):
            self.bytes = max(self.bytes, self._now())

    def __exit__(self, *exception: object) -> None:
        self.stop.set()
        self.thread.join()
        self.bytes = (torch.cuda.max_memory_allocated() if self.cuda else self.bytes) - self.before


def random_tower(width: int, blocks: int, heads: int, projected: int, causal: bool) -> Tower:
    """A CLIP tower of random weights."""
    shapes = {"norm.weight": (width,), "norm.bias": (width,), "projection": (width, projected)}
    if causal:
        shapes |= {"token_embedding": (VOCABULARY, width), "positional_embedding": (77, width)}
    for number in range(blocks):
        block = {
            "ln_1": (width,),
            "ln_2": (width,),
            "attention.in": (3 * width, width),
            "attention.out": (width, width),
        }
        block |= {"mlp.in": (4 * width, width), "mlp.out": (width, 4 * width)}
        for name, shape in block.items():
            shapes |= {f"blocks.{number}.{name}.weight": shape, f"blocks.{number}.{name}.bias": shape[:1]}
    return tower(
        {name: torch.randn(shape) * 0.02 for name, shape in shapes.items()},
        {"heads": heads, "activation": "gelu", "causal": causal, "start": 0},
    )


def measure(job: dict[str, Any]) -> dict[str, Any]:
    """One row: an epoch, or the full KB (job["kb"])."""
    torch.manual_seed(0)
    device = pick_device(job["device"])
    config = load_config(job["method"], job["config"])
    bundle = Bundle.load(job, job["inputs"], device)
    towers = {}
    if job["config"].get("stage") == "prompts":
        towers = {
            "towers": {"text": random_tower(512, 12, 8, 512, True), "image": random_tower(768, 12, 12, 512, False)}
        }
    head = make_head(job["method"], config, bundle.shapes, **towers).to(device)
    columns = [*bundle.mentions.columns.values(), *bundle.entities.columns.values()]
    said = {
        "machine": machine(device),
        "feature_bytes": full_bytes(columns),
        "resident": all(getattr(c, "column", c).resident is not None for c in columns),
    }
    return said | (_full_kb(job, head.eval(), bundle) if "kb" in job else _epoch(job, head, bundle, config))


def _epoch(job: dict[str, Any], head: Any, bundle: Bundle, config: Any) -> dict[str, Any]:
    device, train = bundle.mentions.device, np.flatnonzero(bundle.table["split"] == "train")
    precision = pick_precision(job["precision"], device)
    _, optimizer = make_optimizer(head, config)
    whole = -(-len(train) // config.batch_size)
    steps = min(job["steps"] or whole, whole)
    with Peak(device) as peak:
        if job["warm"]:
            run_epoch(head, optimizer, bundle, train[: job["warm"] * config.batch_size], config, 0, 0, precision)
        synchronise(device)
        started, busy = time.perf_counter(), time.process_time()
        run_epoch(head, optimizer, bundle, train[: steps * config.batch_size], config, 0, 1, precision)
        synchronise(device)
        seconds, busy = time.perf_counter() - started, time.process_time() - busy
    trained = sum(parameter.numel() for parameter in head.parameters() if parameter.requires_grad)
    return {
        "batch": config.batch_size,
        "precision": precision,
        "steps": steps,
        "step": seconds / steps,
        "cpu_step": busy / steps,
        "epoch": seconds / steps * len(train) / config.batch_size if steps < whole else seconds,
        "peak": peak.bytes,
        "parameters": trained,
    }


def _full_kb(job: dict[str, Any], head: Any, bundle: Bundle) -> dict[str, Any]:
    device, index = bundle.mentions.device, np.flatnonzero(bundle.table["split"] == "test")
    n, whole = job["kb"] or len(bundle.entity_ids), len(bundle.entity_ids)
    none, zeros = np.full(len(index), -1), np.zeros(len(index))
    score_kb(head, bundle.mentions, bundle.entities, index[:64], none[:64], zeros[:64], min(n, 256))
    synchronise(device)
    with Peak(device) as peak:
        started, busy = time.perf_counter(), time.process_time()
        with torch.no_grad():
            encode(head.encode_mentions, bundle.mentions, index)
        synchronise(device)
        once = time.perf_counter() - started
        score_kb(head, bundle.mentions, bundle.entities, index, none, zeros, n)
        synchronise(device)
        seconds, busy = time.perf_counter() - started - once, time.process_time() - busy
    pairs = len(index) * n
    return {
        "entities": n,
        "seconds": seconds,
        "cpu_seconds": busy,
        "pairs_per_s": pairs / seconds,
        "whole": once + (seconds - once) * whole / n,
        "peak": peak.bytes,
    }


def _run(job: dict[str, Any], folder: Path) -> dict[str, Any]:
    (folder / "job.json").write_text(json.dumps(job))
    made = subprocess.run(
        [sys.executable, __file__, "--one", str(folder / "job.json")],
        capture_output=True,
        text=True,
        env=dict(os.environ),
    )
    if made.returncode:
        raise SystemExit(f"{job['method']}: {made.stderr[-2000:]}")
    return json.loads(made.stdout.splitlines()[-1])


def main() -> None:
    """Measure what is asked for and print Markdown tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--heads", default=",".join(HEADS), help="rows of the first table")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--kb", type=int, default=1024)
    parser.add_argument("--full-kb", default=",".join(FULL_KB), help="rows of the second table")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--rows", type=int, default=4096)
    parser.add_argument("--tiny", action="store_true", help="a small set, to try the command")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        job = json.loads(options.one.read_text())
        with repeatable(job["threads"]):
            print(json.dumps(measure(job)))
        return
    results: dict[str, list[Any]] = {"epochs": [], "full_kb": []}
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        splits = {"train": 300, "dev": 20, "test": 50} if options.tiny else SPLITS
        made = PaperSizes(folder, 300 if options.tiny else options.rows, 2000 if options.tiny else ENTITIES, splits)
        common = {"device": options.device, "threads": options.threads, "precision": options.precision}
        print(
            f"load {os.getloadavg()[0]:.1f}\n\n| head | mentions a step | steps | s/step | CPU s/step | s/epoch | training adds | features | trained |"
        )
        print("|---|---|---|---|---|---|---|---|---|")
        for label in filter(None, options.heads.split(",")):
            method, params = HEADS[label]
            run = {"steps": options.steps, "warm": WARM}
            if label == "dsmip prompts" and options.device == "cpu":
                params, run = (
                    params | {"batch_size": LIVE_ON_CPU["batch_size"]},
                    {"steps": LIVE_ON_CPU["steps"], "warm": 0},
                )
            row = {"head": label, **_run({**made.job(method, params), **common, **run}, folder)}
            results["epochs"].append(row)
            print(
                f"| {label} | {row['batch']} | {row['steps']} | {row['step']:.3f} | {row['cpu_step']:.3f} | {row['epoch']:.1f} | {row['peak'] / 1e6:,.0f} MB | "
                f"{row['feature_bytes'] / 1e9:.2f} GB{' resident' if row['resident'] else ''} | {row['parameters']:,} |",
                flush=True,
            )
        if options.kb >= 0:
            print(
                f"\n| head | pairs | s | CPU s | pairs/s | all {splits['test']:,} × {made.entities:,}, s | adds |\n|---|---|---|---|---|---|---|"
            )
            for label in filter(None, options.full_kb.split(",")):
                row = {"head": label, **_run({**made.job(*HEADS[label]), **common, "kb": options.kb}, folder)}
                results["full_kb"].append(row)
                size = f"{splits['test']:,} × {row['entities']:,}"
                print(
                    f"| {label} | {size} | {row['seconds']:.1f} | {row['cpu_seconds']:.1f} | {row['pairs_per_s']:,.0f} | {row['whole']:.0f} | "
                    f"{row['peak'] / 1e6:,.0f} MB |",
                    flush=True,
                )
    machines = {row["machine"] for rows in results.values() for row in rows}
    print(f"\n{'; '.join(sorted(machines))}, {options.precision}, lists of {CANDIDATES}; load {os.getloadavg()[0]:.1f}")
    if options.json:
        options.json.write_text(
            json.dumps({"options": {**vars(options), "folder": None, "json": None, "one": None}, **results}, indent=1)
            + "\n"
        )


if __name__ == "__main__":
    main()

"""One training epoch of MIMIC at WikiMEL's size: 18,092 mentions, 109,976 entities, batches of 128, CLIP's widths.

    python benchmarks/training_epoch.py [--threads 2] [--device cpu] [--precision auto] [--mentions 18092] [--json OUT]

--precision takes several, one epoch each: `--device cuda --precision fp32,bf16,fp16`.

Synthetic features as in full_kb_scoring.py, in memory (on the device, for a GPU); mentions and entities share 8,192
rows of them, so that every step gathers as many bytes as it would from the real cache. Prints a Markdown table row
each.
"""

import argparse
import json
import resource
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _measure import machine, synchronise
from full_kb_scoring import SHAPES, Memory

from foundation import device as devices
from heads.base import Rows, make_head
from heads.config import load_config
from heads.data import Bundle
from heads.loop import Trainer

MENTIONS, ENTITIES, ROWS = 18_092, 109_976, 8_192


class Shared(Memory):
    """More rows than there are features: row i has the features of row i mod `ROWS`."""

    def rows(self, index: np.ndarray, random: np.random.Generator | None = None) -> Rows:
        return super().rows(index % ROWS, random)


def train(precision: str, device: torch.device, sides: tuple[Shared, Shared], mentions: int) -> dict[str, Any]:
    """Seconds of one epoch, after a few steps to warm up, and the peak of memory (the device's, or of the process)."""
    torch.manual_seed(0)
    head = make_head("mimic", load_config("mimic", {}), SHAPES).to(device)
    gold = np.random.default_rng(0).integers(0, ENTITIES, mentions)
    bundle = Bundle(
        mentions=sides[0],
        entities=sides[1],
        table={},
        gold=gold,
        entity_ids=np.arange(ENTITIES),
        entity_image=np.ones(ENTITIES, bool),
        candidates=np.zeros((mentions, 0), np.int64),
        retrieval_rank=np.full(mentions, -1),
        shapes=SHAPES,
    )
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    trainer = Trainer(head, bundle, np.arange(min(mentions, 4 * head.config.batch_size)), 0, precision)
    trainer.run_epoch(0)
    synchronise(device)
    trainer.mentions, started = np.arange(mentions), time.perf_counter()
    trainer.run_epoch(1)
    synchronise(device)
    seconds = time.perf_counter() - started
    peak = (
        torch.cuda.max_memory_allocated()
        if device.type == "cuda"
        else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    )
    return {"precision": precision, "seconds": seconds, "peak_bytes": peak}


def main() -> None:
    """Train one epoch at each precision, and print the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--mentions", type=int, default=MENTIONS)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device(devices.choose(options.device))
    precisions = [devices.choose_precision(name, device.type, training=True) for name in options.precision.split(",")]
    sides = Shared(ROWS, 1, device), Shared(ROWS, 2, device)
    print("| what | machine | precision | s/epoch | mentions/s | peak memory |\n|---|---|---|---|---|---|")
    results = []
    for precision in precisions:
        results.append(train(precision, device, sides, options.mentions))
        seconds, peak = results[-1]["seconds"], results[-1]["peak_bytes"]
        print(
            f"| MIMIC, one epoch | {machine(device)} | {precision} | {seconds:.1f} | "
            f"{options.mentions / seconds:,.0f} | {peak / 1e9:.1f} GB |",
            flush=True,
        )
    if options.json:
        options.json.write_text(
            json.dumps({"machine": machine(device), "mentions": options.mentions, "epochs": results}) + "\n"
        )


if __name__ == "__main__":
    main()

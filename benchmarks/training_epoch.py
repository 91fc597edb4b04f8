"""One training epoch of MIMIC at WikiMEL's size: 18,092 mentions, 109,976 entities, batches of 128, CLIP ViT-B/32's widths.

    python benchmarks/training_epoch.py [--threads 2] [--device cpu] [--precision auto] [--json OUT]

Synthetic features as in full_kb_scoring.py, in memory (on the device, for a GPU); mentions and entities share 8,192 rows of them, so that every step
gathers as many bytes as it would from the real cache. Prints a Markdown table row.
"""

import argparse
import json
import resource
import time
from pathlib import Path

import numpy as np
import torch
from full_kb_scoring import SHAPES, Memory, machine, synchronise

from heads.base import Rows, make_head
from heads.config import load_config
from heads.data import Bundle
from heads.device import pick_device, pick_precision
from heads.training import make_optimizer, run_epoch

MENTIONS, ENTITIES, ROWS = 18_092, 109_976, 8_192


class Shared(Memory):
    """More rows than there are features: row i has the features of row i mod `ROWS`."""

    def rows(self, index: np.ndarray) -> Rows:
        return super().rows(index % ROWS)


def main() -> None:
    """Train one epoch after a short one to warm up, and print the row."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    device = pick_device(options.device)
    precision = pick_precision(options.precision, device)
    config = load_config("mimic", {})
    head = make_head("mimic", config, SHAPES).to(device)
    _, optimizer = make_optimizer(head, config)
    gold = np.random.default_rng(0).integers(0, ENTITIES, MENTIONS)
    nothing = np.zeros((MENTIONS, 0), np.int64)
    bundle = Bundle(
        mentions=Shared(ROWS, 1, device), entities=Shared(ROWS, 2, device), table={}, gold=gold, entity_ids=np.arange(ENTITIES),
        entity_image=np.ones(ENTITIES, bool), candidates=nothing, retrieval_rank=nothing, shapes=SHAPES,
    )
    run_epoch(head, optimizer, bundle, np.arange(4 * config.batch_size), config, 0, 0, precision)
    synchronise(device)
    started = time.perf_counter()
    run_epoch(head, optimizer, bundle, np.arange(MENTIONS), config, 0, 1, precision)
    synchronise(device)
    seconds = time.perf_counter() - started
    peak = torch.cuda.max_memory_allocated() if device.type == "cuda" else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print("| what | machine | precision | s/epoch | mentions/s | peak memory |\n|---|---|---|---|---|---|")
    print(f"| MIMIC, one epoch | {machine(device)} | {precision} | {seconds:.1f} | {MENTIONS / seconds:,.0f} | {peak / 1e9:.1f} GB |")
    if options.json:
        options.json.write_text(json.dumps({"machine": machine(device), "precision": precision, "seconds": seconds, "peak_bytes": peak}) + "\n")


if __name__ == "__main__":
    main()

"""What the look at rows after extraction costs: seconds for a store of many rows, and for one of large rows.

python benchmarks/guard.py [--rows 1000000] [--pictures 20000]

The key columns list every row of the store twice. Nothing is warmed beyond what writing the stores leaves in the page
cache; `whole` is the time to read every value of the store once, for comparison.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from cache.identity import Output
from cache.inputs import Want
from cache.store import Store
from cache.table import Table
from pipeline.datasets.images import DEFAULT_LIMITS
from pipeline.extraction import guard
from pipeline.extraction.units import UnitColumn

SHARD = 4096


def store_of(root: Path, rows: int, output: Output) -> tuple[Store, np.ndarray]:
    """A store of random rows, and their keys (n, 16)."""
    random = np.random.default_rng(0)
    store = Store.create(root, "mine", {"outputs": [output.to_json()], "rows": rows})
    keys = random.integers(0, 256, (rows, 16), dtype=np.uint8)
    values = random.normal(size=(SHARD, *output.shape)).astype(np.float16)
    for start in range(0, rows, SHARD):
        part = keys[start : start + SHARD]
        store.add(part, np.zeros(len(part), np.uint8), [""] * len(part), {output.name: values[: len(part)]})
    return store, keys


def measured(rows: int, shape: tuple[int, ...]) -> dict[str, Any]:
    """Seconds of the look, and of reading everything."""
    output = Output("pooled", shape)
    with tempfile.TemporaryDirectory() as folder:
        store, keys = store_of(Path(folder), rows, output)
        twice = np.concatenate([keys, keys])
        column = UnitColumn(twice, np.ones(len(twice), bool), np.zeros((len(twice), 2), np.int32))
        extractor: Any = SimpleNamespace(writes={"pooled": output}, labels=dict, reads="text")
        want = Want(side="entity", feature="mine", view="name")
        store.missing(keys[:1])  # the index of keys is there after an extraction
        started = time.perf_counter()
        guard.problems(want, column, store, extractor, DEFAULT_LIMITS)
        seconds = time.perf_counter() - started
        table = Table(store, "pooled", keys, np.ones(len(keys), bool))
        started = time.perf_counter()
        for start in range(0, len(keys), SHARD):
            table.gather(np.arange(start, min(len(keys), start + SHARD))).sum()
        whole = time.perf_counter() - started
        return {
            "rows": rows,
            "shape": shape,
            "MB": store.bytes >> 20,
            "look": round(seconds, 3),
            "whole": round(whole, 2),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows of 512 numbers")
    parser.add_argument("--pictures", type=int, default=20_000, help="rows of 50 × 768 numbers")
    options = parser.parse_args()
    print(json.dumps([measured(options.rows, (512,)), measured(options.pictures, (50, 768))], indent=1))


if __name__ == "__main__":
    main()

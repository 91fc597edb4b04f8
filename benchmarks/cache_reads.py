"""Random batches from the memory-mapped cache against numpy's fancy indexing on the same rows in RAM.

python benchmarks/cache_reads.py                  12,000 rows of 50 × 768 fp16 (0.9 GB on disk and in memory), under a
minute python benchmarks/cache_reads.py --folder PATH    … in a temporary folder below PATH, to measure another disk
python benchmarks/cache_reads.py --device cuda    … every batch, of either side, copied to the GPU

Prints a Markdown table. Each figure is the median of --repeats batches of 256 random rows; the two sides of a row take
turns within one run, each freeing its batch before the next, and start when every page has been read once (warm). On
a CPU time is the CPU time of the thread, which other work on the cores does not lengthen.
Ratio: RAM time / cache time, 1 is as fast as RAM; expected: 0.7 or more for rows of 50 × 768. Also the time to find
1,000,000 keys among 1,000,000. --json FILE keeps the figures.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from _measure import machine

from cache.identity import Output
from cache.index import Index
from cache.store import Store
from cache.table import Table

TOKENS, WIDTH, BATCH = 50, 768, 256


def fill(folder: Path, output: Output, keys: np.ndarray, rows: np.ndarray | list[np.ndarray], shards: int) -> Table:
    """A fresh store of `shards` shards, its table, every page of it read once."""
    store = Store.create(folder, output.name, {"outputs": [output.to_json()], "shards": shards})
    for part in np.array_split(np.arange(len(keys)), shards):
        store.add(keys[part], np.zeros(len(part)), [""] * len(part), {output.name: rows[part[0] : part[-1] + 1]})
    table = Table(Store.open(store.folder), output.name, keys, np.ones(len(keys), bool))
    for start in range(0, len(keys), BATCH):
        table.gather(np.arange(start, min(start + BATCH, len(keys))))
    return table


def sender(device: str) -> Callable[[Any], Any]:
    """What happens to a batch once it is read: nothing on a CPU, else it is copied to the device and waited for."""
    if device == "cpu":
        return lambda batch: batch
    import torch

    def send(batch: Any) -> Any:
        sent = torch.from_numpy(batch[0] if isinstance(batch, tuple) else batch).to(device)
        torch.cuda.synchronize()
        return sent

    return send


def compare(
    ram: Callable[[np.ndarray], Any],
    cache: Callable[[np.ndarray], Any],
    rows: int,
    repeats: int,
    send: Callable[[Any], Any],
    clock: Callable[[], float],
) -> tuple[float, float]:
    """Median milliseconds of either side on the same random batches."""
    random = np.random.default_rng(0)
    times: tuple[list[float], list[float]] = [], []
    for repeat in range(repeats + 3):
        index = random.integers(0, rows, BATCH)
        for side in (0, 1) if repeat % 2 else (1, 0):
            started = clock()
            batch = send((ram, cache)[side](index))
            elapsed = clock() - started
            del batch
            if repeat >= 3:
                times[side].append(elapsed * 1000)
    return statistics.median(times[0]), statistics.median(times[1])


def padded(rows: list[np.ndarray], index: np.ndarray) -> np.ndarray:
    """The straightforward batch of ragged rows in RAM."""
    out = np.zeros((len(index), max(len(rows[i]) for i in index), WIDTH), np.float16)
    for place, i in enumerate(index):
        out[place, : len(rows[i])] = rows[i]
    return out


def lookup(count: int) -> tuple[float, float]:
    """Seconds to index `count` random keys in 8 shards, and to find all of them in random order."""
    random = np.random.default_rng(0)
    keys = random.integers(0, 256, (count, 16), np.uint8)
    started = time.perf_counter()
    index = Index.empty().with_shards(enumerate(np.array_split(keys, 8)), range(8))
    built = time.perf_counter()
    shard, _ = index.find(keys[random.permutation(count)])
    assert (shard >= 0).all()
    return built - started, time.perf_counter() - built


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=12_000)
    parser.add_argument("--shards", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=60)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    send = sender(options.device)
    clock = time.thread_time if options.device == "cpu" else time.perf_counter

    random = np.random.default_rng(0)
    keys = random.integers(0, 256, (options.rows, 16), np.uint8)
    tokens = (
        random.standard_normal((options.rows, TOKENS * WIDTH), np.float32).astype(np.float16).reshape(-1, TOKENS, WIDTH)
    )
    ragged = [row[:length] for row, length in zip(tokens, random.integers(8, TOKENS + 1, options.rows), strict=True)]
    vectors = np.ascontiguousarray(tokens[:, 0])

    def end_to_end(index: np.ndarray) -> np.ndarray:
        return np.concatenate([ragged[i] for i in index])

    results = []
    print(
        f"{machine()}, numpy {np.__version__}; {options.rows:,} rows, batches of {BATCH}, median of {options.repeats}, "
    )
    print(f"batches end on {options.device}\n")
    print("| rows | shards | RAM, ms | cache, ms | ratio |\n|---|---|---|---|---|")
    for shards in (1, options.shards):
        cases: list[tuple[str, Output, np.ndarray | list[np.ndarray], Callable[[np.ndarray], Any], str]] = [
            (f"{TOKENS} × {WIDTH} fp16", Output("tokens", (TOKENS, WIDTH)), tokens, tokens.__getitem__, "gather"),
            (f"{WIDTH} fp16", Output("pooled", (WIDTH,)), vectors, vectors.__getitem__, "gather"),
            (
                f"8–{TOKENS} × {WIDTH} fp16, padded",
                Output("states", (WIDTH,), ragged=True),
                ragged,
                lambda index: padded(ragged, index),
                "gather",
            ),
            (
                f"8–{TOKENS} × {WIDTH} fp16, end to end",
                Output("flat", (WIDTH,), ragged=True),
                ragged,
                end_to_end,
                "ragged_flat",
            ),
        ]
        for title, output, rows, ram, method in cases:
            with tempfile.TemporaryDirectory(dir=options.folder) as folder:
                table = fill(Path(folder), output, keys, rows, shards)
                ram_ms, cache_ms = compare(ram, getattr(table, method), options.rows, options.repeats, send, clock)
            results.append(
                {"rows": title, "shards": shards, "ram_ms": ram_ms, "cache_ms": cache_ms, "ratio": ram_ms / cache_ms}
            )
            print(f"| {title} | {shards} | {ram_ms:.3f} | {cache_ms:.3f} | {ram_ms / cache_ms:.2f} |", flush=True)
    indexed, searched = lookup(1_000_000)
    print(f"\n1,000,000 keys in 8 shards: indexed in {indexed:.2f} s, 1,000,000 found in {searched:.2f} s")
    if options.json:
        options.json.write_text(
            json.dumps(
                {
                    "machine": machine(),
                    "device": options.device,
                    "reads": results,
                    "index_s": indexed,
                    "find_s": searched,
                },
                indent=1,
            )
            + "\n"
        )


if __name__ == "__main__":
    main()

"""Stores of very many shards of two rows, under `ulimit -n 1024`: time to open, first read, random reads, memory.

python benchmarks/many_shards.py                     1,000, 10,000 and 100,000 shards; the last take 3 GB
python benchmarks/many_shards.py --shards 1000       … one size
python benchmarks/many_shards.py --merge             … and the time to merge them, and to open what is left

Prints a Markdown table. Each store is read in a process of its own, which has a limit of 1,024 descriptors: seconds to
open the store and find a key, milliseconds for the first row, for a row at random (median of 1,000, each of another
shard), seconds to find all rows of one output and read them once; memory of its own (RssAnon) and the most files that
were mapped at once. Files are in the page cache.
"""

import argparse
import hashlib
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from _measure import machine

from cache import layout, page
from cache.identity import Output
from cache.merge import merge_small
from cache.shard import NewRows, write
from cache.store import Store
from cache.table import Table

OUTPUT = Output("pooled", (64,))
ROWS, RANDOM = 2, 1000


def keys_of(shards: int) -> np.ndarray:
    """(2 · shards, 16) uint8"""
    return np.random.default_rng(0).integers(0, 256, (ROWS * shards, 16), np.uint8)


def fill(root: Path, shards: int) -> Path:
    """A store of so many shards as earlier versions left them, without merging.

    One is written by the library; the others are its bytes with keys and checksums of their own.
    """
    store, keys = Store.create(root, "many", {"outputs": [OUTPUT.to_json()], "shards": shards}), keys_of(shards)
    first = keys[:ROWS]
    rows = NewRows(first, np.zeros(ROWS, np.uint8), [""] * ROWS, {OUTPUT.name: np.ones((ROWS, *OUTPUT.shape))})
    place = store.folder / store.shard_name(first)
    write(place, store.feature, store.identity, store.outputs, rows)
    content = place.read_bytes()
    at, sha256 = content.find(first.tobytes()), hashlib.sha256(first.tobytes()).hexdigest().encode()
    for start in range(ROWS, len(keys), ROWS):
        part = keys[start : start + ROWS]
        data = part.tobytes()
        changed = bytearray(content.replace(sha256, hashlib.sha256(data).hexdigest().encode()))
        changed[at : at + len(data)] = data
        path = store.folder / store.shard_name(part)
        path.write_bytes(changed)
        with open(path, "r+b") as handle:
            page.seal(handle)
    return store.folder


def memory() -> float:
    """Megabytes of this process that belong to no file."""
    text = Path("/proc/self/status").read_text()
    return int(next(line for line in text.splitlines() if line.startswith("RssAnon")).split()[1]) / 1e3


def maps() -> int:
    """Shards that are mapped."""
    return sum(".h5" in line for line in Path("/proc/self/maps").read_text().splitlines())


def read(folder: Path, shards: int) -> dict[str, float]:
    """Figures of reading a store; in a fresh process."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 1024))
    keys, before = keys_of(shards), memory()
    chosen = np.random.default_rng(1).permutation(len(keys))[:RANDOM]
    started, busy = time.perf_counter(), time.process_time()
    store = Store.open(folder)
    assert not len(store.missing(keys[:1]))
    opened, busy = time.perf_counter(), time.process_time() - busy
    one = np.zeros(1, np.int64)
    Table(store, OUTPUT.name, keys[-1:], np.ones(1, bool)).gather(one)
    first, times = time.perf_counter(), []
    for place in chosen.tolist():
        began = time.perf_counter()
        Table(store, OUTPUT.name, keys[place : place + 1], np.ones(1, bool)).gather(one)
        times.append(time.perf_counter() - began)
    began, all_busy = time.perf_counter(), time.process_time()
    table, mapped = Table(store, OUTPUT.name, keys, np.ones(len(keys), bool)), maps()
    for start in range(0, len(keys), 4096):
        assert (table.gather(np.arange(start, min(start + 4096, len(keys)))) == 1).all()
        mapped = max(mapped, maps())
    return {
        "open_s": opened - started,
        "open_cpu_s": busy,
        "first_ms": 1000 * (first - opened),
        "random_ms": 1000 * statistics.median(times),
        "all_s": time.perf_counter() - began,
        "all_cpu_s": time.process_time() - all_busy,
        "memory_mb": memory() - before,
        "mapped": mapped,
    }


def in_fresh_process(folder: Path, shards: int) -> dict[str, Any]:
    """`read` in a process of its own."""
    command = [sys.executable, __file__, "--read", str(folder), "--shards", str(shards)]
    return dict(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--folder", type=Path, help="where the stores are written; a temporary folder below it")
    parser.add_argument("--merge", action="store_true")
    parser.add_argument("--read", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.read:
        print(json.dumps(read(options.read, options.shards[0])))
        return
    print(f"{machine()}, numpy {np.__version__}\n")
    print("| shards | open, s (CPU) | all rows, s (CPU) | first row, ms | random row, ms | memory, MB | mapped |")
    print("|---|---|---|---|---|---|---|")
    for shards in options.shards:
        with tempfile.TemporaryDirectory(dir=options.folder) as root:
            folder = fill(Path(root), shards)
            assert layout.damage(next(folder.glob("*.h5"))) is None
            one = in_fresh_process(folder, shards)
            cells = [f"{shards:,}"]
            cells += [f"{one[f'{what}_s']:.3g} ({one[f'{what}_cpu_s']:.3g})" for what in ("open", "all")]
            cells += [f"{one[name]:.3g}" for name in ("first_ms", "random_ms", "memory_mb")]
            print(f"| {' | '.join([*cells, str(one['mapped'])])} |", flush=True)
            if options.merge:
                started = time.perf_counter()
                merged = merge_small(Store.open(folder))
                seconds, left = time.perf_counter() - started, len(list(folder.glob("*.h5")))
                opened = in_fresh_process(folder, shards)["open_s"]
                print(f"\nmerged {merged:,} into {left:,} in {seconds:.1f} s; these open in {opened:.3g} s\n")


if __name__ == "__main__":
    main()

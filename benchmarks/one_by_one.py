"""Linking mention by mention: milliseconds a link and files left; rows written at once, held in memory, or not kept.

python benchmarks/one_by_one.py --run artifacts/runs/demo/mimic/…       200 new sentences for each of the three

Rows written at once (one shard per mention and feature) is what a Linker did before it held them. The three take
turns, one sentence each, in one process; they have sentences of their own. Prints a Markdown table: median, of the
first and of the last 50, and the CPU time, in milliseconds a link; shards that the cache has more after it, and after
closing. The work folder is copied first, to a temporary folder beside it.
"""

import argparse
import shutil
import statistics
import tempfile
import time
from pathlib import Path

from _measure import machine

from linking import Linker

WAYS = ("written at once", "held in memory", "not kept")


def linker_of(run: Path, way: str) -> Linker:
    """The run's linker; where rows are written at once, at the first of each."""
    linker = Linker.load(run, cache=way != "not kept")
    if way == "written at once":
        for store in linker.stores.opened:
            store.most = 1
    return linker


def shards(work: Path) -> int:
    """Shard files of a work folder."""
    return sum(1 for _ in work.rglob("*.h5"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--sentences", type=int, default=200)
    options = parser.parse_args()
    run = options.run.absolute()
    work = run.parents[3]
    with tempfile.TemporaryDirectory(dir=work.parent) as folder:
        linkers: dict[str, Linker] = {}
        for number, way in enumerate(WAYS):
            place = Path(folder) / str(number)
            shutil.copytree(work, place)
            linkers[way] = linker_of(place / run.relative_to(work), way)
        before = [shards(Path(folder) / str(number)) for number in range(len(WAYS))]
        times: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
        for sentence in range(options.sentences):
            for way in WAYS:
                began = time.perf_counter(), time.process_time()
                linkers[way].link(f"Sentence {sentence} of the way {way} is about Powers.", "Powers")
                times[way].append((time.perf_counter() - began[0], time.process_time() - began[1]))
        print(f"{machine()}, {options.sentences} sentences\n")
        print("| rows are | median, ms | first 50, ms | last 50, ms | CPU, ms | shards left | after closing |")
        print("|---|---|---|---|---|---|---|")
        for number, way in enumerate(WAYS):
            left = shards(Path(folder) / str(number)) - before[number]
            linkers[way].close()
            closed = shards(Path(folder) / str(number)) - before[number]
            wall = [1000 * one for one, _ in times[way]]
            cells = [statistics.median(part) for part in (wall, wall[:50], wall[-50:])]
            cells.append(1000 * statistics.median(busy for _, busy in times[way]))
            print(f"| {way} | {' | '.join(f'{value:.1f}' for value in cells)} | {left} | {closed} |")


if __name__ == "__main__":
    main()

"""The demo's whole extraction in every way that the page *On a cluster* has: `python benchmarks/cluster.py --demo WORK
[--ways one,two,pool,parts,ray] [--shard-rows 512]`.

WORK: a work folder with the demo's encoders (`luigi --module tasks DemoEncoders`); each way works in a copy of it. Ways
are one command; two commands at once; a pool of two processes; two parts with work folders of their own, merged; a Ray
cluster of two nodes on this machine. Says whether every shard of each has the bytes of the first, and the CPU seconds
and the time of each beside those of the first: on a machine that others use, trust the CPU seconds.
"""

import argparse
import contextlib
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from _measure import machine

from foundation.tables import as_text, text_table

ROOT = Path(__file__).resolve().parents[1]


@dataclass
class World:
    """Copies of a work folder, and the commands that extract into them. shard_rows: of all."""

    demo: Path
    folder: Path
    shard_rows: int

    def copy(self, name: str) -> Path:
        """A new work folder with the demo's encoders."""
        work = self.folder / name
        shutil.copytree(self.demo, work, ignore=shutil.ignore_patterns("cache", "datasets", "ExtractGroup-*", "runs"))
        return work

    def words(self, command: str, work: Path, *options: str) -> list[str]:
        extracts = command != "MergeCache"
        rows = ["--shard-rows", str(self.shard_rows), "--device", "cpu", "--workers", "1"] if extracts else []
        words = [sys.executable, "-m", "mel_cache", command, *rows, "--work-dir", str(work), *options]
        return [*words, "--local-scheduler"]

    def run(self, *commands: list[str]) -> None:
        """Run commands side by side. Raises where one fails."""
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        started = [
            subprocess.Popen(
                words, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )
            for words in commands
        ]
        for process in started:
            said, _ = process.communicate()
            if process.returncode:
                raise SystemExit(f"{' '.join(process.args)} ended with {process.returncode}:\n{said[-3000:]}")  # type: ignore[arg-type]


def one(world: World) -> Path:
    work = world.copy("one")
    world.run(world.words("ExtractFeatures", work))
    return work


def two(world: World) -> Path:
    work = world.copy("two")
    world.run(world.words("ExtractFeatures", work), world.words("ExtractFeatures", work))
    return work


def pool(world: World) -> Path:
    work = world.copy("pool")
    world.run(world.words("ExtractFeatures", work, "--devices", "cpu:2"))
    return work


def parts(world: World) -> Path:
    whole, halves = world.copy("whole"), [world.copy("half1"), world.copy("half2")]
    for _ in range(2):  # features that are made from others come in the second round
        for number, half in enumerate(halves, 1):
            world.run(world.words("ExtractPart", half, "--part", f"{number}/2"))
        for into, source in (halves, halves[::-1]):
            world.run(world.words("MergeCache", into, "--from", str(source)))
    world.run(world.words("MergeCache", whole, "--from", ",".join(map(str, halves))))
    world.run(world.words("ExtractFeatures", whole))
    return whole


def ray(world: World) -> Path:
    work = world.copy("ray")
    with _cluster() as address:
        world.run(world.words("ExtractFeatures", work, "--ray", address))
    return work


@contextlib.contextmanager
def _cluster() -> Iterator[str]:
    """The address of a Ray cluster of two nodes on this machine."""
    from ray.cluster_utils import Cluster

    os.environ["PYTHONPATH"] = str(ROOT)  # of its workers
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    made.add_node(num_cpus=1)
    try:
        yield made.address
    finally:
        made.shutdown()


WAYS: dict[str, Callable[[World], Path]] = {"one": one, "two": two, "pool": pool, "parts": parts, "ray": ray}


def shards(work: Path) -> dict[str, bytes]:
    """Path below the cache → bytes of each shard."""
    cache = work / "cache"
    return {path.relative_to(cache).as_posix(): path.read_bytes() for path in sorted(cache.glob("*/*.h5"))}


def measured(way: Callable[[World], Path], world: World) -> tuple[dict[str, bytes], float, float]:
    """The shards of a way, its seconds, and its CPU seconds (a Ray cluster's are not this process's children's)."""
    began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    work = way(world)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return shards(work), time.monotonic() - began, cpu


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--demo", type=Path, required=True)
    parser.add_argument("--ways", default=",".join(WAYS))
    parser.add_argument("--shard-rows", type=int, default=512)
    options = parser.parse_args(arguments)
    rows: list[list[str]] = []
    first: tuple[dict[str, bytes], float, float] | None = None
    with tempfile.TemporaryDirectory() as name:
        world = World(options.demo, Path(name), options.shard_rows)
        for way in options.ways.split(","):
            found = measured(WAYS[way], world)
            first = first or found
            same = sum(found[0].get(shard) == data for shard, data in first[0].items())
            more = len(found[0].keys() - first[0].keys())
            rows.append(
                [
                    way,
                    f"{same} of {len(first[0])}" + (f", {more} others" if more else ""),
                    f"{found[2]:.0f} ({found[2] / first[2]:.2f} x)",
                    f"{found[1]:.0f} ({found[1] / first[1]:.2f} x)",
                ]
            )
            print(rows[-1], flush=True)
    print(machine())
    print(as_text(text_table(["way", "shards with the same bytes", "CPU s", "seconds"], rows)))


if __name__ == "__main__":
    main()

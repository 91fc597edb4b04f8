"""Decoding ahead of a model, in threads and in processes: `python benchmarks/decoders.py [--images 1000] [--turns 3]`.

JPEG files of 500 × 375 pixels are decoded and prepared for a CLIP of 224 pixels, as batches that nobody else waits for:
in threads (one per core), in one process and in two. Beside them the same work bare, in a loop. Says the pictures per
second, and CPU seconds relative to the bare loop; processes are started before the clock. The ways take turns, and the
median of each is given: on a machine that others use, trust the CPU seconds.
"""

import argparse
import functools
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from _measure import machine
from extraction import write_clip, write_images

from foundation.tables import as_text, text_table
from pipeline.datasets.images import Limits, image_key
from pipeline.extraction.batches import batches
from pipeline.extraction.decoders import Decoders
from pipeline.extraction.shard_rows import BYTES, prepared
from pipeline.extraction.units import Picture
from pipeline.extractors import build
from pipeline.profiles.profile import Feature

BATCH = 256


def cpu_seconds(decoders: Iterable[Decoders]) -> float:
    """Of this process and of the decoders', so far."""
    own = resource.getrusage(resource.RUSAGE_SELF)
    seconds = own.ru_utime + own.ru_stime
    for pid in (pid for one in decoders for pid in one.pids):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        seconds += (int(fields[11]) + int(fields[12])) / 100
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--turns", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        (root / "images").mkdir()
        pictures = [
            Picture(str(path), image_key(path.read_bytes())) for path in write_images(root / "images", options.images)
        ]
        model = str(write_clip(root / "clip", 1))
        extractor: Any = build(Feature("clip_image", "clip_image", {"model": model}, {}, True), root, None)
        work = functools.partial(prepared, [extractor], Limits())

        def bare() -> None:
            for picture in pictures:
                work(picture)

        def ahead(how: Callable | Decoders) -> None:
            for _ in batches(how, [pictures], BATCH, BYTES):
                pass

        with Decoders(work, 1) as one, Decoders(work, 2) as two:
            ways: dict[str, Callable[[], None]] = {
                "bare loop": bare,
                "threads": functools.partial(ahead, work),
                "1 process": functools.partial(ahead, one),
                "2 processes": functools.partial(ahead, two),
            }
            for decoders in (one, two):
                ahead(decoders)  # they have started, and imported what they need
            found: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
            for _ in range(options.turns):
                for way, run in ways.items():
                    began, before = time.perf_counter(), cpu_seconds((one, two))
                    run()
                    found[way].append((time.perf_counter() - began, cpu_seconds((one, two)) - before))
    medians = {way: [statistics.median(values) for values in zip(*turns, strict=True)] for way, turns in found.items()}
    of_bare = medians["bare loop"][1]
    rows = [
        [way, f"{options.images / seconds:,.0f}", f"{cpu:.2f}", f"{cpu / of_bare:.2f}"]
        for way, (seconds, cpu) in medians.items()
    ]
    print(machine())
    print(as_text(text_table(["way", "pictures/s", "CPU s", "CPU s / bare"], rows)))


if __name__ == "__main__":
    main()

"""Texts and pictures in one process and in a pool of two: `python benchmarks/processes.py [--images 800] [--texts 8000]
[--times 2]`.

Makes a KB with JPEG pictures and texts of 20 to 40 words, a ViT-B/32 CLIP and a BERT of MiniLM's size (6 layers, 384
wide), both with random weights, and gives the command ExtractFeatures over them: with one thread, with two threads, and
with `--devices cpu:2`, two processes of one thread each. Each way works in a work folder of its own over one prepared
dataset; the ways alternate, and the fastest of each counts. Says whether all shards have the same bytes as those of one
thread. Two processes should take at most 1 / 1.7 of one thread's time, and no more than two threads'.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from _measure import machine
from _scale_world import encoder, texts
from cluster import shards
from extraction import write_clip, write_images

from foundation.tables import as_text, text_table

ROOT = Path(__file__).resolve().parents[1]
WAYS: dict[str, tuple[int, list[str]]] = {
    "one process, one thread": (1, []),
    "one process, two threads": (2, []),
    "two processes, one thread each": (2, ["--devices", "cpu:2"]),
}
"""Threads, and options of the command."""


@dataclass(frozen=True)
class Made:
    """Folder of the data, with a profile beside it."""

    root: Path

    def write(self, images: int, number: int) -> None:
        """`images` entities with a picture, and texts for `number` entities in all."""
        (self.root / "pictures").mkdir(parents=True)
        paths = write_images(self.root / "pictures", images)
        with open(self.root / "entities.jsonl", "w") as handle:
            for row, text in enumerate(texts(np.random.default_rng(0), number)):
                listed = [paths[row].relative_to(self.root).as_posix()] if row < images else []
                line = {"id": f"Q{row}", "name": f"entity {row}", "attributes": text, "images": listed}
                handle.write(json.dumps(line) + "\n")
        mention = {"id": "m", "sentence": "entity 0", "mention": "entity 0", "gold": "Q0", "split": "train"}
        (self.root / "mentions.jsonl").write_text(json.dumps(mention) + "\n")
        encoder(self.root / "bert", 0, width=384, layers=6)
        write_clip(self.root / "clip", 12)
        (self.root / "profile.yaml").write_text(
            f"features:\n"
            f"  text_tokens: {{model: {self.root / 'bert'}, max_tokens: 96, pooling: mean, outputs: [pooled],\n"
            f"    views: {{entity: [name_sep_attributes]}}}}\n"
            f"  clip_image: {{model: {self.root / 'clip'}}}\n"
        )

    def command(self, name: str, work: Path, threads: int, *options: str) -> None:
        """Run a command of the tool. Raises where it fails."""
        words = [sys.executable, "-m", "mel_cache", name, "--work-dir", str(work), "--dataset", "made"]
        words += ["--data-dir", str(self.root), "--local-scheduler", "--workers", "1", *options]
        if name != "PrepareDataset":
            words += ["--profile", str(self.root / "profile.yaml"), "--device", "cpu", "--shard-rows", "256"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(threads)}
        done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{' '.join(words)} ended with {done.returncode}:\n{(done.stdout + done.stderr)[-3000:]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=800)
    parser.add_argument("--texts", type=int, default=8000)
    parser.add_argument("--times", type=int, default=2)
    options = parser.parse_args()
    best: dict[str, tuple[float, float]] = {}
    first: dict[str, bytes] = {}
    same: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as folder:
        made = Made(Path(folder) / "data")
        made.write(options.images, options.texts)
        for turn in range(options.times):
            for way, (threads, given) in WAYS.items():
                work = Path(folder) / f"work-{len(given)}-{threads}-{turn}"
                made.command("PrepareDataset", work, threads)
                began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
                made.command("ExtractFeatures", work, threads, *given)
                after = resource.getrusage(resource.RUSAGE_CHILDREN)
                cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
                took = time.monotonic() - began, cpu
                best[way] = min(best.get(way, took), took)
                found = shards(work)
                first = first or found
                same[way] = sum(found.get(name) == data for name, data in first.items())
                print(way, took, flush=True)
    alone = best[next(iter(WAYS))]
    print(f"{machine()}; {options.texts:,} texts, {options.images:,} pictures; {len(first)} shards")
    rows = [
        [way, f"{took:.1f}", f"{alone[0] / took:.2f} x", f"{cpu:.1f}", str(same[way])]
        for way, (took, cpu) in best.items()
    ]
    print(as_text(text_table(["way", "seconds", "speed", "CPU s", "shards with the same bytes"], rows)))


if __name__ == "__main__":
    main()

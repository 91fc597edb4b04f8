"""Pair features of whole candidate lists: `python benchmarks/pairs.py [--mentions 26000] [--entities 19000]`.

Random vectors in real stores (CLIP 512 wide; up to three objects of 2048; a face in every tenth picture), names of two
or three words, texts of twenty. Prints seconds and million pairs per second of each pair feature, and the most
anonymous memory beyond what was taken before it.
"""

import argparse
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from _measure import PeakMemory

from cache.identity import Output, content_key
from cache.inputs import Input, Want
from cache.store import Store
from foundation.tables import as_text, text_table
from pipeline.pairs import registry
from pipeline.pairs.contracts import PairInput, PairJob
from pipeline.pairs.roles import SERVED
from pipeline.pairs.stage import build_pairs

PART = 4096  # rows in a shard
OUTPUTS = {
    "clip_text": [Output("pooled", (512,))],
    "clip_image": [Output("pooled", (512,))],
    "text_tokens": [Output("pooled", (768,))],
    "objects": [Output("confidences", (), "float32", ragged=True)],
    "object_resnet": [Output("vectors", (2048,), ragged=True), Output("box", (), "int32", ragged=True)],
    "face_embedding": [Output("vectors", (512,), ragged=True)],
}


def stored(folder: Path, want: Want, steps: np.ndarray) -> Input:
    """A store of random rows for a want. steps: (n,) of each ragged row."""
    random, rows = np.random.default_rng(len(want.column)), len(steps)
    outputs = OUTPUTS[want.feature]
    spec = {"outputs": [output.to_json() for output in outputs], "side": want.side}
    store = Store.create(folder, f"{want.side}_{want.feature}", spec)
    keys = np.stack([np.frombuffer(content_key(want.feature, f"{want.side}{row}"), np.uint8) for row in range(rows)])
    for start in range(0, rows, PART):
        part = slice(start, min(start + PART, rows))
        values = {output.name: random_rows(random, output, steps[part]) for output in outputs}
        store.add(keys[part], np.zeros(len(keys[part]), np.uint8), [""] * len(keys[part]), values)
    path = folder / f"{want.column}.npz"
    np.savez(path, keys=keys, present=np.ones(rows, bool), span=np.full((rows, 2), -1))
    return Input(**vars(want), store=store.folder, keys=path)


def random_rows(random: np.random.Generator, output: Output, steps: np.ndarray) -> np.ndarray | list[np.ndarray]:
    """Rows of an output, as many as there are `steps` (n,); a box of each object in turn."""
    if not output.ragged:
        return random.normal(size=(len(steps), *output.shape)).astype(output.dtype)
    if output.dtype == "int32":
        return [np.arange(count, dtype=np.int32) for count in steps]
    return [random.random((count, *output.shape)).astype(output.dtype) for count in steps]


def write_tables(folder: Path, counts: Mapping[str, int]) -> None:
    """mentions.parquet and entities.parquet with invented names and texts."""
    random = np.random.default_rng(0)
    letters = list("abcdefghijklmnopqrstuvwxyz")
    words = ["".join(random.choice(letters, size)) for size in random.integers(3, 10, 5000)]

    def texts(rows: int, least: int, most: int) -> list[str]:
        return [" ".join(random.choice(words, size)) for size in random.integers(least, most + 1, rows)]

    phrases, contexts = texts(counts["mention"], 1, 3), texts(counts["mention"], 15, 25)
    years = random.integers(1800, 2020, counts["entity"])
    mentions = {
        "phrase": phrases,
        "sentence": [f"{phrase} {context}" for phrase, context in zip(phrases, contexts, strict=True)],
        "start": [0] * len(phrases),
        "end": [len(phrase) for phrase in phrases],
    }
    entities = {
        "name": texts(counts["entity"], 1, 3),
        "attributes": [f"Birth: {year}." for year in years],
        "description": texts(counts["entity"], 15, 25),
    }
    pq.write_table(pa.table(mentions), folder / "mentions.parquet")
    pq.write_table(pa.table(entities), folder / "entities.parquet")


def job(folder: Path, name: str, steps: Mapping[str, Mapping[str, np.ndarray]]) -> PairJob:
    """The job of a pair feature over new stores. steps: feature -> side -> steps of each row."""
    inputs = {want.column: stored(folder / name, want, steps[want.feature][want.side]) for want in wants(name)}
    served = [
        PairInput(**vars(inputs[SERVED[role].column]), role=role, output=SERVED[role].output)
        for role in registry.pair_function(name).roles
    ]
    return PairJob(
        name=name,
        dataset=folder,
        candidates=folder / "candidates.npz",
        inputs=tuple(served),
        digest="",
        out=folder / f"{name}.npz",
    )


def wants(name: str) -> list[Want]:
    """What a pair feature reads."""
    return registry.wants(name, OUTPUTS)


def main() -> None:
    """Measure every pair feature and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for option, value in (("mentions", 26000), ("entities", 19000), ("candidates", 100)):
        parser.add_argument(f"--{option}", type=int, default=value)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    random, counts = np.random.default_rng(0), {"mention": options.mentions, "entity": options.entities}
    boxes = {side: random.integers(1, 4, count) for side, count in counts.items()}
    faces = {side: (random.random(count) < 0.1) * random.integers(1, 3, count) for side, count in counts.items()}
    once = {side: np.ones(count, np.int64) for side, count in counts.items()}
    steps = {**dict.fromkeys(OUTPUTS, once), "objects": boxes, "object_resnet": boxes, "face_embedding": faces}
    results: dict[str, Any] = {}
    rows = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_tables(folder, counts)
        ids = random.integers(0, options.entities, (options.mentions, options.candidates)).astype(np.int32)
        np.savez(folder / "candidates.npz", ids=ids, scores=np.ones(ids.shape, np.float32))
        for name in registry.FUNCTIONS:
            request = job(folder, name, steps)
            with PeakMemory() as memory:
                report = build_pairs(request)
            rate, megabytes = ids.size / max(report.seconds, 1e-3) / 1e6, (memory.peak - memory.before) / 1e6
            results[name] = {
                "seconds": report.seconds,
                "million_pairs_per_s": round(rate, 2),
                "memory_mb": round(megabytes),
            }
            rows.append([name, f"{report.seconds:.1f}", f"{rate:.2f}", f"{megabytes:,.0f}"])
    print(as_text(text_table(["pair feature", "seconds", "M pairs/s", "MB"], rows)))
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()

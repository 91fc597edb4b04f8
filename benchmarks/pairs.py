"""Pair features of whole candidate lists: `python benchmarks/pairs.py [--mentions 26000] [--entities 19000] [--candidates 100] [--json OUT]`.

Random vectors in real stores (CLIP 512 wide; up to three objects of 2048; a face in every tenth picture), names of two or three words. Seconds and
million pairs per second of each pair feature, and the highest anonymous memory over that before it.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


def stored(folder: Path, side: str, feature: str, view: str, columns: dict[str, tuple], rows: int) -> dict[str, str]:
    """An input of the job with random rows. columns: output → (width or None, steps of each row or None, dtype)."""
    from cache.identity import Output, content_key
    from cache.store import Store

    random = np.random.default_rng(len(side) + len(feature))
    outputs = [
        Output(name, () if width is None else (width,), dtype, steps is not None)
        for name, (width, steps, dtype) in columns.items()
    ]
    store = Store.create(
        folder, f"{side}_{feature}", {"outputs": [output.to_json() for output in outputs], "side": side}
    )
    keys = np.stack([np.frombuffer(content_key(feature, f"{side}{row}"), np.uint8) for row in range(rows)])
    for start in range(0, rows, 4096):
        part = slice(start, min(start + 4096, rows))
        values = {}
        for name, (width, steps, dtype) in columns.items():
            shape = () if width is None else (width,)
            if steps is None:
                values[name] = random.normal(size=(part.stop - start, *shape)).astype(dtype)
            elif dtype == "int32":
                values[name] = [np.arange(count, dtype=np.int32) if count else np.int32([]) for count in steps[part]]
            else:
                values[name] = [random.random((count, *shape)).astype(dtype) for count in steps[part]]
        store.add(keys[part], np.zeros(part.stop - start, np.uint8), [""] * (part.stop - start), values)
    path = folder / f"{side}.{feature}.{view}.npz"
    np.savez(path, keys=keys, present=np.ones(rows, bool), span=np.full((rows, 2), -1))
    return {"side": side, "feature": feature, "view": view, "store": str(store.folder), "keys": str(path)}


def main() -> None:
    from extraction import PeakAnonymous

    from pipeline.pairs import stage as pairs

    parser = argparse.ArgumentParser(description=__doc__)
    for name, value in (("mentions", 26000), ("entities", 19000), ("candidates", 100)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    random = np.random.default_rng(0)
    words = ["".join(random.choice(list("abcdefghijklmnopqrstuvwxyz"), size)) for size in random.integers(3, 10, 5000)]
    counts = {"mention": given.mentions, "entity": given.entities}
    results = {}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for side, column in (("mention", "phrase"), ("entity", "name")):
            names = [" ".join(random.choice(words, size)) for size in random.integers(1, 4, counts[side])]
            pq.write_table(
                pa.table({column: names}), folder / {"mention": "mentions.parquet", "entity": "entities.parquet"}[side]
            )
        ids = random.integers(0, given.entities, (given.mentions, given.candidates)).astype(np.int32)
        np.savez(folder / "candidates.npz", ids=ids, scores=np.ones(ids.shape, np.float32))
        boxes = {side: random.integers(1, 4, count) for side, count in counts.items()}
        faces = {side: (random.random(count) < 0.1) * random.integers(1, 3, count) for side, count in counts.items()}
        kinds = {
            "clip_text": lambda side: {"pooled": (512, None, "float16")},
            "clip_image": lambda side: {"pooled": (512, None, "float16")},
            "text_tokens": lambda side: {"pooled": (768, None, "float16")},
            "objects": lambda side: {"confidences": (None, boxes[side], "float32")},
            "object_resnet": lambda side: {
                "vectors": (2048, boxes[side], "float16"),
                "box": (None, boxes[side], "int32"),
            },
            "face_embedding": lambda side: {"vectors": (512, faces[side], "float16")},
        }
        for name in pairs.names():
            inputs = [
                stored(
                    folder / name,
                    want.side,
                    want.feature,
                    want.view,
                    kinds[want.feature](want.side),
                    counts[want.side],
                )
                for want in pairs.wants(name, kinds)
            ]
            job = {
                "name": name,
                "dataset": place,
                "candidates": str(folder / "candidates.npz"),
                "inputs": inputs,
                "out": str(folder / f"{name}.npz"),
            }
            with PeakAnonymous() as before:
                pass
            with PeakAnonymous() as memory:
                report = pairs.build(job)
            rate = round(ids.size / report["seconds"] / 1e6, 2)
            results[name] = {
                "seconds": report["seconds"],
                "million_pairs_per_s": rate,
                "memory_mb": round(memory.peak - before.peak),
            }
            print(
                f"{name:<16}{report['seconds']:8.1f} s{rate:8.2f} M pairs/s{results[name]['memory_mb']:8,} MB",
                flush=True,
            )
    if given.json:
        given.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()

"""A fixed input's output beside each store: a loaded model that no longer reproduces it is refused."""

from typing import Any

import numpy as np
from PIL import Image

from cache.store import Store
from cache.union import probe_differs
from foundation.errors import UserError
from pipeline.extraction.base import CropExtractor, Extractor, PictureExtractor

PROBE_TEXT = "a probe"
KEPT = 64  # values kept per output
# What was found in the probe's picture, for extractors that cut it: a box and, as faces have them, five points in it.
PROBE_FOUND = {
    "boxes": np.array([[24, 8, 104, 88]], np.float32),
    "confidences": np.ones(1, np.float32),
    "landmarks": np.array([[[48, 38], [80, 38], [64, 54], [52, 70], [76, 70]]], np.float32),
}


def _items(extractor: Extractor) -> list[Any]:
    if not isinstance(extractor, PictureExtractor):
        return [PROBE_TEXT]
    rows, columns = np.mgrid[0:96, 0:128]
    picture = Image.fromarray(
        np.stack([rows * 2, columns, (rows // 16 + columns // 16) % 2 * 255], -1).astype(np.uint8)
    )
    if isinstance(extractor, CropExtractor):
        return [item for _, item in extractor.cut(picture, PROBE_FOUND)]
    return [extractor.prepare(picture)]


def probe(extractor: Extractor) -> dict[str, list[float]]:
    """The loaded model's outputs for the fixed input: the first values of each, scaled to unit length."""
    values = {}
    for name, rows in extractor.probe(extractor.collate(_items(extractor))).items():
        flat = np.asarray([] if rows[0] is None else rows[0], np.float32).ravel()[:KEPT]
        values[name] = [round(float(value), 5) for value in flat / (np.linalg.norm(flat) + 1e-12)]
    return values


def check_probe(extractor: Extractor, store: Store) -> None:
    """Keep the probe's output with a new store; compare it with an older one's.

    Raises `UserError` where the model gives other numbers.
    """
    outputs = probe(extractor)
    if not store.probe:
        store.set_probe(outputs)
        return
    output = probe_differs(outputs, store.probe)
    if output is not None:
        raise UserError(
            f"{store.feature}: {extractor.options.model!r} no longer gives the numbers in its cache "
            f"(output {output!r}); "
            f"a library has changed. Go back to the versions in use then, or delete the folder {store.folder} "
            "and run the same command again"
        )

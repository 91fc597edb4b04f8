"""A fixed input's output beside each store: a loaded model that no longer reproduces it is refused."""

from typing import Any

import numpy as np
from PIL import Image

from cache.errors import UserError
from cache.store import Store
from pipeline.extractors.base import Extractor, ImageExtractor

PROBE_TEXT = "a probe"
TOLERANCE = 0.02  # on values scaled to unit length: far above half precision's rounding, far below another model's difference
KEPT = 64  # values kept per output


def _unit(extractor: Extractor) -> Any:
    if not isinstance(extractor, ImageExtractor):
        return [PROBE_TEXT]
    rows, columns = np.mgrid[0:96, 0:128]
    picture = np.stack([rows * 2, columns, (rows // 16 + columns // 16) % 2 * 255], -1).astype(np.uint8)
    return extractor.prepare(Image.fromarray(picture))[None].copy()


def probe(extractor: Extractor) -> dict[str, list[float]]:
    """The loaded model's outputs for the fixed input: the first values of each, scaled to unit length."""
    values = {}
    for name, rows in extractor(_unit(extractor)).items():
        flat = np.asarray(rows[0], np.float32).ravel()[:KEPT]
        values[name] = [round(float(value), 5) for value in flat / (np.linalg.norm(flat) + 1e-12)]
    return values


def check_probe(extractor: Extractor, store: Store) -> None:
    """Keep the probe's output with a new store; compare it with an older one's. Raises `UserError` where the model gives other numbers."""
    found = probe(extractor)
    if not store.probe:
        store.set_probe(found)
        return
    for name, values in found.items():
        expected = store.probe.get(name, [])
        if len(expected) != len(values) or np.abs(np.subtract(values, expected)).max(initial=0) > TOLERANCE:
            raise UserError(
                f"{store.feature}: {extractor.options.model!r} no longer gives the numbers its cache in {store.folder.name} was made with (output {name!r}); "
                "a library has changed. Go back to the versions in use then, or remove that folder with CleanCache and extract again"
            )

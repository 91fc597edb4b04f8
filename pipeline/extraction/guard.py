"""A look at rows after extraction: a model that gives the same row for everything is noticed before a head reads it.

Rows of this run and rows stored earlier are looked at alike, a sample of each view, so that a large cache is not read.
"""

import math
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cache.identity import Output
from cache.inputs import Want
from cache.store import Store
from cache.table import Table
from foundation.errors import PassingError
from pipeline.datasets.images import ImageError, Limits, decode, read_picture
from pipeline.extraction.base import CropExtractor, Extractor, PictureExtractor
from pipeline.extraction.units import Part, Picture, UnitColumn

ROWS = 256
"""Most rows of one view that are looked at."""
CANDIDATES = 16 * ROWS
"""Keys among which rows that are ok, and not empty, are looked for."""
BYTES = 32 << 20
"""Most bytes of one output that are read; `FEW` rows are read whatever they take."""
FEW = 16
"""Rows from which small outputs (boxes, probabilities) that are equal are noticed, and vectors that hardly differ."""
VECTOR = 16
"""Numbers from which an output is a vector; equal vectors of two different inputs are noticed."""
COLLAPSED = 1e-7
"""Variance as a share of the mean square, below which rows hardly differ: rounding to fp16 alone gives 4e-8, features
of trained models 1e-2 and more."""
_CHECK = {
    "text": "the model's pooling, tokenizer and weights",
    "image": "the model's preprocessing and weights",
    "crops": "the boxes that are cut, and the model's weights",
    "rows": "the rows that it reads",
}


@dataclass(frozen=True)
class Sample:
    """Some rows of a view. places: (n,) int64 in its key column, of distinct keys. values: (n, d) float32, a ragged row
    as the mean of its steps. finite: (n,) bool."""

    places: np.ndarray
    values: np.ndarray
    finite: np.ndarray


def problems(want: Want, column: UnitColumn, store: Store, extractor: Extractor, limits: Limits) -> list[str]:
    """What is wrong with the rows of a view, a line per output; nothing for rows that differ as their inputs do.

    A single row is never wrong unless it is not finite; rows of the same text (by case, accents and white space) or of
    the same pixels may be equal.
    """
    lines = []
    keys, places = column.keys, _some(column)
    for name, output in extractor.writes.items():
        if not output.dtype.startswith("float"):
            continue
        sample = _sample(places, Table(store, name, keys[places], column.present[places]), output)
        problem = _problem(sample, output, name in extractor.labels())
        if (
            problem
            and sample.finite.all()
            and _same_inputs([column.sources[i] for i in sample.places], extractor, limits)
        ):
            problem = ""
        if problem:
            lines.append(
                f"{want.column}, output {name}: {problem}; look at {_CHECK[extractor.reads]}, or keep the rows with "
                f"--accept {want.feature}"
            )
    return lines


def _some(column: UnitColumn) -> np.ndarray:
    """Positions in the column, each of another key, evenly among its keys in their order, which is that of a hash."""
    present = np.flatnonzero(column.present)
    beginnings = np.ascontiguousarray(column.keys).view("<u8")[present, 0]  # half a key; sorted ten times as fast
    _, first = np.unique(beginnings, return_index=True)
    return present[_evenly(first, CANDIDATES)]


def _evenly(values: np.ndarray, most: int) -> np.ndarray:
    return values if len(values) <= most else values[np.linspace(0, len(values) - 1, most).astype(np.int64)]


def _sample(places: np.ndarray, table: Table, output: Output) -> Sample:
    """Rows among those of `table`, which are at `places` of a key column."""
    usable = _evenly(np.flatnonzero(table.ok & (table.lengths > 0)), ROWS)
    sizes = table.lengths[usable] * output.row_bytes
    usable = usable[: max(FEW, int(np.searchsorted(sizes.cumsum(), BYTES, side="right")))]
    return Sample(places[usable], *_values(table, usable))


def _values(table: Table, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if not table.ragged:
        rows = np.asarray(table.gather(places), np.float32).reshape(len(places), math.prod(table.shape))
        return rows, np.asarray(np.isfinite(rows).all(1))
    if not len(places):
        return np.zeros((0, 1), np.float32), np.zeros(0, bool)
    steps, lengths = table.ragged_flat(places)
    steps = steps.reshape(len(steps), -1)
    starts = lengths.cumsum() - lengths
    finite = np.logical_and.reduceat(np.isfinite(steps).all(1), starts)
    sums = np.add.reduceat(steps.astype(np.float32), starts, axis=0)
    return sums / lengths[:, None].astype(np.float32), np.asarray(finite)


def _problem(sample: Sample, output: Output, classes: bool) -> str:
    """What is wrong with the rows, "" where nothing is. classes: whether the numbers are probabilities of classes."""
    rows, count = sample.values, len(sample.values)
    if not sample.finite.all():
        return f"{int((~sample.finite).sum()):,} of {count:,} rows hold NaN or infinity"
    if output.shape == () or count < 2:
        return ""
    vector = rows.shape[1] >= VECTOR and not classes
    if (rows == rows[0]).all() and (vector or count >= FEW):
        return f"all {count:,} rows are {'zero' if not rows.any() else 'equal'}"
    square = float(np.square(rows, dtype=np.float64).sum(1).mean())
    share = float(rows.var(0, dtype=np.float64).sum()) / square if square else 0.0
    if vector and count >= FEW and share < COLLAPSED:
        return f"{count:,} rows hardly differ (variance {share:.0e} of the mean square)"
    return ""


def _same_inputs(sources: Sequence[Any], extractor: Extractor, limits: Limits) -> bool:
    """Whether the model sees the same in all of these units; they are read until one differs."""
    first = _seen(sources[0], extractor, limits)
    return all(_equal(first, _seen(source, extractor, limits)) for source in sources[1:])


def _seen(source: Any, extractor: Extractor, limits: Limits) -> Any:
    """What the model sees of a unit: a text without what tokenizers drop, prepared pixels, a parent's row."""
    if isinstance(source, str):
        plain = unicodedata.normalize("NFKD", source).casefold()
        return " ".join("".join(char for char in plain if not unicodedata.combining(char)).split())
    if not isinstance(extractor, PictureExtractor):
        return source
    picture: Picture = source.picture if isinstance(source, Part) else source
    try:
        image = decode(read_picture(Path(picture.path), limits), limits)
    except (ImageError, PassingError, OSError):
        return picture.key  # gone since: different bytes are taken for different pictures
    if isinstance(source, Part) and isinstance(extractor, CropExtractor):
        return [item for _, item in extractor.cut(image, source.parent)]
    return extractor.prepare(image)


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, Mapping):
        return isinstance(other, Mapping) and one.keys() == other.keys() and all(_equal(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple):
        return isinstance(other, list | tuple) and len(one) == len(other) and all(map(_equal, one, other))
    if hasattr(one, "shape"):
        return np.array_equal(np.asarray(one), np.asarray(other))
    return bool(one == other)

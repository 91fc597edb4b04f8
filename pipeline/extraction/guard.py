"""A look at rows after extraction: a model that gives the same row for everything is noticed before a head reads it.

Rows of this run and rows stored earlier are looked at alike, a sample of each view, so that a large cache is not read.
"""

import math
import unicodedata
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from cache.identity import Output
from cache.inputs import Want
from cache.keys import KeyColumn
from cache.store import Store
from cache.table import Table
from foundation.errors import PassingError
from pipeline.datasets.images import ImageError, Limits, decode, read_picture
from pipeline.extraction.base import CropExtractor, Extractor, PictureExtractor
from pipeline.extraction.units import Part, Picture, PlannedColumn, UnitColumn

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
FAR = 3
"""Times the largest distance from the mean of known rows, theirs or that of zero, beyond which a new row is unlike
them."""
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


def problems(
    want: Want, column: UnitColumn | PlannedColumn, store: Store, extractor: Extractor, limits: Limits
) -> list[str]:
    """What is wrong with the rows of a view, a line per output; nothing for rows that differ as their inputs do.

    A single row is never wrong unless it is not finite; rows of the same text (by case, accents and white space) or of
    the same pixels may be equal.
    """
    labels = extractor.labels()
    vectors = {name: output for name, output in extractor.writes.items() if name not in labels}
    found = wrong(
        column,
        store,
        extractor.writes,
        vectors,
        lambda places: _same_inputs([column.sources[i] for i in places], extractor, limits),
    )
    return [f"{want.column}, output {name}: {problem}" for name, problem in found]


def remedy(extractor: Extractor) -> str:
    """Where to look when rows are wrong."""
    return f"look at {_CHECK[extractor.reads]}"


def wrong(
    column: KeyColumn,
    store: Store,
    outputs: Mapping[str, Output],
    vectors: Collection[str],
    same: Callable[[np.ndarray], bool],
) -> Iterator[tuple[str, str]]:
    """Each of a feature's `outputs` whose rows under a view are wrong, and what is wrong with them.

    vectors: outputs that are no probabilities of classes. same: whether the inputs behind these places of the column
    (n,) are the same for the model.
    """
    places = _some(column)
    for name, output in outputs.items():
        if not output.dtype.startswith("float"):
            continue
        sample = _sample(places, Table(store, name, column.keys[places], column.present[places]), output)
        problem = _problem(sample, output, name not in vectors)
        if problem and not (sample.finite.all() and same(sample.places)):
            yield name, problem


# New rows, however few


@dataclass(frozen=True)
class Spread:
    """Where an output's rows of a view lie. mean: (d,) float32. most: the largest squared distance from it."""

    mean: np.ndarray
    most: float

    def far(self, rows: np.ndarray) -> np.ndarray:
        """Which of the rows (n, d) are all zero, not finite, or `FAR` times as far from the mean as any known one, and
        as zero: known inputs that are much alike lie close together, and others may lie elsewhere."""
        distance = np.square(rows.astype(np.float32) - self.mean, dtype=np.float64).sum(1)
        near = FAR**2 * max(self.most, float(np.square(self.mean, dtype=np.float64).sum()))
        return ~(distance <= near) | ~rows.any(1)


def spreads(column: KeyColumn, store: Store, outputs: Mapping[str, Output]) -> dict[str, Spread]:
    """The spread of each output that is one vector of each input, by at most `ROWS` rows of a view that are known to be
    right; none where there are fewer than `FEW`, or where they do not differ, or one of them is zero."""
    found, places = {}, _some(column)
    for name, output in outputs.items():
        if output.ragged or len(output.shape) != 1 or output.shape[0] < VECTOR or not output.dtype.startswith("float"):
            continue
        rows = _sample(places, Table(store, name, column.keys[places], column.present[places]), output).values
        if len(rows) < FEW or not rows.any(1).all():
            continue
        mean = rows.mean(0)
        distance = np.square(rows - mean, dtype=np.float64).sum(1)
        if distance.any():
            found[name] = Spread(mean, float(distance.max()))
    return found


def unlike(column: KeyColumn, store: Store, known: Mapping[str, Spread]) -> np.ndarray:
    """(records,) bool: which records have a row that lies outside the spread of the known ones."""
    rows = np.zeros(len(column.keys), bool)
    for name, spread in known.items():
        table = column.table(store, name)
        there = np.flatnonzero(table.ok)
        rows[there] |= spread.far(np.asarray(table.gather(there)))
    if column.counts is None:
        return rows
    return np.bincount(np.repeat(np.arange(len(column.counts)), column.counts)[rows], minlength=len(column.counts)) > 0


def _some(column: KeyColumn) -> np.ndarray:
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
        return source.parent
    picture = cast(Picture, source.picture if isinstance(source, Part) else source)
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

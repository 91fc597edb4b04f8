"""Chunks: rows that are computed together and become one shard of each of their features.

Their order and borders follow from the rows to do alone, so a run that was killed goes on with the same chunks, and
processes that plan apart agree on them without talking.
"""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cache.index import as_void
from cache.inputs import Want
from cache.store import Store
from pipeline.extraction.base import Extractor, TextExtractor, padded_length, token_counts
from pipeline.extraction.units import UnitColumn, Units, distinct

SHARD_BYTES = 256 << 20  # what one shard's rows may take in memory
STEPS = 8  # steps that a ragged row of a picture is taken to have where its size must be known beforehand


@dataclass(frozen=True)
class Chunk:
    """Rows of one or more features. name: of the shard that holds all of them. load: their keys, and what is read for
    each."""

    features: tuple[str, ...]
    rows: int
    name: str
    load: Callable[[], Units]


@dataclass
class PendingFeature:
    """A feature with what its store lacks.

    wanted: its distinct units. missing: positions in `wanted` that the store lacks.
    """

    name: str
    extractor: Extractor
    store: Store
    wanted: Units
    missing: np.ndarray

    @functools.cached_property
    def lengths(self) -> np.ndarray:
        """Tokens of each missing text."""
        assert isinstance(self.extractor, TextExtractor)
        missing = self.wanted.at(self.missing)
        return token_counts(self.extractor, missing.sources) if missing.tokens is None else missing.tokens

    @property
    def bytes(self) -> int:
        """Bytes that the missing rows will take, an upper bound for broken pictures; 18 are a row's key and status, 8
        its end in a ragged column."""
        rows, outputs = len(self.missing), self.extractor.writes.values()
        ragged = sum(output.row_bytes for output in outputs if output.ragged)
        total = rows * (sum(output.row_bytes for output in outputs if not output.ragged) + 18)
        if ragged and isinstance(self.extractor, TextExtractor):
            return total + ragged * int(self.lengths.sum()) + 8 * rows
        return total + (ragged * STEPS + 8) * rows if ragged else total


def pending(
    columns: Mapping[Want, UnitColumn], extractors: Mapping[str, Extractor], stores: Mapping[str, Store]
) -> list[PendingFeature]:
    """The features behind key columns, with what their stores lack of them. extractors, stores: by feature."""
    features = []
    for name in dict.fromkeys(want.feature for want in columns):
        wanted = distinct([column for want, column in columns.items() if want.feature == name])
        features.append(PendingFeature(name, extractors[name], stores[name], wanted, stores[name].missing(wanted.keys)))
    return features


def chunks(features: Sequence[PendingFeature], shard_rows: int) -> list[Chunk]:
    """All that the features' stores lack, in the order in which it is computed. shard_rows: most rows of a chunk.

    The features read the same kind of unit.
    """
    lacking = [feature for feature in features if len(feature.missing)]
    if lacking and isinstance(lacking[0].extractor, TextExtractor):
        return [chunk for feature in lacking for chunk in _of_texts(feature, shard_rows)]
    return list(_together(lacking, shard_rows)) if lacking else []


def _of_texts(feature: PendingFeature, shard_rows: int) -> Iterator[Chunk]:
    extractor = feature.extractor
    assert isinstance(extractor, TextExtractor)
    lengths, of = np.unique(feature.lengths, return_inverse=True)
    padded = np.array([padded_length(length, extractor.limit) for length in lengths.tolist()])[of]
    order = feature.missing[np.lexsort((feature.missing, padded))]
    rows = _rows([feature], shard_rows, extractor.limit)
    return _cut([feature], order, rows)


def _together(features: Sequence[PendingFeature], shard_rows: int) -> Iterator[Chunk]:
    """Rows that the same set of features lacks are done together, each picture decoded once for all of them."""
    keys = np.unique(as_void(np.concatenate([feature.wanted.keys[feature.missing] for feature in features])))
    lacking = np.stack([np.isin(keys, as_void(feature.wanted.keys[feature.missing])) for feature in features], 1)
    for pattern in np.unique(lacking, axis=0)[::-1]:
        group = [feature for feature, lacks in zip(features, pattern, strict=True) if lacks]
        positions = np.flatnonzero(np.isin(as_void(group[0].wanted.keys), keys[(lacking == pattern).all(1)]))
        yield from _cut(group, positions, _rows(group, shard_rows, STEPS))


def _rows(group: Sequence[PendingFeature], shard_rows: int, steps: int) -> int:
    """Rows of a chunk. steps: that a ragged row is taken to have."""
    row_bytes = sum(
        output.row_bytes * (steps if output.ragged else 1)
        for feature in group
        for output in feature.extractor.writes.values()
    )
    return max(1, min(shard_rows, SHARD_BYTES // max(row_bytes, 1)))


def _cut(group: Sequence[PendingFeature], positions: np.ndarray, rows: int) -> Iterator[Chunk]:
    """The rows at these positions of the first feature's units, in pieces of `rows`."""
    names, wanted = tuple(feature.name for feature in group), group[0].wanted
    for start in range(0, len(positions), rows):
        at = positions[start : start + rows]
        yield Chunk(names, len(at), Store.shard_name(wanted.keys[at]), functools.partial(wanted.at, at))

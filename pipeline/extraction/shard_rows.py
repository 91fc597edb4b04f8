"""The rows of shards, computed from their units: batches of texts, pictures decoded ahead of the model, crops, rows of
other features."""

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from foundation.errors import PassingError
from pipeline.datasets.images import ImageError, Limits, decoding, image_key, read_picture
from pipeline.extraction.base import (
    CropExtractor,
    Extractor,
    Outputs,
    PictureExtractor,
    TextExtractor,
    padded_length,
    token_counts,
)
from pipeline.extraction.batches import batches
from pipeline.extraction.decoders import Decoders
from pipeline.extraction.units import Part, Picture, Units, picture_of

BYTES = 256 << 20  # of prepared pictures: of a batch, and of what waits for the model besides
TEXT_TOKENS = 64  # a text batch holds batch_size × this many tokens at most


@dataclass
class ShardRows:
    """A shard's rows.

    columns: feature -> output -> rows. status, causes: verdict of each. kept: positions of the units that they belong
    to. undone: why the other units have no row, a line each.
    """

    columns: dict[str, dict[str, Any]]
    status: np.ndarray
    causes: list[str]
    kept: np.ndarray
    undone: list[str] = field(default_factory=list)

    @classmethod
    def ok(cls, columns: dict[str, dict[str, Any]], count: int) -> "ShardRows":
        """A row with the verdict OK for each of `count` units."""
        return cls(columns, np.zeros(count, np.uint8), [""] * count, np.arange(count))

    def without(self, places: set[int]) -> "ShardRows":
        """The rows of the other places."""
        if not places:
            return self
        kept = np.array([row for row in self.kept if row not in places], np.int64)
        columns = {
            name: {output: _at(values, kept) for output, values in outputs.items()}
            for name, outputs in self.columns.items()
        }
        return ShardRows(columns, self.status[kept], [self.causes[row] for row in kept], kept, self.undone)


@dataclass(frozen=True)
class RowComputer:
    """Computes the rows of shards for one or more extractors, by feature, that read the same kind of unit.

    model: the rows of some prepared units, whatever their number. progress: called with the number of units that are
    done. decoders: processes that prepare pictures; 0: threads of this one.
    """

    extractors: Mapping[str, Extractor]
    batch_size: int
    limits: Limits
    model: Callable[[Extractor, Sequence[Any]], Outputs]
    progress: Callable[[int], Any]
    decoders: int = 0

    def of_texts(self, shards: Iterable[Units]) -> Iterator[ShardRows]:
        """Shards of strings, which come ordered by padded length; a batch has one such length.

        For a single extractor.
        """
        ((name, extractor),) = self.extractors.items()
        assert isinstance(extractor, TextExtractor)
        for units in shards:
            yield ShardRows.ok({name: self._texts(extractor, units)}, len(units.keys))

    def _texts(self, extractor: TextExtractor, units: Units) -> dict[str, Any]:
        strings = list(units.sources)
        tokens = token_counts(extractor, strings) if units.tokens is None else units.tokens
        padded = [padded_length(length, extractor.limit) for length in tokens.tolist()]
        columns: dict[str, Any] = {output: [None] * len(strings) for output in extractor.writes}
        start = 0
        while start < len(strings):
            end, size = start, max(1, self.batch_size * TEXT_TOKENS // padded[start])
            while end < len(strings) and padded[end] == padded[start] and end - start < size:
                end += 1
            for output, values in self.model(extractor, strings[start:end]).items():
                columns[output][start:end] = values
            self.progress(end - start)
            start = end
        for output, declared in extractor.writes.items():
            if not declared.ragged:
                columns[output] = np.stack(columns[output])
        return columns

    def of_rows(self, shards: Iterable[Units]) -> Iterator[ShardRows]:
        """Shards of rows of another feature."""
        for units in shards:
            parents = [part.parent for part in units.sources]
            columns = {name: _empty(extractor, len(parents)) for name, extractor in self.extractors.items()}
            for start in range(0, len(parents), self.batch_size):
                batch = parents[start : start + self.batch_size]
                for name, extractor in self.extractors.items():
                    for output, values in self.model(extractor, batch).items():
                        columns[name][output][start : start + len(batch)] = values
                self.progress(len(batch))
            yield ShardRows.ok(columns, len(parents))

    def of_pictures(self, shards: Iterable[Units]) -> Iterator[ShardRows]:
        """Shards of pictures, or of crops of them; each picture is decoded once for all extractors, ahead of the model
        and across shards."""
        extractors = [extractor for extractor in self.extractors.values() if isinstance(extractor, PictureExtractor)]
        with self._preparing(extractors) as work:
            yield from self._of_prepared(batches(work, (units.sources for units in shards), self.batch_size, BYTES))

    @contextlib.contextmanager
    def _preparing(self, extractors: Sequence[PictureExtractor]) -> Iterator[Callable[[Any], Any] | Decoders]:
        """What prepares pictures: threads of this process, or processes for extractors that need no model for it."""
        if not self.decoders or any(extractor.loads_first for extractor in extractors):
            yield functools.partial(prepared, extractors, self.limits)
            return
        without_model = [extractor.fresh() for extractor in extractors]
        with Decoders(functools.partial(prepared, without_model, self.limits), self.decoders) as decoders:
            yield decoders

    def _of_prepared(self, batches: Iterator[tuple[Sequence[Any], int, list[Any]]]) -> Iterator[ShardRows]:
        for sources, start, results in batches:
            if start == 0:
                columns = {name: _empty(extractor, len(sources)) for name, extractor in self.extractors.items()}
                rows = ShardRows.ok(columns, len(sources))
                undone: set[int] = set()
            good = []
            for row, item in enumerate(results, start):
                if isinstance(item, ImageError):
                    rows.status[row], rows.causes[row] = item.status, item.cause
                elif isinstance(item, PassingError):
                    rows.undone.append(f"{picture_of(sources[row]).path} ({item})")
                    undone.add(row)
                else:
                    good.append((row, item))
            for number, (name, extractor) in enumerate(self.extractors.items()):
                items = [item[number] for _, item in good]
                self._fill(extractor, [row for row, _ in good], items, rows.columns[name])
            self.progress(len(results))
            if start + len(results) == len(sources):
                yield rows.without(undone)

    def _fill(self, extractor: Extractor, at: list[int], items: list[Any], columns: dict[str, Any]) -> None:
        """Put the model's rows for `items` into `columns` at the rows `at`."""
        if not items:
            return
        crops = isinstance(extractor, CropExtractor)
        outputs = self._crops(extractor, items) if crops else self.model(extractor, items)
        for output, values in outputs.items():
            if isinstance(columns[output], np.ndarray):
                columns[output][at] = values
            else:
                for row, value in zip(at, values, strict=True):
                    columns[output][row] = value

    def _crops(self, extractor: Extractor, cut: Sequence[Sequence[tuple[int, Any]]]) -> dict[str, list[np.ndarray]]:
        """Ragged rows per picture from the (position of its box, prepared crop) of each; crops of all pictures share
        batches.

        A crop that has no row in one of the outputs is left out.
        """
        flat = [(place, box, item) for place, crops in enumerate(cut) for box, item in crops]
        outputs = [output for output in extractor.writes if output != "box"]
        values: dict[str, list[Any]] = {output: [] for output in outputs}
        for start in range(0, len(flat), self.batch_size):
            batch = [item for _, _, item in flat[start : start + self.batch_size]]
            for output, rows in self.model(extractor, batch).items():
                values[output] += list(rows)
        kept = [number for number in range(len(flat)) if all(values[output][number] is not None for output in outputs)]
        values["box"] = [box for _, box, _ in flat]
        of_picture = np.array([flat[number][0] for number in kept], np.int64)
        ends = np.searchsorted(of_picture, np.arange(1, len(cut)))
        return {
            output: np.split(
                np.stack([np.asarray(values[output][number]) for number in kept])
                if kept
                else np.zeros((0, *declared.shape), declared.dtype),
                ends,
            )
            for output, declared in extractor.writes.items()
        }


def _empty(extractor: Extractor, count: int) -> dict[str, Any]:
    """Columns to be filled; rows that stay as they are belong to pictures without a usable verdict."""
    columns: dict[str, Any] = {}
    for name, output in extractor.writes.items():
        columns[name] = (
            [np.zeros((0, *output.shape), output.dtype)] * count
            if output.ragged
            else np.zeros((count, *output.shape), output.dtype)
        )
    return columns


def _at(values: Any, rows: np.ndarray) -> Any:
    return values[rows] if isinstance(values, np.ndarray) else [values[row] for row in rows]


def prepared(extractors: Sequence[PictureExtractor], limits: Limits, source: Picture | Part) -> Any:
    """What each extractor sees of a picture, or the `ImageError` or `PassingError` that stands for it."""
    picture = picture_of(source)
    try:
        data = read_picture(Path(picture.path), limits) if picture.data is None else picture.data
        if isinstance(data, Exception):
            raise data
        if image_key(data) != picture.key:
            return PassingError("the file changed since the dataset was prepared: add --rescan")
        with decoding(data, limits) as (image, _):
            if isinstance(source, Part):
                crops = [extractor for extractor in extractors if isinstance(extractor, CropExtractor)]
                return [extractor.cut(image, source.parent) for extractor in crops]
            return [extractor.prepare(image) for extractor in extractors]
    except (ImageError, PassingError) as error:
        return error
    except (OSError, MemoryError) as error:
        return PassingError(f"{type(error).__name__}: {error}")

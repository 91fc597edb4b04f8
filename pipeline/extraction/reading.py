"""From the units of each shard to its columns: batches of texts, pictures decoded ahead of the model, crops of many pictures, rows of other features."""

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from foundation.errors import PassingError
from pipeline.datasets.images import ImageError, Limits, decode, image_key
from pipeline.extraction.base import CropExtractor, Extractor, TextExtractor, padded_length
from pipeline.extraction.batches import batches
from pipeline.extraction.units import Part, Picture

BYTES = 256 << 20  # of prepared pictures: of a batch, and of what waits for the model besides
TEXT_TOKENS = 64  # a text batch holds batch_size × this many tokens at most

Model = Callable[[Extractor, Sequence[Any]], dict[str, Any]]
Watch = Callable[[int], Any]


@dataclass
class Done:
    """A shard's rows. columns: feature -> output -> rows; status, causes: verdict of each; kept: which of the units were done; undone: what was not."""

    columns: dict[str, dict[str, Any]]
    status: np.ndarray
    causes: list[str]
    kept: np.ndarray
    undone: list[str] = field(default_factory=list)

    @classmethod
    def whole(cls, columns: dict[str, dict[str, Any]], count: int) -> "Done":
        """Every unit was done and is well."""
        return cls(columns, np.zeros(count, np.uint8), [""] * count, np.arange(count))


def texts(
    name: str, extractor: TextExtractor, shards: Iterable[Sequence[str]], batch_size: int, model: Model, watch: Watch
) -> Iterator[Done]:
    """The shards of strings, which come ordered by padded length; a batch has one such length."""
    for strings in shards:
        yield _texts(name, extractor, strings, batch_size, model, watch)


def _texts(
    name: str, extractor: TextExtractor, strings: Sequence[str], batch_size: int, model: Model, watch: Watch
) -> Done:
    padded = [padded_length(length, extractor.limit) for length in extractor.count(strings)]
    columns: dict[str, Any] = {output: [None] * len(strings) for output in extractor.writes}
    start = 0
    while start < len(strings):
        end, size = start, max(1, batch_size * TEXT_TOKENS // padded[start])
        while end < len(strings) and padded[end] == padded[start] and end - start < size:
            end += 1
        for output, values in model(extractor, strings[start:end]).items():
            columns[output][start:end] = values
        watch(end - start)
        start = end
    for output, declared in extractor.writes.items():
        if not declared.ragged:
            columns[output] = np.stack(columns[output])
    return Done.whole({name: columns}, len(strings))


def rows(
    extractors: Mapping[str, Extractor],
    shards: Iterable[Sequence[Mapping[str, np.ndarray]]],
    batch_size: int,
    model: Model,
    watch: Watch,
) -> Iterator[Done]:
    """The shards of rows of another feature."""
    for parents in shards:
        columns = {name: _empty(extractor, len(parents)) for name, extractor in extractors.items()}
        for start in range(0, len(parents), batch_size):
            batch = parents[start : start + batch_size]
            for name, extractor in extractors.items():
                for output, values in model(extractor, batch).items():
                    columns[name][output][start : start + len(batch)] = values
            watch(len(batch))
        yield Done.whole(columns, len(parents))


def pictures(
    extractors: Mapping[str, Extractor],
    shards: Iterable[Sequence[Picture | Part]],
    batch_size: int,
    limits: Limits,
    model: Model,
    watch: Watch,
) -> Iterator[Done]:
    """The shards of pictures, or of crops of them, each picture decoded once for all extractors and ahead of the model, across shards too."""
    one = functools.partial(_prepared, list(extractors.values()), limits)
    for sources, start, prepared in batches(one, shards, batch_size, BYTES):
        if start == 0:
            done = Done.whole(
                {name: _empty(extractor, len(sources)) for name, extractor in extractors.items()}, len(sources)
            )
            undone: set[int] = set()
        good = []
        for row, item in enumerate(prepared, start):
            if isinstance(item, ImageError):
                done.status[row], done.causes[row] = item.status, item.cause
            elif isinstance(item, PassingError):
                done.undone.append(f"{_picture(sources[row]).path} ({item})")
                undone.add(row)
            else:
                good.append((row, item))
        for number, (name, extractor) in enumerate(extractors.items()):
            _run(
                extractor,
                [row for row, _ in good],
                [item[number] for _, item in good],
                batch_size,
                model,
                done.columns[name],
            )
        watch(len(prepared))
        if start + len(prepared) == len(sources):
            yield _without(done, undone)


def _without(done: Done, undone: set[int]) -> Done:
    """The rows that were done."""
    if undone:
        done.kept = np.array([row for row in done.kept if row not in undone], np.int64)
        done.status, done.causes = done.status[done.kept], [done.causes[row] for row in done.kept]
        for columns in done.columns.values():
            columns |= {output: _at(values, done.kept) for output, values in columns.items()}
    return done


def _run(
    extractor: Extractor, at: list[int], items: list[Any], batch_size: int, model: Model, columns: dict[str, Any]
) -> None:
    """Put the model's rows for `items` into `columns` at the rows `at`."""
    if not items:
        return
    if isinstance(extractor, CropExtractor):
        for output, values in _crops(extractor, items, batch_size, model).items():
            for row, value in zip(at, values, strict=True):
                columns[output][row] = value
        return
    for output, values in model(extractor, items).items():
        if isinstance(columns[output], np.ndarray):
            columns[output][at] = values
        else:
            for row, value in zip(at, values, strict=True):
                columns[output][row] = value


def _crops(
    extractor: CropExtractor, cut: Sequence[Sequence[tuple[int, Any]]], batch_size: int, model: Model
) -> dict[str, list[np.ndarray]]:
    """Ragged rows per picture from the crops of each; those of all pictures share batches. A crop without a row in every output is left out."""
    flat = [(place, box, item) for place, crops in enumerate(cut) for box, item in crops]
    outputs = [output for output in extractor.writes if output != "box"]
    values: dict[str, list[Any]] = {output: [] for output in outputs}
    for start in range(0, len(flat), batch_size):
        for output, found in model(extractor, [item for _, _, item in flat[start : start + batch_size]]).items():
            values[output] += list(found)
    kept = [number for number in range(len(flat)) if all(values[output][number] is not None for output in outputs)]
    made: dict[str, list[np.ndarray]] = {}
    for output, declared in extractor.writes.items():
        of_crop = (
            [flat[number][1] for number in kept] if output == "box" else [values[output][number] for number in kept]
        )
        stacked = (
            np.stack([np.asarray(value) for value in of_crop])
            if of_crop
            else np.zeros((0, *declared.shape), declared.dtype)
        )
        of_picture = np.array([flat[number][0] for number in kept], np.int64)
        made[output] = np.split(stacked, np.searchsorted(of_picture, np.arange(1, len(cut))))
    return made


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


def _picture(source: Picture | Part) -> Picture:
    return source.picture if isinstance(source, Part) else source


def _prepared(extractors: Sequence[Extractor], limits: Limits, source: Picture | Part) -> Any:
    """What each extractor sees of a picture, or the `ImageError` or `PassingError` that stands for it."""
    picture = _picture(source)
    try:
        data = Path(picture.path).read_bytes()
        if image_key(data) != picture.key:
            return PassingError("the file changed since the dataset was prepared: add --rescan")
        image = decode(data, limits)
        if isinstance(source, Part):
            return [extractor.cut(image, source.parent) for extractor in extractors]
        return [extractor.prepare(image) for extractor in extractors]
    except ImageError as error:
        return error
    except (OSError, MemoryError) as error:
        return PassingError(f"{type(error).__name__}: {error}")

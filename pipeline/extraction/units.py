"""The units behind the wanted views: content keys per record and view, and what to read for each key."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from cache.identity import KEY_BYTES, content_key
from cache.inputs import FROM_FEATURES, IMAGE, PICTURES, Side, Want
from cache.keys import KeyColumn
from foundation.errors import UserError
from pipeline.datasets.prepared import Columned, Columns, pieces
from pipeline.enhance import output
from pipeline.extraction import strings, views
from pipeline.extraction.base import DerivedOptions, Extractor, TextExtractor, token_counts
from pipeline.extraction.contracts import CutTexts
from pipeline.extraction.parents import Parent


@dataclass
class Units:
    """Distinct units of one feature: keys (n, 16) uint8 and, beside each, what is read: a string, a `Picture` or a
    `Part`. tokens: (n,) int32 of each string, where they were counted."""

    keys: np.ndarray
    sources: Sequence[Any]
    tokens: np.ndarray | None = None

    def at(self, places: np.ndarray) -> "Units":
        """Those at these places (m,), in their order."""
        tokens = None if self.tokens is None else self.tokens[places]
        if isinstance(self.sources, strings.Strings):
            return Units(self.keys[places], self.sources.at(places), tokens)
        return Units(self.keys[places], [self.sources[place] for place in places.tolist()], tokens)


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture file and the key of the bytes it had when the dataset was prepared.

    data: where it was read already, for another machine, its bytes, or why it could not be read.
    """

    path: str
    key: bytes
    data: bytes | Exception | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Part:
    """A row of another feature, with the picture in which that feature detected it (None: the row alone is read).

    key: of the row. parent: its values, by output.
    """

    picture: Picture | None
    key: bytes
    parent: Mapping[str, np.ndarray]


def picture_of(source: Picture | Part) -> Picture:
    """The picture that is read for a unit."""
    picture = source.picture if isinstance(source, Part) else source
    assert picture is not None, "a unit of rows alone"
    return picture


@dataclass
class UnitColumn(KeyColumn):
    """A key column with what is read for each key. texts: what of its texts was cut to fit; None: of pictures."""

    texts: CutTexts | None = None
    sources: Sequence[Any] = field(default_factory=list)


@dataclass
class PlannedColumn(KeyColumn):
    """A key column whose units are read again where they are asked for. texts: as of `UnitColumn`. read: what is read
    for each key."""

    texts: CutTexts | None = None
    read: Callable[[], Sequence[Any]] = list

    @cached_property
    def sources(self) -> Sequence[Any]:
        """What `read` gives, once."""
        return self.read()


def _column(
    keys: Sequence[bytes | None], sources: list[Any], counts: Sequence[int] | np.ndarray | None = None
) -> UnitColumn:
    """The column of these keys, None where a record has none."""
    present = np.array([key is not None for key in keys], bool)
    joined = b"".join(key or bytes(KEY_BYTES) for key in keys)
    rows = np.frombuffer(joined, np.uint8).reshape(-1, KEY_BYTES).copy()
    return UnitColumn(
        rows,
        present,
        np.full((len(rows), 2), -1, np.int32),
        sources=sources,
        counts=None if counts is None else np.array(counts, np.int64),
    )


def image_column(table: Columned, root: Path) -> UnitColumn:
    """The record's picture: the first usable one.

    A listed picture that is broken keeps its key, so that its verdict is a row of the store.
    """
    keys = [key if path is not None else None for path, key in zip(table["image"], table["image_key"], strict=True)]
    sources = [
        None if key is None else Picture(str(root / path), key) for path, key in zip(table["image"], keys, strict=True)
    ]
    return _column(keys, sources)


def images_column(table: Columned, root: Path) -> UnitColumn:
    """All usable pictures of each record."""
    sources = [
        Picture(str(root / path), key)
        for paths, keys in zip(table["images"], table["image_keys"], strict=True)
        for path, key in zip(paths, keys, strict=True)
        if key is not None
    ]
    counts = [sum(key is not None for key in keys) for keys in table["image_keys"]]
    return _column([source.key for source in sources], sources, counts)


def text_column(side: str, view: str, table: Columned, extractor: TextExtractor) -> UnitColumn:
    """The record's string under `view` behind the side's prompt, cut to the extractor's limit; its hash is its key.

    Records are read in pieces: neither they nor their texts are ever all in memory as Python objects.
    """
    prompt = extractor.prompt(side)
    limit, built = _token_limit(extractor, prompt), _TextColumn(prompt)
    for piece in pieces(table, views.reads(side, view)):
        if side == "mention":
            spans = [
                (from_, to) if from_ >= 0 else None for from_, to in zip(piece["start"], piece["end"], strict=True)
            ]
            built.add(views.mention_texts(view, piece["phrase"], piece["sentence"], spans, limit))
        else:
            built.add(views.entity_texts(view, piece, limit))
    return built.column(extractor)


class _TextColumn:
    """The column of texts that come in pieces, each behind the prompt."""

    def __init__(self, prompt: str) -> None:
        self.prompt, self.written = prompt, strings.Writer()
        self.rows: list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]] = []
        self.cut, self.all_tokens, self.lost = 0, 0, 0

    def add(self, texts: Sequence[views.Text | None]) -> None:
        """Append texts; None where a record has none."""
        keys, span = np.zeros((len(texts), KEY_BYTES), np.uint8), np.full((len(texts), 2), -1, np.int32)
        tokens = np.zeros(len(texts), np.int32)
        whole = ["" if text is None else self.prompt + text.string for text in texts]
        for row, (text, string) in enumerate(zip(texts, whole, strict=True)):
            if text is None:
                continue
            keys[row] = np.frombuffer(content_key("text", string), np.uint8)
            if text.span:
                span[row] = [len(self.prompt) + place for place in text.span]
            tokens[row] = text.tokens - text.lost
            self.cut, self.all_tokens, self.lost = (
                self.cut + text.cut,
                self.all_tokens + text.tokens,
                self.lost + text.lost,
            )
        self.written.add(whole)
        self.rows.append((keys, np.array([text is not None for text in texts], bool), span, tokens))

    def column(self, extractor: TextExtractor, counts: Sequence[int] | None = None) -> UnitColumn:
        """The column of all that was added. counts: texts of each record, where it may have several."""
        none = np.zeros((0, KEY_BYTES), np.uint8), np.zeros(0, bool), np.zeros((0, 2), np.int32), np.zeros(0, np.int32)
        keys, present, span, tokens = (np.concatenate(parts) for parts in zip(none, *self.rows, strict=True))
        return UnitColumn(
            keys,
            present,
            span,
            None if counts is None else np.array(counts, np.int64),
            tokens,
            texts=CutTexts(
                texts=int(present.sum()), cut=self.cut, tokens=self.all_tokens, lost=self.lost, limit=extractor.limit
            ),
            sources=self.written.strings(),
        )


def _token_limit(extractor: TextExtractor, prompt: str) -> views.TokenLimit:
    """The extractor's limit for texts that come behind the prompt."""
    return views.TokenLimit(
        lambda texts: token_counts(extractor, [prompt + text for text in texts]).tolist(), extractor.limit
    )


def feature_text_column(view: str, table: Columned, extractor: TextExtractor, parent: Parent) -> UnitColumn:
    """The strings of `view` about what was detected in each mention's picture: none, one or several."""
    from pipeline.extraction import feature_texts

    listed = feature_texts.texts(view, table["phrase"], parent.rows(), parent.labels)
    prompt = extractor.prompt("mention")
    built = _TextColumn(prompt)
    built.add(views.shortened([text for each in listed for text in each], _token_limit(extractor, prompt)))
    return built.column(extractor, [len(each) for each in listed])


def part_column(pictures: UnitColumn | None, parent: Parent, reads: str) -> UnitColumn:
    """Rows derived from `parent`'s rows: keyed by the parent's unit and row, so that other detections are other units.

    pictures: the column of the pictures themselves, which crops are cut from.
    """
    keys: list[bytes | None] = []
    sources: list[Any] = []
    for place, row in enumerate(parent.rows()):
        if row is None:
            keys.append(None)
            sources.append(None)
            continue
        key = parent.keys[place].tobytes()
        keys.append(content_key(reads, key, parent.digest(place)))
        sources.append(Part(pictures.sources[place] if pictures else None, key, row))
    return _column(keys, sources, parent.counts)


def read_tables(dataset: Path, modes: Iterable[str] = ()) -> dict[str, Columns]:
    """The prepared dataset's mentions and entities, whose columns are read when they are asked for.

    modes: `static`, `dynamic` texts of the entities that are read with them, each a column of that name, empty where an
    entity has none.
    """
    tables = {side: Columns(dataset / f"{name}.parquet") for side, name in _FILES.items()}
    for table in tables.values():
        table.check({"id": "string"})
    for mode in modes:
        written = output.read_texts(dataset, mode)
        tables["entity"].add(mode, [written.get(name, "") for name in tables["entity"]["id"]])
    return tables


_FILES = {"mention": "mentions", "entity": "entities"}


@dataclass(frozen=True)
class Records:
    """The inputs of key columns. tables: as `read_tables` gives them. roots: folder of each side's pictures. parents:
    the rows that others are made from."""

    tables: Mapping[str, Columned]
    roots: Mapping[Side, Path]
    parents: Mapping[Want, Parent] = field(default_factory=dict)

    def pictures(self, side: Side, view: str) -> UnitColumn:
        """The column of a picture view. Raises `UserError` for a view of several pictures on a side that has one."""
        if view == IMAGE:
            return image_column(self.tables[side], self.roots[side])
        if "images" not in self.tables[side]:
            raise UserError(f"view {view!r}: a {side} has one picture; its view is {IMAGE!r}")
        return images_column(self.tables[side], self.roots[side])


def column(want: Want, records: Records, extractor: Extractor) -> UnitColumn:
    """The key column of a want. Raises `UserError` where the view does not suit the extractor."""
    side, view = want.side, want.view
    table = records.tables[side]
    if isinstance(extractor, TextExtractor):
        if side == "mention" and view in FROM_FEATURES:
            parent = Want(side=side, feature=FROM_FEATURES[view], view=IMAGE)
            return feature_text_column(view, table, extractor, records.parents[parent])
        return text_column(side, view, table, extractor)
    if view not in PICTURES:
        raise UserError(
            f"view {view!r} is a text, but {extractor.options.model!r} reads pictures; their view is {IMAGE!r}"
        )
    if not isinstance(extractor.options, DerivedOptions):
        return records.pictures(side, view)
    parent = Want(side=side, feature=extractor.options.of, view=view)
    pictures = records.pictures(side, view) if extractor.reads == "crops" else None
    return part_column(pictures, records.parents[parent], extractor.reads)


def distinct(columns: Sequence[UnitColumn]) -> Units:
    """The distinct units of several columns, ordered by key."""
    if not any(column.present.any() for column in columns):
        return Units(np.zeros((0, KEY_BYTES), np.uint8), [])
    keys = np.concatenate([column.keys[column.present] for column in columns])
    first = np.unique(keys.view(f"V{KEY_BYTES}").ravel(), return_index=True)[1]
    counted = [column.tokens[column.present] for column in columns if column.tokens is not None]
    tokens = np.concatenate(counted)[first] if len(counted) == len(columns) else None
    texts = [column.sources for column in columns if isinstance(column.sources, strings.Strings)]
    sources: Sequence[Any]
    if len(texts) == len(columns):
        there = zip(texts, columns, strict=True)
        sources = strings.joined([own.at(np.flatnonzero(column.present)) for own, column in there]).at(first)
    else:
        listed = [
            source
            for column in columns
            for source, present in zip(column.sources, column.present, strict=True)
            if present
        ]
        sources = [listed[place] for place in first.tolist()]
    return Units(keys[first], sources, tokens)

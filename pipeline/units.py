"""The units behind the wanted views: one content key per record and view, and what to read for each key."""

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as parquet

from cache.errors import UserError
from cache.files import write_atomic
from cache.identity import KEY_BYTES, content_key
from pipeline import views
from pipeline.extractors.base import Extractor, TextExtractor


@dataclass
class Units:
    """Distinct units of one feature: keys (n, 16) uint8 and, beside each, the string or the picture's path."""

    keys: np.ndarray
    sources: list[Any]


@dataclass
class Column:
    """One record table under one view: keys (n, 16) uint8, present (n,) bool, span (n, 2) int32 (−1: none), texts that were cut to fit."""

    keys: np.ndarray
    present: np.ndarray
    span: np.ndarray
    cut: int = 0
    sources: list[Any] = field(default_factory=list)

    def save(self, path: Path) -> None:
        buffer = io.BytesIO()
        np.savez(buffer, keys=self.keys, present=self.present, span=self.span)
        write_atomic(path, buffer.getvalue())


def column_name(side: str, feature: str, view: str) -> str:
    """File name of a column, without its suffix."""
    return f"{side}.{feature}.{view}"


def _empty(rows: int) -> Column:
    return Column(np.zeros((rows, KEY_BYTES), np.uint8), np.zeros(rows, bool), np.full((rows, 2), -1, np.int32), sources=[None] * rows)


def image_column(table: dict[str, list], root: Path) -> Column:
    """The record's picture: the first usable one. A listed picture that is broken keeps its key, so that its verdict is a row of the store."""
    column = _empty(len(table["image"]))
    for row, (path, key) in enumerate(zip(table["image"], table["image_key"], strict=True)):
        if key is not None and path is not None:
            column.keys[row] = np.frombuffer(key, np.uint8)
            column.present[row] = True
            column.sources[row] = str(root / path)
    return column


def text_column(side: str, view: str, table: dict[str, list], extractor: TextExtractor) -> Column:
    """The record's string under `view`, cut to the extractor's limit; its hash is its key."""
    if side == "mention":
        spans = [(start, end) if start >= 0 else None for start, end in zip(table["start"], table["end"], strict=True)]
        texts: Sequence[views.Text | None] = views.mention_texts(view, table["phrase"], table["sentence"], spans, extractor.count, extractor.limit)
    else:
        texts = views.entity_texts(view, table["name"], table["attributes"], table["description"], extractor.count, extractor.limit)
    column = _empty(len(texts))
    for row, text in enumerate(texts):
        if text is None:
            continue
        column.keys[row] = np.frombuffer(content_key("text", text.string), np.uint8)
        column.present[row] = True
        column.sources[row] = text.string
        column.cut += text.cut
        if text.span is not None:
            column.span[row] = text.span
    return column


def read_tables(dataset: Path) -> dict[str, dict[str, list]]:
    """The prepared dataset's mentions and entities as columns of Python values."""
    tables = {}
    for side, name in (("mention", "mentions"), ("entity", "entities")):
        path = dataset / f"{name}.parquet"
        try:
            tables[side] = parquet.read_table(path).to_pydict()
        except (OSError, ValueError) as error:
            raise UserError(f"{path} cannot be read ({error}); delete that folder and run the command again") from None
    return tables


def column(side: str, view: str, tables: dict[str, dict[str, list]], extractor: Extractor, image_roots: dict[str, Path]) -> Column:
    """The column of one want. Raises `UserError` where the view does not suit the extractor."""
    if side not in tables:
        raise UserError(f"unknown side {side!r}; expected mention or entity")
    if isinstance(extractor, TextExtractor):
        return text_column(side, view, tables[side], extractor)
    if view != views.IMAGE:
        raise UserError(f"view {view!r} is a text, but {extractor.options.model!r} reads pictures; their view is {views.IMAGE!r}")
    return image_column(tables[side], image_roots[side])


def distinct(columns: Sequence[Column]) -> Units:
    """The distinct units of several columns, ordered by key."""
    keys = np.concatenate([column.keys[column.present] for column in columns]) if columns else np.zeros((0, KEY_BYTES), np.uint8)
    sources = [source for column in columns for source, present in zip(column.sources, column.present, strict=True) if present]
    if not len(keys):
        return Units(keys, [])
    _, first = np.unique(keys.view(f"V{KEY_BYTES}").ravel(), return_index=True)
    return Units(keys[first], [sources[i] for i in first])

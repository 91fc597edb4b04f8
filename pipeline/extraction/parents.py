"""Rows of a cached feature that another feature, or a text, is made from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np

from cache.index import as_void
from cache.keys import KeyColumn
from cache.store import Store
from cache.table import Table

ParentRow = Mapping[str, np.ndarray]
"""A feature's row of one picture or text, by output."""


@dataclass(frozen=True)
class Parent:
    """The rows of a feature behind one key column.

    keys: (n, 16) uint8. counts: as in `cache.keys.KeyColumn`. labels: names of classes by output, from
    the feature's spec. distinct: the distinct rows; digests: a hash of each. place: (n,) int64, which of them stands
    behind each key, -1 where there is none (no picture, or one without the verdict ok).
    """

    keys: np.ndarray
    counts: np.ndarray | None
    labels: Mapping[str, Sequence[str]]
    distinct: Sequence[ParentRow]
    digests: list[bytes]
    place: np.ndarray

    @classmethod
    def of(cls, store: Store, column: KeyColumn) -> "Parent":
        """The rows of `store` behind a key column."""
        keys, tables = column.keys, {name: column.table(store, name) for name in store.outputs}
        usable = np.flatnonzero(next(iter(tables.values())).ok)
        _, first, inverse = np.unique(as_void(keys[usable]), return_index=True, return_inverse=True)
        place = np.full(len(keys), -1, np.int64)
        place[usable] = inverse
        rows: list[dict[str, np.ndarray]] = [{} for _ in first]
        for name, table in tables.items():
            for row, values in zip(rows, _split(table, usable[first]), strict=True):
                row[name] = values
        return cls(keys, column.counts, store.spec.get("labels", {}), rows, [_digest(row) for row in rows], place)

    def rows(self) -> list[ParentRow | None]:
        """The row behind each key."""
        return [self.distinct[place] if place >= 0 else None for place in self.place.tolist()]

    def digest(self, position: int) -> bytes:
        """Hash of the row behind the key at `position`."""
        return self.digests[self.place[position]]


@dataclass(frozen=True)
class KnowledgeBase:
    """What a feature may take of the KB: ids and names of the N entities, and the rows of the feature it reads."""

    ids: list[str]
    names: list[str]
    parent: Parent

    def rows(self, output: str) -> list[np.ndarray]:
        """(L, *shape) per entity, those of all its pictures together; L is 0 where an entity has none."""
        rows = self.parent.rows()
        counts = self.parent.counts if self.parent.counts is not None else np.ones(len(rows), np.int64)
        empty = next((row[output][:0] for row in rows if row is not None), np.zeros((0, 0)))
        ends = counts.cumsum()
        return [
            np.concatenate([empty, *(row[output] for row in rows[end - count : end] if row is not None)])
            for end, count in zip(ends.tolist(), counts.tolist(), strict=True)
        ]


def _split(table: Table, index: np.ndarray) -> list[Any]:
    if not table.ragged:
        return list(table.gather(index))
    values, lengths = table.ragged_flat(index)
    return np.split(values, lengths.cumsum()[:-1]) if len(index) else []


def _digest(row: ParentRow) -> bytes:
    hashed = blake2b(digest_size=16)
    for name in sorted(row):
        values = np.ascontiguousarray(row[name])
        hashed.update(f"{name} {values.dtype.str} {values.shape}\0".encode())
        hashed.update(values.tobytes())
    return hashed.digest()

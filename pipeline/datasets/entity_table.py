"""The entities of a KB of any size: columns of Arrow, out of which an `Entity` is made when one is asked for."""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields
from itertools import islice
from typing import Any, overload

import pyarrow as pa

from pipeline.datasets.records import Entity

PIECE = 8192
"""Entities that are Python objects at a time."""
_LISTS = ("images", "aliases")
NAMES = tuple(field.name for field in fields(Entity))
SCHEMA = pa.schema({name: pa.list_(pa.string()) if name in _LISTS else pa.string() for name in NAMES})


class EntityTable(Sequence[Entity]):
    """N entities in pieces of at most `PIECE`."""

    def __init__(self, pieces: Sequence[pa.RecordBatch]) -> None:
        self.pieces = pieces
        self._starts = [0]
        for piece in pieces:
            self._starts.append(self._starts[-1] + piece.num_rows)

    @classmethod
    def of(cls, entities: Iterable[Entity]) -> "EntityTable":
        """A table of these, which are asked for one after another."""
        if isinstance(entities, cls):
            return entities
        several, pieces = iter(entities), list[pa.RecordBatch]()
        while piece := list(islice(several, PIECE)):
            columns = {name: [getattr(entity, name) for entity in piece] for name in NAMES}
            pieces.append(pa.RecordBatch.from_pydict(columns, SCHEMA))
        return cls(pieces)

    def __len__(self) -> int:
        return self._starts[-1]

    @overload
    def __getitem__(self, place: int) -> Entity: ...

    @overload
    def __getitem__(self, place: slice) -> list[Entity]: ...

    def __getitem__(self, place: int | slice) -> Entity | list[Entity]:
        if isinstance(place, slice):
            return [self[row] for row in range(len(self))[place]]
        row = range(len(self))[place]  # as an `IndexError` where there is none
        number = bisect_right(self._starts, row) - 1
        (entity,) = _entities(self.pieces[number].slice(row - self._starts[number], 1))
        return entity

    def __iter__(self) -> Iterator[Entity]:
        for piece in self.pieces:
            yield from _entities(piece)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(Entity.__eq__, self, other))

    __hash__ = None  # type: ignore[assignment]

    def column(self, name: str) -> Iterator[Any]:
        """The values of one field, in order."""
        for piece in self.pieces:
            yield from piece[name].to_pylist()


def _entities(piece: pa.RecordBatch) -> Iterator[Entity]:
    columns = [piece[name].to_pylist() for name in NAMES]
    for values in zip(*columns, strict=True):
        record: dict[str, Any] = dict(zip(NAMES, values, strict=True))
        yield Entity(**{**record, **{name: tuple(record[name]) for name in _LISTS}})

"""Columns of a table of any size: their bytes in a mapped file, their values Python objects when they are asked for."""

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from foundation import parquet
from foundation.files import explained

PIECE = 8192
"""Values that are Python objects at a time."""
ROWS = 1 << 16
"""Of a table that are read from its file at a time."""


class ArrowColumn(Sequence[Any]):
    """A value of each of N records.

    chunks: arrays of Arrow, of one type. rows: (N,) int64 places in the chunks, as if these were one; None: all, in
    order.
    """

    def __init__(self, chunks: Sequence[pa.Array], rows: np.ndarray | None = None) -> None:
        self.chunks, self.rows = chunks, rows
        self._starts = np.cumsum([0, *map(len, chunks)])

    @classmethod
    def of(cls, values: Iterable[Any], kind: pa.DataType) -> Self:
        """Of values that are asked for one after another."""
        return cls([pa.array(values, kind)])

    def __len__(self) -> int:
        return int(self._starts[-1]) if self.rows is None else len(self.rows)

    @overload
    def __getitem__(self, place: int) -> Any: ...

    @overload
    def __getitem__(self, place: slice) -> list[Any]: ...

    def __getitem__(self, place: int | slice) -> Any:
        if isinstance(place, slice):
            return self.at(np.arange(len(self))[place])
        if not -len(self) <= place < len(self):
            raise IndexError(place)
        row = place % len(self) if self.rows is None else int(self.rows[place])
        number = int(np.searchsorted(self._starts, row, side="right")) - 1
        return self.chunks[number][row - int(self._starts[number])].as_py()

    def __iter__(self) -> Iterator[Any]:
        for start in range(0, len(self), PIECE):
            yield from self[start : start + PIECE]

    def at(self, places: np.ndarray) -> list[Any]:
        """The values at these places (m,), in their order."""
        rows = places if self.rows is None else self.rows[places]
        number = np.searchsorted(self._starts, rows, side="right") - 1
        values: list[Any] = [None] * len(rows)
        for chunk in np.unique(number).tolist():
            there = np.flatnonzero(number == chunk)
            taken = self.chunks[chunk].take(pa.array(rows[there] - self._starts[chunk])).to_pylist()
            for place, value in zip(there.tolist(), taken, strict=True):
                values[place] = value
        return values

    def changed(self, kept: np.ndarray, more: Sequence[Any]) -> "ArrowColumn":
        """Of the records at the places `kept` (m,) and, behind them, of further ones; what stays is not copied."""
        added = pa.array(list(more), self.chunks[0].type if self.chunks else None)
        rows = kept if self.rows is None else self.rows[kept]
        first = int(self._starts[-1])
        return ArrowColumn([*self.chunks, added], np.concatenate([rows, np.arange(first, first + len(added))]))

    def order(self) -> np.ndarray:
        """(N,) int64 places of its strings in ascending order, that of Python; equal ones in that of the column."""
        if not len(self):
            return np.empty(0, np.int64)
        whole = pa.chunked_array(self.chunks)
        if self.rows is not None:
            whole = whole.take(pa.array(self.rows))
        found: np.ndarray = pc.sort_indices(whole).to_numpy().astype(np.int64)
        return found

    def lengths(self) -> np.ndarray:
        """(N,) int64 values of each list; 0 where there is none."""
        parts = [pc.list_value_length(chunk).fill_null(0).to_numpy().astype(np.int64) for chunk in self.chunks]
        whole = np.concatenate([np.zeros(0, np.int64), *parts])
        return whole if self.rows is None else whole[self.rows]


def values_at(column: Sequence[Any], places: np.ndarray) -> list[Any]:
    """The values of a column at these places (m,)."""
    return column.at(places) if isinstance(column, ArrowColumn) else [column[place] for place in places.tolist()]


def mapped(path: Path, columns: Sequence[str], optional: Sequence[str] = ()) -> dict[str, ArrowColumn]:
    """Columns of a Parquet file, their bytes in a mapped temporary file without a name; those of `optional` where they
    are there. Raises `NotAsWritten` where the file cannot be read, and `Unwritable` where there is no room."""
    there = parquet.names(path)
    names = [*columns, *(name for name in optional if name in there)]
    with explained(Path(tempfile.gettempdir())):
        file = tempfile.TemporaryFile()  # noqa: SIM115  # lives as long as the map of it
        writer: pa.RecordBatchFileWriter | None = None
        for batch in parquet.batches(path, names, ROWS):
            writer = writer or pa.ipc.new_file(file, batch.schema)
            writer.write_batch(batch)
        if writer is None:
            return {name: ArrowColumn([]) for name in names}
        writer.close()
        file.flush()
        pa.default_memory_pool().release_unused()  # what was read is in the file now
        held = pa.py_buffer(np.memmap(file, np.uint8, "r"))
    batches = pa.ipc.open_file(pa.BufferReader(held)).read_all().to_batches()
    return {name: ArrowColumn([batch[name] for batch in batches]) for name in names}

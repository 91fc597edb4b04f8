"""Columns of cached features over a side's records, resident on the device where they fit."""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cache.index import as_void
from cache.table import Table
from foundation.errors import UserError
from heads.base import Ragged


class FeatureColumn:
    """One output of one feature over a side's rows. Rows that are not `ok` read as zeros, or as length 0."""

    def __init__(self, table: Table, keys: np.ndarray) -> None:
        self.table = table
        self.keys = keys
        self.ok = np.asarray(table.ok) & (
            np.asarray(table.lengths) > 0
        )  # a picture in which nothing was found has nothing to read
        self.ragged = table.ragged
        self.shape = tuple(table.shape)
        self.resident: Tensor | Ragged | None = None
        self.row_of: np.ndarray | None = None

    def distinct(self) -> tuple[np.ndarray, np.ndarray]:
        """Rows that hold each distinct content once, and for every row its place among them (their number where it is
        not ok)."""
        rows = np.flatnonzero(self.ok)
        _, first, place = np.unique(as_void(self.keys[rows]), return_index=True, return_inverse=True)
        row_of = np.full(len(self.ok), len(first), dtype=np.int64)
        row_of[rows] = place
        return rows[first], row_of

    def bytes(self) -> int:
        """What the distinct rows take in memory."""
        rows, _ = self.distinct()
        positions = int(np.asarray(self.table.lengths)[rows].sum()) if self.ragged else len(rows)
        return positions * int(np.prod(self.shape, dtype=np.int64)) * np.dtype(self.table.dtype).itemsize

    def settle(self, device: torch.device) -> None:
        """Copy the distinct rows to `device`, one zero row after them for what is absent."""
        rows, self.row_of = self.distinct()
        stored = self._read(rows)
        if isinstance(stored, Ragged):
            self.resident = Ragged(
                stored.values.to(device), torch.cat([stored.lengths, torch.zeros(1, dtype=torch.int64)])
            )
        else:
            self.resident = torch.cat([stored, stored.new_zeros(1, *self.shape)]).to(device)

    def take(self, index: np.ndarray, device: torch.device) -> Tensor | Ragged:
        """The rows at `index` (m,) on `device`, in their stored dtype."""
        if self.resident is not None and self.row_of is not None:
            places = torch.from_numpy(self.row_of[index])
            return self.resident.take(places) if isinstance(self.resident, Ragged) else self.resident[places.to(device)]
        stored = self._read(index)
        return Ragged(stored.values.to(device), stored.lengths) if isinstance(stored, Ragged) else stored.to(device)

    def _read(self, index: np.ndarray) -> Tensor | Ragged:
        if not self.ragged:
            return torch.from_numpy(self.table.gather(index))
        values, lengths = self.table.ragged_flat(index)
        return Ragged(torch.from_numpy(values), torch.from_numpy(np.asarray(lengths, dtype=np.int64)))


class Several:
    """A fixed output of which a record may have several rows (one per text or picture): reads as `Ragged`, absent rows
    left out."""

    ragged = True

    def __init__(self, column: FeatureColumn, counts: np.ndarray) -> None:
        """column: over the rows of all records one after another; counts (n,): how many of them each record has."""
        if column.ragged:
            raise UserError(
                f"output {column.table.output!r} is ragged itself; under a view with several texts per record, only "
                "fixed outputs can be read"
            )
        self.column = column
        self.shape = column.shape
        record = np.repeat(np.arange(len(counts)), counts)[column.ok]
        self.lengths = np.bincount(record, minlength=len(counts)).astype(np.int64)
        self.places = np.flatnonzero(column.ok)
        self.ends = self.lengths.cumsum()
        self.ok = self.lengths > 0

    def bytes(self) -> int:
        """What the distinct rows take in memory."""
        return self.column.bytes()

    def settle(self, device: torch.device) -> None:
        """See `FeatureColumn.settle`."""
        self.column.settle(device)

    def take(self, index: np.ndarray, device: torch.device) -> Ragged:
        """The records at `index` (m,): values (sum of their rows, *shape) on `device`, in their stored dtype."""
        lengths = self.lengths[index]
        shift = self.ends[index] - lengths - (lengths.cumsum() - lengths)
        rows = self.places[np.arange(int(lengths.sum())) + np.repeat(shift, lengths)]
        values = self.column.take(rows, device)
        assert isinstance(values, Tensor)
        return Ragged(values, torch.from_numpy(lengths))


@dataclass(frozen=True)
class PictureRows:
    """Which rows of picture columns are those of each of n entities: its usable pictures, or the absent row after all
    others where it has none. places: (P,) int64, one entity's after another's; counts: (n,) at least 1."""

    places: np.ndarray
    counts: np.ndarray

    @classmethod
    def of(cls, keys: np.ndarray, listed: np.ndarray, ok: Collection[np.ndarray], by_key: bool) -> "PictureRows":
        """keys (L + 1, 16) uint8: of all listed pictures, and of the absent row. listed: (n,) how many each entity has.
        ok: for each feature which of its rows are there (L + 1,); a picture is usable where one has it. by_key: an
        entity's pictures in the order of their keys, whatever order they are listed in; else as listed."""
        usable = np.flatnonzero(np.any([*ok], 0)[:-1])
        owner = np.repeat(np.arange(len(listed)), listed)[usable]
        if by_key:
            names = np.ascontiguousarray(keys[usable]).view(">u8")
            usable = usable[np.lexsort((names[:, 1], names[:, 0], owner))]
        found = np.bincount(owner, minlength=len(listed)).astype(np.int64)
        counts = np.maximum(found, 1)
        places = np.full(int(counts.sum()), len(keys) - 1)
        there = np.arange(len(usable)) + np.repeat((counts - found).cumsum() - (counts - found), found)
        places[there] = usable
        return cls(places, counts)

    @property
    def firsts(self) -> np.ndarray:
        """(n,) place of each entity's first row."""
        return np.asarray(self.counts.cumsum() - self.counts)

    def one(self, index: np.ndarray, random: np.random.Generator | None) -> np.ndarray:
        """A row for each of the entities at `index` (m,): its first picture, or any with the same chance."""
        first = self.firsts[index]
        return np.asarray(self.places[first if random is None else first + random.integers(0, self.counts[index])])

    def all(self, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """All rows of the entities at `index` (m,), one's after another's, and how many each has (m,)."""
        counts = self.counts[index]
        ends = counts.cumsum()
        return self.places[np.arange(int(counts.sum())) + np.repeat(self.firsts[index] - ends + counts, counts)], counts

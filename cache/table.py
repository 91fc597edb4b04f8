"""The rows behind a list of keys, resolved once: batches by position."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from cache.errors import Damaged, RowsMissing
from cache.shard import Shard, Status
from cache.store import Store
from foundation.errors import UserError

# Bytes of a row from which copying row by row is faster than fancy indexing per shard and scattering; measured on
# mapped rows of 2 to 64 kB.
_LARGE_ROW = 8192


def grouped(numbers: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Each distinct number of (n,), ascending, with the positions where it stands."""
    order = np.argsort(numbers, kind="stable")
    ends = np.flatnonzero(np.diff(numbers[order], append=-2)) + 1
    for start, end in zip([0, *ends[:-1].tolist()], ends.tolist(), strict=False):
        yield int(numbers[order[start]]), order[start:end]


class Table:
    """One output of one feature for n keys; position i means keys[i].

    ok: (n,) bool, present, in the store and with the verdict OK. status: (n,) uint8 of `Status`, MISSING where not
    present. lengths: (n,) int64 steps of a ragged row, 0 where not ok; of a fixed row 1 or 0. shape: of one row or
    step. dtype: of the values. Pages of the mapped shards are shared with every other reader; a pickle holds positions,
    no values.
    """

    def __init__(self, store: Store, output: str, keys: np.ndarray, present: np.ndarray) -> None:
        """keys: (n, 16) uint8. present: (n,) bool; rows that are not present have no key to look for.

        Raises `RowsMissing` when a present key is not in the store, `UserError` when the feature has no such output.
        """
        if output not in store.outputs:
            raise UserError(
                f"feature {store.feature} has no output {output!r}, only {', '.join(store.outputs)}; name one of them"
            )
        self.output = output
        self.shape, self.dtype = store.outputs[output].shape, np.dtype(store.outputs[output].dtype)
        self.ragged = store.outputs[output].ragged
        self._row_bytes = store.outputs[output].row_bytes
        present = np.asarray(present, bool)
        number = np.full(len(present), -1, np.int32)
        row = np.full(len(present), -1, np.int64)
        number[present], row[present] = store.locate(np.asarray(keys)[present])
        absent = int((number[present] < 0).sum())
        if absent:
            raise RowsMissing(
                f"feature {store.feature}: {absent} of {int(present.sum())} rows are not in {store.folder}"
            )
        self._arrays: list[Any] | None = None
        self._flat: list[np.ndarray] = []
        self.status = np.full(len(present), Status.MISSING, np.uint8)
        self.lengths = np.zeros(len(present), np.int64)
        self._shards: list[Any] = []
        self._shard = np.full(len(present), -1, np.int32)  # position in self._shards; -1 where there is nothing to read
        self._start = np.zeros(
            len(present), np.int64
        )  # first step in the shard's values (ragged) or row of its array (fixed)
        for value, at in grouped(number):
            if value >= 0:
                self._resolve(store.shard(value), at, row[at])
        self.ok = self._shard >= 0

    def _resolve(self, shard: Shard, at: np.ndarray, row: np.ndarray) -> None:
        """Note the places of the positions `at`, which are the rows `row` of `shard`."""
        self._shards.append(shard)
        self.status[at] = np.asarray(shard.status)[row]
        ok = self.status[at] == Status.OK
        at, row = at[ok], row[ok]
        self._shard[at] = len(self._shards) - 1
        if not self.ragged:
            self._start[at], self.lengths[at] = row, 1
            return
        values, offsets = shard.ragged(self.output)
        offsets = np.asarray(offsets)
        self._start[at], self.lengths[at] = offsets[row], offsets[row + 1] - offsets[row]
        if (self._start[at] < 0).any() or (self.lengths[at] < 0).any() or (offsets[row + 1] > len(values)).any():
            raise Damaged(f"shard {shard.path}: offsets of {self.output} lead out of its values")

    def __len__(self) -> int:
        return len(self.ok)

    def __getstate__(self) -> dict[str, Any]:
        paths = [shard.path if isinstance(shard, Shard) else shard for shard in self._shards]
        return {**self.__dict__, "_arrays": None, "_flat": [], "_shards": paths}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)

    def _values(self) -> list[Any]:
        """The output's array in each shard, opened at the first batch of this process."""
        if self._arrays is None:
            self._shards = [shard if isinstance(shard, Shard) else Shard(shard) for shard in self._shards]
            self._arrays = [
                shard.ragged(self.output)[0] if self.ragged else shard.fixed(self.output) for shard in self._shards
            ]
            if all(isinstance(array, np.ndarray) for array in self._arrays):
                # One run of bytes is copied a quarter faster than the same bytes as a matrix.
                self._flat = [array.reshape(len(array), -1).view(np.uint8) for array in self._arrays if not self.ragged]
        return self._arrays

    def gather(self, index: np.ndarray) -> Any:
        """Rows at the positions `index` (b,) int, any order, repeats allowed.

        Fixed: (b, *shape), zeros where not ok. Ragged: values (b, Lmax, *shape) padded with zeros, and lengths (b,)
        int64. Raises `IndexError` for a position outside the table.
        """
        index = self._positions(index)
        if self.ragged:
            return self._padded(index)
        shard, row, arrays = self._shard[index], self._start[index], self._values()
        if len(index) and shard[0] >= 0 and (shard == shard[0]).all():
            return arrays[shard[0]][row]
        out = np.empty((len(index), *self.shape), self.dtype)
        if self._row_bytes >= _LARGE_ROW:
            target = out
            if self._flat:
                target, arrays = out.reshape(len(out), self._row_bytes // out.itemsize).view(np.uint8), self._flat
            for i, (place, at) in enumerate(zip(shard.tolist(), row.tolist(), strict=True)):
                target[i] = arrays[place][at] if place >= 0 else 0
            return out
        for place, at in grouped(shard):
            out[at] = arrays[place][row[at]] if place >= 0 else 0
        return out

    def _padded(self, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        lengths = self.lengths[index]
        out = np.empty((len(index), int(lengths.max(initial=0)), *self.shape), self.dtype)
        arrays = self._values()
        for i, (place, at, length) in enumerate(
            zip(self._shard[index].tolist(), self._start[index].tolist(), lengths.tolist(), strict=True)
        ):
            if length:
                out[i, :length] = arrays[place][at : at + length]
            out[i, length:] = 0
        return out, lengths

    def ragged_flat(self, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The ragged rows at `index` (b,) one after another: values (ΣL, *shape) and lengths (b,) int64.

        Neighbours in a shard are copied together: a whole table in the order of its keys is a few large copies, read in
        file order.
        """
        index = self._positions(index)
        lengths = self.lengths[index]
        out = np.empty((int(lengths.sum()), *self.shape), self.dtype)
        some = lengths > 0
        shard, start, length = self._shard[index][some], self._start[index][some], lengths[some]
        if len(shard):
            new_run = np.ones(len(shard), bool)
            new_run[1:] = (shard[1:] != shard[:-1]) | (start[1:] != start[:-1] + length[:-1])
            first = np.flatnonzero(new_run)
            ends = start[first] + np.add.reduceat(length, first)
            arrays = self._values()
            runs = zip(shard[first].tolist(), start[first].tolist(), ends.tolist(), strict=True)
            np.concatenate([arrays[place][begin:end] for place, begin, end in runs], out=out)
        return out, lengths

    def _positions(self, index: np.ndarray) -> np.ndarray:
        index = np.asarray(index)
        if index.ndim != 1 or (index.dtype.kind not in "iu" and len(index)):
            raise IndexError(f"positions are {index.dtype}{index.shape}, expected whole numbers (b,)")
        return index.astype(np.int64, copy=False)

"""The rows behind a list of keys, resolved once: batches by position."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from cache.errors import Damaged, Gone, RowsMissing
from cache.shard import Shard, Status
from cache.span import Span
from cache.store import LOOKS, Store
from foundation.errors import UserError

TURN = 2048  # shards that a table keeps mapped, beside those of its store


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
    step. dtype: of the values. Pages of the mapped shards are shared with every other reader; a pickle holds keys and
    positions, no values. A table outlives the merging of its shards into others.
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
        self._store, self._keys = store, np.asarray(keys)
        present = np.asarray(present, bool)
        self.status = np.full(len(present), Status.MISSING, np.uint8)
        self.lengths = np.zeros(len(present), np.int64)
        self._paths: list[Path] = []  # of the shards
        self._shard = np.full(len(present), -1, np.int32)  # position in self._paths; -1 where there is nothing to read
        # first step in the shard's values (ragged) or row of its array (fixed)
        self._start = np.zeros(len(present), np.int64)
        self._held: list[Any] | None = None
        self._span: Span | None = None
        self._whole = False  # every row is ok
        self._find(np.flatnonzero(present))
        self.ok = self._shard >= 0

    def _find(self, at: np.ndarray) -> None:
        """Note the places of the positions `at`, whose shards may be merged into others meanwhile."""
        for attempt in range(LOOKS):
            number, row = self._store.locate(self._keys[at])
            absent = int((number < 0).sum())
            if absent:
                raise RowsMissing(
                    f"feature {self._store.feature}: {absent} of {len(at)} rows are not in {self._store.folder}"
                )
            moved = []
            for value, where in grouped(number):
                try:
                    self._resolve(self._store.shard(value), at[where], row[where])
                except Gone:
                    if attempt == LOOKS - 1:
                        raise
                    moved.append(at[where])
            if not moved:
                return
            at = np.concatenate(moved)
            self._store.refresh()

    def _resolve(self, shard: Shard, at: np.ndarray, row: np.ndarray) -> None:
        """Note the places of the positions `at`, which are the rows `row` of `shard`."""
        self.status[at] = np.asarray(shard.status)[row]
        ok = self.status[at] == Status.OK
        at, row = at[ok], row[ok]
        self._shard[at] = len(self._paths)
        self._paths.append(shard.path)
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
        return {**self.__dict__, "_held": None, "_span": None}

    def _turns(self, index: np.ndarray) -> Iterator[tuple[slice, Any]]:
        """Parts of `index` (b,), and the output's array in each of their shards, by its position.

        The shards of a table of few stay open. Those of many are opened for a part at a time, so that no more than
        `TURN` are mapped. Shards that were merged into others are found there.
        """
        if len(self._paths) <= TURN:
            yield slice(None), self._hold()
            return
        for start in range(0, len(index), TURN):
            part = slice(start, start + TURN)
            arrays: dict[int, Any] = {}
            while places := set(self._shard[index[part]].tolist()) - arrays.keys() - {-1}:
                for place in places:
                    try:
                        arrays[place] = self._open(place)
                    except Gone as gone:
                        self._find_again(place, gone)
            yield part, arrays

    def _hold(self) -> list[Any]:
        """The output's array in each shard, opened at the first batch of this process."""
        while self._held is None:
            held: list[Any] = []
            read = set(np.unique(self._shard).tolist())  # nothing is read of a shard that was merged into another
            for place in range(len(self._paths)):
                try:
                    held.append(self._open(place) if place in read else None)
                except Gone as gone:
                    self._find_again(place, gone)
                    break
            else:
                self._held = held
                mapped = {place: array for place, array in enumerate(held) if isinstance(array, np.ndarray)}
                if not self.ragged and len(mapped) == len(read - {-1}):
                    self._span, self._whole = Span.of(mapped, len(held)), bool((self._shard >= 0).all())
        return self._held

    def _open(self, place: int) -> Any:
        shard = self._store.open_shard(self._paths[place])
        return shard.ragged(self.output)[0] if self.ragged else shard.fixed(self.output)

    def _find_again(self, place: int, gone: Gone) -> None:
        """Find the rows of a shard that was merged into others. Raises `gone` where it was not."""
        self._store.refresh()
        try:
            self._find(np.flatnonzero(self._shard == place))
        except RowsMissing:
            raise gone from None
        if (self._shard == place).any():  # found with another verdict, in a shard that stood beside it
            raise gone

    def gather(self, index: np.ndarray) -> Any:
        """Rows at the positions `index` (b,) int, any order, repeats allowed.

        Fixed: (b, *shape), zeros where not ok. Ragged: values (b, Lmax, *shape) padded with zeros, and lengths (b,)
        int64. Raises `IndexError` for a position outside the table.
        """
        index = self._positions(index)
        if self.ragged:
            return self._padded(index)
        if len(self._paths) <= TURN:
            arrays = self._hold()
            shard = self._shard[index]
            if self._span is not None:
                return self._span.gather(shard, self._start[index], self._whole)
            if len(index) and shard[0] >= 0 and (shard == shard[0]).all():
                return arrays[shard[0]][self._start[index]]
        out = np.empty((len(index), *self.shape), self.dtype)
        for part, arrays in self._turns(index):
            self._copy(out[part], index[part], arrays)
        return out

    def _copy(self, out: np.ndarray, index: np.ndarray, arrays: Any) -> None:
        """Copy the fixed rows at `index` to `out`. arrays: by position of the shard."""
        shard, row = self._shard[index], self._start[index]
        for place, at in grouped(shard):
            out[at] = arrays[place][row[at]] if place >= 0 else 0

    def _padded(self, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        lengths = self.lengths[index]
        out = np.empty((len(index), int(lengths.max(initial=0)), *self.shape), self.dtype)
        for part, arrays in self._turns(index):
            here = index[part]
            places = zip(self._shard[here].tolist(), self._start[here].tolist(), lengths[part].tolist(), strict=True)
            for row, (place, at, length) in zip(out[part], places, strict=True):
                if length:
                    row[:length] = arrays[place][at : at + length]
                row[length:] = 0
        return out, lengths

    def ragged_flat(self, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The ragged rows at `index` (b,) one after another: values (ΣL, *shape) and lengths (b,) int64.

        Neighbours in a shard are copied together: a whole table in the order of its keys is a few large copies, read in
        file order.
        """
        index = self._positions(index)
        lengths = self.lengths[index]
        out = np.empty((int(lengths.sum()), *self.shape), self.dtype)
        filled = 0
        for part, arrays in self._turns(index):
            here = index[part]
            here = here[self.lengths[here] > 0]
            if not len(here):
                continue
            shard, start, length = self._shard[here], self._start[here], self.lengths[here]
            new_run = np.ones(len(here), bool)
            new_run[1:] = (shard[1:] != shard[:-1]) | (start[1:] != start[:-1] + length[:-1])
            first = np.flatnonzero(new_run)
            ends = start[first] + np.add.reduceat(length, first)
            runs = zip(shard[first].tolist(), start[first].tolist(), ends.tolist(), strict=True)
            total = int(length.sum())
            np.concatenate([arrays[place][begin:end] for place, begin, end in runs], out=out[filled : filled + total])
            filled += total
        return out, lengths

    def _positions(self, index: np.ndarray) -> np.ndarray:
        index = np.asarray(index)
        if index.ndim != 1 or (index.dtype.kind not in "iu" and len(index)):
            raise IndexError(f"positions are {index.dtype}{index.shape}, expected whole numbers (b,)")
        return index.astype(np.int64, copy=False)

"""The place of each key in the shards of a store: a few sorted arrays, searched by bisection."""

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from cache.identity import KEY_BYTES

_VOID = np.dtype(f"V{KEY_BYTES}")  # compared byte by byte


def as_void(keys: np.ndarray) -> np.ndarray:
    """(n, 16) uint8 → (n,) of one 16-byte value each. Raises `ValueError` for another shape or dtype."""
    keys = np.asarray(keys)
    if keys.dtype != np.uint8 or keys.ndim != 2 or keys.shape[1] != KEY_BYTES:
        raise ValueError(f"keys are {keys.dtype}{keys.shape}, expected uint8 (n, {KEY_BYTES})")
    return np.ascontiguousarray(keys).view(_VOID)[:, 0]


@dataclass(frozen=True)
class Run:
    """N distinct keys in ascending order and the place of each.

    keys: (N,) V16. shard: (N,) int32, number of the shard in its store. row: (N,) int64.
    """

    keys: np.ndarray
    shard: np.ndarray
    row: np.ndarray

    @classmethod
    def of(cls, shards: Sequence[tuple[int, np.ndarray]], rank: np.ndarray) -> "Run":
        """Of the keys of shards: (number, (n, 16) uint8) each. rank: see `Index.with_shards`."""
        several = [
            cls(as_void(keys), np.full(len(keys), number, np.int32), np.arange(len(keys))) for number, keys in shards
        ]
        return cls._joined(several, rank)

    def merged(self, other: "Run", rank: np.ndarray) -> "Run":
        """Of the keys of both."""
        return self._joined([self, other], rank)

    @classmethod
    def _joined(cls, several: Sequence["Run"], rank: np.ndarray) -> "Run":
        none = cls(np.empty(0, _VOID), np.empty(0, np.int32), np.empty(0, np.int64))
        columns = zip(*((one.keys, one.shard, one.row) for one in (none, *several)), strict=True)
        merged = cls(*(np.concatenate(column) for column in columns))
        merged = merged._take(np.argsort(merged.keys, kind="stable"))  # of two ascending runs a merge: linear in N
        first = np.ones(len(merged), bool)
        first[1:] = merged.keys[1:] != merged.keys[:-1]
        if not first.all():
            merged = merged._take(np.lexsort((rank[merged.shard], np.cumsum(first))))._take(first)
        return merged

    def __len__(self) -> int:
        return len(self.keys)

    def _take(self, which: np.ndarray) -> "Run":
        return Run(self.keys[which], self.shard[which], self.row[which])

    def places(self, wanted: np.ndarray, order: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Positions in `wanted` (n,) V16 of the keys that are here, and where. order: sorts `wanted`; ascending
        questions walk through memory in one direction: twice as fast, sort included."""
        place = np.empty(len(wanted), np.int64)
        place[order] = np.minimum(np.searchsorted(self.keys, wanted[order]), len(self) - 1)
        hit = np.flatnonzero(self.keys[place] == wanted)
        return hit, place[hit]


@dataclass(frozen=True)
class Index:
    """The keys of a store and the place of each: 28 bytes per row, the only part of a store that lies in memory.

    runs: each at least twice as long as the next, so that a shard that is added is merged with those of its size and
    not with all: N rows in shards of n are moved N · log(N / n) times, not N² / n. rank: shard number → place of its
    name among all names; of a key that stands in several shards the lowest rank counts.
    """

    runs: tuple[Run, ...]
    rank: np.ndarray

    @classmethod
    def empty(cls) -> "Index":
        return cls((), np.empty(0, np.int64))

    def __len__(self) -> int:
        return len(self._whole)

    @cached_property
    def _whole(self) -> Run:
        """All runs as one: the distinct keys."""
        return functools.reduce(lambda one, other: one.merged(other, self.rank), self.runs, Run.of([], self.rank))

    def with_shards(self, shards: Iterable[tuple[int, np.ndarray]], rank: Sequence[int]) -> "Index":
        """The index with the keys of further shards: (number, (n, 16) uint8) each. rank: of all shards."""
        new, ranks = [(number, keys) for number, keys in shards if len(keys)], np.asarray(rank, np.int64)
        runs = [*self.runs, *([Run.of(new, ranks)] if new else [])]
        while len(runs) > 1 and len(runs[-2]) < 2 * len(runs[-1]):
            last = runs.pop()
            runs[-1] = runs[-1].merged(last, ranks)
        return Index(tuple(runs), ranks)

    def find(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(n, 16) uint8 → shard number (n,) int32 and row (n,) int64, both -1 where the key is absent."""
        wanted = as_void(keys)
        shard, row = np.full(len(wanted), -1, np.int32), np.full(len(wanted), -1, np.int64)
        order = np.argsort(wanted, kind="stable") if self.runs else np.empty(0, np.int64)
        for run in self.runs:
            hit, place = run.places(wanted, order)
            known, here = shard[hit], run.shard[place]
            better = (known < 0) | (self.rank[here] < self.rank[known])
            shard[hit[better]], row[hit[better]] = here[better], run.row[place[better]]
        return shard, row

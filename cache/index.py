"""The place of each key: one sorted array over all shards of a store, searched by bisection."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

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
class Index:
    """N distinct keys in ascending order and the place of each: 28 bytes per row, the only part of a store that lies in
    memory.

    keys: (N,) V16. shard: (N,) int32, number of the shard in its store. row: (N,) int64.
    """

    keys: np.ndarray
    shard: np.ndarray
    row: np.ndarray

    @classmethod
    def empty(cls) -> "Index":
        return cls(np.empty(0, _VOID), np.empty(0, np.int32), np.empty(0, np.int64))

    def __len__(self) -> int:
        return len(self.keys)

    def with_shards(self, shards: Iterable[tuple[int, np.ndarray]], rank: Sequence[int]) -> "Index":
        """The index with the keys of further shards: (number, (n, 16) uint8) each.

        rank: shard number → place of its name among all names; of a key that stands in several shards the lowest rank
        stays.
        """
        new = [(number, as_void(keys)) for number, keys in shards]
        if not new:
            return self
        keys = np.concatenate([keys for _, keys in new])
        shard = np.repeat(np.array([number for number, _ in new], np.int32), [len(keys) for _, keys in new])
        row = np.concatenate([np.arange(len(keys)) for _, keys in new])
        added = Index(keys, shard, row)._take(np.argsort(keys, kind="stable"))
        merged = Index(*(np.concatenate(both) for both in zip(self._columns(), added._columns(), strict=True)))
        merged = merged._take(np.argsort(merged.keys, kind="stable"))  # a merge of two ascending runs: linear in N
        first = np.ones(len(merged), bool)
        first[1:] = merged.keys[1:] != merged.keys[:-1]
        if not first.all():
            merged = merged._take(np.lexsort((np.asarray(rank)[merged.shard], np.cumsum(first))))._take(first)
        return merged

    def _columns(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return self.keys, self.shard, self.row

    def _take(self, which: np.ndarray) -> "Index":
        return Index(self.keys[which], self.shard[which], self.row[which])

    def find(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(n, 16) uint8 → shard number (n,) int32 and row (n,) int64, both -1 where the key is absent."""
        wanted = as_void(keys)
        shard, row = np.full(len(wanted), -1, np.int32), np.full(len(wanted), -1, np.int64)
        if len(self):
            order = np.argsort(
                wanted, kind="stable"
            )  # ascending questions walk through memory in one direction: twice as fast, sort included
            place = np.empty(len(wanted), np.int64)
            place[order] = np.minimum(np.searchsorted(self.keys, wanted[order]), len(self) - 1)
            hit = self.keys[place] == wanted
            shard[hit], row[hit] = self.shard[place[hit]], self.row[place[hit]]
        return shard, row

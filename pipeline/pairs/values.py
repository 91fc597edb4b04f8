"""Rows of the cache, by record: what a pair function reads in a role."""

from dataclasses import dataclass

import numpy as np

from cache.keys import KeyColumn
from cache.store import Store
from cache.table import Table
from pipeline.pairs.contracts import PairInput


@dataclass(frozen=True)
class RecordValues:
    """One output of a feature for n records. counts: (n,) int64 keys of each record, which are read together; None
    where each has one.
    """

    table: Table
    counts: np.ndarray | None

    @classmethod
    def open(cls, read: PairInput) -> "RecordValues":
        """The rows of an input. Raises `UserError` where a row is not in the cache."""
        column = KeyColumn.load(read.keys)
        return cls(column.table(Store.open(read.store), read.output), column.counts)

    def __len__(self) -> int:
        return len(self.table) if self.counts is None else len(self.counts)

    @property
    def width(self) -> int:
        """Numbers in a vector."""
        return self.table.shape[0]

    @property
    def key_counts(self) -> np.ndarray:
        """(n,) int64 how many keys each record has."""
        return np.ones(len(self), np.int64) if self.counts is None else self.counts

    @property
    def each_key(self) -> "RecordValues":
        """The same rows with each key as a record of its own."""
        return RecordValues(self.table, None)

    def keys(self, records: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Positions of the keys of the records (n,), one record's after another's, and how many each has (n,)."""
        if self.counts is None:
            return records, np.ones(len(records), np.int64)
        count = self.counts[records]
        first = (self.counts.cumsum() - self.counts)[records]
        return np.repeat(first - (count.cumsum() - count), count) + np.arange(int(count.sum())), count

    def fixed(self, records: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(n, d) float32 vectors of unit length, and which records have one (n,) bool."""
        return unit(np.asarray(self.table.gather(records), np.float32)), self.table.ok[records]

    def ragged(self, records: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Steps of the records one after another (ΣL, …) float32, and how many each has (n,) int64."""
        keys, count = self.keys(records)
        values, lengths = self.table.ragged_flat(keys)
        ends = np.concatenate([[0], lengths.cumsum()])
        last = count.cumsum()
        return np.asarray(values, np.float32), ends[last] - ends[last - count]


def unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors (…, d) scaled to length 1; zeros stay zeros."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)

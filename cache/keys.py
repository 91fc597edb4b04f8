"""Key columns: the keys behind each record of a table under one view, and their .npz files."""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from cache.store import Store
from cache.table import Table
from foundation.files import write_atomic


@dataclass
class KeyColumn:
    """One record table under one view: keys (n, 16) uint8, present (n,) bool, span (n, 2) int32 (−1: none).

    counts: None where each record has one key. Else (records,) int64: how many of the n keys, one record's after
    another's, each record has.
    """

    keys: np.ndarray
    present: np.ndarray
    span: np.ndarray
    counts: np.ndarray | None = None

    @property
    def records(self) -> int:
        """The number of records."""
        return len(self.keys) if self.counts is None else len(self.counts)

    @classmethod
    def load(cls, path: Path) -> Self:
        """The column in an .npz file."""
        with np.load(path, allow_pickle=False) as saved:
            counts = saved["counts"] if "counts" in saved.files else None
            return cls(np.ascontiguousarray(saved["keys"]), saved["present"], saved["span"], counts)

    def save(self, path: Path) -> None:
        """Write it as an .npz file."""
        buffer = io.BytesIO()
        arrays = {"keys": self.keys, "present": self.present, "span": self.span}
        if self.counts is not None:
            arrays["counts"] = self.counts
        np.savez(buffer, **arrays)  # type: ignore[arg-type]  # numpy's stubs take them for allow_pickle
        write_atomic(path, buffer.getvalue())

    def table(self, store: Store, output: str) -> Table:
        """One output of a feature for these keys. Raises `RowsMissing` where a present key is not in the store."""
        return Table(store, output, self.keys, self.present)

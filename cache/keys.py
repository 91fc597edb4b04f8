"""Key columns: the keys behind each record of a table under one view, and their .npz files."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from cache.store import Store
from cache.table import Table
from foundation.arrays import Expected, read_npz, write_npz
from foundation.errors import UserError

_ARRAYS = {
    "keys": Expected("u", (None, 16)),
    "present": Expected("b", (None,)),
    "span": Expected("i", (None, 2)),
    "counts": Expected("iu", (None,), optional=True),
    "tokens": Expected("i", (None,), optional=True),
}


@dataclass
class KeyColumn:
    """One record table under one view: keys (n, 16) uint8, present (n,) bool, span (n, 2) int32 (−1: none).

    counts: None where each record has one key. Else (records,) int64: how many of the n keys, one record's after
    another's, each record has.
    tokens: (n,) int32 of each text as the feature's tokenizer counts them, special ones included; None of pictures, and
    where they were not counted.
    """

    keys: np.ndarray
    present: np.ndarray
    span: np.ndarray
    counts: np.ndarray | None = None
    tokens: np.ndarray | None = None

    @property
    def records(self) -> int:
        """The number of records."""
        return len(self.keys) if self.counts is None else len(self.counts)

    @classmethod
    def load(cls, path: Path) -> Self:
        """The column in an .npz file. Raises `UserError` where it holds none."""
        saved = read_npz(path, _ARRAYS)
        keys = np.ascontiguousarray(saved["keys"])
        column = cls(keys, saved["present"], saved["span"], saved.get("counts"), saved.get("tokens"))
        count = column.records if column.counts is None else int(column.counts.sum())
        fewest = 0 if column.counts is None else column.counts.min(initial=0)
        beside = [column.present, column.span, *([] if column.tokens is None else [column.tokens])]
        if len(keys) != count or any(len(array) != count for array in beside) or fewest < 0:
            raise UserError(
                f"{path}: {len(column.keys)} keys, {len(column.present)} marks and {len(column.span)} spans for "
                f"{column.records} records; delete it and run ExtractFeatures again"
            )
        return column

    def of_records(self, records: np.ndarray) -> "KeyColumn":
        """That of some of the records (m,), in their order."""
        if self.counts is None:
            return self._at(records, None)
        counts = self.counts[records]
        first = (self.counts.cumsum() - self.counts)[records]
        places = np.repeat(first - (counts.cumsum() - counts), counts) + np.arange(int(counts.sum()))
        return self._at(places, counts)

    def _at(self, places: np.ndarray, counts: np.ndarray | None) -> "KeyColumn":
        tokens = None if self.tokens is None else self.tokens[places]
        return KeyColumn(self.keys[places], self.present[places], self.span[places], counts, tokens)

    def joined(self, more: "KeyColumn") -> "KeyColumn":
        """That of these records and, behind them, of more. Raises `ValueError` where only one has several keys."""
        if (self.counts is None) != (more.counts is None):
            raise ValueError("one of two key columns has one key per record, the other several")
        return KeyColumn(
            np.concatenate([self.keys, more.keys]),
            np.concatenate([self.present, more.present]),
            np.concatenate([self.span, more.span]),
            None if self.counts is None or more.counts is None else np.concatenate([self.counts, more.counts]),
            None if self.tokens is None or more.tokens is None else np.concatenate([self.tokens, more.tokens]),
        )

    def save(self, path: Path) -> None:
        """Write it as an .npz file."""
        arrays = {"keys": self.keys, "present": self.present, "span": self.span}
        if self.counts is not None:
            arrays["counts"] = self.counts
        if self.tokens is not None:
            arrays["tokens"] = self.tokens
        write_npz(path, arrays)

    def table(self, store: Store, output: str) -> Table:
        """One output of a feature for these keys. Raises `RowsMissing` where a present key is not in the store."""
        return Table(store, output, self.keys, self.present)

"""Which row of a KB an id stands in, in twelve bytes an entity."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from pipeline.datasets.arrow_columns import ArrowColumn


class IdRows(Mapping[str, int]):
    """Rows of N distinct ids: their hashes in order, each find compared with the id itself."""

    def __init__(self, ids: ArrowColumn, hashes: np.ndarray | None = None) -> None:
        """hashes: (N,) int64 of the ids, where they are known."""
        hashes = _hashes(ids) if hashes is None else hashes
        self._ids, self._row = ids, np.argsort(hashes, kind="stable").astype(np.int32)
        self._hashes = hashes[self._row]

    def __getitem__(self, name: str) -> int:
        place = int(np.searchsorted(self._hashes, hash(name)))
        while place < len(self._hashes) and self._hashes[place] == hash(name):
            row = int(self._row[place])
            if self._ids[row] == name:
                return row
            place += 1
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._ids)

    def __len__(self) -> int:
        return len(self._ids)

    def changed(self, kept: np.ndarray, ids: ArrowColumn) -> "IdRows":
        """Of `ids`, which begin with those of the rows `kept` here."""
        by_row = np.empty_like(self._hashes)
        by_row[self._row] = self._hashes
        return IdRows(ids, np.concatenate([by_row[kept], _hashes(ids[len(kept) :])]))


def _hashes(ids: Sequence[str]) -> np.ndarray:
    return np.fromiter(map(hash, ids), np.int64, len(ids))

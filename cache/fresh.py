"""A store whose new rows stay in memory until there are enough for a shard."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from cache import claims
from cache.columns import OutputRows
from cache.merge import joined
from cache.shard import NewRows, Shard
from cache.store import Store
from foundation.errors import Unwritable

ROWS = 256
"""New rows that are held in memory at most; so many are one shard."""
_FIRST = 1 << 30  # number of the first part that is in memory


def _raise(error: Unwritable) -> None:
    raise error


class HoldingStore(Store):
    """Finds new rows at once and writes them later: when there are `most`, or at `flush`. For one thread at a time.

    most: rows held, fewer than twice as many while writing them fails; None: any number, none of which is written
    before `flush`. They are gone with this process where it ends before, and after `forget`. unwritable: called where
    the store's place cannot be written; the rows stay held where it returns.
    """

    def __init__(self, folder: Path, content: Mapping[str, Any]) -> None:
        super().__init__(folder, content)
        self.most: int | None = ROWS
        self.unwritable: Callable[[Unwritable], None] = _raise
        self._parts: list[Shard] = []
        self._places: dict[bytes, tuple[int, int]] = {}

    @property
    def held(self) -> int:
        """Rows in memory."""
        return len(self._places)

    def locate(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As `Store.locate`; rows in memory have numbers of their own."""
        number, row = super().locate(keys)
        if self._places:
            for at in np.flatnonzero(number < 0).tolist():
                number[at], row[at] = self._places.get(np.asarray(keys)[at].tobytes(), (-1, -1))
        return number, row

    def shard(self, number: int) -> Shard:
        """As `Store.shard`."""
        return self._parts[number - _FIRST] if number >= _FIRST else super().shard(number)

    def open_shard(self, name: str | Path) -> Shard:
        """As `Store.open_shard`."""
        held = (part for part in self._parts if part.path == self.folder / name)
        return next(held, None) or super().open_shard(name)

    def add(
        self, keys: np.ndarray, status: np.ndarray, causes: Sequence[str], columns: Mapping[str, OutputRows]
    ) -> str:
        """Hold the rows, and write all that are held where they are `most`. Arguments and errors as of `Store.add`."""
        name = self.shard_name(keys)
        rows = NewRows(keys, status, causes, columns)
        part = Shard.of_rows(self.folder / name, self.feature, self.identity, self.outputs, rows)
        number = _FIRST + len(self._parts)
        self._parts.append(part)
        self._places |= {key.tobytes(): (number, row) for row, key in enumerate(np.asarray(part.keys))}
        if self.most is not None and self.held >= self.most:
            try:
                self.flush()
            except Exception:
                if self.held >= 2 * self.most:  # dropped rows are computed again when they are needed
                    self.forget()
                raise
        return name

    def flush(self) -> None:
        """Write the rows that are held as one shard. Raises as `Store.add`; they stay in memory then."""
        if self._parts:
            rows = joined(self._parts, self.outputs)
            try:
                super().add(rows.keys, rows.status, rows.causes, rows.columns)
            except Unwritable as error:
                self.unwritable(error)
            else:
                self.forget()

    def forget(self) -> None:
        """Drop the rows that are held."""
        self._parts, self._places = [], {}

    def claim(self, name: str, ttl: float = claims.TTL) -> AbstractContextManager[Any] | None:
        """Nothing is claimed: two processes that compute the same rows in memory write the same shard, or rows twice,
        which the next merge mends."""
        return nullcontext()

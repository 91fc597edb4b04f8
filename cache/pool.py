"""Shards opened in turn: a process may have some ten thousand files mapped, a store may have more shards."""

import threading
from collections import OrderedDict
from pathlib import Path

from cache.shard import Shard

MAPPED = 2048
"""Shards that a store keeps mapped. Linux allows 65,530 maps per process (`vm.max_map_count`), and several stores are
open at a time."""


class Pool:
    """The open shards of a store, at most `limit`; the one that was not asked for longest is closed first.

    Arrays that were taken of a shard stay valid after it is closed here. Threads may share a pool.
    """

    def __init__(self, limit: int = MAPPED) -> None:
        self.limit = limit
        self._open: OrderedDict[Path, Shard] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._open)

    def get(self, path: Path) -> Shard:
        """The shard at `path`, opened if it is not open. Raises as `Shard` does."""
        with self._lock:
            found = self._open.get(path)
            if found is not None:
                self._open.move_to_end(path)
                return found
        opened = Shard(path)
        with self._lock:
            kept = self._open.setdefault(path, opened)
            while len(self._open) > self.limit:
                self._open.popitem(last=False)
        return kept

    def close(self, path: Path) -> None:
        """Close the shard at `path`, which was removed or replaced."""
        with self._lock:
            self._open.pop(path, None)

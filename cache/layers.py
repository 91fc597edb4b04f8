"""The stores of one feature in the layers beneath a cache: read where its own has no row, and never written to."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cache.errors import Gone
from foundation import layers
from foundation.errors import UserError

if TYPE_CHECKING:
    from cache.shard import Shard
    from cache.store import Store

FIRST = 1 << 26
"""Number of the first shard of the first layer; each has so many. Shards of the own store have smaller ones."""
MOST = 15


class LayerFault(UserError):
    """What is wrong in a folder that a cache reads beneath itself; the message says how to go on without it."""


class Beneath:
    """The layers of the store in a folder.

    open_store: gives the store in a folder, which has no layers itself. What is wrong with a layer raises `LayerFault`,
    which says how to go on without it; a shard that is gone raises `Gone`, as in a store: it may have been merged.
    """

    def __init__(self, folder: Path, identity: str, open_store: Any) -> None:
        self.cache, self.name, self.identity = folder.parent, folder.name, identity
        self._open = open_store
        self._stores: dict[Path, Store] = {}

    @property
    def stores(self) -> list["Store"]:
        """Those that are there, in the order in which they are asked."""
        return [*self._stores.values()]

    def refresh(self) -> None:
        """Look which layers there are, and for their shards. Raises `LayerFault`."""
        listed = layers.read(self.cache)
        if len(listed) > MOST:
            raise UserError(f"{layers.OPTION}: {len(listed)} layers, at most {MOST} can be read; name fewer")
        known, self._stores = self._stores, {}
        for layer in listed:
            with self._blaming(layer):
                if not layer.is_dir():
                    raise UserError(f"there is no folder {layer}; mount it")
                folder = layer / self.name
                if not (folder / "spec.json").exists():
                    continue
                store = known.get(layer) or self._open(folder)
                if store.identity != self.identity:
                    raise UserError(f"{folder / 'spec.json'} describes another feature than its folder's name")
                store.refresh()
                self._stores[layer] = store

    def locate(self, keys: np.ndarray, number: np.ndarray, row: np.ndarray) -> None:
        """Fill in number (n,) and row (n,) of the keys (n, 16) that have none yet, as `Store.locate` gives them."""
        for place, store in enumerate(self._stores.values()):
            absent = np.flatnonzero(number < 0)
            if not len(absent):
                return
            found, at = store.locate(keys[absent])
            here = found >= 0
            number[absent[here]] = found[here] + FIRST * (place + 1)
            row[absent[here]] = at[here]

    def shard(self, number: int) -> "Shard":
        """The shard of a number that `locate` gave."""
        layer, store = [*self._stores.items()][number // FIRST - 1]
        with self._blaming(layer):
            return store.shard(number % FIRST)

    def open_shard(self, path: Path) -> "Shard":
        """The shard at a path in a layer."""
        for layer, store in self._stores.items():
            if store.folder == path.parent:
                with self._blaming(layer):
                    return store.open_shard(path)
        raise Gone(f"{path} is gone: its folder is no layer of this cache any more")

    def files(self, numbers: np.ndarray) -> list[Path]:
        """The shards of these numbers."""
        found: list[Path] = []
        for place, store in enumerate(self._stores.values()):
            found += store.paths_of(numbers[numbers // FIRST == place + 1] % FIRST)
        return found

    @contextlib.contextmanager
    def _blaming(self, layer: Path) -> Iterator[None]:
        try:
            yield
        except Gone:
            raise
        except UserError as error:
            raise LayerFault(
                f"{str(error).removesuffix('; ')}; it belongs to a folder that this cache only reads: to go on without "
                f"it, add {layers.without(self.cache, layer)}, and what it held is extracted here"
            ) from error

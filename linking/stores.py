"""The stores that a run reads, each opened once; rows of new mentions stay in memory until there are enough."""

from collections.abc import Sequence
from pathlib import Path

from cache.fresh import HoldingStore
from foundation import logs
from foundation.errors import Unwritable, UserError
from linking.finished import Finished


class Stores(dict[str, HoldingStore]):
    """Feature → store. keep: whether rows of new mentions are written, while there is a place for them."""

    def __init__(self, keep: bool = True) -> None:
        super().__init__()
        self.keep = keep
        self._opened: dict[Path, HoldingStore] = {}

    @classmethod
    def of(cls, runs: Sequence[Finished], keep: bool = True) -> "Stores":
        """Those of all features that these runs were trained on.

        Raises `UserError` where two of them read different features of one name.
        """
        stores = cls(keep)
        for run in runs:
            for name, feature in run.extraction.features.items():
                store = stores.setdefault(name, stores.open(run.paths.cache / feature.store))
                if store.identity != feature.identity:
                    raise UserError(
                        f"{run.folder}: reads {name} {feature.identity[:16]}, another part of it "
                        f"{store.identity[:16]}; train both on the same"
                    )
        return stores

    def open(self, folder: Path) -> HoldingStore:
        """The store in a folder, the same object at each call. Raises as `Store.open`."""
        store = self._opened.get(folder)
        if store is None:
            store = self._opened[folder] = HoldingStore.open(folder)
            if not self.keep:
                store.most = None
            store.unwritable = self._forgo
        return store

    @property
    def opened(self) -> list[HoldingStore]:
        """All that were opened, those of prompts too."""
        return list(self._opened.values())

    def answered(self) -> None:
        """To be called when the rows of some mentions are not needed any more: those that are not kept go."""
        if not self.keep:
            for store in self.opened:
                store.forget()

    def flush(self) -> None:
        """Write the rows that are in memory. Where they cannot be written, a line says so. Raises `UserError` where
        the cache is damaged."""
        for store in self.opened:
            if self.keep:
                store.flush()

    def _forgo(self, error: Unwritable) -> None:
        """Keep no rows from here on."""
        self.keep = False
        for store in self.opened:
            store.most = None
        logs.notice(f"{error}; linking goes on without keeping the features of new mentions")

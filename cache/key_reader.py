"""The keys of very many shards: those whose first pages say the same of their contents are checked once."""

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from cache import layout, page
from cache.errors import Damaged
from cache.identity import KEY_BYTES, Output
from cache.shard import Shard

_KNOWN = 256  # kinds of contents that are kept; where every shard has its own (ragged rows), none repeats


class KeyReader:
    """Reads the keys of a store's shards, in a fifth of the time that opening each as a `Shard` takes.

    identity, outputs: of the store's feature; a shard of another is damaged. Use as a context manager.
    """

    def __init__(self, folder: Path, identity: str, outputs: Mapping[str, Output]) -> None:
        self.folder, self.identity, self.outputs = folder, identity, outputs
        self._known: dict[bytes, tuple[int, int, int]] = {}  # contents → place and bytes of the keys, bytes of the file

    def __enter__(self) -> "KeyReader":
        self._descriptor: int | None = None
        return self

    def __exit__(self, *error: object) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)

    def read(self, name: str) -> np.ndarray:
        """(n, 16) uint8 of a shard, which is checked by its shapes. Raises `UserError`, `PassingError`."""
        try:
            if self._descriptor is None:
                self._descriptor = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            file = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._descriptor)
            try:
                first, size = os.pread(file, page.PAGE, 0), os.fstat(file).st_size
                contents = first[page.CONTENTS :]
                place, length, expected = self._known.get(contents, (0, 0, -1))
                keys = os.pread(file, length, place) if size == expected else b""
            finally:
                os.close(file)
        except OSError:
            return self._checked(name)  # which says why
        if len(keys) and len(keys) == length:
            return np.frombuffer(keys, np.uint8).reshape(-1, KEY_BYTES)
        checked = self._checked(name)
        if len(self._known) < _KNOWN:
            with contextlib.suppress(ValueError):  # another file by now
                brief = page.brief(first)
                if brief and brief["bytes"] == size and brief["attributes"]["layout"] == layout.LAYOUT:
                    self._known[contents] = brief["arrays"]["keys"][2], checked.size, size
        return checked

    def _checked(self, name: str) -> np.ndarray:
        """The keys of a shard that is opened whole."""
        opened = Shard(self.folder / name, keys_alone=True)
        problem = opened.unfit(self.outputs)
        if opened.identity != self.identity:
            problem = f"belongs to the identity {opened.identity[:16]}, not to its folder"
        if problem:
            raise Damaged(f"shard {opened.path}: {problem}")
        return np.array(opened.keys)

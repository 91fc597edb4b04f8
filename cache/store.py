"""All shards of one feature: lookup by content key, rows added shard by shard."""

import contextlib
import functools
import hashlib
import json
import os
import re
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np

from cache import claims, merge, shard
from cache.columns import OutputRows
from cache.errors import Damaged, Gone
from cache.identity import Output, identity
from cache.index import Index, as_void
from cache.key_reader import KeyReader
from cache.layers import FIRST, Beneath
from cache.listing import Listing, Stray, listing, unreadable
from cache.pool import Pool
from cache.shard import Shard
from foundation import logs, successors
from foundation.checksums import read_sealed, write_sealed
from foundation.errors import NotAsWritten, PassingError, UserError
from foundation.files import make_folder
from foundation.processes import temporary_name

SPEC = "spec.json"
LOOKS = 50  # at a folder whose shards are merged away while they are looked at
CHANGES = 4  # of a folder while it is listed that make the list be taken again; others may be adding all the time


@functools.cache
def _say_once(line: str) -> None:
    logs.notice(line)


def _foreign(folder: Path) -> "Store":
    """The store in a folder of a layer."""
    store = Store.open(folder)
    store.foreign = True
    return store


def _mtime(folder: Path) -> int | None:
    try:
        return folder.stat().st_mtime_ns
    except (FileNotFoundError, NotADirectoryError):
        return None


def folder_name(feature: str, digest: str) -> str:
    """`<feature>-<first 16 digits of its identity>`"""
    return f"{feature}-{digest[:16]}"


class Store:
    """The rows of one feature. Only grows; any number of processes may read and add at the same time.

    Where its cache has layers, rows that it lacks are read from the stores of the same feature there (`beneath`); what
    is added is written here. foreign: whether it is itself one of a layer, in which nothing is written.

    Nothing is opened before the first lookup, and no file stays open: the object may be pickled (only its folder
    travels) and forked. Of many shards only some are mapped at a time, see `cache.pool`. strays: what lies among the
    shards and is none. spec["outputs"] lists the feature's outputs as `Output.to_json` gives them.
    """

    def __init__(self, folder: Path, content: Mapping[str, Any]) -> None:
        self.folder = Path(folder)
        self.feature: str = content["feature"]
        self.identity: str = content["identity"]
        self.spec: dict[str, Any] = content["spec"]
        if not all(isinstance(value, str) for value in (self.feature, self.identity)):
            raise TypeError("feature and identity are no strings")
        self.outputs: dict[str, Output] = {item["name"]: Output.from_json(item) for item in self.spec["outputs"]}
        self._lock = threading.RLock()
        self.strays: list[Stray] = []  # as of the last look
        self._names: list[str | None] = []  # a shard keeps its number; None: gone since
        self._stamps: dict[str, tuple[int, int, int, int]] = {}  # name -> number, inode, size, mtime
        self._index: Index | None = None
        self._pool = Pool()
        self.foreign = False
        self.beneath = Beneath(self.folder, self.identity, _foreign)

    @classmethod
    def create(cls, root: Path, feature: str, spec: dict[str, Any]) -> "Store":
        """The store of `feature` under `root`, created where there is none.

        Raises `UserError` when the place cannot be written, or holds another feature's `spec.json`; `ValueError` for a
        feature name that is no lower-case word.
        """
        store = cls.planned(root, feature, spec)
        store.make()
        return store

    @classmethod
    def planned(cls, root: Path, feature: str, spec: dict[str, Any]) -> "Store":
        """The store of `feature` under `root`, whether it is there or not; nothing is written.

        Raises as `create` does.
        """
        if not re.fullmatch(r"[a-z][a-z0-9_]*(@[0-9]+|@tuned)?", feature):
            raise ValueError(
                f"feature name {feature!r}: expected a lower-case word, or one with a block, text_tokens@3"
            )
        digest = identity(spec)
        store = cls(
            Path(root) / folder_name(feature, digest),
            {"feature": feature, "identity": digest, "spec": json.loads(json.dumps(spec))},
        )
        if store.described and cls.open(store.folder).identity != digest:
            raise Damaged(f"{store.folder / SPEC} describes another feature than its folder's name")
        return store

    def make(self) -> None:
        """Write a planned store to disk; small shards of one that is there are merged where there are many."""
        if not self.described:
            make_folder(self.folder)
            self.beneath.refresh()
            self.set_probe(next((store.probe for store in self.beneath.stores if store.probe), None))
        self.sweep()
        merge.merge_small(self)

    @classmethod
    def open(cls, folder: Path) -> Self:
        """The store in `folder`. Raises `Gone` or `Damaged` when its `spec.json` is missing or malformed."""
        path = Path(folder) / SPEC
        try:
            return cls(folder, read_sealed(path, remedy=lambda _: ""))
        except NotAsWritten as error:
            if not os.path.lexists(path):
                raise Gone(f"{path} is gone") from error
            raise Damaged(str(error).removesuffix("; ")) from error
        except (KeyError, TypeError, ValueError) as error:
            raise Damaged(f"{path} is no description of a feature ({error!r})") from error

    def __reduce__(self) -> tuple[Any, ...]:
        return Store.open, (self.folder,)

    @property
    def described(self) -> bool:
        """Whether its `spec.json` is on disk."""
        return (self.folder / SPEC).exists()

    @property
    def probe(self) -> Any:
        """What `set_probe` wrote last, by any process; None before."""
        return read_sealed(self.folder / SPEC).get("probe") if self.described else None

    def set_probe(self, probe: Any) -> None:
        """Write a small input's output (JSON) beside the spec; with it a later run can tell that a library's numbers
        have drifted."""
        path = self.folder / SPEC
        description = {"feature": self.feature, "identity": self.identity, "spec": self.spec, "probe": probe}
        write_sealed(path, description, temporary_name(path))  # a name that `sweep` knows for a killed writer's

    # Lookup

    def refresh(self) -> None:
        """Look for shards again: new ones are taken up, those removed or replaced by hand are dropped.

        What lies among the shards and is none is named in a line, once, and passed over. Raises `UserError` naming a
        damaged shard.
        """
        if not self.foreign:
            self.beneath.refresh()
        self._look()

    def _look(self) -> None:
        """`refresh`, without the layers."""
        with self._lock:
            for look in range(LOOKS):
                before = _mtime(self.folder)
                try:
                    self._take_up(listing(self.folder))
                except Gone:  # merged into another between the list and the look at it
                    if look == LOOKS - 1:
                        raise
                    continue
                # Where the folder changed meanwhile, a shard may have moved past the list: into another one, which was
                # named after the list had passed its place.
                if _mtime(self.folder) == before or look >= CHANGES:
                    break

    def _take_up(self, found: Listing) -> None:
        kept = {name: stamp for name, stamp in self._stamps.items() if found.stamps.get(name) == stamp[1:]}
        gone = self._stamps.keys() - kept.keys()
        names = [None if name in gone else name for name in self._names]
        keys, strays, fresh = dict[int, np.ndarray](), list(found.strays), sorted(found.stamps.keys() - kept.keys())
        index = self._index or Index.empty()
        with KeyReader(self.folder, self.identity, self.outputs) as reader:
            for name in fresh:
                try:
                    keys[len(names)] = reader.read(name)
                except PassingError:
                    reason = unreadable(self.folder / name)
                    if reason is None:
                        raise
                    strays.append(Stray(self.folder / name, reason))
                    continue
                kept[name] = (len(names), *found.stamps[name])
                names.append(name)
            if gone:  # one of them may have hidden another's row: start over
                index = Index.empty()
                keys |= {number: reader.read(name) for name, (number, *_) in kept.items() if number not in keys}
        if keys or gone or self._index is None:
            order = {name: place for place, name in enumerate(sorted(kept))}
            index = index.with_shards(keys.items(), [order.get(name or "", -1) for name in names])
        for name in gone:
            self._pool.close(self.folder / name)
        self._names, self._stamps, self._index, self.strays = names, kept, index, strays
        for stray in strays:
            passed = (
                f"{stray.path} {stray.problem.partition('; ')[0]}; it lies in a layer of the cache, and is passed over"
            )
            _say_once(passed if self.foreign else str(stray))

    def _current(self) -> Index:
        with self._lock:
            if self._index is None:
                self.refresh()
            assert self._index is not None
            return self._index

    def missing(self, keys: np.ndarray, layers: bool = True) -> np.ndarray:
        """(n, 16) uint8 → (m,) int64 positions in `keys`: the first occurrence of each distinct key that no shard
        holds, ascending. layers: whether shards of layers count too."""
        number = self.locate(keys)[0] if layers else self._current().find(keys)[0]
        absent = np.flatnonzero(number < 0)
        first = np.unique(as_void(keys)[absent], return_index=True)[1]
        return np.sort(absent[first])

    def locate(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(n, 16) uint8 → shard number (n,) int32 and row in it (n,) int64, -1 where absent.

        Of the shards that the last `refresh` saw. Where several of them hold a key, the one whose file name sorts first
        counts; those of layers after all others, in the layers' order.
        """
        number, row = self._current().find(keys)
        self.beneath.locate(np.asarray(keys), number, row)
        return number, row

    def shard(self, number: int) -> Shard:
        """The shard of a number that `locate` gave; numbers never change their meaning.

        Raises `UserError` when it has been removed since.
        """
        if number >= FIRST:
            return self.beneath.shard(number)
        name = self._names[number]
        if name is None:
            raise Gone(f"a shard of {self.folder} has been removed")
        return self.open_shard(name)

    def open_shard(self, name: str | Path) -> Shard:
        """The shard of a name, or at a path here or in a layer. Raises `UserError` when it is gone or damaged."""
        path = self.folder / name
        return self._pool.get(path) if path.parent == self.folder else self.beneath.open_shard(path)

    def files_for(self, keys: np.ndarray) -> list[Path]:
        """What must lie on disk to read the rows of these keys: the spec, and every shard that holds one, also in
        layers; absent keys are passed over."""
        numbers = np.unique(self.locate(keys)[0])
        own = numbers[(numbers >= 0) & (numbers < FIRST)]
        return [self.folder / SPEC, *self.paths_of(own), *self.beneath.files(numbers[numbers >= FIRST])]

    def paths_of(self, numbers: np.ndarray) -> list[Path]:
        """The shards of these numbers, by name."""
        names = [self._names[number] for number in numbers.tolist()]
        return sorted(self.folder / name for name in names if name is not None)

    @property
    def rows(self) -> int:
        """Distinct keys in the store, whatever their verdict; those of layers are not counted."""
        return len(self._current())

    @property
    def bytes(self) -> int:
        """Size of all shards on disk."""
        self._current()
        return sum(size for _, _, size, _ in self._stamps.values())

    # Growth

    @staticmethod
    def shard_name(keys: np.ndarray) -> str:
        """File name of the shard that holds exactly these keys in this order."""
        return hashlib.blake2b(as_void(keys).tobytes(), digest_size=16, person=b"mel shard name").hexdigest() + ".h5"

    def has_shard(self, name: str) -> bool:
        """Whether the shard is on disk now, seen by `refresh` or not."""
        return (self.folder / name).exists()

    def add(
        self, keys: np.ndarray, status: np.ndarray, causes: Sequence[str], columns: Mapping[str, OutputRows]
    ) -> str:
        """Write one shard and return its name; see `cache.shard.NewRows` and `write` for the arguments and errors. The
        rows can be found afterwards. Where that makes many small shards, they are merged, see `cache.merge`.

        Where another process has written the same shard in the meantime, its file stays and this one is discarded.
        """
        name = self.shard_name(keys)
        if not self.described:
            self.set_probe(None)  # taken for empty by a run that failed
        if not self.has_shard(name):
            self.sweep()
            rows = shard.NewRows(keys, status, causes, columns)
            shard.write(self.folder / name, self.feature, self.identity, self.outputs, rows)
        if self._index is None:
            self.refresh()
        self._look()
        if sum(size < merge.SMALL for _, _, size, _ in self._stamps.values()) >= merge.MANY:
            merge.merge_small(self)
        if (self._current().find(keys)[0] < 0).any():
            in_the_way = next((stray.problem for stray in self.strays if stray.path.name == name), "is in the way")
            raise UserError(f"cannot write the shard {self.folder / name}: what has its name {in_the_way}")
        return name

    def sweep(self) -> None:
        """Remove the temporary files of killed writers; `create` and `add` do it by themselves.

        Those of live writers stay.
        """
        for path in (*claims.leftovers(self.folder), *claims.leftovers(self.folder / "claims")):
            with contextlib.suppress(OSError):
                path.unlink()

    def remove_if_empty(self) -> None:
        """Remove the folder of a store without shards, unless a process is writing to it. A process that has the store
        open creates the folder again when it adds rows."""
        place = self.folder / "claims"
        with claims.idle(place) as idle:
            if idle and not any(self.folder.glob("*.h5")):
                (self.folder / SPEC).unlink(missing_ok=True)
                (self.folder / successors.LIST).unlink(missing_ok=True)
                for path in place.iterdir():
                    path.unlink(missing_ok=True)
                with contextlib.suppress(OSError):  # another process has begun to write
                    place.rmdir()
                    self.folder.rmdir()

    def claim(self, name: str, ttl: float = claims.TTL) -> contextlib.AbstractContextManager[Any] | None:
        """Claim the shard `name` before working on it; None while another process holds it. After taking it, ask
        `has_shard` again.

        ttl: seconds without a sign of life after which a claim falls to the next one who asks; one of a dead process on
        this machine at once.
        """
        place = self.claim_file(name)
        return claims.take(place.parent, place.name, ttl)

    def claim_file(self, name: str) -> Path:
        """The file of a claim on the shard `name`."""
        return self.folder / "claims" / f"{name}.claim"

"""Checks, repairs, lists and removes what lies in a cache folder."""

import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cache import claims, layout
from cache import listing as strays
from cache.identity import Output, identity
from cache.shard import Shard
from cache.store import SPEC, Store, folder_name
from foundation.errors import UserError
from foundation.files import explained, sync_folder
from foundation.progress import Bar
from foundation.successors import LIST, Successors


@dataclass(frozen=True)
class DamagedFile:
    """A file that is not as it was written.

    Removing it is the repair: the next run makes again exactly what it held.
    """

    path: Path
    problem: str

    def __str__(self) -> str:
        return f"{self.path}: {self.problem}"


@dataclass(frozen=True)
class Usage:
    """What one feature takes.

    mtime: seconds since the epoch of its newest shard, or of its spec where there is none.
    """

    folder: Path
    feature: str
    identity: str
    rows: int
    bytes: int
    mtime: float


def folders(root: Path) -> list[Path]:
    """Feature folders under `root`, by name: those with a spec or shards in them."""
    if not Path(root).is_dir():
        return []
    return sorted(
        path for path in Path(root).iterdir() if path.is_dir() and ((path / SPEC).exists() or any(path.glob("*.h5")))
    )


def verify(root: Path, shards: bool = True) -> list[DamagedFile]:
    """Read every byte of every shard under `root` and compare it with the checksums; nothing is changed.

    shards: False leaves them out and looks at the rest alone.

    Also found: a spec whose identity is not its folder's, a shard of another feature, arrays that contradict each other
    or the spec, temporary files that a killed writer left (a live writer's are passed over).
    """
    total = sum(1 for folder in folders(root) for _ in folder.glob("*.h5")) if shards else 0
    with Bar(total, "checking", "shard") as bar:
        return [finding for folder in folders(root) for finding in _folder(folder, bar.update, shards)]


def repair(findings: Iterable[DamagedFile]) -> list[Path]:
    """Remove the files of the findings, and nothing else; returns those removed.

    Raises `UserError` where the place cannot be written.
    """
    removed = []
    for path in dict.fromkeys(finding.path for finding in findings):
        with explained(path):
            if os.path.lexists(path) and not (path.is_dir() and not path.is_symlink()):  # a folder may hold anything
                path.unlink()
                sync_folder(path.parent)
                removed.append(path)
    return removed


def usage(root: Path) -> tuple[list[Usage], list[str]]:
    """Rows and bytes of each feature under `root`, from shard headers alone; and a line for each damaged one,
    naming the damaged file."""
    usages, problems = [], []
    for folder in folders(root):
        try:
            store, stamps = Store.open(folder), strays.listing(folder).stamps.values()
            newest = max((ns / 1e9 for *_, ns in stamps), default=(folder / SPEC).stat().st_mtime)
            size = sum(size for _, size, _ in stamps)
            usages.append(Usage(folder, store.feature, store.identity, store.rows, size, newest))
        except UserError as error:
            problems.append(str(error))
    return usages, problems


def remove(folder: Path) -> int:
    """Remove a feature folder and return the bytes freed.

    Raises `UserError` when it is none, or when a live process is writing to it.
    """
    folder = Path(folder)
    if folder not in folders(folder.parent) or folder.is_symlink():
        raise UserError(f"{folder} is no feature folder (no {SPEC}, no shards); nothing removed")
    busy = claims.live(folder / "claims")
    if busy:
        raise UserError(f"{folder} is being written ({busy[0].name}); wait until that run has ended")
    freed = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    with explained(folder):
        shutil.rmtree(folder)
    return freed


def _folder(folder: Path, watch: Callable[[], None], shards: bool) -> Iterator[DamagedFile]:
    outputs = None
    try:
        store = Store.open(folder)
        digest = identity(store.spec)
        if digest != store.identity:
            yield DamagedFile(folder / SPEC, f"its spec has the identity {digest[:16]}, it says {store.identity[:16]}")
        elif folder.name != folder_name(store.feature, digest):
            yield DamagedFile(folder / SPEC, f"describes {folder_name(store.feature, digest)}, not this folder")
        else:
            outputs = store.outputs
    except UserError as error:
        yield DamagedFile(
            folder / SPEC, "is gone" if not (folder / SPEC).exists() else str(error).removeprefix(f"{folder / SPEC} ")
        )
    for path in sorted(folder.glob("*.h5")) if shards else ():
        problem = strays.problem(path) or _problem(path, folder, outputs)
        watch()
        if problem and os.path.lexists(path):  # not merged into another meanwhile
            yield DamagedFile(path, problem)
    try:
        Successors.read(folder)
    except UserError as error:
        yield DamagedFile(folder / LIST, str(error).removeprefix(f"{folder / LIST} "))
    for path in (*claims.leftovers(folder), *claims.leftovers(folder / "claims")):
        yield DamagedFile(path, "left behind by a writer that was killed")


def _problem(path: Path, folder: Path, outputs: dict[str, Output] | None) -> str | None:
    """The first thing that is wrong with a shard. outputs: of its feature; None where its spec is itself in doubt."""
    try:
        broken = layout.damage(path)
        if broken:
            return broken
        shard = Shard(path)
    except UserError as error:
        return str(error)
    if not folder.name.endswith(f"-{shard.identity[:16]}") or len(shard.identity) != 64:
        return f"belongs to the identity {shard.identity[:16]}, not to this folder"
    if path.name != Store.shard_name(np.asarray(shard.keys)):
        return "holds other keys than its name says"
    return shard.unfit(outputs or {}) or shard.misfilled(outputs or {})

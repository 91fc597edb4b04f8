"""What lies in a store's folder: its shards, and what has a shard's ending and is none."""

import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path

NAME = re.compile(r"[0-9a-f]{32}\.h5")
Stamp = tuple[int, int, int]
"""Inode, size and mtime (ns) of a file."""
_KINDS = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket"}


@dataclass(frozen=True)
class Stray:
    """A file, folder or link among the shards that is none; its rows, if it has any, are passed over.

    problem: what it is, and what to do.
    """

    path: Path
    problem: str

    def __str__(self) -> str:
        return f"{self.path} {self.problem}; the other shards are read"


@dataclass(frozen=True)
class Listing:
    """stamps: name of each shard → its stamp. strays: what is passed over."""

    stamps: dict[str, Stamp]
    strays: list[Stray]


def listing(folder: Path) -> Listing:
    """The shards of a folder, none where it does not exist. No file is opened."""
    stamps, strays = dict[str, Stamp](), list[Stray]()
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError):
        entries = []
    for entry in entries:
        if entry.name.startswith(".") or not entry.name.endswith(".h5"):
            continue
        try:
            state = entry.stat()
        except OSError:
            state = None
        if state is not None and stat.S_ISREG(state.st_mode) and NAME.fullmatch(entry.name):
            stamps[entry.name] = (state.st_ino, state.st_size, state.st_mtime_ns)
        elif reason := _problem(Path(entry.path), state):
            strays.append(Stray(Path(entry.path), reason))
    return Listing(stamps, strays)


def problem(path: Path) -> str | None:
    """Why a path with a shard's ending is none, and what to do; None where it may be one, or is gone by now."""
    try:
        return _problem(path, path.stat())
    except OSError:
        return _problem(path, None)


def _problem(path: Path, state: os.stat_result | None) -> str | None:
    if state is None:
        if not path.is_symlink():
            return None
        return f"is a link to {os.readlink(path)}, which is not there; delete the link, or bring its target back"
    if not stat.S_ISREG(state.st_mode):
        kind = _KINDS.get(stat.S_IFMT(state.st_mode), "a device")
        return f"is {kind}, not a shard; delete it, or move it out of {path.parent}"
    if not NAME.fullmatch(path.name):
        return f"has no shard's name (32 hex digits and .h5); delete it, or move it out of {path.parent}"
    return None


def unreadable(path: Path) -> str | None:
    """Why a file that cannot be opened is passed over, and what to do; None where it may be read."""
    if os.access(path, os.R_OK):
        return None
    return f"may not be read by this user; give the right (chmod u+r {path}), or delete it"

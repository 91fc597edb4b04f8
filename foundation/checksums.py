"""Seals: checksums by which a file that is not as it was written is noticed before it is used.

A JSON file holds its own (`seal`), and those of the files that it lists (`entry`). Shards (`cache.layout`) hold their
own too.
"""

import contextlib
import functools
import hashlib
import json
import os
import stat
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from foundation import successors
from foundation.errors import NotAsWritten
from foundation.files import read_json, write_json
from foundation.remedies import remedy

RECORD = "run.json"
"""The file of a run that holds the others' checksums, under `sha256`."""
INDEX = "index.json"
"""The file of an index over a KB that holds the others' checksums, under `files`, and says what it was made of."""
SEAL = "seal"
"""The key of a JSON file's own checksum, over all its other keys."""
SHARD = ".h5"
OTHER_BYTES = "has other bytes than were written (its checksum differs)"


def file_sha256(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes. Raises `OSError`."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def content(path: Path) -> str:
    """`file_sha256`, computed once in this process (see `share`) while the file has the same inode, size and times."""
    state = path.stat()
    return _content(path, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns)


@functools.lru_cache(maxsize=4096)
def _content(path: Path, *state: int) -> str:
    known = _FOUND.get([str(path), *state])
    if known is None:
        known = file_sha256(path)
        _FOUND.add([str(path), *state], known)
    return known


class _Found:
    """What processes that are forked from one have computed, as lines of JSON in a file without a name."""

    def __init__(self) -> None:
        self._file = -1
        self._read, self._known = 0, dict[str, str]()

    def open(self) -> None:
        if self._file < 0:
            with contextlib.suppress(OSError), tempfile.NamedTemporaryFile() as file:
                self._file = os.open(file.name, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)

    def get(self, key: list[str | int]) -> str | None:
        if self._file < 0:
            return None
        with contextlib.suppress(OSError):
            lines = os.pread(self._file, os.fstat(self._file).st_size - self._read, self._read)
            whole = lines[: lines.rfind(b"\n") + 1]
            self._read += len(whole)
            self._known |= {json.dumps(of): value for *of, value in map(json.loads, whole.splitlines())}
        return self._known.get(json.dumps(key))

    def add(self, key: list[str | int], value: str) -> None:
        if self._file >= 0:
            with contextlib.suppress(OSError):  # another process computes it again
                os.write(self._file, json.dumps([*key, value]).encode() + b"\n")


_FOUND = _Found()


def share() -> None:
    """From now on, what `content` finds in this process or one that is forked from it, all of these know."""
    _FOUND.open()


def checksums(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """Name → SHA-256 (hex) of a folder's files."""
    return {name: file_sha256(folder / name) for name in names}


def entry(root: Path, path: Path) -> dict[str, Any]:
    """A file as a sealed JSON file lists it: path relative to `root`, size in bytes, SHA-256 (hex) of its content.

    A shard has none: it may be large, and holds its own. One that was merged into another by now is listed as that.
    """
    if path.suffix == SHARD:
        place, size = successors.standing(path)
        inside = place.is_relative_to(root)  # else in a layer of the cache
        return {"path": (place.relative_to(root) if inside else place).as_posix(), "bytes": size}
    return {"path": path.relative_to(root).as_posix(), "bytes": path.stat().st_size, "sha256": content(path)}


def problem(root: Path, listed: Mapping[str, Any], most: int | None = None) -> str | None:
    """What is wrong with a file that `entry` lists, in words that follow its name; None: nothing.

    most: bytes of the largest file whose content is read; of larger ones only the size is compared. None: all are.
    """
    path = root / listed["path"]
    if os.path.isabs(listed["path"]) and not _in_layer(root / "cache", path):
        return "lies in no folder that the cache reads (--cache-path) any more"
    try:
        state = path.stat()
        if not stat.S_ISREG(state.st_mode):
            return "is a folder, not a file" if stat.S_ISDIR(state.st_mode) else "is no regular file"
        if state.st_size != listed["bytes"]:
            return f"has {state.st_size:,} bytes, {listed['bytes']:,} were written"
        if "sha256" not in listed or (most is not None and state.st_size > most):
            return None
        return None if content(path) == listed["sha256"] else OTHER_BYTES
    except (FileNotFoundError, NotADirectoryError):
        if path.suffix == SHARD and path.parent.is_dir() and successors.stands(path, listed["bytes"]):
            return None
        return "is a link that leads nowhere" if path.is_symlink() else "is gone"
    except OSError as error:
        return f"cannot be read ({(error.strerror or str(error)).lower()})"


def _in_layer(cache: Path, path: Path) -> bool:
    """Whether a shard lies in a folder that a cache reads beneath itself."""
    from foundation import layers  # which reads its list by what is here

    return path.parent.parent in layers.read(cache)


def sealed(value: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON object with its own checksum as the last key."""
    plain = {key: item for key, item in value.items() if key != SEAL}
    return {**plain, SEAL: _seal(json.loads(json.dumps(plain)))}


def _seal(plain: Mapping[str, Any]) -> str:
    """SHA-256 (hex) of the one canonical text of an object as JSON gives it back."""
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def write_sealed(path: Path, value: Mapping[str, Any], temporary: Path | None = None) -> None:
    """`write_json` of `sealed`."""
    write_json(path, sealed(value), temporary)


def unsealed(value: Any) -> dict[str, Any]:
    """The object that `sealed` gave, without its seal; one of before seals is taken as it is.

    Raises `ValueError` for any other.
    """
    if not isinstance(value, dict):
        raise ValueError("is no JSON object")
    plain = {key: item for key, item in value.items() if key != SEAL}
    found = value[SEAL] if SEAL in value else renamed_seal(value, _seal)
    if found is not None and found != _seal(plain):
        raise ValueError(OTHER_BYTES)
    return plain


def renamed_seal(value: Mapping[str, Any], seal: Callable[[dict[str, Any]], str]) -> str | None:
    """`damaged` where the last value is the checksum of all others, under a key that is none: the key has changed."""
    *others, last = list(value) or [""]
    return "damaged" if others and value[last] == seal({key: value[key] for key in others}) else None


def read_sealed(path: Path, remedy: Callable[[Path], str] = remedy) -> dict[str, Any]:
    """The object that `write_sealed` wrote, without its seal; one of before seals is taken as it is.

    remedy: says what mends it. Raises `NotAsWritten` for any other content, and where there is no such file.
    """
    try:
        return unsealed(read_json(path, remedy=remedy))
    except ValueError as error:
        raise NotAsWritten(f"{path} {error}; {remedy(path)}") from error


def remembered(path: Path) -> dict[str, Any]:
    """What `write_sealed` kept in a memo; nothing where it is gone or damaged: what it remembers is found out again."""
    try:
        return read_sealed(path, remedy=lambda _: "")
    except NotAsWritten:
        return {}


def changed(folder: Path, expected: Mapping[str, str]) -> list[str]:
    """Names of the files that are gone or have other bytes than when `checksums` gave `expected`."""
    there = [name for name in expected if (folder / name).is_file()]
    found = {name: content(folder / name) for name in there}
    return [name for name, value in expected.items() if found.get(name) != value]


def check_run(folder: Path, *names: str) -> None:
    """Raises `NotAsWritten` where one of a run's files is not what training wrote. Runs of before checksums pass."""
    expected = read_sealed(folder / RECORD).get("sha256", {}) if (folder / RECORD).exists() else {}
    for name in changed(folder, {name: expected[name] for name in names if name in expected}):
        what = OTHER_BYTES if (folder / name).is_file() else "is gone"
        raise NotAsWritten(f"{folder / name} {what}; {remedy(folder / name)}")

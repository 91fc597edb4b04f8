"""Indexes over a KB: folders that are built once, whole or not at all, and used by every process after that."""

import atexit
import contextlib
import os
import shutil
from collections.abc import Callable, Mapping
from glob import escape
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from foundation import logs
from foundation.checksums import INDEX, entry, problem, read_sealed, write_sealed
from foundation.errors import NotAsWritten, Unwritable
from foundation.files import explained, fault_point, make_folder, sync_folder
from foundation.locks import locked
from foundation.processes import temporary_name, writer_of

Build = Callable[[Path], Mapping[str, Any]]
"""Writes an index's files into a folder, and gives what its record should say beside `made_of`."""


def kept(place: Path | None, made_of: Mapping[str, Any], build: Build) -> tuple[Path, dict[str, Any]]:
    """The folder of an index and its record; built first where none lies at `place`, or one that is not as it was
    written. made_of: what names it.

    Of several processes that need it at once one builds, and a process that is killed leaves nothing at `place`. Where
    `place` is None or cannot be written, the index is built in a temporary folder of this process.
    """
    if place is None:
        return _temporary(made_of, build)
    record, fault = _examined(place)
    if record is not None:
        return place, record
    try:
        make_folder(place.parent)
        with locked(place.with_name(f".{place.name}.lock")):
            record, fault = _examined(place)
            if record is None:
                record = _made(place, fault, made_of, build)
        return place, record
    except Unwritable as error:
        logs.notice(f"{error}; the index is built for this command alone")
        return _temporary(made_of, build)


def there(place: Path | None) -> dict[str, Any] | None:
    """The record of the index that lies at `place`; None where there is none, or one that is not as it was written."""
    return None if place is None else _examined(place)[0]


def _examined(place: Path) -> tuple[dict[str, Any] | None, str | None]:
    """The record of the index at `place`, None where none can be used; and what is wrong with it."""
    if not os.path.lexists(place):
        return None, None
    try:
        record = read_sealed(place / INDEX, remedy=lambda _: "")
        wrong = [(file["path"], problem(place, file)) for file in record["files"]]
    except (NotAsWritten, KeyError, TypeError) as error:
        return None, f"has no whole {INDEX} ({str(error).removesuffix('; ').rpartition(': ')[2]})"
    faults = [f"{path} {words}" for path, words in wrong if words]
    return (None, f"is damaged: {faults[0]}") if faults else (record, None)


def _made(place: Path, fault: str | None, made_of: Mapping[str, Any], build: Build) -> dict[str, Any]:
    """Build the index beside its place, then give it its name."""
    _sweep(place)
    if fault:
        logs.notice(f"{place} {fault}; it is built again")
        _put_away(place)
    folder = temporary_name(place)
    with explained(place):
        try:
            record = _built(folder, made_of, build)
            fault_point("before-index")
            os.rename(folder, place)
        except OSError:
            if (found := _examined(place)[0]) is None:  # no other process was faster on a file system without locks
                raise
            record = found
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        sync_folder(place.parent)
    return record


def _built(folder: Path, made_of: Mapping[str, Any], build: Build) -> dict[str, Any]:
    folder.mkdir()
    record = {"made_of": dict(made_of), **build(folder)}
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock")
    for path in files:
        with open(path, "rb") as handle:
            os.fsync(handle.fileno())
    record["files"] = [entry(folder, path) for path in files]
    write_sealed(folder / INDEX, record)
    return record


def _temporary(made_of: Mapping[str, Any], build: Build) -> tuple[Path, dict[str, Any]]:
    root = Path(mkdtemp(prefix="mel-index-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    return root / "index", _built(root / "index", made_of, build)


def _sweep(place: Path) -> None:
    """Remove what killed processes left of this index."""
    for left in place.parent.glob(f".{escape(place.name)}.*.tmp"):
        writer = writer_of(left)
        if writer is not None and writer.alive() is False:
            shutil.rmtree(left, ignore_errors=True)


def _put_away(place: Path) -> None:
    """Remove an index, at once for every process that looks for it."""
    aside = temporary_name(place)
    with explained(place):
        os.rename(place, aside)
    with contextlib.suppress(OSError):
        aside.unlink() if not aside.is_dir() or aside.is_symlink() else shutil.rmtree(aside)

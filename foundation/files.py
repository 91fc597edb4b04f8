"""File operations that happen completely or not at all, and strict reading of JSON."""

import contextlib
import errno
import glob
import json
import os
import re
import shutil
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from foundation.errors import NotAsWritten, PassingError, Unwritable, UserError
from foundation.processes import temporary_name, writer_of

_FOR_THE_USER = {
    errno.ENOSPC: "no space left; free some or choose another {option}",
    errno.EDQUOT: "disk quota exceeded; free some space or choose another {option}",
    errno.EFBIG: "the file system, or `ulimit -f`, allows no file of that size; choose another {option}",
    errno.EEXIST: "a file of that name is in the way; remove it or choose another {option}",
    errno.EISDIR: "a folder of that name is in the way; remove it and run the same command again, or choose another "
    "{option}",
    errno.ENOTDIR: "a file stands where a folder is expected; remove it or choose another {option}",
    errno.EROFS: "the file system is read-only; choose another {option}",
    errno.EACCES: "permission denied; choose a {option} that can be written",
    errno.EPERM: "operation not permitted; choose a {option} that can be written",
}


def error_number(error: Exception) -> int | None:
    """The errno of an error. Libraries give it in their text alone: HDF5 `errno = 28`, those in Rust `os error 28`."""
    match = re.search(r"(?:errno = |\(os error )(\d+)", str(error))
    return int(match[1]) if match else getattr(error, "errno", None)


@contextlib.contextmanager
def explained(path: Path, option: str = "--work-dir") -> Iterator[None]:
    """Turn a failure to write `path` that only the user can mend (space, quota, permission) into `Unwritable`; others
    pass through. option: names the place."""
    try:
        yield
    except (UserError, PassingError):
        raise
    except Exception as error:
        remedy = _FOR_THE_USER.get(error_number(error) or 0)
        if remedy is None:
            raise
        raise Unwritable(f"cannot write {path}: {remedy.format(option=option)}") from error


def make_folder(path: Path) -> Path:
    """Create `path` and its parents. Raises `UserError` when it cannot be made."""
    in_the_way = next((place for place in (path, *path.parents) if os.path.lexists(place) and not place.is_dir()), None)
    if in_the_way is not None:
        raise UserError(
            f"cannot write into {path}: {in_the_way} stands where a folder is expected; remove it and run the same "
            "command again, or choose another --work-dir"
        )
    with explained(path):
        try:
            path.mkdir(parents=True, exist_ok=True)
        except FileNotFoundError as error:  # as below /proc
            raise UserError(f"cannot write {path}: no folder can be made there; choose another --work-dir") from error
    return path


def refuse_full(folder: Path) -> None:
    """Raises `UserError` unless a folder that is to be written is absent or empty."""
    if os.path.lexists(folder) and not (folder.is_dir() and not any(folder.iterdir())):
        raise UserError(f"{folder} is not empty; name a folder that does not exist yet")


def sync_folder(path: Path) -> None:
    """Flush a folder's entries, so that new names survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomic(path: Path, data: bytes | str, temporary: Path | None = None) -> None:
    """Replace `path` by `data`: a reader sees the old content or the new, never a part.

    temporary: the name to write under, in the same folder. What killed writers of the file have left is removed. Raises
    `UserError` for a full, read-only or forbidden place; nothing is left behind then.
    """
    with atomic(path, temporary) as handle:
        handle.write(data.encode() if isinstance(data, str) else data)


@contextlib.contextmanager
def atomic(path: Path, temporary: Path | None = None) -> Iterator[BinaryIO]:
    """A file to write to, which replaces `path` behind the block; see `write_atomic`."""
    path = Path(path)
    make_folder(path.parent)
    with explained(path):
        name = temporary or _swept_name(path)
        descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            with os.fdopen(descriptor, "wb") as handle:
                yield handle
                handle.flush()
                os.fsync(handle.fileno())
            os.replace(name, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(name)
            raise
        sync_folder(path.parent)


def _swept_name(path: Path) -> Path:
    """A name to write `path` under, after those of killed writers were removed."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        writer = writer_of(left)
        if writer is not None and writer.alive() is False:
            left.unlink(missing_ok=True)
    return temporary_name(path)


def write_json(path: Path, value: Any, temporary: Path | None = None) -> None:
    """`write_atomic` of indented JSON (UTF-8, no NaN)."""
    write_atomic(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n", temporary)


@contextlib.contextmanager
def together(*paths: Path) -> Iterator[None]:
    """Inside, several files of one folder are written. If one fails, the new ones are removed, and the folder if it is
    then empty."""
    new = [path for path in paths if not path.exists()]
    try:
        yield
    except BaseException:
        for path in new:
            with contextlib.suppress(OSError):
                path.unlink()
        with contextlib.suppress(OSError):
            paths[0].parent.rmdir()
        raise


def append(descriptor: int, data: bytes) -> int:
    """Write `data` durably at the end of a file opened for appending; returns where it begins.

    After an error the file ends where it did, also where some of the bytes had found space.
    """
    end, left = os.fstat(descriptor).st_size, memoryview(data)
    try:
        while left:
            left = left[os.write(descriptor, left) :]
        os.fsync(descriptor)
    except OSError:
        with contextlib.suppress(OSError):
            os.ftruncate(descriptor, end)
        raise
    return end


class _Repeated(Exception):
    pass


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _Repeated
    return found


_MARKS = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\]:]')


def _repeated(text: str) -> tuple[str, int]:
    """The first key that is given twice in one object of well-formed JSON, and where it stands the second time."""
    seen: list[set[str]] = []
    key, start = "", 0
    for mark in _MARKS.finditer(text):
        if mark[0] in "{[":
            seen.append(set())
        elif mark[0] in "}]":
            seen.pop()
        elif mark[0] == ":":
            if key in seen[-1]:
                return key, start
            seen[-1].add(key)
        else:
            key, start = json.loads(mark[0]), mark.start()
    raise ValueError("no key is given twice")


def parse_json(text: str, unique: bool = False) -> Any:
    """`json.loads`, but every refusal is a `json.JSONDecodeError`, also for numbers that are too long and objects
    nested too deeply.

    unique: a key given twice in one object is refused too, where `json.loads` would keep the last.
    """
    try:
        return json.loads(text, object_pairs_hook=_unique if unique else None)
    except json.JSONDecodeError:
        raise
    except _Repeated:
        key, place = _repeated(text)
        raise json.JSONDecodeError(f"key {key!r:.60} is given twice in one object", text, place) from None
    except RecursionError:
        raise json.JSONDecodeError("nested too deeply", text, 0) from None
    except ValueError:
        most = sys.get_int_max_str_digits()
        found = re.search(rf"[0-9]{{{most + 1},}}", text)
        raise json.JSONDecodeError(
            f"a number of more than {most:,} digits", text, found.start() if found else 0
        ) from None


def read_json(path: Path, unique: bool = False, remedy: Callable[[Path], str] | None = None) -> Any:
    """Parse a JSON file; see `parse_json`.

    remedy: says what mends a file that a command left; None: the file is the user's own. Raises `UserError` with line
    and column when it is malformed, or when it cannot be read; `NotAsWritten` with a remedy.
    """
    cause: Exception
    try:
        return parse_json(Path(path).read_text(encoding="utf-8").removeprefix("\ufeff"), unique)
    except FileNotFoundError as error:
        problem, mend, cause = ": no such file", "", error
    except UnicodeDecodeError as error:
        problem, mend, cause = f": not UTF-8 at byte {error.start}", "; save the file as UTF-8", error
    except json.JSONDecodeError as error:
        problem = f":{error.lineno}:{error.colno}: malformed JSON ({error.msg})"
        mend, cause = "; mend the file at that position", error
    except OSError as error:
        problem, mend, cause = f": {unreadable(error)}", "", error
    if remedy is None:
        raise UserError(f"{path}{problem}{mend}") from cause
    raise NotAsWritten(f"{path}{problem}; {remedy(Path(path))}") from cause


def unreadable(error: OSError) -> str:
    """Why a file cannot be read, for a message."""
    return {errno.EISDIR: "a folder, not a file", errno.ENOTDIR: "a file stands where its folder is expected"}.get(
        error.errno or 0, (error.strerror or str(error)).lower()
    )


MAX_LINE = 16 << 20
"""Bytes of a line, and characters of a text, that are read from a user's file."""


_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def bounded_lines(handle: BinaryIO, most: int) -> Iterator[tuple[int, bytes, int]]:
    """(number from 1, the first `most` + 1 bytes, bytes read so far) of each line; no byte order mark.

    A line of which `most` + 1 bytes are there is longer than `most`.
    """
    number, size, mark = 0, 0, _BYTE_ORDER_MARK
    while raw := handle.readline(most + 1 + len(mark)):
        number, size = number + 1, size + len(raw)
        rest = raw
        while len(rest) > most and not rest.endswith(b"\n"):
            rest = handle.readline(most + 1)
            size += len(rest)
        yield number, raw.removeprefix(mark)[: most + 1], size
        mark = b""


def read_lines(path: Path, refuse: Callable[[UserError], None] | None = None) -> Iterator[tuple[int, str]]:
    """(number from 1, line without its end) of a UTF-8 file.

    refuse: called for each line that holds other bytes, or more than `MAX_LINE`, which is then left out; None: a
    `UserError` is raised.
    """
    with open(path, "rb") as handle:
        for number, raw, _ in bounded_lines(handle, MAX_LINE):
            try:
                line = _line(raw, f"{path}:{number}")
            except UserError as error:
                if refuse is None:
                    raise
                refuse(error)
                continue
            yield number, line


def _line(raw: bytes, where: str) -> str:
    if len(raw) > MAX_LINE:
        raise UserError(f"{where}: longer than {MAX_LINE:,} bytes; shorten or remove the record")
    try:
        return raw.decode().rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: not UTF-8 at byte {error.start} of the line; save the file as UTF-8") from error


def link_new(temporary: Path, final: Path) -> bool:
    """Give `temporary` its `final` name without replacing a file that has it; the temporary name is gone afterwards.

    Returns False when `final` already existed (its content is left alone). Falls back to an exclusive rename protocol
    where the file system knows no hard links.
    """
    with explained(final):
        try:
            os.link(temporary, final)
            made = True
        except FileExistsError:
            made = False
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK):
                raise
            made = not final.exists()
            if made:
                os.replace(temporary, final)
                sync_folder(final.parent)
                return True
        os.unlink(temporary)
        sync_folder(final.parent)
        return made


_passed: Counter[str] = Counter()


def fault_point(name: str) -> None:
    """Test aid: kill this process (SIGKILL) if the environment variable `MEL_FAULT` names this point, as `name` or
    `name:n` (n-th passing).

    Points: `before-write`, `mid-write`, `before-link`, `after-link` of a shard, `merge-written`, `merge-remove` of the
    merging of shards, `after-answer` of a wiki or language model, `kb-noted` of the pass over a dump, `before-receipt`
    of a task. Without the variable nothing happens.
    """
    wanted, _, passing = os.environ.get("MEL_FAULT", "").partition(":")
    if wanted == name:
        _passed[name] += 1
        if _passed[name] == int(passing or 1):
            os.kill(os.getpid(), signal.SIGKILL)


def free_bytes(path: Path) -> int:
    """Free bytes on the file system of `path` or of its nearest existing parent."""
    path = Path(path).absolute()
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


def inside(root: Path, relative: str) -> Path:
    """`root / relative`, proven to stay under `root` after symbolic links are resolved.

    Raises `UserError` for absolute paths, `..`, NUL bytes and links that lead out.
    """
    if "\0" in relative or os.path.isabs(relative) or "\\" in relative or ".." in Path(relative).parts:
        raise UserError(f"path {relative!r} leaves the folder {root}; only paths relative to that folder are read")
    path = Path(root) / relative
    base = os.path.realpath(root)
    if os.path.commonpath([base, os.path.realpath(path)]) != base:
        raise UserError(
            f"path {relative!r} leaves the folder {root} through a symbolic link; copy the file into the folder"
        )
    return path

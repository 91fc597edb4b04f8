"""Files that a user names for a command to write: refused before any work, written by one command at a time."""

import contextlib
import fcntl
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from foundation.errors import UserError
from foundation.files import explained, sync_folder

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
}
_LONGEST = 255  # bytes of a file's name


def check_output(path: Path, option: str, beside: Sequence[str] = ()) -> Path:
    """The file that `option` names, links followed, where it can be written.

    beside: endings of files that are written beside it. Raises `UserError` for a folder, a device or a pipe, where
    there is no such folder or it cannot be written, and for a name too long for the temporary files.
    """
    place = Path(os.path.realpath(path))
    for each in (place, *(place.with_name(place.name + ending) for ending in beside)):
        try:
            kind = stat.S_IFMT(os.stat(each).st_mode)
        except FileNotFoundError:
            continue
        except NotADirectoryError:
            raise UserError(f"{option} {path}: {place.parent} is a file; name a file in a folder") from None
        except OSError as error:
            raise UserError(f"{option} {path}: {error.strerror}; name another file") from error
        if kind != stat.S_IFREG:
            raise UserError(f"{option} {path}: {each} is {_KINDS.get(kind, 'no file')}; name a file to write")
    if not place.parent.is_dir():
        raise UserError(f"{option}: there is no folder {place.parent}; create it, or name another")
    if not os.access(place.parent, os.W_OK | os.X_OK):
        raise UserError(f"{option} {path}: the folder {place.parent} cannot be written; name another file")
    if len(os.fsencode(_part(place.name + max(beside, key=len, default="")))) > _LONGEST:
        raise UserError(f"{option} {path}: the name is too long; name a shorter one")
    return place


@contextlib.contextmanager
def writing(paths: Sequence[Path], option: str) -> Iterator[list[IO[str]]]:
    """Text files (UTF-8) under temporary names, which get the names `paths` when the body has ended without an error.

    One that nothing was written to is not left, nor is an older one of its name, the first excepted. After an error
    nothing is left, and what was there before stays. Raises `UserError` where another process writes them.
    """
    parts = [path.with_name(_part(path.name)) for path in paths]
    with contextlib.ExitStack() as opened:
        handles: list[IO[str]] = []
        try:
            for part, path in zip(parts, paths, strict=True):
                handles.append(opened.enter_context(_taken(part, path, option)))
            yield handles
            with explained(paths[0], option):
                for handle in handles:
                    handle.flush()
                    os.fsync(handle.fileno())
                empty = [not handle.tell() and at > 0 for at, handle in enumerate(handles)]
                for part, path, left_out in reversed(list(zip(parts, paths, empty, strict=True))):
                    if left_out:
                        part.unlink()
                        path.unlink(missing_ok=True)
                    else:
                        os.replace(part, path)
                sync_folder(paths[0].parent)
        except BaseException:
            for part, handle in zip(parts, handles, strict=False):
                if _is_at(part, handle.fileno()):  # another command may have begun one where this is done
                    part.unlink(missing_ok=True)
            raise


def _part(name: str) -> str:
    """The temporary name of a file."""
    return f".{name}.part"


def _taken(part: Path, path: Path, option: str) -> IO[str]:
    """A new file at `part`, locked by this process. One that a killed process left is replaced; a link is not followed.

    Raises `UserError` where another process has it.
    """
    busy = UserError(f"{option} {path}: another command is writing it; wait for it, or name another file")
    while True:
        try:
            with explained(path, option):
                descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        except UserError:
            if not os.path.lexists(part):
                raise
            _remove_left(part, busy)
            continue
        handle = open(descriptor, "w", encoding="utf-8")  # noqa: SIM115  # closed by the caller
        with contextlib.suppress(OSError):  # a file system without locks
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                handle.close()
                raise busy from None
        if _is_at(part, handle.fileno()):
            return handle
        handle.close()  # taken for one that was left, and removed, before it was locked


def _is_at(part: Path, descriptor: int) -> bool:
    """Whether the open file is the one at this name."""
    try:
        return os.path.samestat(os.stat(part, follow_symlinks=False), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _remove_left(part: Path, busy: UserError) -> None:
    """Remove what stands at a temporary name, unless a process holds its lock: `busy` is raised then."""
    try:
        descriptor = os.open(part, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return
    except OSError as error:  # a link, a folder, somebody else's file
        raise UserError(f"{part}: stands where a temporary file is written; remove it") from error
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise UserError(f"{part}: stands where a temporary file is written; remove it")
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise busy from None
        except OSError as error:
            raise UserError(
                f"{part}: another command is writing it, or one was killed (this file system has no locks to tell); "
                "wait for it, or remove the file"
            ) from error
        if _is_at(part, descriptor):
            part.unlink(missing_ok=True)
    finally:
        os.close(descriptor)

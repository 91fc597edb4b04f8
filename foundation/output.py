"""Files that a user names for a command to write: refused before any work, written by one command at a time."""

import contextlib
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from foundation.errors import UserError
from foundation.files import explained, sync_folder
from foundation.locks import is_at, try_lock

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


class PartFile:
    """A text file (UTF-8) that has a temporary name while it is written, and that this process has locked."""

    def __init__(self, path: Path, option: str) -> None:
        """Raises `UserError` where another process writes it, or something that is no leftover stands in the way."""
        self.path, self._option, self._part = path, option, path.with_name(_part(path.name))
        self._handle = self._taken()

    def write(self, text: str) -> None:
        """Raises `UserError` where the disk is full."""
        with explained(self.path, self._option):
            self._handle.write(text)

    def flush(self) -> None:
        """Have everything on the disk. Raises `UserError` where it is full."""
        with explained(self.path, self._option):
            self._handle.flush()
            os.fsync(self._handle.fileno())

    def finish(self, even_empty: bool) -> None:
        """Give the file its name; one that nothing was written to is left out, with an older one of its name."""
        with explained(self.path, self._option):
            if even_empty or self._handle.tell():
                os.replace(self._part, self.path)
            else:
                self._part.unlink()
                self.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Release the file; one that has not got its name is removed."""
        if is_at(self._part, self._handle.fileno()):  # not another command's, which may have begun where this is done
            self._part.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # it writes what a full disk had no room for once more
            self._handle.close()

    def _taken(self) -> IO[str]:
        busy = UserError(
            f"{self._option} {self.path}: another command is writing it; wait for it, or name another file"
        )
        while True:
            with explained(self.path, self._option):
                try:
                    descriptor = os.open(self._part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
                except FileExistsError:
                    _remove_left(self._part, busy)
                    continue
            free = try_lock(descriptor)
            if free is not False and is_at(self._part, descriptor):
                return open(descriptor, "w", encoding="utf-8")
            os.close(descriptor)  # another process took it for one that was left, before it was locked
            if free is False:
                raise busy


@contextlib.contextmanager
def writing(paths: Sequence[Path], option: str) -> Iterator[list[PartFile]]:
    """Files under temporary names, which get the names `paths` when the body has ended without an error.

    One that nothing was written to is not left, nor is an older one of its name, the first excepted. After an error
    nothing is left, and what was there before stays. Raises `UserError` where another process writes them, and where
    the disk is full.
    """
    with contextlib.ExitStack() as opened:
        parts = []
        for path in paths:
            parts.append(PartFile(path, option))
            opened.callback(parts[-1].close)
        yield parts
        for part in parts:
            part.flush()
        for part in reversed(parts):
            part.finish(even_empty=part is parts[0])
        sync_folder(paths[0].parent)


def _part(name: str) -> str:
    """The temporary name of a file."""
    return f".{name}.part"


def _remove_left(part: Path, busy: UserError) -> None:
    """Remove what stands at a temporary name, unless a process holds its lock: `busy` is raised then."""
    in_the_way = UserError(f"{part}: stands where a temporary file is written; remove it")
    try:
        descriptor = os.open(part, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return
    except OSError as error:  # a link, a folder, somebody else's file
        raise in_the_way from error
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise in_the_way
        free = try_lock(descriptor)
        if free is None:
            raise UserError(
                f"{part}: another command is writing it, or one was killed (this file system has no locks to tell); "
                "wait for it, or remove the file"
            )
        if not free:
            raise busy
        if is_at(part, descriptor):
            part.unlink(missing_ok=True)
    finally:
        os.close(descriptor)

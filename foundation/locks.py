"""Locks on files, which the system releases when their holder dies. A holder signs its lock, so that others can say who
it is."""

import contextlib
import fcntl
import json
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from foundation.errors import UserError
from foundation.files import explained
from foundation.processes import Holder
from foundation.waiting import Wait, say

_SIGNATURE = 4096  # bytes of a lock file that are read


@dataclass(frozen=True)
class Lock:
    """A lock that was taken. descriptor: of the open file at `path`. exclusive: not on a file system without locks."""

    path: Path
    descriptor: int
    exclusive: bool

    @property
    def held(self) -> bool:
        """Whether it is still ours: false once another process has taken it over because this one was stopped."""
        return is_at(self.path, self.descriptor)

    def release(self) -> None:
        with contextlib.suppress(OSError):
            if _holder(self.descriptor):
                os.ftruncate(self.descriptor, 0)
        os.close(self.descriptor)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[Lock]:
    """Inside, hold an exclusive lock on the file `path`, see `acquire`."""
    lock = acquire(path)
    try:
        yield lock
    finally:
        lock.release()


def acquire(path: Path) -> Lock:
    """Lock the file `path`, created if necessary, exclusively; waits for another holder, and says so after a while.

    A holder on this machine that stays stopped is passed over: `Lock.held` tells it so when it continues. On a file
    system without locks, nothing is waited for; callers stay correct, but may repeat work. Raises `UserError` where the
    file cannot be made, or something else stands at its name.
    """
    wait = Wait()
    while True:
        descriptor = _open(path)
        try:
            free = try_lock(descriptor)
            if free is not False and is_at(path, descriptor):  # else its holder removed it in the meantime
                if free:
                    _sign(descriptor)
                lock, descriptor = Lock(path, descriptor, exclusive=free is True), -1
                return lock
            holder = _holder(descriptor)
            if free is False and wait.is_long and holder and holder.process.stopped() and _put_aside(path, descriptor):
                say(f"{path}: held by {holder}; this command goes on without it")
        finally:
            if descriptor >= 0:
                os.close(descriptor)
        wait.pause(partial(_waited_for, path, holder))


def _waited_for(path: Path, holder: Holder | None) -> str:
    by = holder or "a process that did not say which"
    return f"{path}: held by {by}; this command goes on when that one is done, or has been ended"


def try_lock(descriptor: int) -> bool | None:
    """Lock an open file exclusively. False where another process has it, None on a file system without locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def is_at(path: Path, descriptor: int) -> bool:
    """Whether the open file is the one at this name, no link followed."""
    try:
        return os.path.samestat(os.stat(path, follow_symlinks=False), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _open(path: Path) -> int:
    with explained(path):
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
            if stat.S_ISREG(os.fstat(descriptor).st_mode):
                return descriptor
            os.close(descriptor)
        except OSError:
            if not os.path.lexists(path) or stat.S_ISREG(os.lstat(path).st_mode):
                raise
    raise UserError(f"{path}: a file is expected there, which processes lock; found something else; remove it")


def _holder(descriptor: int) -> Holder | None:
    """Who has signed a lock's file."""
    try:
        return Holder.of_json(json.loads(os.pread(descriptor, _SIGNATURE, 0)))
    except (OSError, ValueError, RecursionError):
        return None


def _sign(descriptor: int) -> None:
    """Write who holds the lock. Not into a file that holds something else, nor where there is no space."""
    with contextlib.suppress(OSError):
        if not os.fstat(descriptor).st_size or _holder(descriptor):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps(Holder.this().to_json()).encode(), 0)


def _put_aside(path: Path, descriptor: int) -> bool:
    """Remove the file of a stopped holder from its name, so that others lock a new one. False where another process
    does it, or nothing can keep two from doing it at once."""
    with contextlib.suppress(OSError):
        folder = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
        try:
            if try_lock(folder) and is_at(path, descriptor):
                os.unlink(path)
                return True
        finally:
            os.close(folder)
    return False

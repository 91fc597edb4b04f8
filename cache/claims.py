"""Which process works on what in a store: claims that expire, and leftovers of killed writers."""

import contextlib
import json
import os
import secrets
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from foundation import waiting
from foundation.files import explained, link_new, make_folder
from foundation.locks import locked
from foundation.processes import Holder, moment, temporary_name, writer_of

TTL = 600.0  # seconds without a sign of life after which a claim is stale
# seconds after which a temporary file of a writer on another machine counts as left behind
UNKNOWN_AGE = 3600.0
AHEAD = 5.0  # seconds that a claim's time may be ahead of the file system's clock; some count in steps of two seconds


def leftovers(folder: Path) -> list[Path]:
    """Temporary files in `folder` whose writer is dead, or is on another machine and has not written for an hour; never
    those of a live writer."""
    found = []
    for path in sorted(Path(folder).glob(".*.tmp")):
        writer = writer_of(path)
        alive = writer.alive() if writer is not None else None
        with contextlib.suppress(FileNotFoundError):
            if alive is False or (alive is None and time.time() - path.stat().st_mtime > UNKNOWN_AGE):
                found.append(path)
    return found


class Claim:
    """The right to do one piece of work, held until released; a thread keeps it fresh. Use as a context manager."""

    def __init__(self, path: Path, token: str, ttl: float) -> None:
        self.path = path
        self._token, self._owner = token, os.getpid()
        self._released = threading.Event()
        threading.Thread(target=self._keep_fresh, args=(ttl / 4,), name=f"claim {path.name}", daemon=True).start()

    @property
    def held(self) -> bool:
        """Whether it is still ours: false after release, and after another process took it over because this one slept
        past the limit."""
        return not self._released.is_set() and _content(self.path).get("token") == self._token

    def release(self) -> None:
        """Release the claim. A second call, or one in a forked child, does nothing."""
        if self._released.is_set() or os.getpid() != self._owner:
            return
        with contextlib.suppress(FileNotFoundError), locked(self.path.parent / ".lock"):
            if self.held:
                self.path.unlink(missing_ok=True)
        self._released.set()

    def _keep_fresh(self, interval: float) -> None:
        while not self._released.wait(interval) and self.held:
            with contextlib.suppress(OSError):
                os.utime(self.path)

    def __enter__(self) -> "Claim":
        return self

    def __exit__(self, *error: object) -> None:
        self.release()


def take(folder: Path, name: str, ttl: float) -> Claim | None:
    """Claim `name`; None while someone else holds it.

    A claim is stale when its process is dead or stays stopped, or when nobody has refreshed it for `ttl` seconds by the
    file system's own clock. It is taken over under a lock on the folder, so that one of several takers wins. Raises
    `UserError` where the folder cannot be written.
    """
    path, token = folder / name, secrets.token_hex(8)
    with _held(folder), explained(path):
        if path.exists() and not _stale(path, ttl):
            return None
        temporary = temporary_name(path)
        try:
            temporary.write_text(json.dumps({**Holder.this().to_json(), "token": token}))
            path.unlink(missing_ok=True)
            return Claim(path, token, ttl) if link_new(temporary, path) else None
        finally:
            temporary.unlink(missing_ok=True)


def described(path: Path, ttl: float = TTL) -> str:
    """Who holds a claim, and when it ends, for a process that waits: `… is held by process 123 on HOST since …`."""
    try:
        sign = f", last sign of life {moment(path.stat().st_mtime)}"
    except OSError:
        sign = ""
    holder = Holder.of_json(_content(path)) or "a process that did not say which"
    return (
        f"{path}: held by {holder}{sign}; taken over {ttl:g} s after its last sign of life, at once where the process "
        "is known to have ended; if it has ended elsewhere, delete that file"
    )


def live(folder: Path, ttl: float = TTL) -> list[Path]:
    """Claims in `folder` that are not stale, by name."""
    if not Path(folder).is_dir():
        return []
    with locked(folder / ".lock"):
        return _fresh(folder, ttl)


def clear(folder: Path) -> None:
    """Remove the claims of processes that are known to be dead."""
    with _held(folder):
        for path in folder.glob("*.claim"):
            holder = Holder.of_json(_content(path))
            if holder is not None and holder.process.alive() is False:
                path.unlink(missing_ok=True)


@contextlib.contextmanager
def idle(folder: Path, ttl: float = TTL) -> Iterator[bool]:
    """Whether nobody holds a claim in `folder`; inside, nobody takes one there, and the folder may be removed."""
    with _held(folder):
        yield not _fresh(folder, ttl)


@contextlib.contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Inside, hold the lock on `folder`, which is created if it does not exist."""
    with contextlib.ExitStack() as stack:
        while True:
            make_folder(folder)
            try:
                stack.enter_context(locked(folder / ".lock"))
                break
            except FileNotFoundError:
                continue  # removed between the two, see `idle`
        yield


def _fresh(folder: Path, ttl: float) -> list[Path]:
    return [path for path in sorted(folder.glob("*.claim")) if not _stale(path, ttl)]


def _stale(path: Path, ttl: float) -> bool:
    """Whether a claim falls to who asks: nobody refreshed it for `ttl` seconds, or its process is dead or stopped.

    One that is dated ahead, by a clock that was put right since, is dated now, so that its age counts from here.
    """
    lock = path.parent / ".lock"
    os.utime(lock)  # stamped by the file server: its clock, not this machine's, also stamps the claim
    try:
        age = lock.stat().st_mtime - path.stat().st_mtime
    except FileNotFoundError:
        return True
    if age < -AHEAD:
        with contextlib.suppress(OSError):
            os.utime(path)
    holder = Holder.of_json(_content(path))
    if holder is None or age > ttl:
        return age > ttl
    return holder.process.alive() is False or (age > waiting.PATIENCE and holder.process.stopped())


def _content(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}

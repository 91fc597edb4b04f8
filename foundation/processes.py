"""Processes that others wait for: which one holds something, since when, and whether it still runs."""

import functools
import hashlib
import os
import secrets
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Process:
    """A process, distinct from a later one with the same number.

    started: clock ticks since boot, empty where the system does not say.
    """

    host: str
    pid: int
    started: str

    @classmethod
    def this(cls) -> "Process":
        return cls(_host(), os.getpid(), _stat(os.getpid())[1] or "")

    def alive(self) -> bool | None:
        """None where it cannot be known: the process is on another machine, or in another container."""
        if self.host != _host():
            return None
        if self.pid < 1:
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except (OSError, OverflowError):
            pass  # there, but another user's
        started = _stat(self.pid)[1]
        return started is not None and (started == self.started or "" in (started, self.started))

    def stopped(self) -> bool:
        """Whether it is known to be alive and stopped: by Ctrl-Z, SIGSTOP or a scheduler."""
        return self.alive() is True and _stat(self.pid)[0] in ("T", "t")


@dataclass(frozen=True)
class Holder:
    """How a process signs what it holds. machine: its host's name. since: seconds since the epoch, by its clock."""

    process: Process
    machine: str
    since: float | None

    @classmethod
    def this(cls) -> "Holder":
        return cls(Process.this(), socket.gethostname(), time.time())

    def to_json(self) -> dict[str, Any]:
        return {**vars(self.process), "machine": self.machine, "since": self.since}

    @classmethod
    def of_json(cls, content: Any) -> "Holder | None":
        """None for what is no signature."""
        if not isinstance(content, Mapping):
            return None
        try:
            process = Process(str(content["host"]), int(content["pid"]), str(content["started"]))
        except (KeyError, TypeError, ValueError, OverflowError):
            return None
        since = content.get("since")
        if not isinstance(since, (int, float)) or not 0 < since < 1 << 40:
            since = None
        return cls(process, str(content.get("machine") or process.host), since)

    def __str__(self) -> str:
        """`process 123 on HOST since 2026-01-31 10:12:03`."""
        since = "" if self.since is None else f" since {moment(self.since)}"
        stopped = ", which is stopped" if self.process.stopped() else ""
        return f"process {self.process.pid} on {self.machine}{since}{stopped}"


def temporary_name(final: Path) -> Path:
    """A new hidden name in the folder of `final` that says who writes it: `.NAME.HOST-PID-STARTED-RANDOM.tmp`."""
    me = Process.this()
    return final.with_name(f".{final.name}.{me.host}-{me.pid}-{me.started}-{secrets.token_hex(4)}.tmp")


def writer_of(temporary: Path) -> Process | None:
    """Who writes a file under a `temporary_name`; None for other names."""
    parts = temporary.name.split(".")[-2].split("-")
    return Process(parts[0], int(parts[1]), parts[2]) if len(parts) == 4 and parts[1].isdigit() else None


def moment(seconds: float) -> str:
    """A time since the epoch as date and time here."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


@functools.cache
def _host() -> str:
    """8 hex digits for this machine and its process numbering: containers may share a host name, but not process
    numbers."""
    try:
        numbering = os.readlink("/proc/self/ns/pid")
    except OSError:
        numbering = ""
    return hashlib.sha256(f"{socket.gethostname()} {numbering}".encode()).hexdigest()[:8]


def _stat(pid: int) -> tuple[str, str | None]:
    """State and start time of a process as /proc gives them.

    Both are empty where it does not say; the start time is None for one that has ended and waits for its parent to
    notice.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return "", ""
    return fields[0], None if fields[0] in "ZX" else fields[19]

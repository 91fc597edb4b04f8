"""Runs a function on bytes in child processes, which are ended where they take too long or too much memory."""

import contextlib
import importlib
import json
import multiprocessing
import queue
import resource
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from foundation.child import follow_parent
from foundation.errors import PassingError

Work = Callable[[Any, bytes], tuple[Any, bytes]]
"""Takes a JSON value and bytes, and gives the same. Called in a process of its own."""

_START = 120  # seconds for a process to import what it needs
_ANSWER = 1 << 28  # bytes of an answer at most
_GROWN = 256 << 20  # bytes that a process may keep beside its own and still be asked again


class Exceeded(Exception):
    """The work took more than it may, or its process ended. The message is a short text."""


class Busy(PassingError):
    """All processes are at work, and stayed so."""


@dataclass(frozen=True)
class Bounds:
    """seconds: that a call may take. memory: bytes that it may need. wait: seconds until a process is free."""

    seconds: float
    memory: int
    wait: float


class Confined:
    """Calls of `target` ("package.module:function", a `Work`) in at most `processes` processes, each in one at a time.

    Processes start when they are first needed, and live on for further calls. Thread-safe. Nothing that comes back is
    unpickled: a process that was taken over by its input can only answer wrongly.
    """

    def __init__(self, target: str, processes: int, bounds: Bounds) -> None:
        self.target, self.bounds = target, bounds
        self._idle: queue.LifoQueue[_Process | None] = queue.LifoQueue()
        for _ in range(processes):
            self._idle.put(None)

    def __call__(self, job: Any, data: bytes, seconds: float | None = None) -> tuple[Any, bytes]:
        """What the function gives for a JSON value and bytes.

        seconds: less time than the bounds allow. Raises `Exceeded` where it needs more than it may, and `Busy`.
        """
        most = self.bounds.seconds if seconds is None else min(seconds, self.bounds.seconds)
        if most <= 0:
            raise Exceeded("no time is left for it")
        try:
            process = self._idle.get(timeout=self.bounds.wait if seconds is None else min(seconds, self.bounds.wait))
        except queue.Empty:
            raise Busy("others are being answered; try again in a while") from None
        try:
            process = process or _Process(self.target, self.bounds.memory)
            answer, out, is_last = process.ask(job, data, most)
        except BaseException:
            is_last = True
            raise
        else:
            return answer, out
        finally:
            if process and is_last:
                process.end()
            self._idle.put(None if is_last else process)

    def close(self) -> None:
        """End the processes that are idle."""
        while not self._idle.empty():
            if process := self._idle.get():
                process.end()


class _Process:
    def __init__(self, target: str, memory: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(target, memory, theirs), daemon=True)
        self.process.start()
        theirs.close()
        try:
            with self._within(_START) as late:
                self.connection.recv_bytes(_ANSWER)
            if late.is_set():
                raise Exceeded(f"takes longer than {_START:g} s")
        except BaseException:
            self.end()
            raise

    def ask(self, job: Any, data: bytes, seconds: float) -> tuple[Any, bytes, bool]:
        """The function's answer, and whether the process ends after it."""
        with self._within(seconds) as late:
            self.connection.send_bytes(json.dumps(job).encode())
            self.connection.send_bytes(data)
            state = json.loads(self.connection.recv_bytes(_ANSWER))
            out = self.connection.recv_bytes(_ANSWER) if "answer" in state else b""
        if "answer" not in state:
            raise Exceeded("takes more memory than it may")
        return state["answer"], out, state["last"] or late.is_set()

    @contextlib.contextmanager
    def _within(self, seconds: float) -> Iterator[threading.Event]:
        """Inside, what is sent and received ends with the process after `seconds`, also amid a message. Yields whether
        it did, which is certain afterwards: the time can also be over just behind the last byte."""
        late = threading.Event()

        def end() -> None:
            late.set()
            self.process.kill()

        timer = threading.Timer(max(0.0, seconds), end)
        timer.daemon = True
        timer.start()
        try:
            yield late
        except (EOFError, OSError):
            raise Exceeded(f"takes longer than {seconds:g} s" if late.is_set() else "ends its process") from None
        finally:
            timer.cancel()
            timer.join()

    def end(self) -> None:
        self.process.kill()
        self.process.join()
        self.connection.close()


def _serve(target: str, memory: int, connection: Connection) -> None:
    """Answer calls until the connection is closed."""
    follow_parent()
    module, _, name = target.partition(":")
    function: Work = getattr(importlib.import_module(module), name)
    space, own = _held()
    if space:
        _limit(space + memory)
    connection.send_bytes(b"ready")
    while True:
        try:
            job, data = json.loads(connection.recv_bytes()), connection.recv_bytes()
        except EOFError:
            return
        try:
            answer, out = function(job, data)
        except MemoryError:
            connection.send_bytes(b"{}")
            return
        state = {"answer": answer, "last": _held()[1] > own + _GROWN}  # freed memory may stay with the process
        connection.send_bytes(json.dumps(state).encode())
        connection.send_bytes(out)


def _held() -> tuple[int, int]:
    """Bytes of address space, and of memory, that this process has; zeros where the system does not tell."""
    try:
        with open("/proc/self/statm") as handle:
            virtual, resident, *_ = map(int, handle.read().split())
    except OSError:
        return 0, 0
    return virtual * resource.getpagesize(), resident * resource.getpagesize()


def _limit(most: int) -> None:
    """Let this process have so many bytes of address space, where the system can refuse more."""
    with contextlib.suppress(OSError, ValueError):
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))

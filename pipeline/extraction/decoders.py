"""Pictures prepared in processes of their own, whose results come through shared memory.

Threads of one process wait for each other at Python's lock once there are many of them.
"""

import contextlib
import mmap
import multiprocessing
import os
import pickle
import queue
import signal
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import reduction
from multiprocessing.connection import Connection
from typing import Any

from foundation.budget import ByteBudget
from foundation.errors import PassingError, UserError
from pipeline.datasets import images

GROUP = 8  # pictures that a process prepares at a time
BLOCK = 32 << 20  # bytes of results that come through shared memory; larger ones come through a pipe
TRIES = 2  # times that a group is given to a process; the pictures of one that ends each time are undone


class _Large(Exception):
    """A picture that this process alone may not decode; the one that started it does."""


class _Share(ByteBudget):
    """A process's share of the memory for decoding."""

    @contextlib.contextmanager
    def holding(self, size: int) -> Iterator[None]:
        if size > self.limit:
            raise _Large
        yield


class Decoders:
    """Processes that do `work` on pictures; results and errors are those of `work`. Use as a context manager.

    work: is pickled. To be called from as many threads as there are processes; one that is killed is started again.
    """

    def __init__(self, work: Callable[[Any], Any], count: int) -> None:
        self.count, self._work = count, work
        self._free: queue.SimpleQueue[_Process] = queue.SimpleQueue()
        share = images.DECODING.limit // count
        self._all = [_Process(work, share) for _ in range(count)]
        for process in self._all:
            self._free.put(process)

    def __call__(self, sources: Sequence[Any]) -> list[Any]:
        """The results for some pictures, in order."""
        process = self._free.get()
        try:
            for _ in range(TRIES):
                try:
                    found = process.prepared(sources)
                    break
                except (EOFError, OSError):
                    process.start()
            else:
                if len(sources) == 1:
                    return [PassingError("the process that decoded it was killed")]
                found = None
        finally:
            self._free.put(process)
        if found is None:  # one of them is to blame
            return [result for source in sources for result in self([source])]
        if isinstance(found, Exception):
            raise found
        return [
            self._work(source) if result is _LARGE else result for source, result in zip(sources, found, strict=True)
        ]

    @property
    def pids(self) -> list[int]:
        """The numbers of the processes."""
        return [process.pid for process in self._all]

    def __enter__(self) -> "Decoders":
        return self

    def __exit__(self, *error: object) -> None:
        for process in self._all:
            process.end()


class _LargeMark:
    """In the place of a picture's result, see `_Large`."""

    def __reduce__(self) -> str:
        return "_LARGE"


_LARGE = _LargeMark()


class _Process:
    """One process, and the memory that it shares with this one."""

    def __init__(self, work: Callable[[Any], Any], share: int) -> None:
        self._work, self._share = work, share
        self._process: multiprocessing.process.BaseProcess | None = None
        self.start()

    def start(self) -> None:
        """Start the process, in place of one that has ended."""
        self.end()
        context = multiprocessing.get_context("spawn")
        descriptor = os.memfd_create("mel-decoder") if hasattr(os, "memfd_create") else -1
        self._memory: mmap.mmap | None = None
        passed = None
        if descriptor >= 0:
            os.ftruncate(descriptor, BLOCK)
            self._memory = mmap.mmap(descriptor, BLOCK)
            passed = descriptor
        self._connection, theirs = context.Pipe()
        self._is_ready = False
        arguments = (self._work, theirs, None if passed is None else _Descriptor(passed), self._share)
        self._process = context.Process(target=_serve, args=arguments, daemon=True)
        try:
            self._process.start()
        finally:
            theirs.close()
            if descriptor >= 0:
                os.close(descriptor)

    def prepared(self, sources: Sequence[Any]) -> list[Any] | Exception:
        """The process's results. Raises `EOFError` or `OSError` where it has ended, `UserError` where it could not
        begin."""
        if not self._is_ready:
            try:
                self._connection.recv_bytes()
            except (EOFError, OSError):
                raise UserError(
                    "--decoders: a process ended before it could decode anything; leave the option out"
                ) from None
            self._is_ready = True
        self._connection.send_bytes(pickle.dumps(sources, 5))
        lengths, data = pickle.loads(self._connection.recv_bytes())
        buffers, start = [], 0
        for length in lengths:
            assert self._memory is not None
            buffers.append(bytearray(memoryview(self._memory)[start : start + length]))
            start += length
        found: list[Any] | Exception = pickle.loads(data, buffers=buffers)
        return found

    @property
    def pid(self) -> int:
        assert self._process is not None and self._process.pid is not None
        return self._process.pid

    def end(self) -> None:
        """End the process."""
        if self._process is not None:
            self._connection.close()
            self._process.kill()
            self._process.join()
            self._process = None


class _Descriptor:
    """An open file that is given to a process when it is started."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def __reduce__(self) -> tuple[Any, ...]:
        return _detached, (reduction.DupFd(self.descriptor),)


def _detached(passed: Any) -> int:
    descriptor: int = passed.detach()
    return descriptor


def _serve(work: Callable[[Any], Any], connection: Connection, descriptor: int | None, share: int) -> None:
    """Prepare pictures until the other end of the connection is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that started this one answers Ctrl-C
    images.DECODING = _Share(share)
    memory = None if descriptor is None else mmap.mmap(descriptor, BLOCK)
    with contextlib.suppress(EOFError, OSError):
        connection.send_bytes(b"ready")
        while True:
            sources = pickle.loads(connection.recv_bytes())
            connection.send_bytes(pickle.dumps(_packed(work, sources, memory), 5))


def _packed(work: Callable[[Any], Any], sources: Sequence[Any], memory: mmap.mmap | None) -> tuple[list[int], bytes]:
    """The pickled results, and the lengths of their buffers, which are in the shared memory by then."""
    found: list[Any] | Exception
    try:
        found = [_one(work, source) for source in sources]
    except Exception as error:
        found = error
    buffers: list[pickle.PickleBuffer] = []
    data = pickle.dumps(found, 5, buffer_callback=buffers.append)
    raw = [buffer.raw() for buffer in buffers]
    if memory is None or sum(len(one) for one in raw) > BLOCK:
        return [], pickle.dumps(found, 5)
    start = 0
    for one in raw:
        memory[start : start + len(one)] = one
        start += len(one)
    return [len(one) for one in raw], data


def _one(work: Callable[[Any], Any], source: Any) -> Any:
    try:
        return work(source)
    except _Large:
        return _LARGE

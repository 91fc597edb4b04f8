"""Pictures prepared in processes of their own, whose results come through shared memory.

Threads of one process wait for each other at Python's lock once there are many of them. Answers are JSON and the bytes
of arrays, never unpickled: a process that was taken over by a picture can only answer wrongly.
"""

import contextlib
import json
import mmap
import multiprocessing
import os
import queue
import signal
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import reduction
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from cache.shard import Status
from foundation.budget import ByteBudget
from foundation.errors import PassingError, UserError
from pipeline.datasets import images

GROUP = 8  # pictures that a process prepares at a time
BLOCK = 32 << 20  # bytes of results that come through shared memory; larger ones come through a pipe
TRIES = 2  # times that a group is given to a process; the pictures of one that ends each time are undone


class _Large(Exception):
    """A picture that this process alone may not decode; the one that started it does."""


class _Foreign(Exception):
    """A result that does not travel; the process that started this one prepares the picture."""


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
        return [
            self._work(source) if result is _HERE else result for source, result in zip(sources, found, strict=True)
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


_HERE = object()
"""In the place of a result: this process prepares the picture, because it is large, its result does not travel, or the
work failed on it, which is then raised here."""


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

    def prepared(self, sources: Sequence[Any]) -> list[Any]:
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
        self._connection.send(sources)
        answer = json.loads(self._connection.recv_bytes())
        buffers = []
        start = 0
        for length in answer["lengths"]:
            if answer["shared"]:
                assert self._memory is not None
                buffers.append(bytearray(memoryview(self._memory)[start : start + length]))
                start += length
            else:
                buffers.append(bytearray(self._connection.recv_bytes()))
        taken = iter(buffers)
        return [_read(result, taken) for result in answer["results"]]

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
            _answer(connection, [_one(work, source) for source in connection.recv()], memory)


def _answer(connection: Connection, results: Sequence[tuple[Any, list[np.ndarray]]], memory: mmap.mmap | None) -> None:
    """Send results, the bytes of their arrays through the shared memory where they fit in."""
    raw = [array.data.cast("B") if array.size else memoryview(b"") for _, arrays in results for array in arrays]
    shared = memory is not None and sum(map(len, raw)) <= BLOCK
    start = 0
    for one in raw if shared else ():
        assert memory is not None
        memory[start : start + len(one)] = one
        start += len(one)
    answer = {"results": [tree for tree, _ in results], "lengths": [len(one) for one in raw], "shared": shared}
    connection.send_bytes(json.dumps(answer).encode())
    for one in () if shared else raw:
        connection.send_bytes(one)


def _one(work: Callable[[Any], Any], source: Any) -> tuple[Any, list[np.ndarray]]:
    arrays: list[np.ndarray] = []
    try:
        return _written(work(source), arrays), arrays
    except Exception:  # what it is, the process that started this one finds out
        return ["here"], []


def _written(value: Any, arrays: list[np.ndarray]) -> Any:
    """A result as JSON, its arrays appended to `arrays`. Raises `_Foreign`."""
    if value is None or type(value) in (bool, int, float, str):
        return ["plain", value]
    if type(value) in (list, tuple):
        return [type(value).__name__, [_written(each, arrays) for each in value]]
    if type(value) is dict and all(type(key) is str for key in value):
        return ["dict", {key: _written(each, arrays) for key, each in value.items()}]
    if type(value) is np.ndarray and not value.dtype.hasobject:
        arrays.append(np.ascontiguousarray(value))
        return ["array", value.dtype.str, value.shape]
    if type(value) is images.ImageError:
        return ["image", int(value.status), value.cause]
    if type(value) is PassingError:
        return ["passing", str(value)]
    raise _Foreign


def _read(tree: Any, buffers: Iterator[bytearray]) -> Any:
    """What `_written` wrote."""
    kind, *content = tree
    if kind == "here":
        return _HERE
    if kind == "plain":
        return content[0]
    if kind in ("list", "tuple"):
        found = [_read(each, buffers) for each in content[0]]
        return found if kind == "list" else tuple(found)
    if kind == "dict":
        return {key: _read(each, buffers) for key, each in content[0].items()}
    if kind == "array":
        dtype, shape = content
        return np.frombuffer(next(buffers), np.dtype(dtype)).reshape(shape)
    if kind == "image":
        return images.ImageError(Status(content[0]), content[1])
    return PassingError(content[0])

"""Work done ahead of the model in threads, in order, with a bound on the number and on the bytes of what waits."""

import itertools
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from PIL import Image

BATCHES = 6  # begun ahead of the model at most


class Gate:
    """Lets results through in the order of their numbers while those that wait hold at most `limit` bytes; one always goes through."""

    def __init__(self, limit: int) -> None:
        self._limit, self._waiting, self._turn, self._open = limit, 0, 0, False
        self._changed = threading.Condition()

    def enter(self, number: int, size: int) -> None:
        """Wait until result `number` of `size` bytes may be kept. Every number must come, each once."""
        with self._changed:
            self._changed.wait_for(
                lambda: (
                    self._open or (self._turn == number and (not self._waiting or self._waiting + size <= self._limit))
                )
            )
            self._turn, self._waiting = number + 1, self._waiting + size
            self._changed.notify_all()

    def leave(self, size: int) -> None:
        """A result was taken."""
        with self._changed:
            self._waiting -= size
            self._changed.notify_all()

    def give_up(self) -> None:
        """Nothing is taken any more: nobody waits."""
        with self._changed:
            self._open = True
            self._changed.notify_all()


def batches(
    work: Callable[[Any], Any], runs: Iterable[Sequence[Any]], count: int, limit: int
) -> Iterator[tuple[Sequence[Any], int, list[Any]]]:
    """(run, number of its first source here, results of `work` for that source and those after it), in order, until all runs are through.

    A run is what is written together: no batch reaches across its end, but the work does, so `runs` is asked for the next one while this one's
    sources are still under way. A batch has `count` results, fewer where they would hold more than `limit` bytes together: batches depend on the
    run's sources alone. As many bytes may wait beside it, and besides what each thread, one per core, is at. A result larger than that goes alone.
    Raises what `work` and `runs` raise.
    """
    gate = Gate(limit)

    def one(number: int, source: Any) -> tuple[Any, int]:
        size = 0
        try:
            result = work(source)
            size = held(result)
            return result, size
        finally:
            gate.enter(number, size)

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        coming = enumerate((run, place) for run in runs for place in range(len(run)))
        begun = ((run, place, pool.submit(one, number, run[place])) for number, (run, place) in coming)
        try:
            ahead = deque(itertools.islice(begun, BATCHES * count))
            batch: list[Any] = []
            full = 0
            while ahead:
                run, place, future = ahead.popleft()
                result, size = future.result()
                del future
                ahead.extend(itertools.islice(begun, 1))
                if batch and (len(batch) == count or full + size > limit):
                    yield run, place - len(batch), batch
                    batch, full = [], 0
                gate.leave(size)
                batch.append(result)
                full += size
                if place + 1 == len(run):
                    yield run, len(run) - len(batch), batch
                    batch, full = [], 0
        finally:
            gate.give_up()
            pool.shutdown(wait=False, cancel_futures=True)


def held(item: Any) -> int:
    """Bytes that prepared pictures hold: arrays and tensors, pictures, and what contains them."""
    if hasattr(item, "nbytes"):
        return int(item.nbytes)
    if isinstance(item, Image.Image):
        return item.width * item.height * len(item.getbands())
    if isinstance(item, Mapping):
        return sum(map(held, item.values()))
    if isinstance(item, (list, tuple)):
        return sum(map(held, item))
    return sys.getsizeof(item)

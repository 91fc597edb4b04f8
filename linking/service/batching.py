"""Mentions of many requests, linked together by one thread: what waits while a batch is linked is the next batch."""

import collections
import math
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from foundation.errors import PassingError

Item = TypeVar("Item")
Answer = TypeVar("Answer")
_SMOOTH = 0.2  # weight of the last batch in the seconds that an item takes


class Full(PassingError):
    """There is no room, or the time is over. seconds: after which it is worth asking again."""

    def __init__(self, message: str, seconds: int) -> None:
        super().__init__(message)
        self.seconds = seconds


@dataclass(frozen=True)
class Bounds:
    """waiting: items that wait at most. batch: items taken at once at most. seconds: that an item waits at most."""

    waiting: int
    batch: int
    seconds: float


Watch = Callable[[str, int], None]
"""Called with what became of how many items: `answered`, `failed`, `refused`, `late`; and `batch` with its size."""


@dataclass
class _Waiting(Generic[Item, Answer]):
    item: Item
    since: float
    answer: Future[Answer]


class Batcher(Generic[Item, Answer]):
    """Calls `work` with the items of many callers, from one thread, in the order in which they came.

    No item waits for a batch to fill: while one is at work, those that come are the next. Where `work` fails for a
    batch, each of its items is tried by itself, so that one caller's item spoils no other's.
    """

    def __init__(
        self,
        work: Callable[[Sequence[Item]], Sequence[Answer]],
        bounds: Bounds,
        watch: Watch = lambda outcome, number: None,
    ) -> None:
        self.work, self.bounds, self.watch = work, bounds, watch
        self._queue: collections.deque[_Waiting[Item, Answer]] = collections.deque()
        self._changed = threading.Condition()
        self._closed, self._each = False, 0.1  # seconds that an item takes, of the last batches
        self._thread = threading.Thread(target=self._run, name="batcher", daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        """Items that wait."""
        return len(self._queue)

    def add(self, items: Sequence[Item]) -> list[Future[Answer]]:
        """All of the items, or none: their answers to come. An item whose answer is cancelled before its turn is passed
        over. Raises `Full`."""
        with self._changed:
            if self._closed:
                raise Full("the service is stopping", self._patience(0))
            if len(self._queue) + len(items) > self.bounds.waiting:
                self.watch("refused", len(items))
                raise Full(f"{len(self._queue)} mentions wait already", self._patience(len(self._queue)))
            added = [_Waiting[Item, Answer](item, time.monotonic(), Future()) for item in items]
            self._queue.extend(added)
            self._changed.notify()
        return [one.answer for one in added]

    def close(self) -> None:
        """Answer what waits, and end the thread. Nothing is added any more."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _patience(self, waiting: int) -> int:
        """Seconds until so many items are likely to be answered, 1 to 60."""
        return min(60, max(1, math.ceil(waiting * self._each)))

    def _run(self) -> None:
        while batch := self._taken():
            ready = [one for one in batch if one.answer.set_running_or_notify_cancel() and not self._is_late(one)]
            if not ready:
                continue
            self.watch("batch", len(ready))
            begun = time.monotonic()
            self._answer(ready)
            took = (time.monotonic() - begun) / len(ready)
            self._each += _SMOOTH * (took - self._each)

    def _taken(self) -> list[_Waiting[Item, Answer]]:
        """The next items; none where there are no more to come."""
        with self._changed:
            while not self._queue and not self._closed:
                self._changed.wait()
            return [self._queue.popleft() for _ in range(min(self.bounds.batch, len(self._queue)))]

    def _is_late(self, one: _Waiting[Item, Answer]) -> bool:
        if time.monotonic() - one.since <= self.bounds.seconds:
            return False
        self.watch("late", 1)
        with self._changed:
            patience = self._patience(len(self._queue))
        one.answer.set_exception(Full(f"waited for more than {self.bounds.seconds:g} s", patience))
        return True

    def _answer(self, batch: list[_Waiting[Item, Answer]]) -> None:
        try:
            answers: Sequence[Any] = self.work([one.item for one in batch])
        except Exception as error:
            if len(batch) > 1:
                for one in batch:
                    self._answer([one])
                return
            self.watch("failed", len(batch))
            for one in batch:
                one.answer.set_exception(error)
            return
        self.watch("answered", len(batch))
        for one, answer in zip(batch, answers, strict=True):
            one.answer.set_result(answer)

"""Results made in threads ahead of their consumer: in order, and no more of them than memory is meant for."""

import itertools
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Budget:
    """Bytes that results may hold while they wait. size: bytes of a result."""

    limit: int
    size: Callable[[Any], int]


def prefetch(
    items: Iterable[T], make: Callable[[T], R], depth: int = 2, threads: int = 1, budget: Budget | None = None
) -> Iterator[R]:
    """`make(item)` of each item, in order, made by `threads` threads, at most `depth` of them ahead of the consumer.

    With a budget, those that wait for the consumer hold at most its limit, besides what each thread is at; a result
    larger than that goes alone. `items` is iterated over in the consumer's thread. Raises what `make` and `items` raise
    where that result would have come.
    """
    gate = _Gate(budget.limit if budget else 0)

    def one(number: int, item: T) -> tuple[R, int]:
        size = 0
        try:
            result = make(item)
            size = budget.size(result) if budget else 0
            return result, size
        finally:
            gate.enter(number, size)

    with ThreadPoolExecutor(threads) as pool:
        begun = (pool.submit(one, number, item) for number, item in enumerate(items))
        try:
            ahead = deque(itertools.islice(begun, depth))
            while ahead:
                result, size = ahead.popleft().result()
                ahead.extend(itertools.islice(begun, 1))
                gate.leave(size)
                yield result
                del result  # the consumer alone decides how long it is held
        finally:
            gate.open()
            pool.shutdown(wait=False, cancel_futures=True)


class _Gate:
    """Lets results through in the order of their numbers while those that wait hold at most `limit` bytes; one always
    goes through."""

    def __init__(self, limit: int) -> None:
        self._limit, self._waiting, self._turn, self._is_open = limit, 0, 0, False
        self._changed = threading.Condition()

    def enter(self, number: int, size: int) -> None:
        """Wait until result `number` of `size` bytes may be kept. Every number must come, each once."""

        def may_enter() -> bool:
            fits = not self._waiting or self._waiting + size <= self._limit
            return self._is_open or (self._turn == number and fits)

        with self._changed:
            self._changed.wait_for(may_enter)
            self._turn, self._waiting = number + 1, self._waiting + size
            self._changed.notify_all()

    def leave(self, size: int) -> None:
        """A result of `size` bytes was taken."""
        with self._changed:
            self._waiting -= size
            self._changed.notify_all()

    def open(self) -> None:
        """No result is taken any more: let all through."""
        with self._changed:
            self._is_open = True
            self._changed.notify_all()

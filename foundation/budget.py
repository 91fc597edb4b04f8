"""Memory that several threads share."""

import contextlib
import threading
from collections import deque
from collections.abc import Iterator


class ByteBudget:
    """Bytes that all threads of this process may hold at a time; one thread alone may hold more.

    limit: the bytes. Threads come in the order in which they asked, so that none waits for ever. A thread that holds
    bytes must not ask for more.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._held, self._waiting = 0, deque[object]()
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def holding(self, size: int) -> Iterator[None]:
        """Inside, `size` bytes are held; waits until they fit."""
        ticket = object()
        with self._changed:
            self._waiting.append(ticket)
            try:
                self._changed.wait_for(lambda: self._waiting[0] is ticket and self._fits(size))
                self._held += size
            finally:
                self._waiting.remove(ticket)
                self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._held -= size
                self._changed.notify_all()

    def _fits(self, size: int) -> bool:
        return not self._held or self._held + size <= self.limit

"""The one way to wait for what another process holds: after a while it is said, in one line, who holds it."""

import time
from collections.abc import Callable

from foundation import logs

PATIENCE = 30.0
"""Seconds of waiting after which it is said, and a holder that is stopped is no longer waited for."""
SHORTEST, LONGEST = 0.001, 0.5  # seconds between two looks


class Wait:
    """One wait. Make a new one, or call `again`, when what was waited for has moved on."""

    def __init__(self) -> None:
        self.again()

    def again(self) -> None:
        """Begin anew."""
        self._began, self._pause, self._is_said = time.monotonic(), SHORTEST, False

    @property
    def is_long(self) -> bool:
        return time.monotonic() - self._began >= PATIENCE

    def pause(self, reason: Callable[[], str]) -> None:
        """Sleep a moment, longer each time. reason: what is waited for, who holds it and what ends the wait; called
        once, after `PATIENCE`."""
        if self.is_long and not self._is_said:
            self._is_said = True
            say(f"waiting for {reason()}")
        time.sleep(self._pause)
        self._pause = min(2 * self._pause, LONGEST)


def say(text: str) -> None:
    """One line about a wait, on stderr."""
    logs.notice(text, "waiting")

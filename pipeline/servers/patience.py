"""Requests to a server: at what rate, how often they are tried again, how long to wait, how much to read."""

import math
import random
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from email.utils import parsedate_to_datetime
from typing import Any, NoReturn, TypeVar
from urllib.parse import urlsplit

import tenacity

from foundation.errors import PassingError, UserError
from pipeline.servers.contracts import Patience

T = TypeVar("T")
PASSING = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524, 529})
NO_CONTACT = "--wiki-contact: give an e-mail or web address; wikis ask that programs say whom they belong to"


def check_address(option: str, address: str) -> str:
    """An http(s) address without credentials. Raises `UserError` otherwise."""
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UserError(f"{option} {address!r:.100}: expected an address like https://HOST/w/api.php")
    if parts.username or parts.password:
        raise UserError(
            f"{option}: an address with a user name or password in it is not used, because it would be written into "
            "logs"
        )
    return address


class Again(Exception):
    """A request failed in a way that may pass. after: seconds that the server wants, None where it gives none."""

    def __init__(self, reason: str, after: float | None = None) -> None:
        super().__init__(reason)
        self.after = after


class TooLarge(Exception):
    """An answer has more bytes than are read."""


class OutOfTries(PassingError):
    """A request failed as often as it may be tried."""


class Pace:
    """At most `rate` requests a second (0: no limit) over all threads, and none while a server asked to wait."""

    def __init__(self, rate: float) -> None:
        self.gap = 1 / rate if rate > 0 else 0.0
        self._next, self._guard = 0.0, threading.Lock()

    def wait(self) -> None:
        with self._guard:
            start = max(self._next, time.monotonic())
            self._next = start + self.gap
        time.sleep(max(0.0, start - time.monotonic()))

    def hold(self, seconds: float) -> None:
        """No request for `seconds` from now."""
        with self._guard:
            self._next = max(self._next, time.monotonic() + seconds)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds of a `Retry-After` header, a number or a date; None where there is none that makes sense."""
    value = headers.get("retry-after", "").strip()
    try:
        seconds = float(value) if value[:1].isdigit() else parsedate_to_datetime(value).timestamp() - time.time()
    except (ValueError, TypeError, OverflowError):
        return None
    return max(0.0, seconds) if math.isfinite(seconds) else None


def persist(request: Callable[[], T], pace: Pace, patience: Patience, stop: threading.Event | None = None) -> T:
    """`request()`, again where it raises `Again`; the wait before holds for every thread, since it is the server that
    is in trouble.

    Raises `OutOfTries` when all tries are used, when `stop` is set, or when the server asks for too long a wait.
    """

    def wait(state: tenacity.RetryCallState) -> float:
        """Seconds until the next try: what the server wants, or a growing random pause."""
        again = _failure(state)
        doubled = min(patience.most, patience.first * 2 ** (state.attempt_number - 1))
        seconds = doubled * random.uniform(0.5, 1.0) if again.after is None else again.after
        if seconds > patience.longest:
            raise OutOfTries(
                f"{again}; the server asks to wait {seconds:,.0f} s; run the same command again then"
            ) from None
        return seconds

    def give_up(state: tenacity.RetryCallState) -> NoReturn:
        raise OutOfTries(f"{_failure(state)} ({patience.tries} tries)") from None

    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(Again),
        stop=lambda state: state.attempt_number >= patience.tries or (stop is not None and stop.is_set()),
        wait=wait,
        before=lambda _: pace.wait(),
        sleep=pace.hold,
        retry_error_callback=give_up,
    )
    return retrying(request)


def _failure(state: tenacity.RetryCallState) -> Again:
    """Why the last try failed."""
    error = state.outcome.exception() if state.outcome else None
    return error if isinstance(error, Again) else Again("it failed")


def read(chunks: Iterable[bytes], patience: Patience, started: float) -> bytes:
    """The whole of an answer. Raises `TooLarge` past `patience.bytes`, `Again` past `patience.whole` seconds since
    `started` (monotonic).
    """
    parts, size = [], 0
    for chunk in chunks:
        parts.append(chunk)
        size += len(chunk)
        if size > patience.bytes:
            raise TooLarge(f"an answer of more than {patience.bytes:,} bytes")
        if time.monotonic() - started > patience.whole:
            raise Again(f"an answer that was not whole after {patience.whole:g} s")
    return b"".join(parts)


def opening_of(body: bytes) -> str:
    """How an answer begins, for a message."""
    return brief(body[:200].decode("utf-8", "replace"), 60) or "nothing"


def brief(value: Any, limit: int = 160) -> str:
    """What a server said, for a message: one line, printable, short."""
    return "".join(c if c.isprintable() else " " for c in " ".join(str(value).split()))[:limit]

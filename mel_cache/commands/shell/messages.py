"""What a command says when something is wrong: one line, `error: …`, on stderr, and an exit code."""

import contextlib
import difflib
import hashlib
import logging
import mmap
import multiprocessing
import sys
from collections.abc import Iterable, Iterator
from typing import Any, NoReturn

import luigi

from cache.errors import Damaged, Gone, NotFinite, RowsMissing
from foundation import logs
from foundation.errors import PassingError, UserError
from mel_cache.commands.shell.settings import REFUSED

REMEDIES: dict[type[Exception], str] = {
    Damaged: "`luigi --module tasks VerifyCache --repair` removes it, the next extraction refills it",
    Gone: "`luigi --module tasks ExtractFeatures` makes it again",
    RowsMissing: "`luigi --module tasks ExtractFeatures` extracts them",
    NotFinite: "or extract with --precision fp32",
}
"""The command or option that mends an error of the cache, by its type."""
NEAREST = 3  # options named where one is mistyped


def refuse(error: Exception | str) -> NoReturn:
    """End the command, of which nothing has run, with the error's line."""
    show(error)
    raise SystemExit(REFUSED) from (error if isinstance(error, Exception) else None)


@contextlib.contextmanager
def refusing() -> Iterator[None]:
    """Inside, a `UserError` ends the command as `refuse` does."""
    try:
        yield
    except UserError as error:
        refuse(error)


def show(error: Exception | str) -> None:
    """`error: …` on stderr, a line for each line of the message; one JSON object where logs are JSON."""
    message = "; ".join([str(error), *(remedy for kind, remedy in REMEDIES.items() if type(error) is kind)])
    if logs.wanted():
        logs.emit("error", "error", message=message)
    else:
        for line in message.split("\n"):
            print(f"error: {line}", file=sys.stderr, flush=True)


def nearest_options(word: str, options: Iterable[str]) -> str:
    """The options that are like `word`, best first; where none is, the least unlike: `--seed, --seeds`."""
    listed = sorted(set(options))
    like = difflib.get_close_matches(word, listed, n=NEAREST, cutoff=0.75)
    return ", ".join(like or difflib.get_close_matches(word, listed, n=NEAREST, cutoff=0.0))


def quiet_interrupt(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    """A `sys.excepthook`: Ctrl-C ends a command with a line, not with a traceback."""
    if issubclass(kind, KeyboardInterrupt):
        print("stopped; run the same command again to continue", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


class OneLine(logging.Filter):
    """A filter of Luigi's log: an error meant for the user is shown as its line, and not as a record with a traceback.

    An error that several tasks of a command meet is shown once: forked workers share the list of what was shown.
    """

    def __init__(self) -> None:
        super().__init__()
        self.shown = mmap.mmap(-1, 16 * 256)  # a count, then hashes
        self.lock = multiprocessing.get_context("fork").Lock()

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, SystemExit):
            error = error.__cause__  # see `refuse`: its line is shown already
            if isinstance(error, UserError):
                return False
        if isinstance(error, luigi.parameter.ParameterException):
            error = UserError(str(error))
        if not isinstance(error, (UserError, PassingError)):
            return True
        worker = record.args[1] if isinstance(record.args, tuple) and len(record.args) > 1 else ""
        if self._is_new(f"{worker} {error}"):
            show(error)
        return False

    def _is_new(self, message: str) -> bool:
        digest = hashlib.blake2b(message.encode(), digest_size=16).digest()
        held = self.lock.acquire(timeout=1)  # a worker that was killed may hold it for ever
        try:
            count = self.shown[0]
            if digest in (self.shown[16 * place : 16 * place + 16] for place in range(1, count + 1)):
                return False
            if count < 255:
                self.shown[0] = count + 1
                self.shown[16 * (count + 1) : 16 * (count + 2)] = digest
            return True
        finally:
            if held:
                self.lock.release()


def filter_log() -> None:
    """Luigi's log passes through `OneLine`; in a process of its own, this is done once."""
    log = logging.getLogger("luigi-interface")
    if not any(isinstance(found, OneLine) for found in log.filters):
        log.addFilter(OneLine())

"""What a target of the campaign is, and what a reader makes of one input."""

import contextlib
import functools
import io
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from foundation.errors import LONGEST, PassingError, UserError


@dataclass(frozen=True)
class Target:
    """Readers of one kind of input.

    kind: the row of the campaign's table. readers: `module:function`, all of which `valid()` passes through. valid: an
    input that is read. odd: others. read: takes an input and an empty folder. hard: inputs that once were not refused
    in a line; they come first. refusals: further errors of the tool's own that carry a cause to the verdict of a row.
    share: of the campaign's inputs, beside the other targets.
    """

    kind: str
    readers: tuple[str, ...]
    valid: Callable[[], Any]
    odd: Callable[[], st.SearchStrategy[Any]]
    read: Callable[[Any, Path], object]
    hard: Callable[[], tuple[Any, ...]] = tuple
    refusals: tuple[type[Exception], ...] = ()
    share: int = 4

    @functools.cached_property
    def inputs(self) -> st.SearchStrategy[Any]:
        return self.odd()


@dataclass(frozen=True)
class Outcome:
    """What became of an input.

    verdict: accepted, refused or uncaught. message: of the error. seconds: of processor time that it took, all threads
    together, so that other programs do not count.
    """

    verdict: str
    message: str
    seconds: float


class Hang(BaseException):
    """An input that takes too long. No `Exception`: a reader that takes all of them for damage must not hide it."""


def answer(target: Target, value: Any, folder: Path) -> Outcome:
    """Let the target's readers have one input. folder: an empty one.

    An error of another kind than the tool's own, or one whose message is no line, is uncaught.
    """
    started = time.process_time()
    verdict, message = "accepted", ""
    own: tuple[type[Exception], ...] = (UserError, PassingError, *target.refusals)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            target.read(value, folder)
    except own as error:
        message = str(error)
        one_line = message.strip() and "\n" not in message and len(message) <= LONGEST
        verdict = "refused" if one_line else "uncaught"
    except Hang:
        verdict, message = "hang", "did not end"
    except BaseException as error:
        verdict, message = "uncaught", f"{type(error).__name__}: {error}{_place(error)}"
    return Outcome(verdict, message, time.process_time() - started)


def _place(error: BaseException) -> str:
    """Where an error was raised: the innermost line of the project, and the innermost line."""
    trace, lines = error.__traceback__, []
    while trace is not None:
        lines.append((trace.tb_frame.f_code.co_filename, trace.tb_lineno))
        trace = trace.tb_next
    own = [line for line in lines if "site-packages" not in line[0] and "/lib/python" not in line[0]]
    shown = dict.fromkeys((*own[-1:], *lines[-1:]))
    return "".join(f" [{'/'.join(name.split('/')[-3:])}:{number}]" for name, number in shown)


def each(*steps: Callable[[], object]) -> None:
    """Take every step, also behind one that is refused. Raises the last refusal."""
    refusals: list[Exception] = []
    for step in steps:
        try:
            step()
        except (UserError, PassingError, FileNotFoundError) as error:
            refusals.append(error)
    if refusals:
        raise refusals[-1]


@contextlib.contextmanager
def empty_folder() -> Iterator[Path]:
    """A folder that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="fuzz-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@functools.cache
def built(make: Callable[[Path], Any]) -> Any:
    """What `make` gives for a folder of its own, made once per process."""
    folder = tempfile.TemporaryDirectory(prefix="fuzz-world-")
    _KEPT.append(folder)
    return make(Path(folder.name))


_KEPT: list[tempfile.TemporaryDirectory[str]] = []

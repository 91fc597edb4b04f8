"""Exceptions whose message is meant for the user, and the hint that goes with a mistyped word."""

import difflib
import re
from collections.abc import Iterable

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


LONGEST, _TAIL = 2_000, 600
"""Characters of a line that are shown, and how many of them are its end, which says what mends it."""


def _shown(line: str) -> str:
    line = _CONTROL.sub(lambda match: repr(match[0])[1:-1], line)
    return line if len(line) <= LONGEST else f"{line[: LONGEST - _TAIL - 3]} … {line[-_TAIL:]}"


class _Lines(Exception):
    """Each argument is a line, whatever the ids, keys and paths quoted in it hold: control characters are escaped, and
    the middle of what is too long is left out."""

    def __str__(self) -> str:
        return "\n".join(_shown(str(line)) for line in self.args)


class UserError(_Lines):
    """A failure its reader can mend.

    Its message is a line, or several where several things lack: the thing, the place, what was found, what was
    expected, the command or step that mends it. Entry points print it without a traceback and exit non-zero.
    """


class NotAsWritten(UserError):
    """A file that a command left and that is gone, damaged or unreadable; its message ends with what makes it again."""


class Unwritable(UserError):
    """A place that cannot be written: full, read-only, or not allowed."""


class PassingError(_Lines):
    """A failure that a later run may not meet again (I/O, memory).

    The row or shard under way stays undone and the task incomplete.
    """


def nearest(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'? Known: …` where one of `known` is near, else `; known: …`: all of them."""
    known = sorted(known)
    hint = did_you_mean(word, known)
    return (f"{hint} Known: " if hint else "; known: ") + ", ".join(known)


def did_you_mean(word: object, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` where one of `known` is near, else nothing."""
    close = difflib.get_close_matches(str(word), list(known), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""

"""The command under way: its name and start, and the task it was given for; the same in all of its processes."""

import json
import os
import socket
import time
from collections.abc import Sequence

_NAME, _START, _ROOT, _WORDS = "MEL_COMMAND", "MEL_COMMAND_START", "MEL_COMMAND_TASK", "MEL_COMMAND_WORDS"


def begin() -> None:
    """A command begins now, in this process."""
    os.environ[_NAME] = f"{socket.gethostname()}-{os.getpid()}"
    os.environ[_START] = repr(time.time())
    os.environ.pop(_ROOT, None)
    os.environ.pop(_WORDS, None)


def name() -> str:
    """Host and process of the command; it tells commands on one scheduler apart."""
    _begun()
    return os.environ[_NAME]


def start() -> float:
    """When the command began: seconds since the epoch."""
    _begun()
    return float(os.environ[_START])


def set_root(task_id: str) -> None:
    """The task that the command line names."""
    os.environ[_ROOT] = task_id


def root() -> str | None:
    """The `task_id` of the task that the command line names; None where there is no command line (`luigi.build`)."""
    return os.environ.get(_ROOT)


def set_words(words: Sequence[str]) -> None:
    """What stands behind `luigi --module tasks`, without what is secret and without the work folder."""
    os.environ[_WORDS] = json.dumps(list(words))


def words() -> list[str] | None:
    """What `set_words` was given; None where there is no command line."""
    given = os.environ.get(_WORDS)
    return list(json.loads(given)) if given else None


def _begun() -> None:
    if _START not in os.environ:
        begin()

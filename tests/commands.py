"""Luigi's commands within the tests' own process, and the children of its tasks as calls: torch is loaded once, not once per task.

For tests of what a command computes and leaves. Exit codes, one-line errors, kills and all else that a process is for are tested with real ones.
"""

import contextlib
import importlib
import io
import json
from typing import Any

from luigi.retcodes import run_with_retcodes
from luigi.task_register import Register

from pipeline import child, task


def run(*arguments: str) -> tuple[Any, str]:
    """Exit code and output of `luigi --module tasks` with these arguments."""
    code: Any = 0
    task.begin()  # as a process of its own would
    Register.clear_instance_cache()
    with as_calls(), contextlib.redirect_stdout(io.StringIO()) as said, contextlib.redirect_stderr(said):
        try:
            run_with_retcodes(["--module", "tasks", "--workers", "1", *arguments])
        except SystemExit as ended:
            code = ended.code or 0
    return code, said.getvalue()


def call(target: str, job: dict[str, Any], threads: int = 0) -> dict[str, Any]:
    """What `child.run` does, without the process."""
    module, function = target.split(":")
    return json.loads(json.dumps(getattr(importlib.import_module(module), function)(json.loads(json.dumps(job)))))


@contextlib.contextmanager
def as_calls():
    """Inside, what `child.run` would start is called; job and result pass through JSON as they do on the way to a process."""
    started, child.run = child.run, call
    try:
        yield
    finally:
        child.run = started

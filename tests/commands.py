"""Luigi's commands within the tests' own process, and the children of its tasks as calls: torch is loaded once, not
once per task.

For tests of what a command computes and leaves. Exit codes, one-line errors, kills and all else that a process is for
are tested with real ones.
"""

import contextlib
import io
import json
from collections.abc import Mapping
from typing import Any

from luigi.retcodes import run_with_retcodes
from luigi.task_register import Register

from foundation import child
from foundation.contracts import from_json, to_json
from mel_cache.commands import task


def run(*arguments: str) -> tuple[Any, str]:
    """Exit code and output of `luigi --module tasks` with these arguments."""
    code: Any = 0
    task.forget()  # as a process of its own would
    Register.clear_instance_cache()
    with as_calls(), contextlib.redirect_stdout(io.StringIO()) as said, contextlib.redirect_stderr(said):
        try:
            run_with_retcodes(["--module", "tasks", "--workers", "1", *arguments])
        except SystemExit as ended:
            code = ended.code or 0
    return code, said.getvalue()


def call(target: str, job: Any, result: type, threads: int = 0, environment: Mapping[str, str] | None = None) -> Any:
    """What `child.run` does, without the process."""
    text = json.dumps(child.call(target, json.loads(json.dumps(to_json(job)))))
    return from_json(result, json.loads(text))


@contextlib.contextmanager
def as_calls():
    """Inside, what `child.run` would start is called; job and result pass through JSON as they do on the way to a
    process."""
    started, child.run = child.run, call
    try:
        yield
    finally:
        child.run = started

"""Runs one heavy function in a fresh process, so that the parent stays free of torch and device memory comes back."""

import contextlib
import contextvars
import importlib
import inspect
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import typing
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from foundation import extras, logs, machine, progress
from foundation.contracts import from_json, to_json
from foundation.errors import PassingError, UserError
from foundation.files import explained

T = TypeVar("T")
NO_ROOM = 3
"""Exit code of a child whose result found no room."""
_TEMPORARY = "TMPDIR (environment variable)"
_GRACE = 60  # seconds for a child that answers SIGTERM itself
_LOOK = 0.5  # seconds between two looks at a child's progress
_WATCH: contextvars.ContextVar[Callable[[dict[str, Any]], None] | None] = contextvars.ContextVar("watch", default=None)


@contextlib.contextmanager
def watched(watch: Callable[[dict[str, Any]], None]) -> Iterator[None]:
    """Inside, `watch` is called with the progress of every child (see `foundation.progress.Bar.state`)."""
    token = _WATCH.set(watch)
    try:
        yield
    finally:
        _WATCH.reset(token)


class Killed(UserError):
    """A child that was killed by SIGKILL: by its user, or where memory ran out."""


def run(
    target: str, job: Any, result: type[T], threads: int = 0, environment: Mapping[str, str] = MappingProxyType({})
) -> T:
    """Call `target` ("package.module:function") with `job` in a spawned interpreter and return what it returned.

    job: a contract, which travels as JSON; the function's annotation says how it is restored there. result: the type
    of what comes back the same way.
    threads: of torch and what it calls (0: one per core), unless OMP_NUM_THREADS says how many. environment: variables
    of the child, in place of this process's. A `UserError` or `PassingError` of the child is raised here again, and
    `Killed` where it was. Its stdout and stderr are the caller's.
    """
    with _scratch() as folder:
        job_file, answered, noted = (folder / f"{name}.json" for name in ("job", "answer", "progress"))
        with explained(job_file, _TEMPORARY):
            job_file.write_text(json.dumps(to_json(job)), "utf-8")
        # -P: no module of the current folder is taken for one of ours.
        words = [sys.executable, "-P", "-m", "foundation.child", target, str(job_file), str(answered), str(os.getpid())]
        process = subprocess.Popen(
            words,
            env=_environment(threads) | {progress.FILE: str(noted)} | dict(environment),
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE if logs.wanted() else None,
            text=True,
            errors="replace",
        )
        with _relayed(process, target):
            code = _wait(process, noted)
        if answered.exists():
            return result_of(json.loads(answered.read_text("utf-8")), result, target)
    if code == -signal.SIGINT:
        raise UserError("stopped")
    if code == NO_ROOM:
        raise UserError(
            f"cannot write {answered}: free some space or choose another {_TEMPORARY}, and run the same command again"
        )
    if code == -signal.SIGKILL:
        raise Killed(
            f"{target} was killed (signal 9); if memory ran out, choose a smaller --extract-batch. "
            "Run the same command again to continue"
        )
    raise RuntimeError(f"{target} ended with exit code {code}; its traceback stands above")


@contextlib.contextmanager
def _scratch() -> Iterator[Path]:
    """A folder for job and answer. Raises `UserError` where it cannot be made."""
    with contextlib.ExitStack() as made:
        try:
            with explained(Path(tempfile.gettempdir()), _TEMPORARY):
                folder = made.enter_context(tempfile.TemporaryDirectory(prefix="mel-"))
        except FileNotFoundError:
            raise UserError(f"no folder for temporary files can be written; set {_TEMPORARY} to one") from None
        yield Path(folder)


def answer(target: str, job: Any) -> dict[str, Any]:
    """`call` as JSON for another process: what came back, or the `UserError` or `PassingError` that was raised."""
    try:
        return {"result": call(target, job)}
    except (UserError, PassingError) as error:
        return refusal(error)


def refusal(error: UserError | PassingError) -> dict[str, Any]:
    """An error as JSON for another process."""
    return {"kind": f"{type(error).__module__}:{type(error).__qualname__}", "error": list(map(str, error.args))}


def result_of(answered: Mapping[str, Any], kind: type[T], target: str) -> T:
    """What `target` returned, from what `answer` gave. Raises the error that was raised there."""
    if "error" in answered:
        raise _error(answered["kind"])(*answered["error"])
    return from_json(kind, answered["result"], target)


def _error(name: str) -> type[UserError] | type[PassingError]:
    """The error class of a child's answer, `module:Class`; `UserError` for a class that this process has not."""
    module, _, kind = name.partition(":")
    found = getattr(sys.modules.get(module) or importlib.import_module(module), kind, UserError)
    return found if issubclass(found, (UserError, PassingError)) else UserError


def _environment(threads: int) -> dict[str, str]:
    """The environment of a child; variables that the user has set stay."""
    own = str(Path(__file__).resolve().parents[1])
    path = os.pathsep.join([own, *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**defaults(wanted_threads() or threads or machine.cores()), **os.environ, "PYTHONPATH": path}


def wanted_threads() -> int:
    """Threads that the variable OMP_NUM_THREADS asks for, 0 where it asks for none. They hold for MKL too."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    return int(given) if given.isdecimal() else 0


def defaults(threads: int) -> dict[str, str]:
    """Variables of a process that computes on so many threads."""
    return {
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        # Waiting threads that spin steal the cores from whatever else runs: five times slower on a shared machine, no
        # faster on an idle one.
        "OMP_WAIT_POLICY": "PASSIVE",
        # Freed tensors stay with the process: glibc else gives each large one back and has its pages zeroed anew, a
        # quarter of a training's CPU time.
        "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
        "MALLOC_TRIM_THRESHOLD_": str(1 << 33),
        "TOKENIZERS_PARALLELISM": "true",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }


@contextlib.contextmanager
def _relayed(process: subprocess.Popen[str], target: str) -> Iterator[None]:
    """Inside, what the child writes to a pipe on its stderr is passed on; an error ends the child."""
    relay = threading.Thread(target=logs.relay, args=(process.stderr, target), daemon=True) if process.stderr else None
    if relay:
        relay.start()
    try:
        yield
    except BaseException:
        process.terminate()
        process.wait()
        raise
    finally:
        if relay:
            relay.join(5)


def call(target: str, job: Any) -> Any:
    """`target` called with the contract that `job`, its JSON, stands for; its result as JSON."""
    module, name = target.split(":")
    with extras.explained():
        function = getattr(importlib.import_module(module), name)
        parameter = next(iter(inspect.signature(function).parameters))
        kind = typing.get_type_hints(function)[parameter]
        return to_json(function(from_json(kind, job, target)))


def _wait(process: subprocess.Popen[str], noted: Path) -> int:
    """Wait for the child and pass its progress to the watchers; returns its exit code."""
    watch, last = _WATCH.get(), None
    while True:
        try:
            code: int | None = process.wait(_LOOK if watch else None)
        except subprocess.TimeoutExpired:
            code = None
        state = progress.read(noted) if watch else None
        if watch and state is not None and state != last:
            watch(state)
            last = state
        if code is not None:
            return code


def follow_parent() -> None:
    """End this process of `multiprocessing`, and with it the children it has run, when its parent is gone.

    In a process of another kind do nothing. Ctrl-C, which all of them receive, is answered by the parent.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        parent.join()
        os._exit(1)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=watch, daemon=True).start()


def _follow(parent: int) -> None:
    """End this process when its parent is gone: a killed command leaves no worker behind. One that answers SIGTERM
    itself, as a service does, has time to."""
    while os.getppid() == parent:
        time.sleep(0.5)
    if callable(signal.getsignal(signal.SIGTERM)):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(_GRACE)
    os._exit(1)


def _main(target: str, job_file: str, answer_file: str, parent: str) -> int:
    threading.Thread(target=_follow, args=(int(parent),), daemon=True).start()
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # no traceback
    answered = answer(target, json.loads(Path(job_file).read_text("utf-8")))
    try:
        Path(answer_file).write_text(json.dumps(answered), "utf-8")
    except OSError:
        Path(answer_file).unlink(missing_ok=True)
        return NO_ROOM
    return 0


if __name__ == "__main__":
    sys.exit(_main(*sys.argv[1:]))

"""What all Luigi tasks share: the work folder, receipts, dry runs, one-line errors, the summary at the end. No torch."""

import contextlib
import functools
import hashlib
import logging
import mmap
import multiprocessing
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import luigi
from luigi.cmdline_parser import CmdlineParser

from foundation import child, logs, progress, receipts
from foundation.errors import PassingError, UserError
from foundation.paths import Paths

logger = logging.getLogger("luigi-interface")
LOG_EVERY = 5.0  # seconds between two lines about the progress of one task


def setting(
    name: str, default: Any, description: str, kind: type[luigi.Parameter] = luigi.Parameter, **more: Any
) -> luigi.Parameter:
    """A parameter whose default may come from `MEL_<NAME>` in the environment, or from section `[mel]` of luigi.cfg."""
    if kind is luigi.Parameter:
        default = os.environ.get(f"MEL_{name.upper()}", default)
    return kind(default=default, description=description, config_path={"section": "mel", "name": name}, **more)


def stop(error: Exception) -> None:
    """End the command with the error's one line."""
    logs.emit("error", "error", message=str(error))
    raise SystemExit(1 if logs.wanted() else f"error: {error}")


class _OneLine(logging.Filter):
    """Keeps the traceback of errors that are meant for the user out of Luigi's log, and tells an error that several tasks of a run met once."""

    def __init__(self) -> None:
        super().__init__()
        self.told = mmap.mmap(-1, 16 * 256)  # a count, then hashes; shared with forked workers, as is the lock
        self.lock = multiprocessing.get_context("fork").Lock()

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, SystemExit):
            error = error.__context__  # see `stop`
        if isinstance(error, luigi.parameter.ParameterException):
            error = UserError(
                re.sub(r"\[args=.*?\]:", ":", str(error))
            )  # as `TrainHead[args=(), kwargs={}]: requires the 'run' parameter`
        if isinstance(error, (UserError, PassingError)):
            worker = record.args[1] if isinstance(record.args, tuple) and len(record.args) > 1 else ""
            record.msg, record.args, record.exc_info = f"error: {error}", (), None
            return self._is_new(f"{worker} {record.msg}")
        return True

    def _is_new(self, said: str) -> bool:
        digest = hashlib.blake2b(said.encode(), digest_size=16).digest()
        held = self.lock.acquire(timeout=1)  # a worker that was killed may hold it for ever
        try:
            count = self.told[0]
            if digest in (self.told[16 * place : 16 * place + 16] for place in range(1, count + 1)):
                return False
            if count < 255:
                self.told[0] = count + 1
                self.told[16 * (count + 1) : 16 * (count + 2)] = digest
            return True
        finally:
            if held:
                self.lock.release()


logger.addFilter(_OneLine())


# What is known of tasks by their id, until a task has run: a command asks for the same digests and receipts hundreds of times.
_known: dict[tuple[str, str], Any] = {}
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_known.clear)  # a worker looks for itself what others have made since


_BEGAN = "MEL_BEGAN"


def begin() -> None:
    """A command begins now."""
    _known.clear()
    os.environ[_BEGAN] = repr(time.time())


def began() -> float:
    """When this command began, in all of its processes: seconds since the epoch."""
    return float(os.environ[_BEGAN])


if multiprocessing.parent_process() is None or _BEGAN not in os.environ:
    begin()


def once(ask: Callable[["Task"], Any]) -> Callable[["Task"], Any]:
    """The method's answer, asked for once between two runs of tasks."""

    @functools.wraps(ask)
    def answer(self: "Task") -> Any:
        place = ask.__name__, self.task_id
        if place not in _known:
            _known[place] = ask(self)
        return _known[place]

    return answer


class Task(luigi.Task):
    """A task with a receipt. Subclasses say what they need (`needs`), what names their result (`request`) and how it is made (`make`)."""

    work_dir = setting(
        "work_dir", "artifacts", "folder that everything is written to (also MEL_WORK_DIR, or [mel] in luigi.cfg)"
    )
    dry_run = luigi.BoolParameter(
        default=False, significant=False, description="say what would run, run and write nothing"
    )
    json_log = luigi.BoolParameter(
        default=False, significant=False, description="logs as lines of JSON on stderr (also MEL_JSON_LOG=1)"
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.json_log:
            os.environ[logs.WANTED] = "1"
        if logs.wanted():
            logs.take_over()

    @property
    def paths(self) -> Paths:
        return Paths(Path(self.work_dir).absolute())

    def needs(self) -> list["Task"]:
        """The tasks whose results this one reads."""
        return []

    def request(self) -> dict[str, Any] | None:
        """The significant parameters and inputs as JSON; None while an input that names the result is not there yet."""
        raise NotImplementedError

    def make(self) -> dict[str, Any]:
        """Do the work. Returns `{"result": …, "files": [paths], "run": …}` for the receipt."""
        raise NotImplementedError

    def summary(self, receipt: dict[str, Any]) -> str:
        """What the command prints when it ends."""
        return f"{self.get_task_family()}: done"

    def content(self) -> str | None:
        """What names the result in the requests of those that read it; None while it is not known."""
        return self.digest()

    # Receipts

    @once
    def digest(self) -> str | None:
        """Hash of the request; None while it is not known."""
        request = self.request()
        if request is None:
            return None
        from cache.identity import canonical_json

        return hashlib.sha256(canonical_json([self.get_task_family(), request]).encode()).hexdigest()

    def receipt(self) -> dict[str, Any] | None:
        """The standing receipt, or None."""
        digest = self.digest()
        return (
            None
            if digest is None
            else receipts.standing(self.paths.root, self.paths.receipt(self.get_task_family(), digest))
        )

    def resolved(self) -> dict[str, Any]:
        """The result in the receipt of a task that is done. Raises `UserError` when it is not."""
        receipt = self.receipt()
        if receipt is None:
            raise UserError(f"{self.get_task_family()} is not done; run it first")
        return receipt["result"]

    def folder(self, path: str) -> Path:
        """A path of a receipt (relative to the work folder) as it lies on disk."""
        return self.paths.root / path

    # What Luigi calls

    def requires(self) -> list["Task"]:
        return [] if self.dry_run else self.needs()

    @once
    def done(self) -> bool:
        """Whether this task's receipt stands, and those of all it needs."""
        try:
            return all(task.done() for task in self.needs()) and self.receipt() is not None
        except UserError as error:
            stop(error)
            raise

    def complete(self) -> bool:
        return getattr(self, "_said", False) if self.dry_run else self.done()

    def run(self) -> None:
        if self.dry_run:
            logs.say(
                "\n".join(self._plan()) or f"{self.get_task_family()}: everything is done already, nothing would run"
            )
            self._said = True
            return
        child.follow_parent()  # with several workers, this is a process of Luigi's
        if self.done():
            return  # what it needs was made anew, and is as it was before
        started = time.monotonic()
        with self.told():
            made = self.make()
        _known.clear()
        digest = self.digest()
        if digest is None:
            raise UserError(f"{self.get_task_family()}: its input went away while it ran; run the same command again")
        receipts.write(
            self.paths.receipt(self.get_task_family(), digest),
            task=self.get_task_family(),
            request=self.request(),
            result=made["result"],
            files=[receipts.file_entry(self.paths.root, Path(path)) for path in sorted(set(map(str, made["files"])))],
            run={"seconds": round(time.monotonic() - started, 3), **made.get("run", {})},
        )
        _known.clear()

    @contextlib.contextmanager
    def told(self) -> Iterator[None]:
        """Inside, Luigi's page and the log are told how far the work is."""
        name, started, logged = f"{self.get_task_family()}{self.brief()}", time.monotonic(), [time.monotonic()]

        def watch(state: dict[str, Any]) -> None:
            self._say(progress.text(state), 100 * state["done"] // state["total"] if state["total"] else None)
            if time.monotonic() - logged[0] >= LOG_EVERY:
                logged[0] = time.monotonic()
                logs.emit("progress", task=name, **state)

        if logs.wanted():
            logs.take_over()
        logs.emit("start", task=name)
        self._say("started", 0)
        try:
            with child.watched(watch):
                yield
        except BaseException as error:
            logs.emit(
                "failed",
                "error",
                task=name,
                seconds=round(time.monotonic() - started, 3),
                message=str(error) or type(error).__name__,
            )
            raise
        self._say(f"done in {time.monotonic() - started:.1f} s", 100)
        logs.emit("done", task=name, seconds=round(time.monotonic() - started, 3))

    def _say(self, message: str, percent: int | None) -> None:
        """Message and percentage on Luigi's page; a scheduler that cannot be reached is no reason to fail."""
        with contextlib.suppress(Exception):
            if self.set_status_message:
                self.set_status_message(message)
            if self.set_progress_percentage and percent is not None:
                self.set_progress_percentage(percent)

    def _plan(self) -> Iterator[str]:
        """One line for each task that would run, in order."""
        seen: set[str] = set()

        def walk(task: Task) -> Iterator[str]:
            for needed in task.needs():
                yield from walk(needed)
            if task.task_id not in seen and not task.done():
                seen.add(task.task_id)
                yield f"would run {task.get_task_family()}{task.brief()}"

        yield from walk(self)

    def to_do(self) -> str:
        """What running this task would do, in one line."""
        steps = dict.fromkeys(step.removeprefix("would run ") for step in self._plan())
        return "done" if not steps else f"would run {'; '.join(steps)}"

    def brief(self) -> str:
        """What tells this task from others of its family, for messages."""
        return ""


class Tool(Task):
    """A command without a receipt: it runs every time it is asked for."""

    def complete(self) -> bool:
        return getattr(self, "_said", False)

    def receipt(self) -> None:
        return None

    def run(self) -> None:
        if self.dry_run:
            logs.say(f"would run {self.get_task_family()}{self.brief()}")
        else:
            child.follow_parent()
            with self.told():
                self.act()
        self._said = True

    def act(self) -> None:
        raise NotImplementedError


def asked() -> luigi.Task | None:
    """The task of the command line, None where there is none (`luigi.build`)."""
    parser = CmdlineParser.get_instance()
    if parser is not None:
        return parser.get_task_obj()
    if multiprocessing.parent_process() is None or "--module" not in sys.argv:
        return None
    with CmdlineParser.global_instance(sys.argv[1:]) as parser:  # in a worker that was spawned, not forked: macOS
        return parser.get_task_obj()


@luigi.Task.event_handler(luigi.Event.SUCCESS)
@luigi.Task.event_handler(luigi.Event.DEPENDENCY_PRESENT)
def _summarise(task: luigi.Task) -> None:
    """Print the summary of the task that was asked for, whether it ran now or was done already."""
    if not isinstance(task, Task) or task.dry_run or task != asked():
        return
    receipt = task.receipt()
    if receipt is not None:
        logs.say(task.summary(receipt))

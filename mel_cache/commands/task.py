"""What all commands share: the work folder, receipts, dry runs, progress, the summary at the end. No torch."""

import contextlib
import functools
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import luigi
from luigi.interface import core

from foundation import checksums, child, extras, layers, logs, plugins, progress, receipts
from foundation.errors import NotAsWritten, UserError
from foundation.paths import Paths
from mel_cache import steps
from mel_cache.commands.parameters import Files, setting
from mel_cache.commands.shell import command, messages
from mel_cache.steps import Done, Outcome, Step

T = TypeVar("T")
TaskType = TypeVar("TaskType", bound="Task")
LOG_EVERY = 5.0  # seconds between two lines about the progress of one task


ON_DEVICE = {"device": 1}
"""Luigi's resources of a task that has the device to itself."""
_ANSWERS: dict[tuple[str, str], Any] = {}
"""What `remembered` methods have answered, by method and task."""
_KEPT: dict[tuple[str, str], tuple[Any, Any]] = {}
"""What methods that are `kept` have answered: the state that it was answered for, and the answer."""
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_ANSWERS.clear)  # a worker looks for itself what others have done since


def remembered(method: Callable[[TaskType], T]) -> Callable[[TaskType], T]:
    """`method`, called once per task until a task has run: a command needs the same digests hundreds of times."""

    @functools.wraps(method)
    def answer(self: TaskType) -> T:
        place = method.__name__, self.task_id
        if place not in _ANSWERS:
            _ANSWERS[place] = method(self)
        value: T = _ANSWERS[place]
        return value

    return answer


def kept(method: Callable[[TaskType, Any], T]) -> Callable[[TaskType, Any], T]:
    """`method` of a state, called once per task for the whole command: the workers that Luigi forks know the answer.

    It is called again where the state is another.
    """

    @functools.wraps(method)
    def answer(self: TaskType, state: Any) -> T:
        place = method.__name__, self.task_id
        if place not in _KEPT or _KEPT[place][0] != state:
            _KEPT[place] = state, method(self, state)
        value: T = _KEPT[place][1]
        return value

    return answer


@functools.cache
def _use_layers(paths: Paths, cache_path: str, dry: bool) -> None:
    """Take `--cache-path`, once in a process."""
    layers.use(paths.cache, cache_path, dry)


def forget() -> None:
    """Forget the remembered results of tasks, as a new command does."""
    _ANSWERS.clear()
    _KEPT.clear()
    _use_layers.cache_clear()


class Task(luigi.Task):
    """A task with a receipt: subclasses define what it needs, what names its result (`request`) and how it is made."""

    work_dir = setting(
        "work_dir", "artifacts", "folder that everything is written to (also MEL_WORK_DIR, or [mel] in luigi.cfg)"
    )
    cache_path = setting(
        "cache_path",
        "",
        "folder of the cache (empty: cache/ in the work folder), then, after colons, further caches that are only "
        "read: OWN:COLLEAGUES; remembered by the work folder",
        significant=False,
    )
    dry_run = luigi.BoolParameter(
        default=False, significant=False, description="say what would run, run and write nothing"
    )
    json_log = luigi.BoolParameter(
        default=False, significant=False, description="logs as lines of JSON on stderr (also MEL_JSON_LOG=1)"
    )

    plugin = Files(
        default="",
        significant=False,
        description="Python file with an extractor or a head of your own; may be repeated (also MEL_PLUGINS)",
    )

    _ran = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        checksums.share()  # among the processes of Luigi's workers, which are forked from this one
        # Commands of several hosts behind one scheduler divide the work in the cache, as if each had its own.
        self.task_id = f"{self.task_id}_{command.name()}"
        if self.cache_path:
            _use_layers(self.paths, self.cache_path, self.dry_run)
        if self.plugin:
            plugins.register(self.plugin.split(","))
        if self.json_log:
            os.environ[logs.WANTED] = "1"
        if logs.wanted():
            logs.take_over()

    @property
    def paths(self) -> Paths:
        return Paths.below(self.work_dir)

    def needs(self) -> list["Task"]:
        """The tasks whose results this one reads."""
        return []

    def step(self) -> Step:
        """The work of this task, over the results of those it needs, which are done."""
        raise NotImplementedError

    def request(self) -> dict[str, Any] | None:
        """The significant parameters and inputs as JSON; None while what the task needs is not done."""
        return dict(self.step().request) if all(task.done() for task in self.needs()) else None

    def make(self) -> Outcome:
        """Do the work."""
        return self.step().work(self.run_child)

    def run_child(self, target: str, job: Any, result: type[T]) -> T:
        """Run a heavy function in a process of its own."""
        return child.run(target, job, result)

    def summary(self, receipt: dict[str, Any]) -> str:
        """What the command prints when it ends, whether it ran now or was done already."""
        return f"{self.get_task_family()}: done"

    def content(self) -> str | None:
        """What names the result in the requests of those that read it; None while it is not known."""
        return self.digest()

    def is_root(self) -> bool:
        """Whether this is the task that the command line names."""
        return self.task_id == command.root()

    # Receipts

    @remembered
    def digest(self) -> str | None:
        """Hash of the request; None while it is not known."""
        request = self.request()
        if request is None:
            return None
        return steps.digest(self.get_task_family(), request)

    def name(self) -> str:
        """The digest, which names files and folders of the result. Raises `UserError` while it is not known."""
        digest = self.digest()
        if digest is None:
            raise UserError(f"{self.get_task_family()}: its input is not there (any more); run the same command again")
        return digest

    def receipt(self) -> dict[str, Any] | None:
        """The standing receipt, or None."""
        examined = self.examined()
        return None if examined.fault else examined.receipt

    def examined(self, most: int | None = receipts.SMALL) -> receipts.Examined:
        """The receipt, compared with the files that it lists; see `receipts.examine`."""
        digest = self.digest()
        if digest is None:
            return receipts.Examined()
        return receipts.examine(self.paths.root, self.paths.receipt(self.get_task_family(), digest), most)

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
        with messages.refusing():
            return [] if self.dry_run else self.needs()

    @remembered
    def done(self) -> bool:
        """Whether this task's receipt stands, and those of all it needs."""
        return all(task.done() for task in self.needs()) and self.receipt() is not None

    def complete(self) -> bool:
        with messages.refusing():
            return self._ran if self.dry_run else self.done()

    def process_resources(self) -> dict[str, int]:
        """Luigi's resources; a scheduler that several hosts share keeps those of each command apart."""
        suffix = "" if core().local_scheduler else f" of {command.name()}"
        return {f"{name}{suffix}": count for name, count in self.resources.items()}

    def run(self) -> None:
        if self.dry_run:
            logs.say(
                "\n".join(self._plan()) or f"{self.get_task_family()}: everything is done already, nothing would run"
            )
            self._ran = True
            return
        child.follow_parent()  # with several workers, this is a process of Luigi's
        if self.done():
            return  # what it needs was made anew, and is as it was before
        self._refuse_large_damage()
        fault = self.examined().fault
        if fault:
            logs.notice(steps.again(self.get_task_family(), fault))
        started = time.monotonic()
        with self._reported(), extras.explained():
            outcome = self.make()
        _ANSWERS.clear()
        self.name()  # raises where its input is gone since
        words = command.words()
        outcome = replace(outcome, run={**outcome.run, **({"command": words} if words else {})})
        steps.keep(self.paths, self.get_task_family(), self.request() or {}, outcome, time.monotonic() - started)
        _ANSWERS.clear()

    def _refuse_large_damage(self) -> None:
        """Compare the content of all files that this task may read, of those too that are too large to be compared each
        time. Raises `NotAsWritten`."""
        seen: set[str] = set()

        def walk(task: Task) -> None:
            for needed in task.needs():
                if needed.task_id not in seen:
                    seen.add(needed.task_id)
                    walk(needed)
                    fault = needed.examined(most=None).fault
                    if fault:
                        raise NotAsWritten(
                            f"{fault}; delete that file and run the same command again: {needed.get_task_family()} "
                            "makes it again"
                        )

        walk(self)

    @contextlib.contextmanager
    def _reported(self) -> Iterator[None]:
        """Inside, Luigi's page and the log show how far the work is."""
        name, started, logged = f"{self.get_task_family()}{self.brief()}", time.monotonic(), [time.monotonic()]

        def watch(state: dict[str, Any]) -> None:
            self._show(progress.text(state), 100 * state["done"] // state["total"] if state["total"] else None)
            if time.monotonic() - logged[0] >= LOG_EVERY:
                logged[0] = time.monotonic()
                logs.emit("progress", task=name, **state)

        if logs.wanted():
            logs.take_over()
        logs.emit("start", task=name)
        self._show("started", 0)
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
        self._show(f"done in {time.monotonic() - started:.1f} s", 100)
        logs.emit("done", task=name, seconds=round(time.monotonic() - started, 3))

    def _show(self, message: str, percent: int | None) -> None:
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


def finished(task: Task, read: Callable[[dict[str, Any]], T]) -> Done[T]:
    """A task that is done, and how its result is read from its receipt."""
    digest = task.digest()
    if digest is None:
        raise UserError(f"{task.get_task_family()} is not done; run it first")
    return Done(digest, lambda: read(task.resolved()))


class Tool(Task):
    """A command without a receipt: it runs every time."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not self.dry_run:
            self.check()

    def check(self) -> None:
        """Raises `UserError` for what can be refused before anything runs; a dry run asks for less."""

    def complete(self) -> bool:
        return self._ran

    def receipt(self) -> None:
        return None

    def run(self) -> None:
        if self.dry_run:
            logs.say(f"would run {self.get_task_family()}{self.brief()}")
        else:
            child.follow_parent()
            with self._reported(), extras.explained():
                self.act()
        self._ran = True

    def act(self) -> None:
        raise NotImplementedError


@luigi.Task.event_handler(luigi.Event.SUCCESS)
@luigi.Task.event_handler(luigi.Event.DEPENDENCY_PRESENT)
def _summarise(task: luigi.Task) -> None:
    """Print the summary of the task that the command line names."""
    if not isinstance(task, Task) or task.dry_run or not task.is_root():
        return
    receipt = task.receipt()
    if receipt is not None:
        logs.say(task.summary(receipt))

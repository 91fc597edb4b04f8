"""Optuna studies that several processes share: where they are kept, which processes run them, trials of dead ones."""

import contextlib
import json
import secrets
import threading
import warnings
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.exceptions import StorageInternalError
from optuna.samplers import BaseSampler, TPESampler
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from cache import claims
from experiments.contracts import SearchJob
from experiments.journal import Journal
from foundation.errors import UserError
from foundation.files import make_folder
from foundation.processes import Process
from heads.config.space import Choices, Drawn

JOURNAL = "study.journal"
"""The file of a study without a database, in its folder."""
WORKER = "worker"
"""Attribute of a trial: the process that has it under way."""
DRAWN = "drawn"
"""Attribute of a trial that has all its values."""
UNWRITTEN = (OSError, SQLAlchemyError, StorageInternalError)
"""What a journal or a database raises that cannot be written now."""
TTL = 120.0  # seconds without a sign of life after which a process on another machine is taken for dead
STARTUP = 10
"""Random trials before the sampler learns from finished ones; half as many before any trial is pruned."""
WARMUP = 3
"""The first epoch after which a trial may be pruned."""


class Sampler(BaseSampler):
    """TPE whose draws depend on the study's seed and the trials before it alone, those of killed processes left out.

    So a study that was killed goes on as it would have.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.of_trial = TPESampler(seed=seed)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        before = sum(
            other.number < trial.number and other.state != TrialState.FAIL for other in study.get_trials(deepcopy=False)
        )
        self.of_trial = TPESampler(
            seed=(self.seed * 1_000_003 + before) % 2**32, n_startup_trials=STARTUP, constant_liar=True
        )
        return self.of_trial.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self.of_trial.sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self.of_trial.sample_independent(study, trial, param_name, param_distribution)


def quiet() -> None:
    """Silence Optuna's own log, which repeats the progress bar."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)


def open_study(job: SearchJob) -> optuna.Study:
    """The study of a search job, made where it is not there yet."""
    storage = open_storage(job.study.storage, job.out)
    pruner = (
        optuna.pruners.MedianPruner(n_startup_trials=STARTUP // 2, n_warmup_steps=WARMUP)
        if job.study.prune
        else optuna.pruners.NopPruner()
    )
    sampler = Sampler(job.training.seed)
    return optuna.create_study(
        storage=storage,
        study_name=job.name,
        direction="maximize",
        sampler=sampler,
        pruner=pruner,
        load_if_exists=True,
    )


def open_storage(url: str, out: Path) -> BaseStorage:
    """A journal in `out` (empty url), or the database at `url`.

    Raises `UserError` where it cannot be reached; passwords are never printed.
    """
    if not url:
        return JournalStorage(Journal(make_folder(out) / JOURNAL))
    try:
        with reached(url):
            return RDBStorage(
                url, heartbeat_interval=20, grace_period=int(TTL), heartbeat_stale_trial_callback=queue_again
            )
    except ImportError as error:
        raise UserError(
            f"--storage {_shown(url)}: {str(error).splitlines()[0]} "
            "For PostgreSQL: pip install 'psycopg[binary]' and postgresql+psycopg://…"
        ) from None


@contextlib.contextmanager
def reached(url: str) -> Iterator[None]:
    """Inside, a database that fails raises a `UserError` of one line; nothing is changed where `url` is empty.

    Optuna's threads, which give signs of life, meet the same error; they end without a word.
    """
    if not url:
        yield
        return
    shown, plain = _shown(url), threading.excepthook

    def of_thread(given: threading.ExceptHookArgs) -> None:
        if not isinstance(given.exc_value, SQLAlchemyError | StorageInternalError):
            plain(given)

    threading.excepthook = of_thread
    try:
        yield
    except (SQLAlchemyError, StorageInternalError) as error:
        reason = error.__cause__ if isinstance(error, StorageInternalError) and error.__cause__ else error
        raise UserError(
            f"--storage {shown}: {str(getattr(reason, 'orig', None) or reason).strip().splitlines()[0]}; "
            "run the same command again when the database answers"
        ) from None
    finally:
        threading.excepthook = plain


def _shown(url: str) -> str:
    """The URL of a database without its password. Raises `UserError` for what is no URL."""
    try:
        return make_url(url).render_as_string(hide_password=True)
    except ArgumentError:
        raise UserError(
            "--storage: expected a URL like postgresql+psycopg://user@host/database, or nothing for a journal file"
        ) from None


def worker_name() -> str:
    """A name for this process that tells others whether it is alive."""
    me = Process.this()
    return f"{me.host}-{me.pid}-{me.started or 'x'}-{secrets.token_hex(4)}"


@contextlib.contextmanager
def at_work(out: Path, worker: str) -> Iterator[None]:
    """Inside, a file in the search's folder is renewed as a sign of life that other machines see."""
    place = sign_of_life(make_folder(out), worker)
    claims.clear(place.parent)
    claim = claims.take(place.parent, place.name, TTL)
    with claim if claim is not None else contextlib.nullcontext():
        yield


def sign_of_life(out: Path, worker: str) -> Path:
    """The file that a process renews while it searches."""
    return out / "workers" / f"{worker}.claim"


def requeue_dead(study: optuna.Study, job: SearchJob) -> list[int]:
    """Fail the running trials of processes that are dead, or stay stopped, and queue their values again. Returns their
    numbers."""
    if job.study.storage:
        optuna.storages.fail_stale_trials(study)  # without this, only the start of a next trial looks for them
    running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    if not running:
        return []
    signs = None if job.study.storage else {path.stem for path in claims.live(job.out / "workers", TTL)}
    dead = []
    for trial in running:
        if not _dead(trial, signs):
            continue
        with contextlib.suppress(ValueError, optuna.exceptions.UpdateFinishedTrialError):  # someone else noticed first
            study.tell(trial.number, state=TrialState.FAIL)
            queue_again(study, trial)
            dead.append(trial.number)
    return dead


def _dead(trial: FrozenTrial, signs: set[str] | None) -> bool:
    """Whether the trial's process is dead.

    signs: names of the processes that gave a sign of life; None where the database watches those on other machines.
    """
    worker = trial.user_attrs.get(WORKER)
    if worker is None:  # abs: the clock of the machine that began it may be ahead
        return trial.datetime_start is not None and abs((datetime.now() - trial.datetime_start).total_seconds()) > TTL
    process = process_of(worker)
    alive = process.alive()
    if alive is None or process.stopped():
        return signs is not None and worker not in signs
    return not alive


def process_of(worker: str) -> Process:
    """The process that has this name, see `worker_name`."""
    host, pid, started, _ = worker.split("-")
    return Process(host, int(pid), "" if started == "x" else started)


def queue_again(study: optuna.Study, trial: FrozenTrial) -> None:
    """A new trial with the values of one whose process died.

    Of one that died before all were drawn, only those that it was to have are queued: the others are drawn as before.
    """
    values = trial.params if DRAWN in trial.user_attrs else trial.system_attrs.get("fixed_params")
    if values:
        study.enqueue_trial(values, user_attrs={"again": trial.number})


def code(choice: Any) -> Any:
    """A choice as Optuna keeps it: lists as JSON."""
    return json.dumps(choice) if isinstance(choice, (list, tuple, dict)) else choice


def encoded(values: Mapping[str, Any], space: Mapping[str, Drawn]) -> dict[str, Any]:
    """Drawn values as Optuna keeps them."""
    return {name: code(value) if isinstance(space[name], Choices) else value for name, value in values.items()}


def decoded(params: Mapping[str, Any], space: Mapping[str, Drawn]) -> dict[str, Any]:
    """The inverse of `encoded`."""
    values = {}
    for name, value in params.items():
        drawn = space[name]
        choices = drawn.choices if isinstance(drawn, Choices) else ()
        values[name] = next((choice for choice in choices if code(choice) == value), value)
    return values

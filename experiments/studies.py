"""Optuna studies that several processes share: where they are kept, which processes run them, trials of dead ones."""

import contextlib
import json
import os
import secrets
import warnings
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, TPESampler
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from optuna.trial import FrozenTrial, TrialState

from cache import claims
from experiments.contracts import SearchJob
from foundation.errors import UserError
from foundation.files import explained, make_folder
from heads.config.space import Choices, Drawn

WORKER = "worker"
"""Attribute of a trial: the process that has it under way."""
TTL = 120.0  # seconds without a sign of life after which a process on another machine is taken for dead
STARTUP = 10
"""Random trials before the sampler learns from finished ones; half as many before any trial is pruned."""
WARMUP = 3
"""The first epoch after which a trial may be pruned."""


class Sampler(BaseSampler):
    """TPE whose draws depend on the study's seed, the trial's number and the trials before it alone.

    So a study that was killed goes on as it would have.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.of_trial = TPESampler(seed=seed)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        self.of_trial = TPESampler(
            seed=(self.seed * 1_000_003 + trial.number) % 2**32, n_startup_trials=STARTUP, constant_liar=True
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
        journal = make_folder(out) / "study.journal"
        with explained(journal):
            mend(journal)
            return JournalStorage(JournalFileBackend(str(journal), JournalFileSymlinkLock(str(journal))))
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError, SQLAlchemyError

    try:
        shown = make_url(url).render_as_string(hide_password=True)
    except ArgumentError:
        raise UserError(
            "--storage: expected a URL like postgresql+psycopg://user@host/database, or nothing for a journal file"
        ) from None
    try:
        return RDBStorage(url, heartbeat_interval=20, grace_period=int(TTL), heartbeat_stale_trial_callback=queue_again)
    except ImportError as error:
        raise UserError(
            f"--storage {shown}: {str(error).splitlines()[0]} "
            "For PostgreSQL: pip install 'psycopg[binary]' and postgresql+psycopg://…"
        ) from None
    except SQLAlchemyError as error:
        raise UserError(
            f"--storage {shown}: {str(getattr(error, 'orig', None) or error).strip().splitlines()[0]}"
        ) from None


def mend(journal: Path) -> None:
    """Cut off a last line that a writer left unfinished when it was killed; a whole one ends in a line break."""
    if not journal.exists():
        return
    lock = JournalFileSymlinkLock(str(journal))
    lock.acquire()
    try:
        data = journal.read_bytes()
        if data and not data.endswith(b"\n"):
            os.truncate(journal, data.rfind(b"\n") + 1)
    finally:
        lock.release()


def worker_name() -> str:
    """A name for this process that tells others whether it is alive."""
    me = claims.Process.this()
    return f"{me.host}-{me.pid}-{me.started or 'x'}-{secrets.token_hex(4)}"


@contextlib.contextmanager
def at_work(out: Path, worker: str) -> Iterator[None]:
    """Inside, a file in the search's folder is renewed as a sign of life that other machines see."""
    claim = claims.take(make_folder(out) / "workers", f"{worker}.claim", TTL)
    with claim if claim is not None else contextlib.nullcontext():
        yield


def requeue_dead(study: optuna.Study, job: SearchJob) -> list[int]:
    """Fail the running trials of processes that are dead and queue their values again. Returns their numbers."""
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
    if worker is None:
        return trial.datetime_start is not None and (datetime.now() - trial.datetime_start).total_seconds() > TTL
    host, pid, started, _ = worker.split("-")
    alive = claims.Process(host, int(pid), "" if started == "x" else started).alive()
    return not alive if alive is not None else signs is not None and worker not in signs


def queue_again(study: optuna.Study, trial: FrozenTrial) -> None:
    """A new trial with the values of one whose process died."""
    if trial.params:
        study.enqueue_trial(trial.params, user_attrs={"again": trial.number})


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

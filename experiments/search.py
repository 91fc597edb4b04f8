"""A search over one head's hyper-parameters: an Optuna study whose trials train over tensors that are loaded once."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import optuna
import torch
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState

from cache import claims
from experiments import spaces, studies, sweep_report, towers
from experiments.contracts import SearchJob, SearchResult
from foundation import device as devices
from foundation.errors import UserError
from foundation.files import explained, fault_point
from foundation.locks import locked
from foundation.progress import Bar
from foundation.waiting import Wait
from heads import folds, fusion, training
from heads.config import load_config, nested
from heads.config.space import Choices, Drawn, WholeRange
from heads.data import Bundle
from heads.loop import State, Trainer

COUNTED = (TrialState.COMPLETE, TrialState.PRUNED)


class Surplus(Exception):
    """Another process started the last of the trials a moment before."""


class Left(BaseException):
    """A trial cannot be written, or is another process's by now: it is left as it is.

    No `Exception`, since Optuna would note the trial as failed, and others would draw other values in its place.
    """


@dataclass
class Trials:
    """What all trials of this process share.

    mentions: rows of the training mentions. trained: seconds in epochs. done: trials that it ran.
    """

    job: SearchJob
    bundle: Bundle
    mentions: np.ndarray
    precision: str
    study: optuna.Study
    worker: str
    trained: float = 0.0
    done: int = 0

    def objective(self, trial: optuna.Trial) -> float:
        """Best dev MRR of a head trained with the drawn values.

        Raises `optuna.TrialPruned` where it is stopped early, or cannot be trained; `Left`.
        """
        try:
            return self._trained(trial)
        except (*studies.UNWRITTEN, UpdateFinishedTrialError) as error:
            raise Left from error

    def _trained(self, trial: optuna.Trial) -> float:
        trial.set_user_attr(studies.WORKER, self.worker)
        before = [
            other
            for other in self.study.get_trials(deepcopy=False)
            if other.number < trial.number and other.state != TrialState.FAIL
        ]
        if len(before) >= self.job.study.trials:
            raise Surplus
        base, state = self.job.training, State()
        try:
            drawn = draw(trial, self.job.space)
            base = replace(base, config=nested({**base.config, **drawn}))
            head = training.new_head(base, self.bundle, self.mentions, towers.build)
            trial.set_user_attr("parameters", head.trainable)

            def after(state: State) -> None:
                fault_point("trial-epoch")
                if state.part:
                    return
                trial.report(state.history[-1].get("dev MRR", 0.0), state.epoch)
                if self.job.study.prune and trial.should_prune():
                    raise optuna.TrialPruned

            Trainer(head, self.bundle, self.mentions, base.seed, self.precision, state).train(after)
        except (UserError, torch.OutOfMemoryError) as error:
            trial.set_user_attr("refused", str(error)[:300])
            raise optuna.TrialPruned from error
        finally:
            self.trained += state.seconds
            self.done += 1
            for name, value in (
                ("seconds", round(state.seconds, 3)),
                ("epochs", state.done),
                ("best_epoch", state.best_epoch),
            ):
                trial.set_user_attr(name, value)
        return state.best

    def finished(self) -> int:
        """Trials of the study that came to an end, in any process."""
        return len(self.study.get_trials(deepcopy=False, states=COUNTED))

    def best(self) -> dict[str, str]:
        """The best figure so far, for the bar."""
        values = [
            trial.value
            for trial in self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
            if trial.value is not None
        ]
        return {"best": f"{max(values):.4f}"} if values else {}

    def left(self) -> int:
        """How many trials no process has started; those of dead processes are queued again first."""
        studies.requeue_dead(self.study, self.job)
        trials = self.study.get_trials(deepcopy=False)
        return self.job.study.trials - sum(trial.state in (*COUNTED, TrialState.RUNNING) for trial in trials)

    def run(self) -> None:
        """Run trials until the study has as many as are wanted.

        Waits for those that other processes run, and takes over those of processes that die or stay stopped.
        """
        wait = Wait()
        with Bar(self.job.study.trials, "trials", "trial", self.finished()) as bar:
            while True:
                if self.left() > 0:
                    self._run_one()
                elif running := self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
                    wait.pause(partial(self._waited_for, running))
                else:
                    return
                if more := self.finished() - bar.done:
                    wait.again()
                    bar.update(more)
                bar.show(**self.best())

    def _run_one(self) -> None:
        """Run one trial. Raises `UserError` where the study cannot be written."""
        with explained(self.job.out / studies.JOURNAL):
            try:
                self.study.optimize(self.objective, n_trials=1, catch=(Surplus,))
            except Left as left:
                if isinstance(left.__cause__, studies.UNWRITTEN):
                    raise left.__cause__ from None

    def _waited_for(self, trials: Sequence[optuna.trial.FrozenTrial]) -> str:
        """Who runs the trials that this process waits for."""
        places = {
            str(trial.number): studies.sign_of_life(self.job.out, trial.user_attrs[studies.WORKER])
            for trial in trials
            if studies.WORKER in trial.user_attrs
        }
        signs = "; ".join(f"trial {number}: {claims.described(place, studies.TTL)}" for number, place in places.items())
        return f"{len(trials)} trials of {self.job.out} that other processes run: {signs or 'just begun'}"


def search(job: SearchJob) -> SearchResult:
    """Run, join or go on with a search. Writes best.json, trials.csv, study.json and pictures to its folder.

    The test split takes no part: its golds and lists are put out of sight before the first trial. Raises `UserError`.
    """
    started, out = time.monotonic(), job.out
    studies.quiet()
    base = job.training
    device = devices.choose(base.compute.device)
    config = load_config(base.method, base.config)
    worker = studies.worker_name()
    with devices.repeatable(base.compute.threads), studies.at_work(out, worker):
        base = fusion.with_parts(base, ("dev",), "picture_dropout" in job.space, towers.build)
        job = replace(job, training=base)
        bundle = Bundle.load(base, torch.device(device))
        bundle.hide("test")
        bundle = folds.with_left_out(base, bundle, towers.build)
        mentions, _ = folds.training_mentions(base, bundle)
        loaded = time.monotonic()
        precision = devices.choose_precision(base.compute.precision, device, training=True)
        with studies.reached(job.study.storage):
            study = studies.open_study(job)
            with explained(out / studies.JOURNAL), locked(out / ".lock"):
                first = spaces.drawn(job.space, config)
                if first and not study.get_trials(deepcopy=False):
                    study.enqueue_trial(studies.encoded(first, job.space))
            trials = Trials(job, bundle, mentions, precision, study, worker)
            trials.run()
    with studies.reached(job.study.storage):
        outcome = sweep_report.write(study, job, out)
    run = {
        "device": device,
        "trials": trials.done,
        "seconds": {
            "load": round(loaded - started, 3),
            "train": round(trials.trained, 3),
            "all": round(time.monotonic() - started, 3),
        },
    }
    return SearchResult(**outcome, run=run)


def draw(trial: optuna.Trial, space: Mapping[str, Drawn]) -> dict[str, Any]:
    """The trial's values for the options of a space."""
    values: dict[str, Any] = {}
    for name, drawn in space.items():
        if isinstance(drawn, Choices):
            choices = {studies.code(choice): choice for choice in drawn.choices}
            values[name] = choices[trial.suggest_categorical(name, list(choices))]
        elif isinstance(drawn, WholeRange):
            values[name] = trial.suggest_int(name, drawn.low, drawn.high, step=drawn.step or 1, log=drawn.log)
        else:
            values[name] = trial.suggest_float(name, drawn.low, drawn.high, step=drawn.step, log=drawn.log)
    trial.set_user_attr(studies.DRAWN, True)
    return values

"""The command that searches a head's hyper-parameters."""

from typing import Any, TypeVar

import luigi
from luigi.parameter import ParameterVisibility

from experiments import jobs, spaces
from experiments.contracts import RemoteSearch, SearchJob, Study
from foundation.errors import UserError
from mel_cache import steps
from mel_cache.commands.heads import TrainHead
from mel_cache.commands.parameters import TrueOrFalse, Whole
from mel_cache.commands.task import setting
from mel_cache.steps import Step

T = TypeVar("T")


class SearchHead(TrainHead):
    """Searches a head's hyper-parameters on one half of dev (Optuna); all trials share one process's tensors.

    Writes artifacts/sweeps/<dataset>/<method>/<hash>/: best.json (for `TrainHead --params @best.json`), trials.csv
    and pictures. A search that was stopped goes on; a larger --n-trials adds to it; the same command elsewhere joins
    it.
    """

    n_trials = Whole(least=1, default=50, description="trials in the whole study, by all that take part")
    space = luigi.Parameter(
        default="",
        description="YAML file with the search space; empty: the method's own, which stands in heads/config/",
    )
    prune = TrueOrFalse(default=True, description="stop trials early that do worse than half of the others")
    storage = setting(
        "storage",
        "",
        "where the study is kept: empty, a journal file beside the results (safe on a shared disk), "
        "or a database's URL, e.g. PostgreSQL's",
        significant=False,
        visibility=ParameterVisibility.PRIVATE,
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.seeds != 1:
            raise UserError(
                "--seeds: all trials of a search have one --seed; train the best with several, "
                "TrainHead --params @best.json --seeds 3"
            )
        if self.storage and "://" not in self.storage:
            raise UserError(
                "--storage: expected a URL like postgresql+psycopg://user@host/database, or nothing for a journal file"
            )
        self.plan = spaces.plan(self.method, jobs.placed(self.params, self.paths), self.space, self.profile_content)
        self.head = self.plan.head

    def brief(self) -> str:
        return f" {self.head.method}, {self.n_trials} trials"

    def run_child(self, target: str, job: Any, result: type[T]) -> T:
        if self.on_cluster and isinstance(job, SearchJob):
            remote = RemoteSearch(search=job, address=self.ray, threads=self.profile_content.threads)
            return super().run_child("experiments.on_ray:search", remote, result)
        return super().run_child(target, job, result)

    def step(self) -> Step:
        study = Study(trials=self.n_trials, prune=self.prune, storage=self.storage)
        return steps.search(self.setup(), self.training(), self.plan, study)

    def summary(self, receipt: dict[str, Any]) -> str:
        sweep = self.folder(receipt["result"]["sweep"])
        train = f"luigi --module tasks TrainHead --method {self.method} --params @{sweep / 'best.json'}"
        return f"{receipt['result']['text']}\nsweep: {sweep}\ntrain it: {train}"

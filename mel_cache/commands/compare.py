"""Tasks that set finished runs side by side: leaderboards, ablations, tests of significance. What is not trained yet is trained."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import luigi

from experiments import variants
from foundation import child, logs
from foundation.errors import UserError
from foundation.tables import terminal_takes_bold
from mel_cache.commands.heads import BuildCandidates, TrainHead
from mel_cache.commands.parameters import Whole
from mel_cache.commands.task import Task, Tool, stop
from report.contracts import (
    ComparisonJob,
    ComparisonResult,
    LeaderboardJob,
    LeaderboardResult,
    NamedRun,
    TablesJob,
)

LAYOUT = 1
"""Raised when leaderboards are to be written anew."""


class Leaderboard(BuildCandidates):
    """Trained heads in one leaderboard: `experiments` and `without_pictures` say which, by name."""

    seed = TrainHead.seed
    seeds = TrainHead.seeds
    train_fraction = TrainHead.train_fraction
    splits: tuple[str, ...] = ("test",)
    reference = ""
    skipped: dict[str, str]

    def experiments(self) -> dict[str, TrainHead]:
        raise NotImplementedError

    def brief(self) -> str:
        return f" {', '.join(self.experiments())}"

    def without_pictures(self) -> dict[str, TrainHead]:
        """Text-only ablations of the experiments, by the same names."""
        return {}

    def needs(self) -> list[Task]:
        return [*self.experiments().values(), *self.without_pictures().values()]

    def request(self) -> dict[str, Any] | None:
        own, alone = (
            {name: task.digest() for name, task in listed.items()}
            for listed in (self.experiments(), self.without_pictures())
        )
        if not all([*own.values(), *alone.values()]):
            return None
        return {
            "experiments": own,
            "text_only": alone,
            "skipped": self.skipped,
            "splits": self.splits,
            "reference": self.reference,
            "layout": LAYOUT,
        }

    def named_runs(self, tasks: Mapping[str, TrainHead]) -> tuple[NamedRun, ...]:
        """The runs of finished tasks, under their names."""
        return tuple(
            NamedRun(
                name=name,
                folder=task.folder(task.resolved()["run"]),
                settings=variants.settings(task.method, task.params, self.profile_content),
            )
            for name, task in tasks.items()
        )

    def tables_job(self) -> TablesJob:
        """What the leaderboard's tables are made of."""
        return TablesJob(
            dataset=self.dataset,
            runs=self.named_runs(self.experiments()),
            text_only=self.named_runs(self.without_pictures()),
            reference=self.reference,
            skipped=self.skipped,
            splits=self.splits,
        )

    def make(self) -> dict[str, Any]:
        out = self.paths.report(self.dataset, self.get_task_family().lower(), self.digest())
        job = LeaderboardJob(tables=self.tables_job(), out=out)
        written = self.run_child("report.leaderboard:write_leaderboard", job, LeaderboardResult)
        return {"result": {"folder": self.paths.relative(out)}, "files": written.files}

    def summary(self, receipt: dict[str, Any]) -> str:
        folder = self.folder(receipt["result"]["folder"])
        text = (folder / ("leaderboard.ansi" if terminal_takes_bold() else "leaderboard.txt")).read_text()
        return f"{text}\nleaderboard: {folder} (txt, md, csv, tex)"


class CompareHeads(Leaderboard):
    """Trains what is missing of several methods and writes one leaderboard: figures, significance, cost, the papers' figures apart.

    Writes artifacts/reports/<dataset>/compareheads-<hash>/leaderboard.txt, .md, .csv and .tex. A method that the profile has no features for is
    left out and named.
    """

    methods = luigi.Parameter(default="drin,mimic,dwe,dsmip", description="comma-separated methods")
    params = luigi.Parameter(
        default="{}", description='hyper-parameters by method as JSON, e.g. \'{"dwe": {"lr": 0.001}}\', or @FILE'
    )
    text_only = luigi.BoolParameter(
        default=False, description="also train each method without pictures, and show what they add by group"
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        try:
            self.chosen, self.skipped = variants.possible(self.methods, self.params, self.profile_content)
        except UserError as error:
            stop(error)

    def experiments(self) -> dict[str, TrainHead]:
        return {method: self.clone(TrainHead, method=method, params=params) for method, params in self.chosen.items()}

    def without_pictures(self) -> dict[str, TrainHead]:
        if not self.text_only:
            return {}
        found = {
            method: variants.text_only(method, params, self.profile_content) for method, params in self.chosen.items()
        }
        return {
            method: self.clone(TrainHead, method=method, params=params)
            for method, params in found.items()
            if params is not None
        }


class Ablate(Leaderboard):
    """Trains one method and the ablations of its paper, and writes their table: what each takes away, and whether the difference is significant.

    Writes artifacts/reports/<dataset>/ablate-<hash>/leaderboard.txt, .md, .csv and .tex. Ablations that the profile has no features for are named.
    """

    method = TrainHead.method
    params = TrainHead.params
    only = luigi.Parameter(
        default="", description="comma-separated names of ablations, with * for any text; empty: all"
    )
    sensitivity = luigi.BoolParameter(
        default=False, description="also one parameter at a time at the values that the paper plots"
    )
    splits = ("dev", "test")
    reference = "full"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        try:
            self.variants, self.skipped = variants.ablations(
                self.method, self.params, self.profile_content, only=self.only, sensitivity=self.sensitivity
            )
        except UserError as error:
            stop(error)

    def experiments(self) -> dict[str, TrainHead]:
        full = self.clone(TrainHead)
        return {self.reference: full} | {
            name: self.clone(
                TrainHead, params=variant.params, train_fraction=variant.train_fraction or self.train_fraction
            )
            for name, variant in self.variants.items()
        }


class CompareRuns(Tool):
    """Tests whether two runs differ on the same mentions: McNemar's exact test of H@1, paired bootstrap of H@1 and MRR with intervals."""

    run_folder = luigi.Parameter(
        description="a run's folder (or that of a mean over seeds), or <dataset>/<method>/<hash> under artifacts/runs"
    )
    against = luigi.Parameter(description="the run that it is compared with")
    split = luigi.Parameter(default="test", description="dev or test")
    protocol = luigi.Parameter(
        default="", description="full-kb, candidates or rerank; empty: the first that both were measured under"
    )
    resamples = Whole(least=1, default=10_000, description="draws of the bootstrap")
    bootstrap_seed = Whole(least=0, default=0, description="seed of the bootstrap")

    def brief(self) -> str:
        return f": {self.run_folder} against {self.against} on {self.split}"

    def act(self) -> None:
        job = ComparisonJob(
            first=self.named(self.run_folder),
            second=self.named(self.against),
            split=self.split,
            protocol=self.protocol,
            resamples=self.resamples,
            seed=self.bootstrap_seed,
        )
        logs.say(child.run("report.compare:compare", job, ComparisonResult).text)

    def named(self, name: str) -> NamedRun:
        """The run of that name. Raises `UserError` where there is none."""
        for place in (Path(name).expanduser(), self.paths.root / name, self.paths.root / "runs" / name):
            if place.is_dir():
                return NamedRun(name=name, folder=place)
        raise UserError(
            f"{name}: no such run; name the folder that TrainHead printed as `run:`, or <dataset>/<method>/<hash>"
        )

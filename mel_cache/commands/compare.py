"""Commands that set runs side by side: leaderboards, ablations, tests of significance. Missing runs are trained."""

import functools
import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import luigi

from experiments import jobs, towers, variants
from experiments.cuts import HELP
from experiments.cuts import cuts as cut_variants
from foundation import child, extras, logs
from foundation.contracts import to_json
from foundation.errors import UserError
from foundation.tables import terminal_text
from heads.contracts import MASKED, Masking, MaskingJob
from mel_cache.commands.candidates import CandidateOptions
from mel_cache.commands.heads import TrainHead
from mel_cache.commands.parameters import Shares, Whole, shares
from mel_cache.commands.task import Task, Tool
from mel_cache.steps import Outcome
from pipeline.candidates import specs
from report.contracts import (
    ComparisonJob,
    ComparisonResult,
    LeaderboardJob,
    LeaderboardResult,
    NamedRun,
    TablesJob,
)

LAYOUT = 3
"""Raised when leaderboards are to be written anew."""
MASKING = 1
"""Raised when ranks without pictures are to be measured anew."""


class Leaderboard(CandidateOptions):
    """Trained heads in one leaderboard. A subclass says which, by name (`experiments`, `without_pictures`).

    reference: the experiment that the others are compared with; "" for the best. skipped: name -> why it is left out.
    """

    seed = TrainHead.seed
    seeds = TrainHead.seeds
    train_fraction = TrainHead.train_fraction
    reference = ""
    drop_pictures = ""
    cuts = ""
    skipped: Mapping[str, str]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.written_with:
            extras.require(self.written_with)  # before anything is trained

    @property
    def written_with(self) -> str:
        """The package of an extra that draws what is written; "" for none."""
        return "matplotlib" if self.drop_pictures or self.cuts else ""

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits whose figures are shown."""
        return ("test",)

    def experiments(self) -> dict[str, TrainHead]:
        """name -> the task that trains it."""
        raise NotImplementedError

    def brief(self) -> str:
        return f" {', '.join(self.experiments())}"

    def without_pictures(self) -> dict[str, TrainHead]:
        """Text-only ablations of the experiments, by the same names."""
        return {}

    def masked(self) -> list["MaskedPictures"]:
        """The runs of the experiments, ranked as if no mention had a picture; none where no pictures are dropped."""
        if not self.drop_pictures:
            return []
        return [run.clone(MaskedPictures) for task in self.experiments().values() for run in task.of_seeds()]

    def needs(self) -> list[Task]:
        return [*self.experiments().values(), *self.without_pictures().values(), *self.masked()]

    def request(self) -> dict[str, Any] | None:
        experiments, text_only = (
            {name: task.digest() for name, task in tasks.items()}
            for tasks in (self.experiments(), self.without_pictures())
        )
        if not all([*experiments.values(), *text_only.values()]):
            return None
        return {
            "experiments": experiments,
            "text_only": text_only,
            "skipped": self.skipped,
            "splits": self.splits,
            "reference": self.reference,
            "layout": LAYOUT,
            **({"drop_pictures": shares(self.drop_pictures)} if self.drop_pictures else {}),
        }

    def group(self, name: str) -> str:
        """The group of an experiment; see `NamedRun`."""
        return ""

    def named_runs(self, tasks: Mapping[str, TrainHead]) -> tuple[NamedRun, ...]:
        """The runs of finished tasks, under their names."""
        return tuple(
            NamedRun(
                name=name,
                folder=task.folder(task.resolved()["run"]),
                settings=variants.settings(task.method, jobs.placed(task.params, self.paths), self.profile_content),
                group=self.group(name),
            )
            for name, task in tasks.items()
        )

    def tables_job(self) -> TablesJob:
        """What the leaderboard's tables are made of."""
        sources = specs.placed(self.sources, lambda name: str(self.paths.find_run(name)))
        return TablesJob(
            dataset=self.dataset,
            runs=self.named_runs(self.experiments()),
            text_only=self.named_runs(self.without_pictures()),
            reference=self.reference,
            skipped=self.skipped,
            splits=self.splits,
            drop_pictures=shares(self.drop_pictures),
            lists_of_pictures="mention" in jobs.list_pictures(sources, self.profile_content),
            cuts=bool(self.cuts),
        )

    def make(self) -> Outcome:
        out = self.paths.report(self.dataset, self.get_task_family().lower(), self.name())
        job = LeaderboardJob(tables=self.tables_job(), out=out)
        written = self.run_child("report.leaderboard:write_leaderboard", job, LeaderboardResult)
        return Outcome({"folder": self.paths.relative(out)}, written.files)

    def summary(self, receipt: dict[str, Any]) -> str:
        folder = self.folder(receipt["result"]["folder"])
        text = terminal_text((folder / f"leaderboard.{'ansi' if sys.stdout.isatty() else 'txt'}").read_text("utf-8"))
        return f"{text}\nleaderboard: {folder} (txt, md, csv, tex)"


class MaskedPictures(TrainHead):
    """Ranks the mentions of a trained head as if none of them had a picture, for --drop-pictures.

    Leaves predictions-without-pictures.parquet in the run's folder.
    """

    on_cluster = False

    def trained(self) -> TrainHead:
        return self.clone(TrainHead, seeds=1)

    def needs(self) -> list[Task]:
        return [self.trained()]

    def request(self) -> dict[str, Any] | None:
        run = self.trained().digest()
        return {"run": run, "version": MASKING} if run else None

    def make(self) -> Outcome:
        run = self.trained().job()
        job = MaskingJob(run=run, file=run.out / MASKED)
        masking = self.run_child("experiments.scores:masked", job, Masking)
        return Outcome({**to_json(masking), "file": self.paths.relative(job.file)}, [job.file])

    def summary(self, receipt: dict[str, Any]) -> str:
        result = receipt["result"]
        return f"{result['pictured']} mentions have a picture; without it: {self.folder(result['file'])}"


class CompareHeads(Leaderboard):
    """Compares several methods in one leaderboard: figures, significance, cost, and the papers' figures apart.

    Trains those that are not trained yet. Writes artifacts/reports/<dataset>/compareheads-<hash>/leaderboard.txt, .md,
    .csv and .tex. A method that the profile has no features for is left out and named. With --entity-texts, each method
    is trained over each kind of text, and each kind has tables of its own (DWE+, tables 3 to 7). With --drop-pictures,
    missing-pictures.png shows what each method loses where mentions have no picture.
    """

    methods = luigi.Parameter(default="drin,mimic,dwe,dsmip", description="comma-separated methods")
    params = luigi.Parameter(
        default="{}", description='hyper-parameters by method as JSON, e.g. \'{"dwe": {"lr": 0.001}}\', or @FILE'
    )
    text_only = luigi.BoolParameter(
        default=False, description="also train each method without pictures, and show what they add by group"
    )

    entity_texts = luigi.Parameter(
        default="",
        description="comma-separated kinds of the entities' texts (properties, static, dynamic, description, name) to "
        "train each method over; empty: each method's own",
    )

    drop_pictures = Shares(
        default="",
        description="comma-separated shares, e.g. 0.25,0.5,0.75,1: also rank with the pictures of that share of the "
        "mentions masked, and show H@1 and MRR against it; empty: none",
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        methods, self.skipped = variants.possible(
            self.methods, jobs.placed(self.params, self.paths), self.profile_content
        )
        self.chosen = {method: variants.MethodVariant(method, params, "") for method, params in methods.items()}
        if self.entity_texts:
            self.chosen, lacking = variants.by_entity_text(methods, self.entity_texts, self.profile_content)
            self.skipped = {**self.skipped, **lacking}

    def group(self, name: str) -> str:
        return f"entity text: {text}" if (text := self.chosen[name].text) else ""

    def experiments(self) -> dict[str, TrainHead]:
        return {name: self.clone(TrainHead, method=one.method, params=one.params) for name, one in self.chosen.items()}

    def without_pictures(self) -> dict[str, TrainHead]:
        if not self.text_only:
            return {}
        without = {
            name: (one.method, variants.text_only(one.method, one.params, self.profile_content))
            for name, one in self.chosen.items()
        }
        return {
            name: self.clone(TrainHead, method=method, params=params)
            for name, (method, params) in without.items()
            if params is not None
        }

    def tables_job(self) -> TablesJob:
        return replace(super().tables_job(), entity_texts=bool(self.entity_texts))


class Ablate(Leaderboard):
    """Compares one method with the ablations of its paper: what each loses, and whether the difference is significant.

    Trains those that are not trained yet. Writes artifacts/reports/<dataset>/ablate-<hash>/leaderboard.txt, .md, .csv
    and .tex. Ablations that the profile has no features for are left out and named.
    """

    method = TrainHead.method
    params = TrainHead.params
    only = luigi.Parameter(
        default="", description="comma-separated names of ablations, with * for any text; empty: all"
    )
    sensitivity = luigi.BoolParameter(
        default=False, description="also one parameter at a time at the values that the paper plots"
    )
    cuts = luigi.Parameter(default="", description=f"encoders tuned from several blocks on, for ablations: {HELP}")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.reference = "" if self.cuts else "full"
        self.variants, self.skipped = (self._cut(), {}) if self.cuts else self._ablated()

    def _ablated(self) -> tuple[Mapping[str, variants.Variant], Mapping[str, str]]:
        params = jobs.placed(self.params, self.paths)
        return variants.ablations(
            self.method, params, self.profile_content, only=self.only, sensitivity=self.sensitivity
        )

    def _cut(self) -> Mapping[str, variants.Variant]:
        """The variants that `cuts` names. Raises `UserError` beside other choices of variants."""
        if self.only or self.sensitivity:
            raise UserError("--cuts: variants of its own; leave --only and --sensitivity out")
        profile, demo = self.profile_content, self.setup().demo
        depth = functools.cache(lambda name: towers.depth(name, profile, demo))
        return cut_variants(self.method, jobs.placed(self.params, self.paths), self.cuts, profile, depth)

    @property
    def splits(self) -> tuple[str, ...]:
        return ("dev", "test")

    def experiments(self) -> dict[str, TrainHead]:
        full = {} if self.cuts else {self.reference: self.clone(TrainHead)}
        return full | {
            name: self.clone(
                TrainHead, params=variant.params, train_fraction=variant.train_fraction or self.train_fraction
            )
            for name, variant in self.variants.items()
        }


class CompareRuns(Tool):
    """Tests whether two runs differ on the same mentions: McNemar's exact test of H@1, and a paired bootstrap.

    The bootstrap gives the differences of H@1 and MRR with their 95 % intervals.
    """

    run_folder = luigi.Parameter(
        description="a run's folder (or that of a mean over seeds), or <dataset>/<method>/<hash> under artifacts/runs"
    )
    against = luigi.Parameter(description="the run that it is compared with")
    split = luigi.Parameter(default="test", description="dev or test")
    protocol = luigi.Parameter(
        default="", description="full-kb, candidates or rerank; empty: the first that both were measured under"
    )
    resamples = Whole(least=1, most=1_000_000, default=10_000, description="draws of the bootstrap")
    bootstrap_seed = Whole(least=0, default=0, description="seed of the bootstrap")

    def brief(self) -> str:
        return f": {self.run_folder} against {self.against} on {self.split}"

    def check(self) -> None:
        self.runs = [NamedRun(name=name, folder=self.paths.find_run(name)) for name in (self.run_folder, self.against)]

    def act(self) -> None:
        job = ComparisonJob(
            first=self.runs[0],
            second=self.runs[1],
            split=self.split,
            protocol=self.protocol,
            resamples=self.resamples,
            seed=self.bootstrap_seed,
        )
        logs.say(child.run("report.compare:compare", job, ComparisonResult).text)

"""Commands that show what trained heads do: Explain, mention by mention, as a file; Report, as a page."""

from dataclasses import replace
from typing import Any

import luigi

from cache.inputs import Input, Want
from experiments import jobs, variants
from foundation.contracts import to_json
from foundation.errors import UserError
from heads.config import methods as known_methods
from heads.contracts import Compute, ExplanationJob, Explanations, Selection
from mel_cache.commands import trained
from mel_cache.commands.candidates import CandidateOptions
from mel_cache.commands.compare import CompareHeads, Leaderboard
from mel_cache.commands.dataset import PrepareDataset
from mel_cache.commands.features import ExtractGroup
from mel_cache.commands.heads import TrainHead
from mel_cache.commands.parameters import Choice, TrueOrFalse, Whole
from mel_cache.commands.task import Task
from mel_cache.steps import Outcome
from pipeline.datasets.contracts import Limits
from pipeline.extraction import wants
from report.contracts import DETECTIONS, CasesJob, PageJob, PageResult

SPLITS = ("train", "dev", "test")
PAGE = 3
"""Raised when pages are to be written anew."""
MOST_CASES = 5000


class Explain(CandidateOptions):
    """Writes how a trained head came to its scores, per mention and candidate: units, edges, attention, experts.

    Leaves explain-<split>-<hash>.jsonl in the run's folder, a line per mention (docs/report.md). The run is
    --run-folder, or the one that TrainHead makes of the same options.
    """

    method = TrainHead.method
    params = TrainHead.params
    seed = TrainHead.seed
    train_fraction = TrainHead.train_fraction
    run_folder = luigi.Parameter(
        default="",
        description="the run's folder, or <dataset>/<method>/<hash> under artifacts/runs; instead of --method and "
        "--params",
    )
    split = Choice(choices=SPLITS, default="test", description="train, dev or test")
    mentions = luigi.Parameter(default="", description="comma-separated ids of mentions; empty: all of the split")
    sample = Whole(
        least=0, default=0, description="at most so many mentions of the split, always the same ones; 0: all"
    )
    top = Whole(
        least=0,
        default=0,
        description="of each mention only its best so many candidates, and the gold; 0: its whole list",
    )
    on_device = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.trained = trained.find(self, self.run_folder) if self.run_folder else self.clone(TrainHead, seeds=1)
        if self.trained.seeds != 1:
            raise UserError(f"{self.run_folder}: the mean over several seeds; name the run of one of them")

    def needs(self) -> list[Task]:
        return [self.trained]

    def request(self) -> dict[str, Any] | None:
        run = self.trained.digest()
        if not run:
            return None
        return {
            "run": run,
            "split": self.split,
            "mentions": self.mentions,
            "sample": self.sample,
            "top": self.top,
        }

    def make(self) -> Outcome:
        file = self.folder(self.trained.resolved()["run"]) / f"explain-{self.split}-{self.name()[:8]}.jsonl"
        job = ExplanationJob(
            run=replace(self.trained.job(), compute=Compute(device=self.device)),
            selection=Selection(
                split=self.split,
                mentions=tuple(name.strip() for name in self.mentions.split(",") if name.strip()),
                sample=self.sample,
                top=self.top,
            ),
            file=file,
        )
        explained = self.run_child("experiments.scores:explain", job, Explanations)
        return Outcome({"mentions": explained.mentions, "file": self.paths.relative(file)}, [file])

    def summary(self, receipt: dict[str, Any]) -> str:
        result = receipt["result"]
        return f"{result['mentions']} mentions of {self.split} explained: {self.folder(result['file'])}"


class Report(Leaderboard):
    """Writes one HTML page: dataset, leaderboard, learning curves, parts, where methods disagree, cases with pictures.

    Leaves artifacts/reports/<dataset>/report-<hash>/report.html, which loads nothing. Without --methods and --runs:
    every method that is trained with its default parameters. Methods named with --methods are trained where they are
    not yet.
    """

    methods = luigi.Parameter(default="", description="comma-separated methods; empty: those that are trained already")
    params = CompareHeads.params
    runs = luigi.Parameter(
        default="",
        description="comma-separated run folders, or <dataset>/<method>/<hash> under artifacts/runs, beside --methods "
        "or in their place",
    )
    text_only = CompareHeads.text_only
    drop_pictures = CompareHeads.drop_pictures
    split = Choice(choices=SPLITS[1:], default="test", description="dev or test")
    cases = Whole(least=0, most=MOST_CASES, default=300, description="the most mentions that are shown one by one")
    picture_mb = Whole(least=0, default=40, description="megabytes of small pictures that the page may hold")
    explain = TrueOrFalse(
        default=True, description="ask the heads what else they tell: edges, attention, pair features"
    )
    on_device = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.skipped = {}
        self.heads = self._named() if self.methods or self.runs else self._finished()

    @property
    def written_with(self) -> str:
        return "jinja2"

    @property
    def splits(self) -> tuple[str, ...]:
        return (self.split,)

    def _named(self) -> dict[str, TrainHead]:
        """The methods of --methods, then the runs of --runs; a second run of a method has its hash beside the name."""
        tasks: dict[str, TrainHead] = {}
        if self.methods:
            possible, self.skipped = variants.possible(
                self.methods, jobs.placed(self.params, self.paths), self.profile_content
            )
            tasks = {method: self.clone(TrainHead, method=method, params=params) for method, params in possible.items()}
        for run in filter(None, (name.strip() for name in self.runs.split(","))):
            task = trained.find(self, run)
            method = task.head.method
            tasks[method if method not in tasks else f"{method} {run.rstrip('/').rpartition('/')[2][:8]}"] = task
        return tasks

    def _finished(self) -> dict[str, TrainHead]:
        """Methods whose run with default parameters is done."""
        tasks = {}
        papers = [*jobs.FOUR, "fused"]
        listed = [*papers, *(name for name in known_methods() if name not in papers)]
        for method, params in variants.possible(",".join(listed), "{}", self.profile_content)[0].items():
            task = self.clone(TrainHead, method=method, params=params)
            if task.done():
                tasks[method] = task
        prepare = self.clone(PrepareDataset)
        if not tasks and not self.dry_run and not prepare.done():
            prepare.run()  # the files have changed since the heads were trained: what it says is the cause
            return self._finished()
        if not tasks:
            raise UserError(
                "no trained head for this dataset and profile; name methods to train "
                "(--methods drin,mimic,dwe,dsmip,fused), or run folders (--runs)"
            )
        return tasks

    def experiments(self) -> dict[str, TrainHead]:
        return self.heads

    def without_pictures(self) -> dict[str, TrainHead]:
        if not self.text_only:
            return {}
        without = {
            name: variants.text_only(task.method, task.params, self.profile_content)
            for name, task in self.heads.items()
        }
        return {
            name: self.heads[name].clone(TrainHead, params=params)
            for name, params in without.items()
            if params is not None
        }

    def request(self) -> dict[str, Any] | None:
        request = super().request()
        own = {"page": PAGE, "cases": self.cases, "pictures": self.picture_mb, "explain": self.explain}
        return request and {**request, **own}

    def detections(self) -> tuple[Input, ...]:
        """Rows of detectors and recognisers that were extracted for these heads."""
        groups: dict[str, ExtractGroup] = {}
        seen: set[str] = set()

        def walk(task: Task) -> None:
            if task.task_id in seen:
                return
            seen.add(task.task_id)
            if isinstance(task, ExtractGroup):
                groups[task.task_id] = task
            for needed in task.needs():
                walk(needed)

        for task in self.heads.values():
            walk(task)
        merged = wants.merged(group.finished().result for group in groups.values())
        listed = (Want(side="mention", feature=name, view="image") for name in DETECTIONS)
        return merged.inputs((want for want in listed if want.column in merged.columns), self.paths)

    def make(self) -> Outcome:
        out = self.paths.report(self.dataset, "report", self.name()) / "report.html"
        prepared = self.prepared()
        single = {name: task if task.seeds == 1 else task.of_seeds()[0] for name, task in self.heads.items()}
        methods = ",".join(task.head.method for task in self.heads.values())
        cases = CasesJob(
            prepared=prepared.folder,
            images={str(side): folder for side, folder in prepared.images.items()},
            limits=Limits(**self.profile_content.limits),
            detections=self.detections(),
            most=self.cases,
            picture_bytes=self.picture_mb * 1_000_000,
            trainings={name: task.job() for name, task in single.items()} if self.explain else {},
            compute=Compute(device=self.device),
        )
        command = f"luigi --module tasks Report --dataset {self.dataset} --methods {methods}"
        job = PageJob(tables=self.tables_job(), cases=cases, out=out, command=command)
        written = self.run_child("report.page.write:write_page", job, PageResult)
        return Outcome({**to_json(written), "file": self.paths.relative(out)}, [out])

    def summary(self, receipt: dict[str, Any]) -> str:
        result = receipt["result"]
        left_out = f", {result['left_out']} left out" if result["left_out"] else ""
        counts = f"{result['cases']} cases, {result['pictures']} pictures{left_out}, {result['bytes'] / 1e6:.1f} MB"
        return f"{counts}\nreport: {self.folder(result['file'])}"

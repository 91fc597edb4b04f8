"""Tasks that train heads."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import luigi
from luigi.parameter import ParameterVisibility

from experiments import jobs, spaces
from experiments.contracts import PromptOutputs, SearchResult, Study
from foundation import child
from foundation.contracts import from_json, to_json
from foundation.errors import UserError
from foundation.files import write_atomic, write_json
from heads.config import code_digest, load_config
from heads.config.dsmip import DsmipConfig
from heads.contracts import Compute, HeadInput, TrainingJob, TrainingResult
from mel_cache.commands.candidates import BuildCandidates, BuildPairs, CandidateOptions
from mel_cache.commands.dataset import PrepareDataset
from mel_cache.commands.features import ExtractFeatures, wants_json
from mel_cache.commands.parameters import MOST_SEED, Number, TrueOrFalse, Whole
from mel_cache.commands.task import Task, setting, stop
from report.contracts import AverageJob, AverageResult


class TrainHead(CandidateOptions):
    """Trains one head over the cached features and evaluates it; only the head runs again when its hyper-parameters
    change.

    Writes artifacts/runs/<dataset>/<method>/<hash>/: config.json, model.safetensors, metrics.json, predictions.parquet,
    learning curves. With --seeds N, N such runs (those of single seeds are shared), and their mean ± deviation in
    <method>/mean-<hash>/.
    """

    method = luigi.Parameter(default="mimic", description="the head: a file under heads/config/")
    params = luigi.Parameter(
        default="{}", description="hyper-parameters as JSON, e.g. '{\"lr\": 0.001}', or @FILE with such JSON"
    )
    seed = Whole(least=0, most=MOST_SEED, default=0, description="seed of the head's initialisation and batches")
    seeds = Whole(
        least=1,
        default=1,
        description="number of seeds, from --seed on: one run each, and their mean and standard deviation",
    )
    train_fraction = Number(
        more_than=0, most=1, default=1.0, description="share of the training mentions used (low-resource experiments)"
    )
    on_device = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        try:
            self.head = jobs.head_spec(self.method, self.params, self.profile_content)
        except UserError as error:
            stop(error)

    def extraction(self) -> ExtractFeatures:
        return self.clone(ExtractFeatures, features="", wants=wants_json(self.head.wants))

    def pairs(self) -> dict[str, BuildPairs]:
        return {name: self.clone(BuildPairs, pair=name) for name in self.head.pairs}

    def of_seeds(self) -> list["TrainHead"]:
        """The runs behind the mean over several seeds."""
        return [self.clone(TrainHead, seed=seed, seeds=1) for seed in range(self.seed, self.seed + self.seeds)]

    def needs(self) -> list[Task]:
        if self.seeds > 1:
            return [*self.of_seeds()]
        return [
            self.extraction(),
            self.clone(BuildCandidates),
            *self.pairs().values(),
            *self.runs().values(),
            *self.prompted(),
        ]

    def runs(self) -> dict[str, "TrainHead"]:
        """The runs that this one reads: DSMIP's experts, or the heads that are fused."""
        return {
            label: self.clone(TrainHead, method=method, params=json.dumps(params), seeds=1)
            for label, (method, params) in self.head.runs.items()
        }

    def prompted(self) -> list["PromptedFeatures"]:
        return [self.clone(PromptedFeatures)] if self.head.prompted else []

    def brief(self) -> str:
        stage = f" ({self.head.config['stage']})" if "stage" in self.head.config else ""
        return f" {self.head.method}{stage}, " + (
            f"seed {self.seed}" if self.seeds == 1 else f"mean over {self.seeds} seeds"
        )

    def request(self) -> dict[str, Any] | None:
        upstream = [task.digest() for task in self.needs()]
        if self.seeds > 1:
            return {"runs": upstream} if all(upstream) else None
        own = {
            "method": self.head.method,
            "config": self.head.config,
            "seed": self.seed,
            "train_fraction": self.train_fraction,
            **code_digest(self.head.method),
        }
        return {**own, "upstream": upstream} if all(upstream) else None

    def mean(self) -> dict[str, Any]:
        """Mean and standard deviation over the seeds."""
        runs = tuple(task.folder(task.resolved()["run"]) for task in self.of_seeds())
        out = runs[0].with_name(f"mean-{self.digest()[:16]}")
        job = AverageJob(runs=runs, seeds=tuple(task.seed for task in self.of_seeds()), out=out)
        child.run("report.averages:average", job, AverageResult)
        return {
            "result": {"run": self.paths.relative(out)},
            "files": [out / "metrics-mean.json", out / "metrics-mean.txt"],
        }

    def job(self) -> TrainingJob:
        """The training job."""
        prepared = self.clone(PrepareDataset)
        upstream = jobs.Upstream(
            extraction=self.extraction().result(),
            candidates=self.clone(BuildCandidates).lists(),
            pairs={name: task.feature() for name, task in self.pairs().items()},
            dataset=prepared.resolved()["folder"],
            content=prepared.content(),
            heads={name: task.job() for name, task in self.runs().items()},
            prompted=[one for task in self.prompted() for one in task.inputs()],
        )
        trial = jobs.Trial(self.dataset, self.seed, self.train_fraction)
        job = jobs.training_job(self.head, upstream, trial, self.paths)
        config = load_config(job.method, job.config)
        if isinstance(config, DsmipConfig) and config.training == "prompts":
            source = jobs.ClipSource(self.profile_content, self.profile, self.demo_encoders())
            job = replace(job, live=jobs.live_clip(config, upstream.extraction.features, source, self.paths))
        return replace(job, compute=Compute(device=self.device, precision=self.precision))

    def make(self) -> dict[str, Any]:
        if self.seeds > 1:
            return self.mean()
        job = self.job()
        out = job.out
        trained = self.run_child("experiments.trainers:train", job, TrainingResult)
        write_json(out / "config.json", job.depends)
        write_atomic(out / "metrics.txt", trained.table + "\n")
        files = [
            out / name
            for name in ("config.json", "model.safetensors", "metrics.json", "predictions.parquet", "metrics.txt")
        ]
        return {"result": {"run": self.paths.relative(out)}, "files": files, "run": trained.run}

    def summary(self, receipt: dict[str, Any]) -> str:
        run = self.folder(receipt["result"]["run"])
        dataset = self.folder(self.clone(PrepareDataset).resolved()["folder"])
        shown = "metrics.txt" if self.seeds == 1 else "metrics-mean.txt"
        return f"{(run / shown).read_text()}\nrun:     {run}\ndataset: {dataset}\ncache:   {self.paths.cache}"


class PromptedFeatures(TrainHead):
    """Extracts text and pictures once more with the prompts that DSMIP's first stage learned, into a cache that belongs
    to that run."""

    def learned(self) -> TrainHead:
        """The run that learned the prompts."""
        return self.runs()["multimodal"]

    def needs(self) -> list[Task]:
        return [self.learned()]

    def request(self) -> dict[str, Any] | None:
        learned = self.learned().digest()
        return learned and {"prompts": learned}

    def make(self) -> dict[str, Any]:
        made = self.run_child("experiments.prompts:extract", self.learned().job(), PromptOutputs)
        inputs = [
            replace(one, store=Path(self.paths.relative(one.store)), keys=Path(self.paths.relative(one.keys)))
            for one in made.inputs
        ]
        return {"result": {"inputs": [to_json(one) for one in inputs]}, "files": list(made.files), "run": made.run}

    def inputs(self) -> list[HeadInput]:
        """The training inputs that the prompts made."""
        listed = [from_json(HeadInput, one) for one in self.resolved()["inputs"]]
        return [replace(one, store=self.paths.root / one.store, keys=self.paths.root / one.keys) for one in listed]

    def summary(self, receipt: dict[str, Any]) -> str:
        return f"prompted features of {self.learned().job().out}"


class SearchHead(TrainHead):
    """Searches a head's hyper-parameters on the choosing half of dev (Optuna); all trials share the tensors of one
    process. Only the head runs.

    Writes artifacts/sweeps/<dataset>/<method>/<hash>/: best.json (for `TrainHead --params @best.json`), trials.csv and
    pictures. A search that was stopped goes on; a larger --n-trials adds to it; the same command elsewhere joins it.
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
        "where the study is kept: empty, a journal file beside the results (safe on a shared disk), or a database's URL, e.g. PostgreSQL's",
        significant=False,
        visibility=ParameterVisibility.PRIVATE,
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        try:
            if self.seeds != 1:
                raise UserError(
                    "--seeds: all trials of a search have one --seed; train the best with several, TrainHead --params @best.json --seeds 3"
                )
            if self.storage and "://" not in self.storage:
                raise UserError(
                    "--storage: expected a URL like postgresql+psycopg://user@host/database, or nothing for a journal file"
                )
            self.plan = spaces.plan(self.method, self.params, self.space, self.profile_content)
        except UserError as error:
            stop(error)
        self.head = self.plan.head

    def brief(self) -> str:
        return f" {self.head.method}, {self.n_trials} trials"

    def request(self) -> dict[str, Any] | None:
        request = super().request()
        return request and {
            **request,
            "given": dict(self.plan.given),
            "space": self.plan.space,
            "prune": self.prune,
            "n_trials": self.n_trials,
        }

    def make(self) -> dict[str, Any]:
        study = Study(trials=self.n_trials, prune=self.prune, storage=self.storage)
        job = spaces.search_job(self.plan, self.job(), self.dataset, self.paths, study)
        found, out = self.run_child("experiments.search:search", job, SearchResult), job.out
        files = [out / name for name in spaces.FILES]
        return {
            "result": {"sweep": self.paths.relative(out), "text": found.text, "best": found.best},
            "files": files,
            "run": found.run,
        }

    def summary(self, receipt: dict[str, Any]) -> str:
        sweep = self.folder(receipt["result"]["sweep"])
        return f"{receipt['result']['text']}\nsweep: {sweep}\ntrain it: luigi --module tasks TrainHead --method {self.method} --params @{sweep / 'best.json'}"

"""Tasks that train heads."""

import json
from functools import partial
from typing import Any, TypeVar

import luigi

from experiments import jobs
from experiments.contracts import RemoteTraining
from heads.contracts import TrainingJob
from heads.tune import TUNED
from mel_cache import steps
from mel_cache.commands.candidates import BuildCandidates, BuildPairs, CandidateOptions
from mel_cache.commands.dataset import PrepareDataset
from mel_cache.commands.features import ExtractFeatures, wants_json
from mel_cache.commands.parameters import MOST_SEED, Number, Whole
from mel_cache.commands.task import Task, finished
from mel_cache.steps import Done, Step

T = TypeVar("T")


class TrainHead(CandidateOptions):
    """Trains one head over the cached features and evaluates it; with other hyper-parameters, only the head runs again.

    Writes artifacts/runs/<dataset>/<method>/<hash>/: config.json, model.safetensors, metrics.json,
    predictions.parquet, learning curves. With --seeds N, N such runs (those of single seeds are shared), and their
    mean ± deviation in <method>/mean-<hash>/.
    """

    method = luigi.Parameter(default="mimic", description="the head: a file under heads/config/")
    params = luigi.Parameter(
        default="{}", description="hyper-parameters as JSON, e.g. '{\"lr\": 0.001}', or @FILE with such JSON"
    )
    seed = Whole(least=0, most=MOST_SEED, default=0, description="seed of the head's initialisation and batches")
    seeds = Whole(
        least=1,
        most=1000,
        default=1,
        description="number of seeds, from --seed on: one run each, and their mean and standard deviation",
    )
    train_fraction = Number(
        more_than=0, most=1, default=1.0, description="share of the training mentions used (low-resource experiments)"
    )
    on_device = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.head = jobs.head_spec(self.method, jobs.placed(self.params, self.paths), self.profile_content)

    @property
    def resources(self) -> dict[str, int]:  # type: ignore[override]  # Luigi only reads it
        """On a Ray cluster, trainings run side by side."""
        return {} if self.on_cluster else super().resources

    @property
    def on_cluster(self) -> bool:
        """Whether the work is done on a Ray cluster."""
        return bool(self.ray)

    def run_child(self, target: str, job: Any, result: type[T]) -> T:
        if self.on_cluster and isinstance(job, TrainingJob):
            threads = self.profile_content.threads
            remote = RemoteTraining(training=job, address=self.ray, threads=threads)
            return super().run_child("experiments.on_ray:train", remote, result)
        return super().run_child(target, job, result)

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
            *self.learned(),
        ]

    def runs(self) -> dict[str, "TrainHead"]:
        """The runs that this one reads: DSMIP's experts, or the heads that are fused."""
        return {
            label: self.clone(TrainHead, method=method, params=json.dumps(params), seeds=1)
            for label, (method, params) in self.head.runs.items()
        }

    def learned(self) -> list["LearnedFeatures"]:
        """What extracts the features that one of `runs` learned, where this head reads some."""
        if self.head.learned_by is None:
            return []
        return [self.clone(TunedFeatures if self.head.learned_by == TUNED else PromptedFeatures)]

    def brief(self) -> str:
        stage = f" ({self.head.config['stage']})" if "stage" in self.head.config else ""
        stage = " (tuning)" if self.head.config["live"] else stage
        return f" {self.head.method}{stage}, " + (
            f"seed {self.seed}" if self.seeds == 1 else f"mean over {self.seeds} seeds"
        )

    def training(self) -> steps.Training:
        """The head over what it reads, which is done."""
        reads = steps.Reads(
            extraction=self.extraction().finished(),
            lists=self.clone(BuildCandidates).finished(),
            sources=self.sources,
            pairs={name: task.finished() for name, task in self.pairs().items()},
            runs={label: task.finished() for label, task in self.runs().items()},
            learned=next((task.finished() for task in self.learned()), None),
        )
        trial = jobs.Trial(self.dataset, self.seed, self.train_fraction)
        return steps.Training(self.prepared(), self.head, reads, trial)

    def step(self) -> Step:
        if self.seeds > 1:
            return steps.average(self.paths, [task.finished() for task in self.of_seeds()])
        return steps.train(self.setup(), self.training())

    def job(self) -> TrainingJob:
        """The training job. Raises `UserError` while what it reads is not done."""
        return self.training().job(self.setup())

    def finished(self) -> Done[TrainingJob]:
        """The run, which is done, as the job that trained it."""
        return finished(self, lambda result: self.job())

    def summary(self, receipt: dict[str, Any]) -> str:
        run = self.folder(receipt["result"]["run"])
        dataset = self.folder(self.clone(PrepareDataset).resolved()["folder"])
        shown = "metrics.txt" if self.seeds == 1 else "metrics-mean.txt"
        return f"{(run / shown).read_text('utf-8')}\nrun:     {run}\ndataset: {dataset}\ncache:   {self.paths.cache}"


class LearnedFeatures(TrainHead):
    """Extracts texts and pictures as one of the runs that the head reads learned to, into a cache of that run's own."""

    on_cluster = False

    def learner(self) -> TrainHead:
        """That run."""
        return self.runs()[self.head.learned_by or ""]

    def needs(self) -> list[Task]:
        return [self.learner()]

    def step(self) -> Step:
        return steps.extract_learned(self.setup(), self.learner().finished())

    def finished(self) -> Done[Any]:
        """The training inputs that were made, which are done."""
        return finished(self, partial(steps.learned_inputs, paths=self.paths))

    def summary(self, receipt: dict[str, Any]) -> str:
        return f"features of {self.learner().job().out}"


class PromptedFeatures(LearnedFeatures):
    """Extracts texts and pictures with the prompts that DSMIP's first stage learned."""


class TunedFeatures(LearnedFeatures):
    """Extracts texts and pictures with the encoder's blocks that were trained with a head (`tune`)."""

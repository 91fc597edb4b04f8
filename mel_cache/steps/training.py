"""Steps that train heads, search their hyper-parameters, and extract what a run learned."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cache.identity import identity
from cache.inputs import keys_digest
from experiments import jobs, spaces, towers
from experiments.contracts import LearnedOutputs, SearchResult, Study
from foundation.checksums import RECORD, write_sealed
from foundation.contracts import from_json, to_json
from foundation.files import write_atomic
from foundation.paths import Paths
from heads.config import code_digest, load_config, naming_options
from heads.config.dsmip import DsmipConfig
from heads.config.space import plain_space
from heads.contracts import WITHOUT_JOINT, HeadInput, TrainingJob, TrainingResult
from heads.tune import TUNED
from mel_cache.steps.base import Done, Outcome, Run, Setup, Step
from mel_cache.steps.datasets import Prepared
from pipeline.candidates import specs
from pipeline.candidates.contracts import CandidateLists
from pipeline.extraction.contracts import Extraction
from pipeline.pairs.contracts import PairFeature
from report.contracts import AverageJob, AverageResult

RUN_FILES = ("config.json", "model.safetensors", "metrics.json", "predictions.parquet", "metrics.txt", "history.json")


@dataclass(frozen=True)
class Reads:
    """What a head is trained on.

    sources: of the candidate lists, as `ListOptions` has them. pairs: by pair feature. runs: by the head's label, with
    the jobs that trained them. learned: inputs that a run made, None where the head reads none.
    """

    extraction: Done[Extraction]
    lists: Done[CandidateLists]
    sources: str
    pairs: Mapping[str, Done[PairFeature]]
    runs: Mapping[str, Done[TrainingJob]]
    learned: Done[tuple[HeadInput, ...]] | None = None

    @property
    def digests(self) -> list[str]:
        """Of all, in the order in which a request lists them."""
        learned = [self.learned.digest] if self.learned else []
        pairs = [one.digest for one in self.pairs.values()]
        runs = [one.digest for one in self.runs.values()]
        return [self.extraction.digest, self.lists.digest, *pairs, *runs, *learned]


@dataclass(frozen=True)
class Training:
    """A head over a dataset: its configuration, what it reads, its seed and share of the training mentions."""

    dataset: Prepared
    spec: jobs.HeadSpec
    reads: Reads
    trial: jobs.Trial

    @property
    def request(self) -> dict[str, Any]:
        """What names the run in receipts."""
        return {
            "method": self.spec.method,
            "config": naming_options(self.spec.method, self.spec.config),
            "seed": self.trial.seed,
            "train_fraction": self.trial.train_fraction,
            **code_digest(self.spec.method),
            **({"encoders": self.spec.encoders} if self.spec.encoders else {}),
            "upstream": self.reads.digests,
        }

    def job(self, setup: Setup) -> TrainingJob:
        """The job that trains it.

        Raises `UserError` where prompts cannot start from the states that the profile extracts.
        """
        spec, trial, reads, paths = self.spec, self.trial, self.reads, setup.paths
        config, depends = load_config(spec.method, spec.config), self._depends(paths)
        sources = specs.placed(reads.sources, lambda name: str(paths.find_run(name)))
        live = None
        if isinstance(config, DsmipConfig) and config.stage == "prompts":
            source = jobs.EncoderSource(setup.profile, setup.reference, setup.demo)
            live = jobs.live_clip(config, source)
        return TrainingJob(
            method=spec.method,
            config=dict(spec.config),
            seed=trial.seed,
            train_fraction=trial.train_fraction,
            inputs=(
                *jobs.head_inputs(spec.extracted, reads.extraction.result, paths),
                *(reads.learned.result if reads.learned else ()),
            ),
            dataset=self.dataset.folder,
            candidates=paths.root / reads.lists.result.file,
            depends=depends,
            pairs={name: paths.root / pair.result.file for name, pair in reads.pairs.items()},
            pictured={name: jobs.pair_pictures(name, sources, setup.profile) for name in reads.pairs},
            heads={label: run.result for label, run in reads.runs.items()},
            out=paths.run(trial.label, spec.method, identity(depends)),
            compute=setup.compute,
            live=live,
            towers=towers.live_towers(config, spec.wanted, setup.reference, setup.demo),
        )

    def _depends(self, paths: Paths) -> dict[str, Any]:
        """What the run depends on, which names its folder.

        Configuration, seed, fraction, dataset, candidates, the identities of its features, and the texts and pictures
        that those were made of, which come from other features and descriptions too. So the same experiment has one
        folder, whatever task or profile led to it.
        """
        spec, reads, extraction = self.spec, self.reads, self.reads.extraction.result
        columns = {want.column for want in spec.extracted}
        depends = {
            "method": spec.method,
            "config": naming_options(spec.method, spec.config),
            "seed": self.trial.seed,
            "train_fraction": self.trial.train_fraction,
            "dataset": self.dataset.content,
            "candidates": reads.lists.result.digest,
            "features": {want.feature: extraction.features[want.feature].identity for want in spec.extracted},
            "rows": {name: keys_digest(paths.root / extraction.columns[name]) for name in sorted(columns)},
            "pairs": {name: pair.result.digest for name, pair in reads.pairs.items()},
            **code_digest(spec.method),
            **({"encoders": spec.encoders} if spec.encoders else {}),
        }
        if reads.runs:
            depends["heads"] = {label: run.result.depends for label, run in reads.runs.items()}
        if reads.learned:
            name = "prompted" if spec.learned_by != TUNED else TUNED
            depends[name] = sorted(str(one.identity) for one in reads.learned.result)
        return depends


def train(setup: Setup, training: Training) -> Step:
    """Train a head and evaluate it."""

    def work(run: Run) -> Outcome:
        job = training.job(setup)
        result = run("experiments.trainers:train", job, TrainingResult)
        write_sealed(job.out / "config.json", job.depends)
        write_atomic(job.out / "metrics.txt", result.table + "\n")
        files = [job.out / name for name in (*RUN_FILES, RECORD)]
        files += filter(Path.is_file, [job.out / WITHOUT_JOINT])
        return Outcome({"run": setup.paths.relative(job.out)}, files, result.run)

    return Step("TrainHead", training.request, work)


def average(paths: Paths, runs: Sequence[Done[TrainingJob]]) -> Step:
    """The mean over runs that differ in their seeds alone."""

    def work(run: Run) -> Outcome:
        trained = [one.result for one in runs]
        out = trained[0].out.with_name(f"mean-{step.digest[:16]}")
        job = AverageJob(runs=tuple(one.out for one in trained), seeds=tuple(one.seed for one in trained), out=out)
        run("report.averages:average", job, AverageResult)
        return Outcome({"run": paths.relative(out)}, [out / "metrics-mean.json", out / "metrics-mean.txt"])

    step = Step("TrainHead", {"runs": [one.digest for one in runs]}, work)
    return step


def extract_learned(setup: Setup, learned: Done[TrainingJob]) -> Step:
    """Extract texts and pictures with the prompts that a run learned, or the blocks that it trained, into a cache of
    that run's own."""
    paths = setup.paths

    def work(run: Run) -> Outcome:
        outputs = run("experiments.learned:extract", learned.result, LearnedOutputs)
        inputs = [
            replace(one, store=Path(paths.relative(one.store)), keys=Path(paths.relative(one.keys)))
            for one in outputs.inputs
        ]
        return Outcome({"inputs": [to_json(one) for one in inputs]}, outputs.files, outputs.run)

    if learned.result.live:
        return Step("PromptedFeatures", {"prompts": learned.digest}, work)
    return Step("TunedFeatures", {TUNED: learned.digest}, work)


def learned_inputs(result: Mapping[str, Any], paths: Paths) -> tuple[HeadInput, ...]:
    """The inputs in a result of `extract_learned`, with absolute paths."""
    inputs = [from_json(HeadInput, one, "a receipt of learned features") for one in result["inputs"]]
    return tuple(replace(one, store=paths.root / one.store, keys=paths.root / one.keys) for one in inputs)


def search(setup: Setup, training: Training, plan: spaces.SearchPlan, study: Study) -> Step:
    """Search a head's hyper-parameters. training: with the values that the search starts from."""
    request = {
        **training.request,
        "given": dict(plan.given),
        "space": plain_space(plan.space),
        "prune": study.prune,
        "n_trials": study.trials,
    }

    def work(run: Run) -> Outcome:
        job = spaces.search_job(plan, training.job(setup), training.trial.label, setup.paths, study)
        result = run("experiments.search:search", job, SearchResult)
        kept = {"sweep": setup.paths.relative(job.out), "text": result.text, "best": result.best}
        return Outcome(kept, [job.out / name for name in spaces.FILES], result.run)

    return Step("SearchHead", request, work)

"""Steps from a dataset's files to trained heads: what each reads, the request that names its receipt, and its work.

The commands and the Python API make the same steps, so what one has done the other finds done. No Luigi, no torch.
"""

import hashlib
import importlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Generic, TypeVar

from cache.identity import canonical_json, identity
from cache.inputs import Side, keys_digest
from experiments import jobs, spaces, towers
from experiments.contracts import LearnedOutputs, SearchResult, Study
from foundation import logs, parquet, receipts
from foundation.checksums import RECORD, entry, read_sealed, write_sealed
from foundation.contracts import from_json, to_json
from foundation.errors import UserError
from foundation.files import write_atomic
from foundation.paths import Paths, descriptions
from heads.config import code_digest, load_config, naming_options
from heads.config.dsmip import DsmipConfig
from heads.config.space import plain_space
from heads.contracts import WITHOUT_JOINT, Compute, HeadInput, TrainingJob, TrainingResult
from heads.tune import TUNED
from linking.contracts import VectorFiles, VectorJob
from linking.folds import folds_of
from pipeline.candidates import specs
from pipeline.candidates.contracts import CandidateJob, CandidateLists, ListOptions, RunSource
from pipeline.datasets.contracts import (
    CONTENT,
    DECODER_VERSION,
    MAX_BAD_IMAGES,
    MAX_BAD_RECORDS,
    Dataset,
    LayoutOptions,
    Limits,
    PrepareJob,
)
from pipeline.datasets.prepared import number_of_names
from pipeline.demo.contracts import DEMO, DemoJob
from pipeline.enhance import output
from pipeline.extraction import wants
from pipeline.extraction.contracts import Account, Extraction, ExtractionJob, ExtractionResult, Plan, Runtime
from pipeline.imported.contracts import IMPORTED, identities
from pipeline.pairs.contracts import PairFeature
from pipeline.pairs.job import pair_job
from pipeline.pairs.registry import pair_function
from pipeline.profiles import profile as profiles
from pipeline.profiles.profile import Profile
from report.contracts import AverageJob, AverageResult

T = TypeVar("T")
Run = Callable[[str, Any, type[Any]], Any]
"""How a heavy function is called: its name as `package.module:function`, its job, and the type of its result."""

TABLES = 4
"""Raised when the tables of a prepared dataset get other columns or values, so that older ones are made again."""
LONGEST_LABEL = 100
"""Bytes of a dataset's label: with a hash behind it, it names files and folders."""
RUN_FILES = ("config.json", "model.safetensors", "metrics.json", "predictions.parquet", "metrics.txt", "history.json")


def in_process(target: str, job: Any, result: type[T]) -> T:
    """Call the function that `target` names in this process."""
    module, _, name = target.partition(":")
    value: T = getattr(importlib.import_module(module), name)(job)
    return value


def digest(command: str, request: Mapping[str, Any]) -> str:
    """SHA-256 (hex) that names a command's receipt."""
    return hashlib.sha256(canonical_json([command, request]).encode()).hexdigest()


@dataclass(frozen=True)
class Outcome:
    """What a step leaves for its receipt.

    result: JSON, paths relative to the work folder. files: what must stay there. run: device, rows, seconds and such.
    """

    result: dict[str, Any]
    files: Sequence[Path] = ()
    run: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Step:
    """Work whose receipt is named by the command that does it and its request, JSON of all that decides the result."""

    command: str
    request: Mapping[str, Any]
    work: Callable[[Run], Outcome]

    @cached_property
    def digest(self) -> str:
        """See `digest`."""
        return digest(self.command, self.request)

    def ensure(self, paths: Paths, run: Run) -> dict[str, Any]:
        """The result in the step's receipt; the work is done first where no receipt stands.

        The content of all files that a receipt lists is compared, of large ones too: what comes next reads them.
        """
        found = receipts.examine(paths.root, paths.receipt(self.command, self.digest), most=None)
        if found.receipt is not None and found.fault is None:
            return dict(found.receipt["result"])
        if found.fault:
            logs.notice(again(self.command, found.fault))
        started = time.monotonic()
        outcome = self.work(run)
        keep(paths, self.command, self.request, outcome, time.monotonic() - started)
        return outcome.result


def keep(paths: Paths, command: str, request: Mapping[str, Any], outcome: Outcome, seconds: float) -> dict[str, Any]:
    """Write the receipt of work that is done; returns what it says of the run."""
    receipt = receipts.Receipt(
        task=command,
        request=request,
        result=outcome.result,
        files=[entry(paths.root, path) for path in sorted({Path(path) for path in outcome.files})],
        run={"seconds": round(seconds, 3), **outcome.run},
    )
    receipts.write(paths.receipt(command, digest(command, request)), receipt)
    return dict(receipt.run)


def again(command: str, fault: str) -> str:
    """What is said before finished work is done again. fault: what is wrong with what it left."""
    return f"{fault}; {command} makes it again"


@dataclass(frozen=True)
class Done(Generic[T]):
    """A finished step: the digest of its request, and how its result is read; `result` reads it once."""

    digest: str
    read: Callable[[], T]

    @cached_property
    def result(self) -> T:
        """What the step left."""
        return self.read()


@dataclass(frozen=True)
class Setup:
    """Where steps work and with which models.

    reference: the profile's name or file, as the user gave it. demo: folder of the demo's encoders, whether or not
    they are there.
    """

    paths: Paths
    reference: str
    profile: Profile
    demo: Path
    runtime: Runtime = field(default_factory=Runtime)

    @property
    def uses_demo(self) -> bool:
        """Whether a model of the profile is one of the demo's."""
        return any(
            str(feature.options.get("model", "")).startswith("demo:") for feature in self.profile.features.values()
        )

    @property
    def compute(self) -> Compute:
        """Device and precision of heads."""
        return Compute(device=self.runtime.device, precision=self.runtime.precision)


@dataclass(frozen=True)
class DatasetFiles:
    """A dataset's own files. name: its label. data_dir: their folder. rescan: read every picture again."""

    name: str
    data_dir: Path
    format: str | None = None
    options: LayoutOptions = field(default_factory=LayoutOptions)
    max_bad_images: float = MAX_BAD_IMAGES
    max_bad_records: float = MAX_BAD_RECORDS
    rescan: bool = False


def check_label(name: str) -> None:
    """Raises `UserError` for a dataset's label that cannot name files and folders."""
    if not name.replace("-", "").replace("_", "").replace(".", "").isalnum() or name.startswith("."):
        raise UserError(f"--dataset {name!r}: the label names a folder; use letters, digits, '.', '_' and '-'")
    if (size := len(name.encode())) > LONGEST_LABEL:
        raise UserError(
            f"--dataset {name:.30}…: the label names a folder; use at most {LONGEST_LABEL} bytes, these are {size}"
        )


@dataclass(frozen=True)
class Prepared:
    """A prepared dataset. folder: of its tables. content: hash of their rows. images: picture folder of each side."""

    name: str
    folder: Path
    content: str
    images: Mapping[Side, Path]

    @classmethod
    def of_receipt(cls, source: DatasetFiles, result: Mapping[str, Any], paths: Paths) -> "Prepared":
        """From the result of PrepareDataset."""
        sides: tuple[Side, Side] = ("mention", "entity")
        images = {side: source.data_dir / result[f"{side}_images"] for side in sides}
        return cls(source.name, paths.root / result["folder"], result["content"], images)


def prepare(paths: Paths, source: DatasetFiles, limits: Mapping[str, int], memo: Path | None) -> Step:
    """Read a dataset's files and look at every picture.

    limits: of pictures, as the profile gives them. memo: JSON file that remembers hashes of files; None: none is kept.
    """
    from pipeline.datasets.fingerprint import fingerprint

    def work(run: Run) -> Outcome:
        before = {**request, "tables": TABLES - 1}
        _say_again(
            paths, "PrepareDataset", before, f"{source.name} is prepared again: phrases are found in more spellings"
        )
        started = time.time()
        job = PrepareJob(
            name=source.name,
            data_dir=source.data_dir,
            out=paths.dataset(source.name, CONTENT),
            format=source.format,
            options=source.options,
            limits=Limits(**limits),
            memo=paths.memo,
            rescan=source.rescan,
            max_bad_images=source.max_bad_images,
            max_bad_records=source.max_bad_records,
        )
        dataset = run("pipeline.datasets.prepare:prepare", job, Dataset)
        result = {
            "folder": paths.relative(dataset.folder),
            "content": dataset.content,
            "mention_images": os.path.relpath(dataset.mention_images, source.data_dir),
            "entity_images": os.path.relpath(dataset.entity_images, source.data_dir),
        }
        return Outcome(result, dataset.files, {"rescanned": started} if source.rescan else {})

    request = {
        "tables": TABLES,
        "decoder": DECODER_VERSION,
        "fingerprint": fingerprint(source.data_dir, source.format, source.options, memo, rescan=source.rescan),
        "limits": dict(limits),
        "max_bad_images": source.max_bad_images,
        "max_bad_records": source.max_bad_records,
    }
    return Step("PrepareDataset", request, work)


@dataclass(frozen=True)
class Group:
    """Features that are extracted together.

    above: the groups of `plan.after`. beside: further features whose models must be there too.
    """

    plan: Plan
    above: Sequence[Done[Extraction]] = ()
    beside: tuple[str, ...] = ()

    @property
    def read(self) -> Extraction:
        """The rows that it is made from."""
        return wants.merged(one.result for one in self.above)


def extract_group(setup: Setup, dataset: Prepared, group: Group) -> Step:
    """Extract one group; the result of a wider group that has done the same is taken instead of running models."""
    paths = setup.paths
    request = _group_request(setup, dataset, group)

    def work(run: Run) -> Outcome:
        before = {key: value for key, value in request.items() if key != "windows"}
        if before != request:
            _say_again(paths, "ExtractGroup", before, "texts are cut again: scripts without blanks have windows now")
        result = _of_wider_group(request, group, paths)
        if result is None:
            of_import = wants.imported(setup.profile, group.plan.wants)
            stage = "pipeline.imported.stage:extract" if of_import else "pipeline.extraction.stage:extract"
            result = run(stage, extraction_job(setup, dataset, group), ExtractionResult)
        named = setup.reference in profiles.names()
        extraction = replace(
            result.extraction,
            profile=setup.reference if named else str(Path(setup.reference).absolute()),
            demo=paths.relative(setup.demo) if setup.uses_demo else None,
        )
        files = [paths.root / path for path in (*extraction.columns.values(), *result.files)]
        return Outcome(extraction.to_receipt(), files, result.account.to_receipt())

    return Step("ExtractGroup", request, work)


def extraction_job(setup: Setup, dataset: Prepared, group: Group) -> ExtractionJob:
    """The job that extracts a group."""
    paths = setup.paths
    of_group = digest("ExtractGroup", _group_request(setup, dataset, group))
    return ExtractionJob(
        profile=setup.reference,
        dataset=dataset.folder,
        images=dataset.images,
        wants=group.plan.wants,
        work=paths.root,
        columns=dataset.folder / f"columns-{of_group[:12]}",
        demo=setup.demo,
        upstream=group.read.inputs((want for plan in group.plan.after for want in plan.wants), paths),
        beside=group.beside,
        runtime=setup.runtime,
    )


def _group_request(setup: Setup, dataset: Prepared, group: Group) -> dict[str, Any]:
    wanted = group.plan.wants
    stamps = {mode: output.stamp(descriptions(dataset.folder, mode), mode) for mode in wants.enhanced(wanted)}
    rows = identities(wants.imported(setup.profile, wanted), dataset.folder)
    return {
        "dataset": dataset.content,
        "wants": [to_json(want) for want in wanted],
        "features": wants.request(setup.profile, wanted, setup.demo),
        "upstream": [one.digest for one in group.above],
        **({"descriptions": stamps} if stamps else {}),
        **({IMPORTED: rows} if rows else {}),
        **({"windows": wants.WINDOWS} if any(map(wants.is_text, wanted)) else {}),
    }


def _of_wider_group(request: Mapping[str, Any], group: Group, paths: Paths) -> ExtractionResult | None:
    """The group's result, taken from another one that holds all it wants, by the same models from the same rows."""

    def standing(path: Path) -> dict[str, Any] | None:
        return receipts.standing(paths.root, path)

    for wider in filter(None, map(standing, sorted(paths.receipts.glob("ExtractGroup-*.json")))):
        if not wants.within(request, wider["request"]):
            continue
        read = [standing(paths.receipt("ExtractGroup", one)) for one in wider["request"]["upstream"]]
        found = [Extraction.of_receipt(one["result"]) for one in read if one is not None]
        if len(found) == len(read) and wants.same_rows(group.read, wants.merged(found)):
            extraction = wants.part_of(Extraction.of_receipt(wider["result"]), group.plan.wants)
            stores = {feature.store for feature in extraction.features.values()}
            files = (file["path"] for file in wider["files"])
            return ExtractionResult(
                extraction=extraction,
                files=tuple(path for path in files if Path(path).parent.name in stores),
                account=Account(rows=dict.fromkeys(extraction.features, 0)),
            )
    return None


def extract_features(paths: Paths, groups: Sequence[Done[Extraction]]) -> Step:
    """The results of several groups as one."""
    request = {"groups": [group.digest for group in groups]}
    merged = wants.merged(group.result for group in groups)
    columns = (paths.root / path for path in merged.columns.values())
    return Step("ExtractFeatures", request, lambda run: Outcome(merged.to_receipt(), [*columns]))


def _say_again(paths: Paths, command: str, before: Mapping[str, Any], why: str) -> None:
    """One line of output where the work folder holds the result of an earlier version's request."""
    if receipts.standing(paths.root, paths.receipt(command, digest(command, before))):
        logs.notice(f"{why} (CHANGELOG.md)")


@dataclass(frozen=True)
class _Retriever:
    """A finished run whose vectors are a source of candidates, and the runs like it that left a fold of train out.
    weights: their hashes."""

    folder: Path
    folds: tuple[Path, ...]
    weights: list[str]

    def source(self, run: Run, name: str, out: Path, compute: Compute) -> RunSource:
        """The source, its vectors written to a folder below `out`. name: as the sources have it."""
        place = out / f"vectors-{identity(self.weights)[:12]}"
        job = VectorJob(run=self.folder, folds=self.folds, out=place, compute=compute)
        files = run("linking.vectors:write", job, VectorFiles).files
        return RunSource(run=name, files=files, by_heart=not self.folds)


def _retriever(folder: Path, dataset: Prepared) -> _Retriever:
    if not (folder / RECORD).is_file():
        raise UserError(f"--sources dense:{folder}: no finished run; name the folder that TrainHead printed as `run:`")
    if read_sealed(folder / "config.json")["dataset"] != dataset.content:
        raise UserError(
            f"--sources dense:{folder}: the run is of another dataset, or of other rows of it; name another"
        )
    folds = folds_of(folder)
    records = [read_sealed(one / RECORD) for one in (folder, *folds)]
    return _Retriever(folder, folds, [record["sha256"]["model.safetensors"] for record in records])


def build_candidates(
    setup: Setup, dataset: Prepared, options: ListOptions, extraction: Done[Extraction] | None
) -> Step:
    """Build the candidate lists. extraction: of the features whose vectors the sources compare.

    Raises `UserError` for a run among the sources that is not there.
    """
    paths = setup.paths
    options = replace(options, sources=specs.placed(options.sources, lambda name: paths.relative(paths.find_run(name))))
    retrievers = {name: _retriever(paths.root / name, dataset) for name in specs.runs(options.sources)}
    request = {
        "k": options.k,
        "scorer": options.scorer,
        "sources": options.sources,
        "merge": options.merge,
        "dataset": dataset.content,
        "upstream": [extraction.digest] if extraction else [],
    }
    if retrievers:
        request["runs"] = {name: one.weights for name, one in retrievers.items()}
    before, changes = dict(request), list[str]()
    exact: dict[str, Any] | None = None
    if specs.compares_names(options.sources):
        request["names"] = specs.NAMES
        changes.append("names are now compared folded")
    if specs.indexes_vectors(options.sources, partial(parquet.rows, dataset.folder / "entities.parquet")):
        request["vector_index"] = specs.VECTOR_INDEX
    if specs.indexes_names(options.sources, partial(number_of_names, dataset.folder)):
        exact, request["name_index"] = dict(request), specs.NAME_INDEX
    if specs.reads_given(options.sources):
        request["given_order"] = options.given_order
        changes.append("lists that came with the dataset have an order of their own (--given-order)")

    def work(run: Run) -> Outcome:
        _say_again(paths, "BuildCandidates", before, f"candidate lists are built again: {' and '.join(changes)}")
        if exact:
            why = "candidate lists are built again: names of a large KB are looked up in an index"
            _say_again(paths, "BuildCandidates", exact, why)
        features = extraction.result if extraction else Extraction()
        of_runs = {name: one.source(run, name, dataset.folder, setup.compute) for name, one in retrievers.items()}
        job = CandidateJob(
            dataset=dataset.folder,
            out=dataset.folder / f"candidates-{step.digest[:12]}.npz",
            sources=specs.candidate_sources(options, features, paths, of_runs),
            k=options.k,
            merge=options.merge,
            digest=step.digest,
        )
        lists = run("pipeline.candidates.stage:build_candidates", job, CandidateLists)
        vectors = [path for one in of_runs.values() for path in one.files]
        return Outcome(
            to_json(replace(lists, file=Path(paths.relative(lists.file)))),
            [lists.file, lists.file.with_suffix(".json"), *vectors],
        )

    step = Step("BuildCandidates", request, work)
    return step


def build_pair(
    setup: Setup, dataset: Prepared, name: str, lists: Done[CandidateLists], extraction: Done[Extraction] | None
) -> Step:
    """Compute the pair feature `name`. extraction: of the features that it reads."""
    upstream = [lists.digest, *([extraction.digest] if extraction else [])]
    request = {"pair": name, "version": pair_function(name).VERSION, "upstream": upstream}

    def work(run: Run) -> Outcome:
        features = extraction.result if extraction else Extraction()
        job = pair_job(name, features, lists.result, dataset.folder, setup.paths)
        feature = run("pipeline.pairs.stage:build_pairs", job, PairFeature)
        return Outcome(to_json(replace(feature, file=Path(setup.paths.relative(feature.file)))), [feature.file])

    return Step("BuildPairs", request, work)


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
            source = jobs.Source(setup.profile, setup.reference, setup.demo)
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


def demo_world(paths: Paths, seed: int, name: str = DEMO) -> Step:
    """Draw an embedded dataset. name: one of `WORLDS`."""

    def work(run: Run) -> Outcome:
        place = paths.demo("world", step.digest)
        counts = run("pipeline.demo.world:draw_world", DemoJob(out=place, seed=seed, name=name), dict)
        return Outcome(counts, [place / "mentions.jsonl", place / "entities.jsonl"])

    step = Step("DemoWorld", {"seed": seed, **({} if name == DEMO else {"world": name})}, work)
    return step


def demo_encoders(paths: Paths, seed: int) -> Step:
    """Train the demo's small models."""

    def work(run: Run) -> Outcome:
        place = paths.demo("encoders", step.digest)
        report = run("pipeline.demo.encoders:train_encoders", DemoJob(out=place, seed=seed), dict)
        return Outcome(report, [path for path in place.rglob("*") if path.is_file()])

    step = Step("DemoEncoders", {"seed": seed}, work)
    return step

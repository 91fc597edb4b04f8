"""The functions of the Python API: each does the steps that are missing, here or in children, and reads the results."""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

from cache.inputs import Want
from experiments import jobs, spaces
from experiments.contracts import ScoreJob, ScoreResult, Study
from foundation import child as children
from foundation import layers
from foundation.contracts import from_json
from foundation.errors import UserError
from foundation.paths import Paths
from heads.contracts import TrainingJob
from linking.contracts import ExportJob, ExportResult, LinkJob, LinkResult
from linking.texts.contracts import TextJob, TextResult
from mel_cache import steps
from mel_cache.contracts import (
    Candidates,
    CandidatesJob,
    DatasetJob,
    Evaluation,
    EvaluationJob,
    FeatureExport,
    FeatureExportJob,
    FeatureImport,
    FeatureImportJob,
    Features,
    FeaturesJob,
    HeadJob,
    Pairs,
    PairsJob,
    PreparedDataset,
    Sweep,
    SweepJob,
    TrainedHead,
)
from mel_cache.steps import Done, Prepared, Run, Setup, Step
from pipeline.candidates.contracts import CandidateLists, ListOptions
from pipeline.candidates.specs import vector_features
from pipeline.demo.contracts import WORLDS
from pipeline.extraction import wants
from pipeline.extraction.contracts import Extraction, Plan
from pipeline.imported.contracts import ExportFeaturesJob, ImportJob
from pipeline.kb.contracts import KBJob, KBReport, PicturesJob, PicturesReport
from pipeline.pairs.contracts import PairFeature
from pipeline.profiles import profile as profiles
from report.contracts import ComparisonJob, ComparisonResult

T = TypeVar("T")


def prepare(job: DatasetJob, *, child: bool = False) -> PreparedDataset:
    """Read a dataset's files, look at every picture once, and write tables that everything else reads.

    Raises `UserError` for malformed files, and for more bad pictures or records than the job allows.

        dataset = prepare(DatasetJob(name="mine", data_dir=Path("data"), profile="mine.yaml"))
        print(dataset.text)
    """
    work = _Work(job, child)
    prepared = work.prepared
    return PreparedDataset(
        job=job,
        folder=prepared.folder,
        content=prepared.content,
        mention_images=prepared.images["mention"],
        entity_images=prepared.images["entity"],
    )


def extract(job: FeaturesJob, *, child: bool = False) -> Features:
    """Run the pretrained models over everything that is not in the cache yet.

    Raises `UserError` for a model that cannot be found or a feature that the profile does not have.

        features = extract(FeaturesJob(dataset=dataset, method="mimic"))
        print(features.text)
    """
    work = _Work(job.dataset.job, child)
    if job.method is not None:
        spec = work.spec(job.method, job.params)
        wanted = [*spec.extracted, *(want for pair in spec.pairs for want in jobs.pair_wants(pair, work.profile))]
        return Features(extraction=work.features(wanted).result)
    listed = wants.listed(work.profile, ",".join(job.features), "", jobs.usual_wants)
    return Features(extraction=work.features(listed).result)


def import_features(job: FeatureImportJob, *, child: bool = False) -> FeatureImport:
    """Read features by record id into the cache. A profile names them with `NAME: {extractor: imported}`.

    Raises `UserError` for a file that is damaged or does not fit the dataset; nothing is written then.

        imported = import_features(FeatureImportJob(dataset=dataset, feature="theirs", file=Path("theirs.npz")))
        print(imported.text)
    """
    work = _Work(job.dataset.job, child)
    request = ImportJob(
        source=Path(job.file),
        ids=job.ids,
        feature=job.feature,
        dataset=job.dataset.folder,
        work=work.paths.root,
        outputs=job.outputs,
        side=job.side,
        view=job.view,
    )
    result: FeatureImport = work.run("pipeline.imported.stage:import_features", request, FeatureImport)
    return result


def export_features(job: FeatureExportJob, *, child: bool = False) -> FeatureExport:
    """Write the rows of a feature with their record ids; what is not in the cache yet is extracted first.

    Raises `UserError` for a file whose ending is no format.

        exported = export_features(FeatureExportJob(dataset=dataset, feature="clip_text", file=Path("clip.npz")))
        print(exported.rows)
    """
    work = _Work(job.dataset.job, child)
    listed = wants.exported(work.profile, job.feature, job.side, job.view)
    inputs = work.features(listed).result.inputs(listed, work.paths)
    request = ExportFeaturesJob(inputs=inputs, dataset=job.dataset.folder, to=Path(job.file))
    result: FeatureExport = work.run("pipeline.imported.writing:export_features", request, FeatureExport)
    return result


def build_candidates(job: CandidatesJob, *, child: bool = False) -> Candidates:
    """List the entities that each mention is compared with, and measure how often the right one is among them.

    candidates = build_candidates(CandidatesJob(dataset=dataset, k=50, sources="name,dense:clip_text"))
    candidates.recall["merged"]["test"]["50"]
    """
    work = _Work(job.dataset.job, child)
    return Candidates(job=job, lists=work.absolute(work.lists(_options(job)).result))


def build_pairs(job: PairsJob, *, child: bool = False) -> Pairs:
    """Compute pair features, numbers for each mention and candidate.

    pairs = build_pairs(PairsJob(candidates=candidates, names=("name_similarity",)))
    pairs.values("name_similarity").shape
    """
    work, options = _Work(job.candidates.job.dataset.job, child), _options(job.candidates.job)
    return Pairs(features={name: work.absolute(work.pair(name, options).result) for name in job.names})


def train(job: HeadJob, *, child: bool = False) -> TrainedHead:
    """Train a head and evaluate it on dev and test.

    What it reads and is not there yet is made first: features, pair features, other heads. A run that is complete is
    read, not trained again. Raises `UserError` for an unknown method or hyper-parameter, and for a method that the
    profile lacks the features for.

        head = train(HeadJob(candidates=candidates, method="mimic", params={"epochs": 5}))
        head.metrics["test"]["full-kb"]["all"]["MRR"]
    """
    work = _Work(job.candidates.job.dataset.job, child)
    trained = work.head(work.training(job, work.spec(job.method, job.params))).result
    return TrainedHead(job=job, folder=trained.out, training=trained)


def evaluate(job: EvaluationJob, *, child: bool = False) -> Evaluation:
    """Score the candidate lists of a split with a trained head.

    evaluation = evaluate(EvaluationJob(head=head, split="test"))
    evaluation.metrics["candidates"]["all"]["H@1"], evaluation.scores.shape
    """
    head, work = job.head, _Work(job.head.job.candidates.job.dataset.job, child)
    request = ScoreJob(run=head.training, split=job.split, file=head.folder / f"scores-{job.split}.npz")
    result = work.run("experiments.scores:score", request, ScoreResult)
    return Evaluation(metrics=head.metrics.get(job.split, {}), file=result.file)


def search(job: SweepJob, *, child: bool = False) -> Sweep:
    """Search a head's hyper-parameters on the half of dev that early stopping uses; test takes no part.

    sweep = search(SweepJob(head=HeadJob(candidates=candidates, method="mimic"), trials=20))
    best = train(HeadJob(candidates=candidates, method="mimic", params=sweep.best))
    """
    head, work = job.head, _Work(job.head.candidates.job.dataset.job, child)
    plan = spaces.plan(head.method, jobs.placed(_text(head.params), work.paths), str(job.space or ""), work.profile)
    study = Study(trials=job.trials, prune=job.prune, storage=job.storage)
    result = work.ensure(steps.search(work.setup, work.training(head, plan.head), plan, study))
    return Sweep(best=result["best"], folder=work.paths.root / result["sweep"], text=result["text"])


def compare(job: ComparisonJob, *, child: bool = False) -> ComparisonResult:
    """Test whether two runs differ on the same mentions: McNemar's exact test of H@1, paired bootstrap of H@1 and MRR.

    result = compare(ComparisonJob(first=head.named, second=other.named))
    result.differences["MRR"].p
    """
    result: ComparisonResult = _runner(child)("report.compare:compare", job, ComparisonResult)
    return result


def link(job: LinkJob, *, child: bool = False) -> LinkResult:
    """Link every mention of a file against the KB of a finished run. `linking.Linker` does it mention by mention.

    result = link(LinkJob(run=head.folder, input=Path("new.jsonl"), output=Path("linked.jsonl")))
    result.counts.mentions
    """
    result: LinkResult = _runner(child)("linking.mentions:link", job, LinkResult)
    return result


def link_text(job: TextJob, *, child: bool = False) -> TextResult:
    """Find and link the mentions of raw texts. `linking.texts.link.TextLinker` does it text by text.

    result = link_text(TextJob(run=head.folder, ner="spacy/", input=Path("texts.jsonl"), output=Path("linked.jsonl")))
    result.summary.counts.mentions
    """
    result: TextResult = _runner(child)("linking.texts.link:link_text", job, TextResult)
    return result


def export(job: ExportJob, *, child: bool = False) -> ExportResult:
    """Write the encoders that were tuned with a run as their own libraries save them.

    tuned = export(ExportJob(run=head.folder, folder=Path("tuned")))
    tuned.encoders
    """
    result: ExportResult = _runner(child)("linking.exported:export", job, ExportResult)
    return result


def build_kb(job: KBJob, *, child: bool = False) -> KBReport:
    """Make a KB from a dump of Wikidata, or from its API (docs/building-a-kb.md).

    report = build_kb(KBJob(dump=Path("latest-all.json.bz2"), where="P31=Q5", out=Path("kb")))
    report.counts["entities"]
    """
    result: KBReport = _runner(child)("pipeline.kb.build:build_kb", job, KBReport)
    return result


def fetch_images(job: PicturesJob, *, child: bool = False) -> PicturesReport:
    """Fetch the pictures of a KB, with author and licence of each (docs/building-a-kb.md).

    fetched = fetch_images(PicturesJob(list=Path("kb/pictures.jsonl"), out=Path("kb"), contact="you@example.org"))
    fetched.without
    """
    result: PicturesReport = _runner(child)("pipeline.kb.fetch:fetch_images", job, PicturesReport)
    return result


def _runner(child: bool, threads: int = 0) -> Run:
    """How a heavy function is called: in a process of its own, or here."""
    return partial(children.run, threads=threads) if child else steps.in_process


def _text(params: Mapping[str, Any]) -> str:
    """Hyper-parameters as `--params` takes them."""
    return json.dumps(dict(params))


def _options(job: CandidatesJob) -> ListOptions:
    return ListOptions(**{field.name: getattr(job, field.name) for field in fields(ListOptions)})


@dataclass(frozen=True)
class _Work:
    """The steps over one dataset. child: heavy functions run in processes of their own."""

    job: DatasetJob
    child: bool

    @cached_property
    def paths(self) -> Paths:
        paths = Paths.below(self.job.work_dir)
        if self.job.cache_path:
            layers.use(paths.cache, self.job.cache_path)
        return paths

    @cached_property
    def profile(self) -> profiles.Profile:
        return profiles.load(self.job.profile)

    @cached_property
    def run(self) -> Run:
        return _runner(self.child, self.profile.threads)

    @cached_property
    def setup(self) -> Setup:
        demo = self.paths.demo("encoders", steps.demo_encoders(self.paths, self.job.demo_seed).digest)
        return Setup(self.paths, self.job.profile, self.profile, demo, self.job.runtime)

    def ensure(self, step: Step) -> dict[str, Any]:
        return step.ensure(self.paths, self.run)

    def done(self, step: Step, read: Callable[[dict[str, Any]], T]) -> Done[T]:
        """The step, done by now; `read` restores its result from a receipt."""
        result = self.ensure(step)
        return Done(step.digest, lambda: read(result))

    def absolute(self, made: T) -> T:
        """A result with a file, its path absolute."""
        return replace(made, file=self.paths.root / made.file)  # type: ignore[attr-defined,type-var]  # a contract

    @cached_property
    def prepared(self) -> Prepared:
        job = self.job
        steps.check_label(job.name)
        if job.name in WORLDS and job.data_dir is None:
            world = steps.demo_world(self.paths, job.demo_seed, job.name)
            self.ensure(world)
            folder = self.paths.demo("world", world.digest)
        elif job.data_dir is None:
            raise UserError(
                f"DatasetJob(name={job.name!r}): data_dir is missing; name the folder with the dataset's files"
            )
        else:
            folder = Path(job.data_dir).expanduser().absolute()
        source = steps.DatasetFiles(job.name, folder, job.format, job.options, job.max_bad_images, job.max_bad_records)
        fingerprint = source.fingerprint(self.paths.memo / "fingerprints.json")
        result = self.ensure(steps.prepare(self.paths, source, self.profile.limits, fingerprint))
        return Prepared.of_receipt(source, result, self.paths)

    def features(self, wanted: Iterable[Want]) -> Done[Extraction]:
        """These wants and all that they are made from."""
        jobs.check_heads(self.profile)
        if self.setup.uses_demo:
            self.ensure(steps.demo_encoders(self.paths, self.job.demo_seed))
        plans = wants.plans(self.profile, [Want(side=w.side, feature=w.feature, view=w.view) for w in wanted])
        beside = tuple(wants.features_of(want for plan in plans for want in plan.wants))
        groups = [self._group(plan, beside) for plan in plans]
        return self.done(steps.extract_features(self.paths, groups), Extraction.of_receipt)

    def _group(self, plan: Plan, beside: tuple[str, ...] = ()) -> Done[Extraction]:
        above = [self._group(one) for one in plan.after]
        step = steps.extract_group(self.setup, self.prepared, steps.Group(plan, above, beside))
        return self.done(step, Extraction.of_receipt)

    def lists(self, options: ListOptions) -> Done[CandidateLists]:
        """Candidate lists."""
        named = vector_features(options.sources)
        extraction = (
            self.features(want for name in named for want in wants.of_feature(self.profile, name)) if named else None
        )
        step = steps.build_candidates(self.setup, self.prepared, options, extraction)
        return self.done(step, partial(from_json, CandidateLists))

    def pair(self, name: str, options: ListOptions) -> Done[PairFeature]:
        """A pair feature beside these lists."""
        wanted = jobs.pair_wants(name, self.profile)
        extraction = self.features(wanted) if wanted else None
        step = steps.build_pair(self.setup, self.prepared, name, self.lists(options), extraction)
        return self.done(step, partial(from_json, PairFeature))

    def spec(self, method: str, params: Mapping[str, Any]) -> jobs.HeadSpec:
        """The method with its full configuration over this profile."""
        return jobs.head_spec(method, jobs.placed(_text(params), self.paths), self.profile)

    def training(self, job: HeadJob, spec: jobs.HeadSpec) -> steps.Training:
        """A head with all that it reads, which is there by then."""
        options = _options(job.candidates.job)
        runs = {label: self.training(job, self.spec(method, params)) for label, (method, params) in spec.runs.items()}
        trained = {label: self.head(run) for label, run in runs.items()}
        reads = steps.Reads(
            extraction=self.features(spec.wants),
            lists=self.lists(options),
            sources=options.sources,
            pairs={name: self.pair(name, options) for name in spec.pairs},
            runs=trained,
            learned=self._learned(trained[spec.learned_by]) if spec.learned_by else None,
        )
        return steps.Training(self.prepared, spec, reads, jobs.Trial(self.job.name, job.seed, job.train_fraction))

    def head(self, training: steps.Training) -> Done[TrainingJob]:
        """The job of a run that is finished by then."""
        return self.done(steps.train(self.setup, training), lambda result: training.job(self.setup))

    def _learned(self, learned: Done[TrainingJob]) -> Done[Any]:
        return self.done(steps.extract_learned(self.setup, learned), partial(steps.learned_inputs, paths=self.paths))

"""Steps that build candidate lists, and the numbers of each (mention, candidate)."""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from cache.identity import identity
from foundation import parquet
from foundation.checksums import RECORD, read_sealed
from foundation.contracts import to_json
from foundation.errors import UserError
from heads.contracts import Compute
from linking.contracts import VectorFiles, VectorJob
from linking.folds import folds_of
from mel_cache.steps.base import Done, Outcome, Run, Setup, Step, say_again
from mel_cache.steps.datasets import Prepared
from pipeline.candidates import specs
from pipeline.candidates.contracts import CandidateJob, CandidateLists, ListOptions, RunSource
from pipeline.datasets.prepared import number_of_names
from pipeline.extraction.contracts import Extraction
from pipeline.pairs.contracts import PairFeature
from pipeline.pairs.job import pair_job
from pipeline.pairs.registry import pair_function


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

    def sizes() -> tuple[int, int]:
        mentions, entities = (parquet.rows(dataset.folder / f"{side}.parquet") for side in ("mentions", "entities"))
        return mentions, entities

    parts = {name: 1 + len(one.folds) for name, one in retrievers.items()}
    if specs.indexes_vectors(options.sources, sizes, parts):
        request["vector_index"] = specs.VECTOR_INDEX
    if specs.indexes_names(options.sources, partial(number_of_names, dataset.folder)):
        exact, request["name_index"] = dict(request), specs.NAME_INDEX
    if specs.reads_given(options.sources):
        request["given_order"] = options.given_order
        changes.append("lists that came with the dataset have an order of their own (--given-order)")

    def work(run: Run) -> Outcome:
        say_again(paths, "BuildCandidates", before, f"candidate lists are built again: {' and '.join(changes)}")
        if exact:
            why = "candidate lists are built again: names of a large KB are looked up in an index"
            say_again(paths, "BuildCandidates", exact, why)
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

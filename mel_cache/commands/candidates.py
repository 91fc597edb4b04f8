"""Commands on candidate lists: BuildCandidates, BuildPairs, and the options of every command that reads such lists."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import luigi

from experiments import jobs
from foundation import logs
from foundation.contracts import from_json, to_json
from foundation.errors import UserError
from mel_cache.commands.dataset import PrepareDataset
from mel_cache.commands.features import ExtractFeatures, OnProfile, wants_json
from mel_cache.commands.parameters import Whole
from mel_cache.commands.task import Task, setting, stop
from pipeline.candidates import specs
from pipeline.candidates.contracts import CandidateJob, CandidateLists
from pipeline.extraction.contracts import Extraction
from pipeline.pairs.contracts import PairFeature, PairJob


class CandidateOptions(OnProfile):
    """Options that say which candidate lists a command reads; a mixin."""

    candidates = setting("candidates", 100, "entities per mention", Whole, least=1)
    scorer = setting("scorer", "token_set_ratio", "rapidfuzz scorer of the name sources")
    sources = setting(
        "sources",
        "name",
        "comma-separated sources: name, name-of-type (entities of the mention's type), given (the lists that came with "
        "the dataset), dense:FEATURE (nearest by cosine of the pooled output of a cached feature)",
    )
    merge = setting(
        "merge",
        "round-robin",
        "how several sources become one list: round-robin by rank, or append (the first whole, then what is new in the "
        "next)",
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        try:
            specs.check(self.sources, self.scorer, self.merge)
        except UserError as error:
            stop(error)

    def dataset_folder(self) -> Path:
        """Folder of the prepared dataset, which must be done."""
        return self.folder(self.clone(PrepareDataset).resolved()["folder"])


class BuildCandidates(CandidateOptions):
    """Lists the entities that each mention is compared with, by name and by further sources; prints the recall of
    each."""

    def extraction(self) -> ExtractFeatures | None:
        """The features that dense sources compare; None where there is no such source."""
        features = specs.vector_features(self.sources)
        return self.clone(ExtractFeatures, features=",".join(features), wants="") if features else None

    def needs(self) -> list[Task]:
        extraction = self.extraction()
        return [self.clone(PrepareDataset), *([extraction] if extraction else [])]

    def request(self) -> dict[str, Any] | None:
        dataset, *extraction = [task.content() for task in self.needs()]
        own = {"k": self.candidates, "scorer": self.scorer, "sources": self.sources, "merge": self.merge}
        return {**own, "dataset": dataset, "upstream": extraction} if dataset and all(extraction) else None

    def job(self) -> CandidateJob:
        extraction = self.extraction()
        features = extraction.result() if extraction else Extraction()
        folder, digest = self.dataset_folder(), self.digest()
        assert digest is not None  # its inputs are there
        return CandidateJob(
            dataset=folder,
            out=folder / f"candidates-{digest[:12]}.npz",
            sources=specs.candidate_sources(self.sources, self.scorer, features, self.paths),
            k=int(self.candidates),
            merge=self.merge,
            digest=digest,
        )

    def make(self) -> dict[str, Any]:
        from pipeline.candidates.recall import recall_table

        lists = self.run_child("pipeline.candidates.stage:build_candidates", self.job(), CandidateLists)
        logs.say(recall_table(lists))
        kept = dataclasses.replace(lists, file=Path(self.paths.relative(lists.file)))
        return {"result": to_json(kept), "files": [lists.file]}

    def lists(self) -> CandidateLists:
        """The lists, which must be done; their file relative to the work folder."""
        return from_json(CandidateLists, self.resolved())

    def summary(self, receipt: dict[str, Any]) -> str:
        recall = json.dumps(receipt["result"].get("recall"), indent=1)
        return f"candidates: {self.folder(receipt['result']['file'])}\n{recall}"


class BuildPairs(CandidateOptions):
    """Computes one pair feature from cached features: numbers per mention and candidate, one file per candidate
    list."""

    pair = luigi.Parameter(
        description="the pair feature: clip_ti, clip_it, text_cls, object_relation, name_similarity, face_match, "
        "retrieval, word_overlap, years or text_length"
    )

    def extraction(self) -> ExtractFeatures | None:
        """The features that the pair feature reads; None where it reads none."""
        try:
            listed = jobs.pair_wants(self.pair, self.profile_content)
        except UserError as error:
            stop(error)
            raise
        return self.clone(ExtractFeatures, features="", wants=wants_json(listed)) if listed else None

    def needs(self) -> list[Task]:
        extraction = self.extraction()
        return [self.clone(BuildCandidates), *([extraction] if extraction else [])]

    def brief(self) -> str:
        return f" {self.pair}"

    def request(self) -> dict[str, Any] | None:
        from pipeline.pairs.registry import pair_function

        upstream = [task.digest() for task in self.needs()]
        version = pair_function(self.pair).VERSION
        return {"pair": self.pair, "version": version, "upstream": upstream} if all(upstream) else None

    def job(self) -> PairJob:
        from pipeline.pairs.job import pair_job

        extraction = self.extraction()
        features = extraction.result() if extraction else Extraction()
        return pair_job(self.pair, features, self.clone(BuildCandidates).lists(), self.dataset_folder(), self.paths)

    def make(self) -> dict[str, Any]:
        feature = self.run_child("pipeline.pairs.stage:build_pairs", self.job(), PairFeature)
        kept = dataclasses.replace(feature, file=Path(self.paths.relative(feature.file)))
        return {"result": to_json(kept), "files": [feature.file]}

    def feature(self) -> PairFeature:
        """The pair feature, which must be done; its file relative to the work folder."""
        return from_json(PairFeature, self.resolved())

    def summary(self, receipt: dict[str, Any]) -> str:
        return f"{self.pair}: {self.folder(receipt['result']['file'])}"

"""Commands on candidate lists: BuildCandidates, BuildPairs, and the options of every command that reads such lists."""

import json
from functools import partial
from typing import Any

import luigi

from experiments import jobs
from foundation import logs
from foundation.contracts import from_json
from mel_cache import steps
from mel_cache.commands.dataset import PrepareDataset
from mel_cache.commands.features import ExtractFeatures, OnProfile, wants_json
from mel_cache.commands.parameters import Whole
from mel_cache.commands.task import Task, finished, setting
from mel_cache.steps import Done, Outcome, Step
from pipeline.candidates import specs
from pipeline.candidates.contracts import CandidateLists, ListOptions
from pipeline.pairs.contracts import PairFeature


class CandidateOptions(OnProfile):
    """Options that say which candidate lists a command reads; a mixin."""

    candidates = setting("candidates", 100, "entities per mention", Whole, least=1, most=100_000)
    scorer = setting("scorer", "token_set_ratio", "rapidfuzz scorer of the name sources")
    sources = setting(
        "sources",
        "name",
        "comma-separated sources: name (most similar names; of more than 200,000 names those that an index finds), "
        "name-exact (every name is compared), name-index (always by the index), name-of-type (entities of the "
        "mention's type), given (the lists that came with the dataset), dense:FEATURE (nearest by cosine of the pooled "
        "output of a cached feature), dense:RUN (nearest by the vectors of a finished run with one per record, such as "
        "dual's; RUN is its folder), dense-index: and dense-exact: (the same, always or never by an index)",
    )
    merge = setting(
        "merge",
        "round-robin",
        "how several sources become one list: round-robin by rank, or append (the first whole, then what is new in the "
        "next)",
    )
    given_order = setting(
        "given_order",
        "hashed",
        "order of the lists that came with the dataset: hashed (an entity's place says nothing), or trusted (as they "
        "came, where a retriever made it)",
    )
    accept_gold_place = luigi.BoolParameter(
        default=False,
        significant=False,
        description="with --given-order trusted: take the lists although the gold's place in them gives it away",
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        specs.check(self.list_options())

    def list_options(self) -> ListOptions:
        """These options as one object."""
        return ListOptions(
            k=self.candidates,
            sources=self.sources,
            scorer=self.scorer,
            merge=self.merge,
            given_order=self.given_order,
            accept_gold_place=self.accept_gold_place,
        )


class BuildCandidates(CandidateOptions):
    """Lists the entities that each mention is compared with, by name and by further sources; prints their recall."""

    def extraction(self) -> ExtractFeatures | None:
        """The features that dense sources compare; None where there is no such source."""
        features = specs.vector_features(self.sources)
        return self.clone(ExtractFeatures, features=",".join(features), wants="") if features else None

    def needs(self) -> list[Task]:
        extraction = self.extraction()
        return [self.clone(PrepareDataset), *([extraction] if extraction else [])]

    def step(self) -> Step:
        extraction = self.extraction()
        read = extraction.finished() if extraction else None
        return steps.build_candidates(self.setup(), self.prepared(), self.list_options(), read)

    def make(self) -> Outcome:
        from pipeline.candidates.recall import recall_table

        outcome = super().make()
        lists = from_json(CandidateLists, outcome.result)
        logs.say("\n".join([recall_table(lists), *lists.notes]))
        return outcome

    def finished(self) -> Done[CandidateLists]:
        """The lists, which are done; their file relative to the work folder."""
        return finished(self, partial(from_json, CandidateLists))

    def summary(self, receipt: dict[str, Any]) -> str:
        recall = json.dumps(receipt["result"].get("recall"), indent=1)
        return f"candidates: {self.folder(receipt['result']['file'])}\n{recall}"


class BuildPairs(CandidateOptions):
    """Computes one pair feature from cached features: numbers per mention and candidate, one file per list."""

    pair = luigi.Parameter(
        description="the pair feature: clip_ti, clip_it, text_cls, object_relation, name_similarity, face_match, "
        "retrieval, word_overlap, years, text_length, or over all pictures of an entity clip_ti_best, clip_ti_mean, "
        "object_relation_best or object_relation_mean"
    )

    def extraction(self) -> ExtractFeatures | None:
        """The features that the pair feature reads; None where it reads none."""
        listed = jobs.pair_wants(self.pair, self.profile_content)
        return self.clone(ExtractFeatures, features="", wants=wants_json(listed)) if listed else None

    def needs(self) -> list[Task]:
        extraction = self.extraction()
        return [self.clone(BuildCandidates), *([extraction] if extraction else [])]

    def brief(self) -> str:
        return f" {self.pair}"

    def step(self) -> Step:
        extraction, lists = self.extraction(), self.clone(BuildCandidates).finished()
        read = extraction.finished() if extraction else None
        return steps.build_pair(self.setup(), self.prepared(), self.pair, lists, read)

    def finished(self) -> Done[PairFeature]:
        """The pair feature, which is done; its file relative to the work folder."""
        return finished(self, partial(from_json, PairFeature))

    def summary(self, receipt: dict[str, Any]) -> str:
        return f"{self.pair}: {self.folder(receipt['result']['file'])}"

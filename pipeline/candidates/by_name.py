"""Candidate sources `name`, `name-exact` and `name-index`: the entities whose names are most like the phrase."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from foundation import extras
from pipeline.candidates import contracts
from pipeline.candidates.base import Source, SourceInputs
from pipeline.candidates.contracts import NameSource
from pipeline.candidates.grown_names import GrownNames
from pipeline.candidates.indexed_names import NEAR, IndexedNames
from pipeline.candidates.lists import RankedLists
from pipeline.candidates.name_index import NameIndex
from pipeline.candidates.name_ranking import NameRanking
from pipeline.datasets.arrow_columns import ArrowColumn


class ByName(Source):
    """Scores are those of the rapidfuzz scorer, from above 0 to 100; see `NameRanking` for the order.

    `name-exact` compares every name, `name-index` those that `IndexedNames` finds; `name` does the one or the other by
    the size of the KB.
    """

    def __init__(self, spec: NameSource) -> None:
        self.scorer, self.how = spec.scorer, spec.kind
        self._kept: tuple[Mapping[str, Sequence[Any]], NameRanking | IndexedNames] | None = None
        self._index: tuple[Mapping[str, Sequence[Any]], NameIndex] | None = None

    @property
    def label(self) -> str:
        return f"{self.how}:{self.scorer}"

    def check(self, inputs: SourceInputs) -> None:
        if self._by_index(inputs):
            extras.require("tantivy")

    def waits(self, inputs: SourceInputs) -> bool:
        return self._by_index(inputs)

    def notes(self, inputs: SourceInputs, k: int) -> list[str]:
        if self.how != "name" or not self._by_index(inputs):
            return []
        names, most = number_of_names(inputs.indexed), contracts.INDEX_ABOVE
        return [
            f"{self.label}: the KB has {names:,} names, more than {most:,}, so the {NEAR:,} names that share most "
            "trigrams with a phrase are compared; name-exact compares all"
        ]

    def lists(self, inputs: SourceInputs, k: int) -> RankedLists:
        ranking = self._ranking(inputs)
        if isinstance(ranking, IndexedNames):
            return ranking.lists(inputs.mentions["phrase"], k, inputs.beside)
        return ranking.lists(inputs.mentions["phrase"], k)

    def ranks(self, inputs: SourceInputs, rows: np.ndarray, gold: np.ndarray) -> np.ndarray:
        phrases = inputs.mentions["phrase"]
        return self._ranking(inputs).ranks([phrases[row] for row in rows], gold)

    def _by_index(self, inputs: SourceInputs) -> bool:
        return self.how == "name-index" or (
            self.how == "name" and number_of_names(inputs.indexed) > contracts.INDEX_ABOVE
        )

    def _ranking(self, inputs: SourceInputs) -> NameRanking | IndexedNames:
        """The order of these entities, kept for further mentions against the same ones."""
        entities = inputs.entities
        if self._kept is None or self._kept[0] is not entities:
            names, ids, aliases = entities["name"], entities["id"], entities.get("aliases")
            ranking: NameRanking | IndexedNames = (
                IndexedNames(self._indexed(inputs), ids, self.scorer)
                if self._by_index(inputs)
                else NameRanking(names, ids, self.scorer, inputs.workers, aliases)
            )
            self._kept = entities, ranking
        return self._kept[1]

    def _indexed(self, inputs: SourceInputs) -> NameIndex | GrownNames:
        """The index of the names, that of a KB that has grown since kept for all that comes to it."""
        if self._index is None or self._index[0] is not inputs.indexed:
            indexed = inputs.indexed
            self._index = indexed, NameIndex.of(indexed["name"], indexed.get("aliases"), inputs.indexes)
        index = self._index[1]
        return GrownNames.of(index, inputs.grown, inputs.entities) if inputs.grown else index


def number_of_names(entities: Mapping[str, Sequence[Any]]) -> int:
    """Names and aliases of a KB's entities."""
    aliases = entities.get("aliases")
    if isinstance(aliases, ArrowColumn):
        return len(entities["name"]) + int(aliases.lengths().sum())
    return len(entities["name"]) + sum(len(own or ()) for own in aliases or ())

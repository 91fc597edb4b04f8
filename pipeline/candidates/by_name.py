"""Candidate source `name`: the entities whose names are most like the phrase."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.candidates.base import Source, SourceInputs
from pipeline.candidates.contracts import NameSource
from pipeline.candidates.lists import RankedLists
from pipeline.candidates.name_ranking import NameRanking


class ByName(Source):
    """Scores are those of the rapidfuzz scorer, from above 0 to 100; see `NameRanking` for the order."""

    def __init__(self, spec: NameSource) -> None:
        self.scorer = spec.scorer
        self._kept: tuple[Mapping[str, Sequence[Any]], NameRanking] | None = None

    @property
    def label(self) -> str:
        return f"name:{self.scorer}"

    def lists(self, inputs: SourceInputs, k: int) -> RankedLists:
        return self._ranking(inputs).lists(inputs.mentions["phrase"], k)

    def ranks(self, inputs: SourceInputs, rows: np.ndarray, gold: np.ndarray) -> np.ndarray:
        phrases = inputs.mentions["phrase"]
        return self._ranking(inputs).ranks([phrases[row] for row in rows], gold)

    def _ranking(self, inputs: SourceInputs) -> NameRanking:
        """The order of these entities, kept for further mentions against the same ones."""
        entities = inputs.entities
        if self._kept is None or self._kept[0] is not entities:
            aliases = entities.get("aliases")
            ranking = NameRanking(entities["name"], entities["id"], self.scorer, inputs.workers, aliases)
            self._kept = entities, ranking
        return self._kept[1]

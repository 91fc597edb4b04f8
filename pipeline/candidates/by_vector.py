"""Candidate source `dense:FEATURE`: the entities whose cached vectors are nearest by cosine."""

import hashlib
from functools import cached_property

import numpy as np

from cache.table import Table
from foundation.checksums import content
from foundation.errors import UserError
from pipeline.candidates.base import Source, SourceInputs
from pipeline.candidates.contracts import VectorSource
from pipeline.candidates.lists import RankedLists
from pipeline.candidates.nearest import vector_ranks
from pipeline.candidates.vector_index import Indexed, Nearest


class ByVector(Source):
    """Scores are (1 + cosine) / 2, which is above 0 except for exact opposites.

    A mention without a vector has an empty list; an entity without a vector is in no list.
    """

    def __init__(self, spec: VectorSource) -> None:
        self.spec = spec
        self._nearest = Nearest(spec.how)

    @property
    def label(self) -> str:
        return f"dense:{self.spec.mention.feature}"

    def lists(self, inputs: SourceInputs, k: int) -> RankedLists:
        mentions, entities = self._tables(inputs)
        then = inputs.grown.vectors(self.spec.entity, self.spec.output) if inputs.grown else entities
        return self._nearest.lists(mentions, entities, inputs, k, Indexed(then, lambda: self._digest))

    def check(self, inputs: SourceInputs) -> None:
        self._nearest.check(inputs)

    def notes(self, inputs: SourceInputs, k: int) -> list[str]:
        return self.choices()

    def choices(self) -> list[str]:
        return [f"{self.label}: {note}" for note in self._nearest.notes]

    @cached_property
    def _digest(self) -> str:
        """SHA-256 (hex) of what the entities' vectors are: feature, output, and the keys of their rows."""
        read = self.spec.entity
        return hashlib.sha256(f"{read.store.name} {self.spec.output} {content(read.keys)}".encode()).hexdigest()

    def ranks(self, inputs: SourceInputs, rows: np.ndarray, gold: np.ndarray) -> np.ndarray:
        mentions, entities = self._tables(inputs)
        return vector_ranks(mentions, entities, inputs.entities["id"], rows, gold)

    def _tables(self, inputs: SourceInputs) -> tuple[Table, Table]:
        """One vector per mention and per entity. Raises `UserError` where they are none, or of different widths."""
        sides = self.spec.mention, self.spec.entity
        mentions, entities = (inputs.vectors(side, self.spec.output) for side in sides)
        if mentions.shape != entities.shape or len(mentions.shape) != 1 or mentions.ragged or entities.ragged:
            shapes = " and ".join(
                f"{'ragged ' * side.ragged}{side.output} {side.shape}" for side in (mentions, entities)
            )
            raise UserError(
                f"dense candidates need one vector of the same width on both sides, found {shapes}; "
                "choose another output"
            )
        return mentions, entities

"""Candidate source `dense:RUN`: the entities whose vectors, by a trained run, are nearest the mention's."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from foundation.errors import UserError
from pipeline.candidates.base import UNKNOWN, RunVectors, Source, SourceInputs
from pipeline.candidates.contracts import RunSource
from pipeline.candidates.lists import RankedLists
from pipeline.candidates.nearest import vector_ranks
from pipeline.candidates.vector_index import Indexed, Nearest


@dataclass(frozen=True, eq=False)
class VectorsInMemory:
    """Vectors in memory, see `nearest.Vectors`. Equal to others of the same array."""

    values: np.ndarray

    def __eq__(self, other: object) -> bool:
        return isinstance(other, VectorsInMemory) and other.values is self.values

    def __hash__(self) -> int:
        return id(self.values)

    @property
    def ok(self) -> np.ndarray:
        there: np.ndarray = (self.values != 0).any(1)
        return there

    def __len__(self) -> int:
        return len(self.values)

    def gather(self, index: np.ndarray) -> np.ndarray:
        found: np.ndarray = self.values[index]
        return found


class ByRun(Source):
    """Scores are (1 + inner product) / 2, which is above 0 except for exact opposites.

    A training mention is listed by a run that did not learn from it, where there is one. A mention without a
    vector has an empty list; an entity without one is in no list, and has no rank.
    """

    def __init__(self, spec: RunSource) -> None:
        self.spec = spec
        self._nearest = Nearest(spec.how, parts=max(1, len(spec.files)))
        self._kept: tuple[SourceInputs, list[RunVectors]] | None = None
        self._digests: dict[int, tuple[np.ndarray, str]] = {}

    @property
    def label(self) -> str:
        return f"run:{self.spec.run.removeprefix('runs/')}"

    def check(self, inputs: SourceInputs) -> None:
        self._nearest.check(inputs)

    def choices(self) -> list[str]:
        return [f"{self.label}: {note}" for note in self._nearest.notes]

    def notes(self, inputs: SourceInputs, k: int) -> list[str]:
        size = self._vectors(inputs)[0].entities[:1].nbytes
        told = f"{self.label}: {size} bytes an entity"
        if self.spec.by_heart:
            told += (
                "; it knows the training mentions by heart, so there is no pair feature `retrieval`; train the runs "
                'that leave a fold out, with its own TrainHead command and "fold": [0, 2] and [1, 2] in --params'
            )
        return [told, *self.choices()]

    def lists(self, inputs: SourceInputs, k: int) -> RankedLists:
        lists = RankedLists.empty(len(inputs.mentions["phrase"]), k)
        lists.by_heart = self.spec.by_heart
        for one in self._vectors(inputs):
            if not len(one.rows):
                continue
            then = inputs.grown.of_run(self.spec) if inputs.grown else one.entities
            indexed = Indexed(VectorsInMemory(then), partial(self._digest, then))
            found = self._nearest.lists(
                VectorsInMemory(one.mentions), VectorsInMemory(one.entities), inputs, k, indexed
            )
            lists.ids[one.rows], lists.scores[one.rows] = found.ids, found.scores
        return lists

    def ranks(self, inputs: SourceInputs, rows: np.ndarray, gold: np.ndarray) -> np.ndarray:
        ranks = np.full(len(rows), UNKNOWN, np.int64)
        for one, here, place in self._listed(inputs, rows):
            tables = VectorsInMemory(one.mentions), VectorsInMemory(one.entities)
            ranks[here] = vector_ranks(*tables, inputs.entities["id"], place, gold[here])
        return ranks

    def _digest(self, entities: np.ndarray) -> str:
        """SHA-256 (hex) of entities' vectors (N, d), computed once of an array."""
        known = self._digests.get(id(entities))
        if known is None or known[0] is not entities:
            hashed = hashlib.sha256(f"{entities.dtype.str} {entities.shape} ".encode())
            hashed.update(np.ascontiguousarray(entities).data)
            known = self._digests[id(entities)] = entities, hashed.hexdigest()
        return known[1]

    def _listed(self, inputs: SourceInputs, rows: np.ndarray) -> Iterator[tuple[RunVectors, np.ndarray, np.ndarray]]:
        """Each run's vectors, which of `rows` (m,) it lists, and their places among its mentions."""
        for one in self._vectors(inputs):
            order = np.argsort(one.rows)
            place = np.searchsorted(one.rows, rows, sorter=order).clip(max=max(0, len(order) - 1))
            here = np.flatnonzero(one.rows[order[place]] == rows) if len(order) else rows[:0]
            yield one, here, order[place[here]]

    def _vectors(self, inputs: SourceInputs) -> list[RunVectors]:
        """The vectors, read once for the same inputs. Raises `UserError` where they are of other records."""
        if self._kept is None or self._kept[0] is not inputs:
            vectors = list(inputs.of_run(self.spec))
            mentions, entities = len(inputs.mentions["phrase"]), len(inputs.entities["id"])
            listed = np.sort(np.concatenate([one.rows for one in vectors]))
            fitting = all(
                len(one.entities) == entities
                and len(one.mentions) == len(one.rows)
                and (not len(one.rows) or one.mentions.shape[1] == one.entities.shape[1])
                for one in vectors
            )
            if not fitting or not np.array_equal(listed, np.arange(mentions)):
                raise UserError(
                    f"--sources dense:{self.spec.run}: its vectors are not those of these {mentions} mentions and "
                    f"{entities} entities; name a run of this dataset"
                )
            self._kept = inputs, vectors
        return self._kept[1]

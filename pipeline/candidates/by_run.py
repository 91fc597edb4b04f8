"""Candidate source `dense:RUN`: the entities whose vectors, by a trained run, are nearest the mention's."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from foundation.arrays import Expected, read_npz
from foundation.errors import UserError
from pipeline.candidates.base import UNKNOWN, Source, SourceInputs
from pipeline.candidates.by_vector import nearest_vectors, vector_ranks
from pipeline.candidates.contracts import RunSource
from pipeline.candidates.lists import RankedLists

_FILE = {
    "mentions": Expected("f", (None, None)),
    "entities": Expected("f", (None, None)),
    "rows": Expected("iu", (None,)),
}


@dataclass(frozen=True)
class RunVectors:
    """One run's vectors. mentions (m, d), entities (N, d) float16, zeros where a record has nothing; rows (m,): the
    mentions that it lists."""

    mentions: np.ndarray
    entities: np.ndarray
    rows: np.ndarray

    @classmethod
    def read(cls, path: Path) -> "RunVectors":
        """Of a file. Raises `UserError` where it does not fit itself."""
        saved = read_npz(path, _FILE)
        mentions, entities, rows = (saved[name] for name in _FILE)
        if len(mentions) != len(rows) or mentions.shape[1] != entities.shape[1]:
            raise UserError(
                f"{path}: {mentions.shape} vectors of {len(rows)} mentions and {entities.shape} of entities do not fit "
                "each other; remove the file and run BuildCandidates again"
            )
        return cls(mentions, entities, rows)


@dataclass(frozen=True)
class _Rows:
    """Vectors in memory, see `by_vector.Vectors`."""

    values: np.ndarray

    @property
    def ok(self) -> np.ndarray:
        there: np.ndarray = (self.values != 0).any(1)
        return there

    def __len__(self) -> int:
        return len(self.values)

    def gather(self, index: np.ndarray) -> np.ndarray:
        return self.values[index]


class ByRun(Source):
    """Scores are (1 + inner product) / 2 of vectors of length 1."""

    def __init__(self, spec: RunSource) -> None:
        self.spec = spec

    @property
    def label(self) -> str:
        path = Path(self.spec.run)
        return f"dense:{path.parent.name}/{path.name}"

    @cached_property
    def _vectors(self) -> list[RunVectors]:
        return [RunVectors.read(path) for path in self.spec.files]

    def check(self, inputs: SourceInputs) -> None:
        mentions, entities = len(inputs.mentions["id"]), len(inputs.entities["id"])
        listed = np.sort(np.concatenate([one.rows for one in self._vectors]))
        if not np.array_equal(listed, np.arange(mentions)) or any(
            len(one.entities) != entities for one in self._vectors
        ):
            raise UserError(
                f"--sources {self.label}: the run's vectors are not of these {mentions} mentions and {entities} "
                "entities; name a run of this dataset"
            )

    def notes(self, inputs: SourceInputs, k: int) -> list[str]:
        first = self._vectors[0]
        size = first.entities[:1].nbytes
        told = [f"{self.label}: {size} bytes an entity"]
        if self.spec.by_heart:
            told.append(
                f"{self.label} learned from the training mentions: recall on train is that of what it knows by heart, and "
                "there is no pair feature `retrieval`; with the runs that leave a fold out (docs/dual.md) both are honest"
            )
        return told

    def lists(self, inputs: SourceInputs, k: int) -> RankedLists:
        lists = RankedLists.empty(len(inputs.mentions["id"]), k)
        lists.by_heart = self.spec.by_heart
        for one in self._vectors:
            if len(one.rows):
                found = nearest_vectors(_Rows(one.mentions), _Rows(one.entities), inputs.entities["id"], k)
                lists.ids[one.rows], lists.scores[one.rows] = found.ids, found.scores
        return lists

    def ranks(self, inputs: SourceInputs, rows: np.ndarray, gold: np.ndarray) -> np.ndarray:
        ranks = np.full(len(rows), UNKNOWN, np.int64)
        for one in self._vectors:
            place = np.full(len(inputs.mentions["id"]), -1)
            place[one.rows] = np.arange(len(one.rows))
            here = np.flatnonzero(place[rows] >= 0)
            if len(here):
                tables = _Rows(one.mentions), _Rows(one.entities)
                ranks[here] = vector_ranks(*tables, inputs.entities["id"], place[rows[here]], gold[here])
        return ranks

"""An index of a KB's vectors (usearch), mapped from disk: the entities that are probably nearest, scored exactly."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from foundation import extras
from foundation.progress import Bar
from pipeline.candidates import contracts
from pipeline.candidates.base import SourceInputs
from pipeline.candidates.kept import kept
from pipeline.candidates.lists import RankedLists
from pipeline.candidates.nearest import Vectors, nearest_vectors, scores_of, unit_rows

VERSION = 1
"""Raised when the same vectors are indexed otherwise."""
LEAST_RECALL = 0.99
"""Share of exact's first `MEASURED` entities that an index must find to be used."""
MEASURED, SAMPLE = 10, 256  # places, and mentions or entities, that the recall is measured with
FEWEST = 64  # mentions that it is measured with; where there are fewer, entities are taken
CONNECTIVITY, EXPANSION = 32, 256  # usearch's: neighbours of each vector, and vectors that a search holds
BLOCK = 4096  # vectors added, or mentions looked up, at a time
FILE = "vectors.usearch"


@dataclass(frozen=True)
class VectorIndex:
    """The vectors of a KB. recall: the share of exact's first ten entities that it found when it was built, measured
    with `measured_with` (a number of mentions or entities).
    """

    path: Path
    recall: float
    measured_with: str

    @classmethod
    def of(cls, digest: str, mentions: Vectors, entities: Vectors, beside: Path | None) -> "VectorIndex":
        """The index of the entities' vectors, kept in the folder `beside` and built first where it is not there. None:
        in a temporary folder.

        digest: names the vectors. mentions: of which some measure the recall where it is built. Raises `UserError`
        where usearch is not installed.
        """
        extras.require("usearch")
        made_of = {"vectors": digest, "version": VERSION, "usearch": version("usearch")}
        title = hashlib.sha256(repr(sorted(made_of.items())).encode()).hexdigest()[:12]
        place = None if beside is None else beside / f"vector-index-{title}"
        folder, record = kept(place, made_of, lambda out: build(mentions, entities, out))
        return cls(folder / FILE, record["recall"], record["measured_with"])

    @property
    def good(self) -> bool:
        """Whether its recall suffices."""
        return self.recall >= LEAST_RECALL

    def nearest(self, mentions: Vectors, entities: Vectors, ids: Sequence[str], k: int) -> RankedLists:
        """As `nearest_vectors`, among the entities that the index finds: twice as many as are listed."""
        return _nearest(self._opened, mentions, entities, ids, k)

    @cached_property
    def _opened(self) -> Any:
        from usearch.index import Index

        return Index.restore(str(self.path), view=True)


@dataclass
class Nearest:
    """Lists by vectors, exact or by an index.

    how: `exact`, `index`, or `auto`: the index above `INDEX_ABOVE` entities. notes: what was done, a sentence each.
    """

    how: str
    notes: list[str] = field(default_factory=list)
    _indexes: dict[str, VectorIndex] = field(default_factory=dict)

    def lists(
        self, mentions: Vectors, entities: Vectors, inputs: SourceInputs, k: int, digest: Callable[[], str]
    ) -> RankedLists:
        """The k nearest of N entities to each of M mentions. digest: gives the name of the entities' vectors.

        An index that finds less than `LEAST_RECALL` of exact's first ten is not used.
        """
        ids, large = inputs.entities["id"], len(entities) > contracts.INDEX_ABOVE
        if (self.how == "auto" and not large) or self.how == "exact" or not entities.ok.any():
            return nearest_vectors(mentions, entities, ids, k)
        name = digest()
        if name not in self._indexes:
            index = self._indexes[name] = VectorIndex.of(name, mentions, entities, inputs.indexes)
            share = f"{index.recall:.2%} of exact's first {MEASURED} entities are found by the index"
            used = "it is used" if index.good else f"less than {LEAST_RECALL:.0%}, so all entities are compared"
            self.notes.append(f"{share} ({index.measured_with} measured); {used}")
        index = self._indexes[name]
        return (index.nearest if index.good else nearest_vectors)(mentions, entities, ids, k)


def build(mentions: Vectors, entities: Vectors, out: Path) -> dict[str, Any]:
    """Write the index into a folder; gives its size, and its recall against comparing all."""
    from usearch.index import Index

    offered = np.flatnonzero(entities.ok)
    width = unit_rows(entities, offered[:1]).shape[1]
    index = Index(ndim=width, metric="cos", dtype="f16", connectivity=CONNECTIVITY, expansion_add=EXPANSION)
    with Bar(len(offered), "index of vectors", "entity") as bar:
        for begin in range(0, len(offered), BLOCK):
            rows = offered[begin : begin + BLOCK]
            index.add(rows.astype(np.uint64), unit_rows(entities, rows))
            bar.update(len(rows))
    index.save(str(out / FILE))
    measured, of = _sample(mentions, entities)
    order = [str(row) for row in range(len(entities))]
    exact = nearest_vectors(measured, entities, order, MEASURED)
    found = _nearest(index, measured, entities, order, MEASURED)
    shares = [
        np.isin(one[one >= 0], other).mean()
        for one, other in zip(exact.ids, found.ids, strict=True)
        if (one >= 0).any()
    ]
    recall = round(float(np.mean(shares)), 4) if shares else 1.0
    return {"entities": len(offered), "width": width, "recall": recall, "measured_with": f"{len(shares)} {of}"}


@dataclass(frozen=True)
class _Part:
    """Some of the vectors of a table."""

    table: Vectors
    rows: np.ndarray

    @property
    def ok(self) -> np.ndarray:
        return np.ones(len(self.rows), bool)

    def __len__(self) -> int:
        return len(self.rows)

    def gather(self, index: np.ndarray) -> np.ndarray:
        return self.table.gather(self.rows[index])


def _sample(mentions: Vectors, entities: Vectors) -> tuple[_Part, str]:
    """Vectors that the recall is measured with, and what they are of."""
    for table, of, fewest in ((mentions, "mentions", FEWEST), (entities, "entities", 0)):
        there = np.flatnonzero(table.ok)
        if len(there) >= fewest:
            chosen = np.random.default_rng(0).permutation(len(there))[:SAMPLE]
            return _Part(table, there[np.sort(chosen)]), of
    raise AssertionError


def _nearest(index: Any, mentions: Vectors, entities: Vectors, ids: Sequence[str], k: int) -> RankedLists:
    lists = RankedLists.empty(len(mentions), k)
    present = np.flatnonzero(mentions.ok)
    count = min(2 * k, len(index))
    index.expansion_search = max(EXPANSION, count)
    for begin in range(0, len(present) if count else 0, BLOCK):
        rows = present[begin : begin + BLOCK]
        vectors = unit_rows(mentions, rows)
        found = index.search(vectors, count)
        keys = np.asarray(found.keys).reshape(len(rows), -1).astype(np.int64)
        counts = np.asarray(getattr(found, "counts", [keys.shape[1]]))
        for row, vector, listed, number in zip(rows.tolist(), vectors, keys, counts.tolist(), strict=True):
            near = np.unique(listed[:number])
            scores = scores_of(vector[None], unit_rows(entities, near))[0]
            order = np.unique([ids[place] for place in near.tolist()], return_inverse=True)[1]
            best = np.lexsort((order, -scores))[:k]
            best = best[scores[best] > 0]
            lists.ids[row, : len(best)], lists.scores[row, : len(best)] = near[best], scores[best]
    return lists

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
from pipeline.candidates.base import Grown, SourceInputs
from pipeline.candidates.contracts import How
from pipeline.candidates.kept import kept, there
from pipeline.candidates.lists import RankedLists, contenders
from pipeline.candidates.nearest import Offer, Vectors, nearest_of, nearest_vectors, scores_of, unit_rows, width_of
from pipeline.candidates.vector_costs import index_pays, search_pays, too_large_to_compare
from pipeline.datasets.arrow_columns import values_at

VERSION = 2
"""Raised when the same vectors are indexed otherwise."""
LEAST_RECALL = 0.99
"""Share of exact's first `MEASURED` entities that an index must find to be used."""
MEASURED, SAMPLE = 10, 256  # places, and mentions or entities, that the recall is measured with
FEWEST = 64  # mentions that it is measured with; where there are fewer, entities are taken
CONNECTIVITY, ADDING, EXPANSION = 32, 64, 256  # usearch's: neighbours of a vector; held by an addition, by a search
STORED = "i8"  # of the vectors within the index; those that it finds are scored by the vectors themselves
BLOCK = 4096  # vectors added, or mentions looked up, at a time
MOST_GONE = 4096  # entities looked up besides, for those that went since the index was built
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
        place, made_of = _named(digest, beside)
        folder, record = kept(place, made_of, lambda out: build(mentions, entities, out))
        return cls(folder / FILE, record["recall"], record["measured_with"])

    @classmethod
    def there(cls, digest: str, beside: Path | None) -> "VectorIndex | None":
        """The index of the vectors of this digest, where it was built before and usearch is installed."""
        if beside is None or not extras.installed("usearch"):
            return None
        place, _ = _named(digest, beside)
        record = there(place)
        return None if place is None or record is None else cls(place / FILE, record["recall"], record["measured_with"])

    @property
    def good(self) -> bool:
        """Whether its recall suffices."""
        return self.recall >= LEAST_RECALL

    def nearest(self, mentions: Vectors, entities: Vectors, inputs: SourceInputs, k: int) -> RankedLists:
        """As `nearest_vectors`, among the entities that the index finds: twice as many as are listed, and all that came
        since it was built."""
        search = _searching(self._opened, entities, inputs.grown)
        return _nearest(search, mentions, entities, inputs.entities["id"], k)

    @cached_property
    def _opened(self) -> Any:
        from usearch.index import Index

        return Index.restore(str(self.path), view=True)


def _named(digest: str, beside: Path | None) -> tuple[Path | None, dict[str, Any]]:
    """What an index of the vectors of this digest is made of, and its place in the folder `beside`."""
    made_of = {"vectors": digest, "version": VERSION, "usearch": version("usearch")}
    title = hashlib.sha256(repr(sorted(made_of.items())).encode()).hexdigest()[:12]
    return None if beside is None else beside / f"vector-index-{title}", made_of


@dataclass(frozen=True)
class Indexed:
    """What an index is made of: the entities' vectors, and what gives their name."""

    vectors: Vectors
    digest: Callable[[], str]


@dataclass
class Nearest:
    """Lists by vectors, exact or by an index.

    how: `exact`, `index`, or `auto`: the index for the lists of a dataset where building it pays (`index_pays`); for
    mentions that come one after the other where it is there already, or the entities are too many to be compared with
    each mention (`too_large_to_compare`). parts: in how many sets of vectors, each compared with others of its own, the
    mentions are listed. notes: what was done, a sentence each.
    """

    how: How
    parts: int = 1
    notes: list[str] = field(default_factory=list)
    _indexes: dict[str, VectorIndex | None] = field(default_factory=dict)
    _offer: Offer | None = None

    def check(self, inputs: SourceInputs) -> None:
        """Raises `UserError` where the lists of a dataset need an index and usearch is not installed."""
        if self.how == "index" or (self.how == "auto" and not inputs.more_come and self._pays(inputs)):
            extras.require("usearch")

    def lists(
        self, mentions: Vectors, entities: Vectors, inputs: SourceInputs, k: int, indexed: Indexed
    ) -> RankedLists:
        """The k nearest of N entities to each of M mentions. indexed: the entities that an index is over, those of
        `inputs.indexed`.

        An index that finds less than `LEAST_RECALL` of exact's first ten is not used.
        """
        index = self._index(mentions, entities, inputs, indexed)
        if index is not None and index.good:
            return index.nearest(mentions, entities, inputs, k)
        return nearest_of(self._offered(entities, inputs), mentions, k)

    def _index(
        self, mentions: Vectors, entities: Vectors, inputs: SourceInputs, indexed: Indexed
    ) -> VectorIndex | None:
        """The index to look up in, built where it is to be; None where all are compared."""
        if self.how == "exact" or not indexed.vectors.ok.any():
            return None
        if self.how == "auto" and not inputs.more_come and not self._pays(inputs):
            if inputs.listed is None and search_pays(len(inputs.indexed["id"])):
                self._note("all entities are compared: an index would cost more than it saves for so few mentions")
            return None
        name = indexed.digest()
        if name not in self._indexes:
            index, reason = VectorIndex.there(name, inputs.indexes), self._reason(entities, inputs)
            if index is None and reason is not None:
                index = VectorIndex.of(name, mentions, indexed.vectors, inputs.indexes)
            if index is not None:
                share = f"{index.recall:.2%} of exact's first {MEASURED} entities are found by the index"
                used = "it is used" if index.good else f"less than {LEAST_RECALL:.0%}, so all entities are compared"
                why = f" ({reason or 'it was built before'})" if self.how == "auto" and index.good else ""
                self._note(f"{share} ({index.measured_with} measured); {used}{why}")
            self._indexes[name] = index
        return self._indexes[name]

    def _reason(self, entities: Vectors, inputs: SourceInputs) -> str | None:
        """Why an index is built where none is there, None where none is built; empty where it was asked for."""
        if self.how == "index":
            return ""
        if not inputs.more_come:
            return "for so many mentions it costs less than comparing all"
        size = len(entities), width_of(entities)
        long = f"comparing a mention with {size[0]:,} vectors of {size[1]:,} numbers takes too long"
        return long if too_large_to_compare(*size) else None

    def _note(self, note: str) -> None:
        if note not in self.notes:
            self.notes.append(note)

    def _pays(self, inputs: SourceInputs) -> bool:
        listed = len(inputs.mentions["phrase"]) if inputs.listed is None else inputs.listed
        return index_pays(listed // self.parts, len(inputs.indexed["id"]))

    def _offered(self, entities: Vectors, inputs: SourceInputs) -> Offer:
        """The entities as mentions are compared with them, kept for further mentions against the same ones."""
        ids, held, offer = inputs.entities["id"], inputs.more_come, self._offer
        if offer is None or offer.entities != entities or offer.ids is not ids or offer.held < held:
            offer = self._offer = Offer(entities, ids, held)
        return offer


def build(mentions: Vectors, entities: Vectors, out: Path) -> dict[str, Any]:
    """Write the index into a folder; gives its size, and its recall against comparing all."""
    from usearch.index import Index

    offered = np.flatnonzero(entities.ok)
    width = unit_rows(entities, offered[:1]).shape[1]
    index = Index(ndim=width, metric="cos", dtype=STORED, connectivity=CONNECTIVITY, expansion_add=ADDING)
    with Bar(len(offered), "index of vectors", "entity") as bar:
        for begin in range(0, len(offered), BLOCK):
            rows = offered[begin : begin + BLOCK]
            index.add(rows.astype(np.uint64), unit_rows(entities, rows))
            bar.update(len(rows))
    index.save(str(out / FILE))
    measured, of = _sample(mentions, entities)
    order = [str(row) for row in range(len(entities))]
    exact = nearest_vectors(measured, entities, order, MEASURED)
    found = _nearest(_searching(index, entities), measured, entities, order, MEASURED)
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


Search = Callable[[np.ndarray, int], list[np.ndarray]]
"""Rows of the entities that are probably nearest to each of some unit vectors (m, d), for lists of so many."""


def _searching(index: Any, entities: Vectors, grown: Grown | None = None) -> Search:
    """A search of usearch's index. grown: where the entities are others than those of the index by now."""
    row_of, fresh = (None, None) if grown is None else (grown.row_of, grown.fresh)
    gone = 0 if row_of is None else int((row_of < 0).sum())
    offered = None if fresh is None else fresh[entities.ok[fresh]]
    units = None if offered is None else unit_rows(entities, offered)

    def search(vectors: np.ndarray, k: int) -> list[np.ndarray]:
        count = min(2 * k + min(gone, MOST_GONE), len(index))
        rows = [np.empty(0, np.int64)] * len(vectors)
        if count:
            index.expansion_search = max(EXPANSION, count)
            found = index.search(vectors, count)
            keys = np.asarray(found.keys).reshape(len(vectors), -1).astype(np.int64)
            counts = np.asarray(getattr(found, "counts", [keys.shape[1]]))
            rows = [listed[:number] for listed, number in zip(keys, counts.tolist(), strict=True)]
        if row_of is None or offered is None or units is None:
            return rows
        best = [offered[contenders(scores, k)] for scores in scores_of(vectors, units)]
        there = [places[places >= 0] for places in (row_of[listed] for listed in rows)]
        return [np.concatenate(both) for both in zip(there, best, strict=True)]

    return search


def _nearest(search: Search, mentions: Vectors, entities: Vectors, ids: Sequence[str], k: int) -> RankedLists:
    lists = RankedLists.empty(len(mentions), k)
    present = np.flatnonzero(mentions.ok)
    for begin in range(0, len(present), BLOCK):
        rows = present[begin : begin + BLOCK]
        vectors = unit_rows(mentions, rows)
        for row, vector, listed in zip(rows.tolist(), vectors, search(vectors, k), strict=True):
            near = np.unique(listed)
            scores = scores_of(vector[None], unit_rows(entities, near))[0]
            order = np.unique(values_at(ids, near), return_inverse=True)[1]
            best = np.lexsort((order, -scores))[:k]
            best = best[scores[best] > 0]
            lists.ids[row, : len(best)], lists.scores[row, : len(best)] = near[best], scores[best]
    return lists

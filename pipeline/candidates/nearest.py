"""The entities whose vectors are nearest by cosine: the first ones, and the rank of any."""

from collections.abc import Sequence
from functools import cached_property
from typing import Protocol

import numpy as np

from foundation.progress import Bar
from pipeline.candidates.base import UNKNOWN
from pipeline.candidates.lists import RankedLists, contenders, id_order
from pipeline.candidates.vector_costs import too_large_to_compare

BLOCK_BYTES = 64 << 20  # of scores held at a time
ENTITY_BLOCK = 1 << 16  # entities compared at a time
RANK_ROWS = 256  # mentions compared with a block of entities at a time when ranks are counted


class Vectors(Protocol):
    """Vectors of n records: which of them have one (n,) bool, and those at some places (m, d)."""

    @property
    def ok(self) -> np.ndarray: ...

    def __len__(self) -> int: ...

    def gather(self, index: np.ndarray) -> np.ndarray: ...


def unit_rows(table: Vectors, index: np.ndarray) -> np.ndarray:
    """(n, d) float32 vectors at `index` (n,), scaled to length 1; zeros stay zeros."""
    vectors = np.array(table.gather(index), np.float32)
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return vectors


def scores_of(mentions: np.ndarray, entities: np.ndarray) -> np.ndarray:
    """(m, n) float32 from 0 to 1, (1 + cosine) / 2, of unit vectors (m, d) and (n, d)."""
    scores = mentions @ entities.T
    np.clip(scores, -1, 1, out=scores)
    scores += 1
    scores /= 2
    return scores


class Offer:
    """The vectors of N entities and the order of their ids (N,), as mentions are compared with them.

    held: whether vectors that are not too many are scaled once and kept, for further mentions.
    """

    def __init__(self, entities: Vectors, ids: Sequence[str], held: bool = False) -> None:
        self.entities, self.ids, self.held = entities, ids, held

    @cached_property
    def id_rank(self) -> np.ndarray:
        """(N,) int64, see `id_order`."""
        return id_order(self.ids)

    @cached_property
    def rows(self) -> np.ndarray:
        """(n,) int64 rows of the entities that have a vector, ascending."""
        return np.flatnonzero(self.entities.ok)

    def block(self, start: int) -> np.ndarray:
        """`unit_rows` of the `ENTITY_BLOCK` of `rows` from a place on."""
        if self._units is not None:
            return self._units[start : start + ENTITY_BLOCK]
        return unit_rows(self.entities, self.rows[start : start + ENTITY_BLOCK])

    @cached_property
    def _units(self) -> np.ndarray | None:
        """(n, d) float32 of all of `rows`, None where they are not held."""
        width = width_of(self.entities)
        if not self.held or too_large_to_compare(len(self.rows), width):
            return None
        units = np.empty((len(self.rows), width), np.float32)
        for start in range(0, len(units), ENTITY_BLOCK):
            rows = self.rows[start : start + ENTITY_BLOCK]
            units[start : start + len(rows)] = unit_rows(self.entities, rows)
        return units


def width_of(vectors: Vectors) -> int:
    """How many numbers a vector has."""
    return int(np.asarray(vectors.gather(np.zeros(min(1, len(vectors)), np.int64))).shape[1])


def nearest_vectors(mentions: Vectors, entities: Vectors, ids: Sequence[str], k: int) -> RankedLists:
    """The k of N entities whose vectors have the largest cosine with each of M mentions', exactly, in float32; ties by
    id (N,).
    """
    return nearest_of(Offer(entities, ids), mentions, k)


def nearest_of(offer: Offer, mentions: Vectors, k: int) -> RankedLists:
    """`nearest_vectors` of the entities of `offer`."""
    present, offered = np.flatnonzero(mentions.ok), offer.rows
    lists = RankedLists.empty(len(mentions), k)
    rows = max(1, BLOCK_BYTES // (4 * ENTITY_BLOCK))
    blocks = [
        (start, begin) for start in range(0, len(offered), ENTITY_BLOCK) for begin in range(0, len(present), rows)
    ]
    with Bar(len(blocks), "candidates by vector", "block") as bar:
        for start, begin in blocks:
            columns = offered[start : start + ENTITY_BLOCK]
            if begin == 0:
                vectors = offer.block(start)
            block = present[begin : begin + rows]
            scores = scores_of(unit_rows(mentions, block), vectors)
            best = [contenders(row, k) for row in scores]
            earlier = np.nonzero(lists.ids[block] >= 0)  # the best of the entity blocks before this one
            first = np.concatenate([earlier[0], np.repeat(np.arange(len(block)), [len(places) for places in best])])
            second = np.concatenate([lists.ids[block][earlier], columns[np.concatenate(best)]])
            values = np.concatenate(
                [lists.scores[block][earlier], *(row[places] for row, places in zip(scores, best, strict=True))]
            )
            order = np.lexsort((offer.id_rank[second], -values, first))
            merged = RankedLists.empty(len(block), k)
            merged.fill(0, first[order], second[order], values[order])
            lists.ids[block], lists.scores[block] = merged.ids, merged.scores
            bar.update()
    return lists


def vector_ranks(
    mentions: Vectors, entities: Vectors, ids: Sequence[str], rows: np.ndarray, gold: np.ndarray
) -> np.ndarray:
    """(m,) int64 ranks of the golds (m,) >= 0 of the mentions `rows` (m,) in the order of `nearest_vectors`; `UNKNOWN`
    where a side has no vector.
    """
    order, offered = id_order(ids), np.flatnonzero(entities.ok)
    ranks = np.full(len(rows), UNKNOWN, np.int64)
    known = np.flatnonzero(mentions.ok[rows] & entities.ok[gold])
    blocks = [offered[start : start + ENTITY_BLOCK] for start in range(0, len(offered), ENTITY_BLOCK)]
    for begin in range(0, len(known), RANK_ROWS):
        part = known[begin : begin + RANK_ROWS]
        vectors, target = unit_rows(mentions, rows[part]), gold[part]
        own = np.zeros(len(part), np.float32)
        for columns in blocks:  # first the golds' own scores
            scores = scores_of(vectors, unit_rows(entities, columns))
            place = np.searchsorted(columns, target).clip(max=len(columns) - 1)
            here = columns[place] == target
            own[here] = scores[here, place[here]]
        before = np.zeros(len(part), np.int64)
        for columns in blocks:  # then who stands before them
            scores = scores_of(vectors, unit_rows(entities, columns))
            earlier = order[columns][None, :] < order[target][:, None]
            before += ((scores > own[:, None]) | ((scores == own[:, None]) & earlier)).sum(1)
        ranks[part] = 1 + before
    return ranks

"""Candidate lists in memory."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b

import numpy as np

from pipeline.datasets.arrow_columns import ArrowColumn


@dataclass
class RankedLists:
    """Candidates of M mentions, best first. ids: (M, k) int32 rows of the entities, -1 where a list ends; scores: (M,
    k) float32, 0 there. retrieved: whether a retriever made their order; else it is that of `hash_order`, and every
    score is 1. by_heart: whether a trained run made those of training mentions that it had learned from.
    """

    ids: np.ndarray
    scores: np.ndarray
    retrieved: bool = True
    by_heart: bool = False

    @classmethod
    def empty(cls, mentions: int, k: int) -> "RankedLists":
        return cls(np.full((mentions, k), -1, np.int32), np.zeros((mentions, k), np.float32))

    @property
    def lengths(self) -> np.ndarray:
        """(M,) number of candidates of each mention."""
        return (self.ids >= 0).sum(1)

    def rows(self, index: np.ndarray) -> "RankedLists":
        """The lists of the mentions at `index` (m,)."""
        return replace(self, ids=self.ids[index], scores=self.scores[index])

    def fill(self, begin: int, mention: np.ndarray, entity: np.ndarray, scores: np.ndarray) -> None:
        """Write ordered triples (by mention, then best first) into the rows from `begin` on, as many of each mention
        as fit.
        """
        rank = np.arange(len(mention)) - np.searchsorted(mention, mention)
        kept = rank < self.ids.shape[1]
        place = begin + mention[kept], rank[kept]
        self.ids[place], self.scores[place] = entity[kept], scores[kept]

    def without(self, entities: np.ndarray) -> "RankedLists":
        """The lists without these entities, later candidates moved up."""
        if not len(entities):
            return self
        gone = np.isin(self.ids, entities) | (self.ids < 0)
        order = np.argsort(gone, axis=1, kind="stable")
        return replace(
            self,
            ids=np.take_along_axis(np.where(gone, np.int32(-1), self.ids), order, 1),
            scores=np.take_along_axis(np.where(gone, np.float32(0), self.scores), order, 1),
        )

    def in_hash_order(self, mentions: Sequence[str], entities: Sequence[str]) -> "RankedLists":
        """The same entities, each list in `hash_order`. mentions (M,), entities (N,): their ids."""
        ids = np.full_like(self.ids, -1)
        for row, (mention, listed) in enumerate(zip(mentions, self.ids.tolist(), strict=True)):
            there = [entity for entity in listed if entity >= 0]
            ids[row, : len(there)] = hash_order(mention, there, entities)
        return RankedLists(ids, (ids >= 0).astype(np.float32), retrieved=False, by_heart=self.by_heart)

    def places(self, gold: np.ndarray) -> np.ndarray:
        """(M,) int64 place of each gold (M,) in its list, from 1; 0 where it is not listed or negative."""
        hit = (self.ids == gold[:, None]) & (gold >= 0)[:, None]
        return np.where(hit.any(1), 1 + hit.argmax(1), 0).astype(np.int64)


def hash_order(mention: str, listed: Sequence[int], entities: Sequence[str]) -> list[int]:
    """The rows `listed` of the entities in the order of a hash of the mention's id and the entity's: whichever order
    they came in, and whatever stood at which place.
    """
    of_mention = blake2b(f"{len(mention)} {mention}".encode(), digest_size=16)

    def key(row: int) -> tuple[bytes, str]:
        of_pair = of_mention.copy()
        of_pair.update(entities[row].encode())
        return of_pair.digest(), entities[row]

    return sorted(listed, key=key)


def id_order(ids: Sequence[str]) -> np.ndarray:
    """(N,) int64 position of each id in their string order, which decides between equal scores."""
    rank = np.empty(len(ids), np.int64)
    order = ids.order() if isinstance(ids, ArrowColumn) else sorted(range(len(ids)), key=ids.__getitem__)
    rank[order] = np.arange(len(ids))
    return rank


def contenders(scores: np.ndarray, k: int) -> np.ndarray:
    """Positions of the positive scores (n,) that are not below the k-th largest: k of them or more, as many as tie for
    the last place.
    """
    threshold = np.partition(scores, len(scores) - k)[len(scores) - k] if len(scores) > k else 0
    return np.flatnonzero((scores >= threshold) & (scores > 0))

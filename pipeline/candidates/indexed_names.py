"""The order of the KB's names by their similarity to a phrase, among the names that an index finds for it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from foundation.progress import Bar
from pipeline.candidates.base import UNKNOWN
from pipeline.candidates.grown_names import GrownNames
from pipeline.candidates.known_names import Spelling
from pipeline.candidates.lists import RankedLists, contenders
from pipeline.candidates.merging import merge
from pipeline.candidates.name_index import NameIndex
from pipeline.candidates.name_ranking import NameOrder
from pipeline.datasets.arrow_columns import values_at

NEAR = 1_000
"""Distinct names that are looked up for a phrase, and compared with it exactly."""


@dataclass(frozen=True)
class IndexedNames:
    """The order of `NameRanking` among the entities that have one of the `NEAR` names; others are in no order.

    index: of the names of N entities. ids: (N,). scorer: of rapidfuzz. Methods raise `UserError` for an unknown scorer.
    """

    index: NameIndex | GrownNames
    ids: Sequence[str]
    scorer: str

    @classmethod
    def of(
        cls,
        names: Sequence[str],
        ids: Sequence[str],
        scorer: str,
        aliases: Sequence[Sequence[str]] | None,
        beside: Path | None,
    ) -> "IndexedNames":
        """Of the names (N,), ids (N,) and aliases (N,) of entities; see `NameIndex.of`."""
        return cls(NameIndex.of(names, aliases, beside), ids, scorer)

    def lists(self, phrases: Sequence[str], k: int, beside: Sequence[RankedLists] = ()) -> RankedLists:
        """The k most similar entities of each of M phrases; pairs that score 0 are no candidates.

        Where more entities tie for the last places than there are, those come first that are listed `beside`, in lists
        (M, k') of other sources, in their order; behind those that have the phrase as a name. Equal phrases with equal
        lists beside are compared once.
        """
        turns = merge(beside, k).ids if beside else np.empty((len(phrases), 0), np.int32)
        spellings = [Spelling.of(phrase) for phrase in phrases]
        lists = RankedLists.empty(len(phrases), k)
        rows_of: dict[Spelling, list[int]] = {}
        for row, spelling in enumerate(spellings):
            rows_of.setdefault(spelling, []).append(row)
        with Bar(len(phrases), "candidates by name", "phrase") as bar:
            for spelling, near in self._near(list(rows_of)):
                plain: RankedLists | None = None
                for row in rows_of[spelling]:
                    turn = near.turn(turns[row], k)
                    if turn is not None:
                        listed = near.first(k, turn)
                    else:
                        listed = plain = plain or near.first(k)
                    lists.ids[row], lists.scores[row] = listed.ids[0], listed.scores[0]
                bar.update(len(rows_of[spelling]))
        return lists

    def ranks(self, phrases: Sequence[str], gold: np.ndarray) -> np.ndarray:
        """(M,) int64 rank from 1 of each phrase's gold (M,) >= 0; `UNKNOWN` for one that is not among the names that
        were looked up, or scores 0."""
        rows_of: dict[Spelling, list[int]] = {}
        for row, phrase in enumerate(phrases):
            rows_of.setdefault(Spelling.of(phrase), []).append(row)
        ranks = np.full(len(gold), UNKNOWN, np.int64)
        for spelling, near in self._near(list(rows_of)):
            if len(near.entities):
                listed = near.first(len(near.entities))
                for row in rows_of[spelling]:
                    place = np.flatnonzero(listed.ids[0] == gold[row])
                    ranks[row] = 1 + place[0] if len(place) else UNKNOWN
        return ranks

    def _near(self, spellings: list[Spelling]) -> Iterator[tuple[Spelling, "_Near"]]:
        for spelling in spellings:
            entities = self.index.owners(self.index.near(spelling.clean, NEAR))
            known, code = self.index.known(entities)
            order = NameOrder(known, values_at(self.ids, entities), self.scorer, workers=1)
            distinct = [""] * (int(code.max()) + 1 if len(code) else 0)
            for place, name in zip(code.tolist(), known.clean, strict=True):
                distinct[place] = name
            if distinct:
                scores = order.every_score([spelling.clean], distinct, order.measure)[:, code]
                yield spelling, _Near(spelling, entities, order, scores, known.best(scores)[0])
            else:
                empty = np.empty((1, 0), np.float32)
                yield spelling, _Near(spelling, entities, order, empty, empty[0])


@dataclass(frozen=True)
class _Near:
    """Entities (e,) whose names were looked up for a phrase: their order, the scores (1, s) of their names, and the
    best (e,) of each.
    """

    spelling: Spelling
    entities: np.ndarray
    order: NameOrder
    scores: np.ndarray
    best: np.ndarray

    def turn(self, listed: np.ndarray, k: int) -> np.ndarray | None:
        """(e,) places of the entities in a list of other sources (k',), behind it for the rest; None where it decides
        nothing: no more tie than there are places.
        """
        chosen = contenders(self.best, k)
        listed = listed[listed >= 0]
        if len(chosen) <= k or not len(listed):
            return None
        last = self.best[chosen].min()
        places = {int(entity): place for place, entity in enumerate(listed)}
        turn = np.array([places.get(entity, len(listed)) for entity in self.entities.tolist()], np.int64)
        turn[self.best > last] = 0  # those that are listed anyway keep their order
        return turn

    def first(self, k: int, turn: np.ndarray | None = None) -> RankedLists:
        """The k first as one list."""
        lists = RankedLists.empty(1, k)
        chosen = contenders(self.best, k)
        pairs = self.order.ordered([self.spelling], self.scores, (np.zeros(len(chosen), np.int64), chosen), turn)
        lists.fill(0, pairs[0], self.entities[pairs[1]], self.best[pairs[1]])
        return lists

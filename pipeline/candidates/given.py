"""Candidate source `given`: the lists that came with the dataset."""

from collections.abc import Sequence

import numpy as np

from foundation.errors import UserError
from pipeline.candidates.base import UNKNOWN, Source, SourceInputs
from pipeline.candidates.contracts import GivenSource
from pipeline.candidates.lists import RankedLists, hash_order
from pipeline.datasets.given import (
    FEWEST,
    MOST_FIRST,
    REFUSED_ELSEWHERE,
    REFUSED_FIRST,
    GoldPlaces,
    by_split,
)


class Given(Source):
    """Where the order is hashed, every score is 1; where it is trusted, 1 / place. Nothing is known of entities beyond
    a list, nor of an order that is hashed.
    """

    label = "given"

    def __init__(self, spec: GivenSource) -> None:
        self.trusted, self.accepted = spec.order == "trusted", spec.accept_gold_place

    def check(self, inputs: SourceInputs) -> None:
        if "given" not in inputs.mentions:
            raise UserError(
                "source given: no candidates came with this dataset; use the source name, or add them "
                "(docs/data.md says where)"
            )
        if self.trusted and not self.accepted:
            for split, places in self._looked_at(inputs):
                most = places.most()
                at_first = most.first > REFUSED_FIRST
                where, share = ("place 1", most.first) if at_first else (most.place, most.share)
                if at_first or share > REFUSED_ELSEWHERE:
                    raise UserError(
                        f"--given-order trusted: the gold is at {where} in {share:.1%} of the {most.lists:,} given "
                        f"lists of {split}: the place is the answer; leave --given-order out, or add "
                        "--accept-gold-place"
                    )

    def notes(self, inputs: SourceInputs, k: int) -> list[str]:
        given = inputs.mentions["given"]
        if not self.trusted:
            longer = sum(len(listed or ()) > k for listed in given)
            cut = f"{longer:,} given lists are longer than --candidates {k}: a hash says which entities stay"
            return [cut] if longer else []
        return [
            f"the gold is at place 1 in {most.first:.1%} of the {most.lists:,} given lists of {split}: "
            "trust their order only if a retriever made it without the gold"
            for split, places in self._looked_at(inputs)
            if (most := places.most()).first > MOST_FIRST
        ]

    def lists(self, inputs: SourceInputs, k: int) -> RankedLists:
        given = inputs.mentions["given"]
        if self.trusted:
            return first_of_each(given, k)
        ids, entities = inputs.mentions["id"], inputs.entities["id"]
        ordered = [listed and hash_order(name, listed, entities) for name, listed in zip(ids, given, strict=True)]
        lists = first_of_each(ordered, k)
        return RankedLists(lists.ids, (lists.ids >= 0).astype(np.float32), retrieved=False)

    def ranks(self, inputs: SourceInputs, rows: np.ndarray, gold: np.ndarray) -> np.ndarray:
        given = (
            [list(inputs.mentions["given"][row] or ()) for row in rows.tolist()] if self.trusted else [[]] * len(gold)
        )
        places = [
            listed.index(entity) + 1 if entity in listed else UNKNOWN
            for entity, listed in zip(gold.tolist(), given, strict=True)
        ]
        return np.array(places, np.int64)

    @staticmethod
    def _looked_at(inputs: SourceInputs) -> list[tuple[str, GoldPlaces]]:
        """The gold's places in each split that has enough lists, and in all."""
        parts = by_split(*(inputs.mentions[name] for name in ("given", "gold", "split")))
        return [(split, places) for split, places in parts.items() if places.most().lists >= FEWEST]


def first_of_each(given: Sequence[Sequence[int] | None], k: int) -> RankedLists:
    """The first k of each mention's own candidates (rows of the entities, best first; None for no list)."""
    lists = RankedLists.empty(len(given), k)
    for row, listed in enumerate(given):
        listed = (listed or ())[:k]
        lists.ids[row, : len(listed)], lists.scores[row, : len(listed)] = listed, 1 / np.arange(1, len(listed) + 1)
    return lists


def gold_forced_in(inputs: SourceInputs) -> tuple[str, ...]:
    """The splits in which every list that came with a mention holds its gold."""
    parts = by_split(*(inputs.mentions[name] for name in ("given", "gold", "split")))
    return tuple(split for split, places in parts.items() if split != "all" and places.always)

"""Candidate source `name-of-type`: the entities of the mention's type whose names are most like the phrase."""

from array import array
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from foundation.errors import UserError
from pipeline.candidates.base import UNKNOWN, Source, SourceInputs
from pipeline.candidates.contracts import TypedNameSource
from pipeline.candidates.lists import RankedLists
from pipeline.candidates.name_ranking import NameRanking
from pipeline.datasets.arrow_columns import values_at


class ByNameOfType(Source):
    """`ByName` within each mention's type, and among all entities for a mention without one.

    Types are compared without case. An entity may have several, joined by `|`; one without a type is of no mention's
    type.
    """

    def __init__(self, spec: TypedNameSource) -> None:
        self.scorer = spec.scorer
        self._kept: tuple[Mapping[str, Sequence[Any]], dict[bytes, NameRanking]] | None = None

    @property
    def label(self) -> str:
        return f"name-of-type:{self.scorer}"

    def check(self, inputs: SourceInputs) -> None:
        for side, columns in (("mention", inputs.mentions), ("entity", inputs.entities)):
            if not any(columns["type"]):
                raise UserError(
                    f"source name-of-type: no {side} has a type in this dataset; use the source name, or add types "
                    "(docs/data.md says where)"
                )

    def lists(self, inputs: SourceInputs, k: int) -> RankedLists:
        phrases = inputs.mentions["phrase"]
        lists = RankedLists.empty(len(phrases), k)
        for among, rows in of_types(inputs.mentions["type"], inputs.entities["type"]):
            listed = self._ranking(inputs, among).lists([phrases[row] for row in rows], k)
            if len(among):
                lists.ids[rows] = np.where(listed.ids >= 0, among[listed.ids], -1)
                lists.scores[rows] = listed.scores
        return lists

    def ranks(self, inputs: SourceInputs, rows: np.ndarray, gold: np.ndarray) -> np.ndarray:
        phrases, types = (values_at(inputs.mentions[name], rows) for name in ("phrase", "type"))
        ranks = np.full(len(rows), UNKNOWN, np.int64)
        for among, members in of_types(types, inputs.entities["type"]):
            inside = np.array(members)[np.isin(gold[members], among)]  # a gold of another type is not in this order
            place = np.searchsorted(among, gold[inside])
            ranks[inside] = self._ranking(inputs, among).ranks([phrases[row] for row in inside], place)
        return ranks

    def _ranking(self, inputs: SourceInputs, among: np.ndarray) -> NameRanking:
        """The order of the entities `among`, kept for further mentions against the same KB."""
        if self._kept is None or self._kept[0] is not inputs.entities:
            self._kept = inputs.entities, {}
        rankings, rows = self._kept[1], among.tobytes()
        if rows not in rankings:
            names, ids = (values_at(inputs.entities[name], among) for name in ("name", "id"))
            aliases = inputs.entities.get("aliases")
            taken = None if aliases is None else values_at(aliases, among)
            rankings[rows] = NameRanking(names, ids, self.scorer, inputs.workers, taken)
        return rankings[rows]


def of_types(types: Sequence[str | None], entity_types: Sequence[str | None]) -> Iterator[tuple[np.ndarray, list[int]]]:
    """(entities (n,) int32, mentions) of each type that a mention has: ascending rows; all entities for the mentions
    without one.
    """
    members: dict[str, array[int]] = {}
    for row, listed in enumerate(entity_types):
        for kind in {kind.strip().casefold() for kind in (listed or "").split("|")}:
            members.setdefault(kind, array("i")).append(row)
    mentions: dict[str | None, list[int]] = {}
    for row, own in enumerate(types):
        mentions.setdefault((own or "").strip().casefold() or None, []).append(row)
    for wanted, rows in mentions.items():
        if wanted is None:
            yield np.arange(len(entity_types), dtype=np.int32), rows
        else:
            yield np.array(members.get(wanted, ()), np.int32), rows

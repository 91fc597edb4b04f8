"""The KB as the service shows it: entities by id, by the start of a name, and by similar names; its types."""

import bisect
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from foundation.spelling import clean
from linking.kb import Kb
from pipeline.candidates.base import SourceInputs
from pipeline.candidates.by_name import ByName
from pipeline.candidates.contracts import NameSource
from pipeline.datasets.arrow_columns import ArrowColumn

ENTITY = "entity"
"""The type of all entities, beside those that the KB gives."""
NEAR = 60.0
"""The similarity from which a name is suggested that does not begin as what was typed."""


@dataclass(frozen=True)
class Known:
    """An entity of the KB. types: without `ENTITY`."""

    id: str
    name: str
    aliases: tuple[str, ...]
    types: tuple[str, ...]
    attributes: str
    description: str

    @property
    def summary(self) -> str:
        """Its description, else its attributes, in at most 200 characters."""
        text = self.description or self.attributes
        return text if len(text) <= 200 else f"{text[:199]}…"


class Entities:
    """The entities of a KB. indexes: folder that indexes over its names are kept in."""

    def __init__(self, kb: Kb, indexes: Path) -> None:
        self.kb, self.indexes = kb, indexes
        self._source = ByName(NameSource())
        self.similar("a", 1)  # what it reads of the names is made once, before the first request

    def __len__(self) -> int:
        return len(self.kb)

    def find(self, name: str) -> Known | None:
        """The one with this id; None where there is none."""
        row = self.kb.rows.get(name)
        return None if row is None else self.at(row)

    def at(self, row: int) -> Known:
        """The one in a row of the KB."""
        table = self.kb.table
        aliases = table["aliases"][row] if "aliases" in table else None
        return Known(
            id=table["id"][row],
            name=table["name"][row],
            aliases=tuple(aliases or ()),
            types=types_of(table["type"][row]),
            attributes=table["attributes"][row] or "",
            description=table["description"][row] or "",
        )

    def similar(self, name: str, limit: int) -> list[tuple[Known, float]]:
        """Those with the most similar names, best first, with their similarity, above 0 to 100."""
        mentions: dict[str, Sequence[Any]] = {"id": ["new"], "phrase": [name], "type": [None], "given": [None]}
        lists = self._source.lists(SourceInputs(mentions, self.kb.table, indexes=self.indexes), limit)
        ranked = zip(lists.ids[0].tolist(), lists.scores[0].tolist(), strict=True)
        return [(self.at(row), score) for row, score in ranked if row >= 0]

    def beginning(self, prefix: str, limit: int) -> list[Known]:
        """Those with a name that begins so, case and accents aside, by name; then those with similar names."""
        rows = dict.fromkeys(self._with_prefix(clean(prefix), limit))
        found = {self.kb.table["id"][row]: self.at(row) for row in rows}
        if len(found) < limit:
            near = (one for one, similarity in self.similar(prefix, limit) if similarity >= NEAR)
            found |= {one.id: one for one in near if one.id not in found}
        return list(found.values())[:limit]

    def _with_prefix(self, prefix: str, limit: int) -> Iterator[int]:
        names, order, owner = self._sorted
        at = bisect.bisect_left(order, prefix, key=names.__getitem__)
        distinct = set[int]()
        while prefix and at < len(order) and names[order[at]].startswith(prefix) and len(distinct) < limit:
            row = int(owner[order[at]])
            distinct.add(row)
            yield row
            at += 1

    @cached_property
    def _sorted(self) -> tuple[ArrowColumn, np.ndarray, np.ndarray]:
        """Every name as it is compared; the places of these in ascending order; and the row of each."""
        known = self.kb.texts.known_names
        return known.clean, known.clean.order(), known.owner

    @cached_property
    def types(self) -> dict[str, int]:
        """The KB's types, the most frequent first, with their numbers of entities."""
        return dict(Counter(name for value in self.kb.table["type"] for name in types_of(value)).most_common())


def types_of(value: str | None) -> tuple[str, ...]:
    """The types in a field of the KB, which joins several by `|`."""
    return tuple(filter(None, (one.strip() for one in (value or "").split("|"))))

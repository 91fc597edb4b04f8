"""An index of names over a KB that has changed since it was built: what came since is compared with every phrase."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.candidates.base import Grown
from pipeline.candidates.known_names import KnownNames
from pipeline.candidates.name_index import NameIndex
from pipeline.datasets.arrow_columns import values_at


@dataclass(frozen=True)
class GrownNames:
    """Answers as `NameIndex` does, over the N entities of now. index: of those of then. fresh: the names of the
    entities that came or were changed since."""

    index: NameIndex
    grown: Grown
    fresh: KnownNames

    @classmethod
    def of(cls, index: NameIndex, grown: Grown, entities: Mapping[str, Sequence[Any]]) -> "GrownNames":
        """entities: columns name and, where there are any, aliases of those of now."""
        rows, aliases = grown.fresh, entities.get("aliases")
        further = None if aliases is None else values_at(aliases, rows)
        return cls(index, grown, KnownNames.of(values_at(entities["name"], rows), further))

    def near(self, phrase: str, most: int) -> np.ndarray:
        """See `NameIndex.near`: rows of its distinct names."""
        return self.index.near(phrase, most)

    def owners(self, names: np.ndarray) -> np.ndarray:
        """(e,) ascending rows of the entities that have one of these distinct names (n,), and of all that are fresh."""
        rows = self.grown.row_of[self.index.owners(names)]
        return np.concatenate([rows[rows >= 0], self.grown.fresh])

    def known(self, entities: np.ndarray) -> tuple[KnownNames, np.ndarray]:
        """See `NameIndex.known`; entities: as `owners` gives them."""
        rows = self.grown.rows[entities]
        then, code = self.index.known(rows[rows >= 0])
        first = int(code.max()) + 1 if len(code) else 0
        return then.joined(self.fresh), np.concatenate([code, first + np.arange(len(self.fresh.owner))])

"""The contract of a pair function, and what it reads."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from pipeline.candidates.lists import RankedLists
from pipeline.pairs.texts import Texts
from pipeline.pairs.values import RecordValues


@dataclass(frozen=True)
class CandidatePairs:
    """M mentions with k candidates each.

    mentions: columns of the mentions, of which functions read phrase, sentence, start and end (of the phrase in the
    sentence, below 0 or None where it is not there). kb: what is written about the N entities. lists: the candidates.
    values: gives the rows that serve a role, one row per mention or entity. workers: threads, -1 for one per core.
    """

    mentions: Mapping[str, Sequence[Any]]
    kb: Texts
    lists: RankedLists
    values: Callable[[str], RecordValues]
    workers: int = -1

    @property
    def ids(self) -> np.ndarray:
        """(M, k) int32 rows of the candidates, -1 where a list ends."""
        return self.lists.ids


class PairFunction(ABC):
    """Computes a pair feature: a number, or several, for each pair of a mention and a candidate.

    name: of the pair feature. VERSION: raised by hand when the same inputs give other numbers. roles: of the rows that
    it reads from the cache. names: of its S numbers; empty where it gives one. of_lists: whether they are the lists'
    own scores or order, made from what the lists' sources compare.
    """

    name: str
    VERSION: ClassVar[int] = 1
    of_lists: ClassVar[bool] = False
    roles: tuple[str, ...] = ()
    names: tuple[str, ...] = ()

    @abstractmethod
    def __call__(self, pairs: CandidatePairs) -> np.ndarray:
        """(M, k) float32, or (M, k, S) with `names`. Raises `UserError`.

        NaN where the list has ended, and where a side lacks what is compared.
        """

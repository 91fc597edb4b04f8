"""Candidate source `given`: the lists that came with the dataset."""

from collections.abc import Sequence

import numpy as np

from foundation.errors import UserError
from pipeline.candidates.base import UNKNOWN, Source, SourceInputs
from pipeline.candidates.contracts import GivenSource
from pipeline.candidates.lists import RankedLists


class Given(Source):
    """Scores are 1 / rank; nothing is known of entities beyond a list."""

    label = "given"

    def __init__(self, spec: GivenSource) -> None:
        pass

    def check(self, inputs: SourceInputs) -> None:
        if "given" not in inputs.mentions:
            raise UserError(
                "source given: no candidates came with this dataset; use the source name, or add them "
                "(docs/data.md says where)"
            )

    def lists(self, inputs: SourceInputs, k: int) -> RankedLists:
        return first_of_each(inputs.mentions["given"], k)

    def ranks(self, inputs: SourceInputs, rows: np.ndarray, gold: np.ndarray) -> np.ndarray:
        return np.full(len(rows), UNKNOWN, np.int64)


def first_of_each(given: Sequence[Sequence[int] | None], k: int) -> RankedLists:
    """The first k of each mention's own candidates (rows of the entities, best first; None for no list)."""
    lists = RankedLists.empty(len(given), k)
    for row, listed in enumerate(given):
        listed = (listed or ())[:k]
        lists.ids[row, : len(listed)], lists.scores[row, : len(listed)] = listed, 1 / np.arange(1, len(listed) + 1)
    return lists

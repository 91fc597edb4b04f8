"""Pair feature `name_similarity`: how alike the phrase and the entity's name are."""

import numpy as np

from pipeline.pairs._blocks import blocks
from pipeline.pairs.base import PairFunction, Pairs


class NameSimilarity(PairFunction):
    """Similarities by rapidfuzz after its `default_process` (lower case, letters and digits), each from 0 to 1; equal
    is 1 or 0.
    """

    name = "name_similarity"
    names = ("ratio", "partial_ratio", "token_sort_ratio", "token_set_ratio", "jaro_winkler", "equal")

    def __call__(self, pairs: Pairs) -> np.ndarray:
        from rapidfuzz.utils import default_process

        ids = pairs.ids
        ours, theirs = (
            [default_process(text) for text in texts] for texts in (pairs.mentions["phrase"], pairs.kb.names)
        )
        out = np.full((*ids.shape, len(self.names)), np.nan, np.float32)
        for block in blocks(ids, 256):
            row, column = np.nonzero(ids[block] >= 0)
            places, inverse = np.unique(
                (row + block.start) * len(theirs) + ids[block][row, column], return_inverse=True
            )
            left = [ours[i] for i in (places // len(theirs)).tolist()]
            right = [theirs[i] for i in (places % len(theirs)).tolist()]
            for number, measure in enumerate(self.names):
                out[block][row, column, number] = _similarities(measure, left, right, pairs.workers)[inverse]
        return out


def _similarities(measure: str, left: list[str], right: list[str], workers: int) -> np.ndarray:
    """(n,) float32 of the strings side by side."""
    from rapidfuzz import fuzz, process
    from rapidfuzz.distance import JaroWinkler

    if measure == "equal":
        return np.fromiter(map(str.__eq__, left, right), np.float32, len(left))
    jaro = measure == "jaro_winkler"
    scorer = JaroWinkler.normalized_similarity if jaro else getattr(fuzz, measure)
    scores = process.cpdist(left, right, scorer=scorer, dtype=np.float32, workers=workers)
    return scores / np.float32(1 if jaro else 100)


NAME_SIMILARITY = NameSimilarity()

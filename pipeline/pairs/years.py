"""Pair feature `years`: how many years lie between what the sentence and the entity's text name."""

import math

import numpy as np

from pipeline.pairs.base import CandidatePairs, PairFunction
from pipeline.pairs.texts import years_in


class Years(PairFunction):
    """Three numbers of years; a year is a number from 1000 to 2099.

    after_first: from the first year of the entity's text (usually a birth) to the first of the sentence. after_last:
    from the last year of the text, where it names two, to the last of the sentence. first: the text's first year.
    NaN where a year is missing.
    """

    name = "years"
    names = ("after_first", "after_last", "first")

    def __call__(self, pairs: CandidatePairs) -> np.ndarray:
        ours = [years_in(sentence or "") for sentence in pairs.mentions["sentence"]]
        ends = np.array([(min(own, default=math.nan), max(own, default=math.nan)) for own in ours]).reshape(-1, 2)
        theirs = pairs.kb.years[pairs.ids.clip(0)]  # (M, k, 2)
        out = np.concatenate([ends[:, None] - theirs, theirs[:, :, :1]], -1).astype(np.float32)
        out[pairs.ids < 0] = np.nan
        return out


YEARS = Years()

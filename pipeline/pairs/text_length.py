"""Pair feature `text_length`: how much is written about the entity."""

import numpy as np

from pipeline.pairs.base import CandidatePairs, PairFunction


class TextLength(PairFunction):
    """log(1 + words of the entity's text): more is written about what is mentioned more."""

    name = "text_length"
    VERSION = 2

    def __call__(self, pairs: CandidatePairs) -> np.ndarray:
        ids = pairs.ids
        return np.where(ids >= 0, pairs.kb.lengths[ids.clip(0)], np.nan).astype(np.float32)


TEXT_LENGTH = TextLength()

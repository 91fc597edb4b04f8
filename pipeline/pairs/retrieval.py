"""Pair feature `retrieval`: what the candidate list itself says."""

import numpy as np

from pipeline.pairs.base import CandidatePairs, PairFunction


class Retrieval(PairFunction):
    """The candidate's own score in its list, and 1 / its place there. NaN in lists that no retriever ordered: a place
    in a list that came with the data may be the answer; and where a trained run knows the training mentions by heart,
    so that a place in their lists says more than in others.
    """

    name = "retrieval"
    of_lists = True
    names = ("score", "reciprocal_rank")

    def __call__(self, pairs: CandidatePairs) -> np.ndarray:
        ids, scores = pairs.ids, pairs.lists.scores
        places = np.broadcast_to(1 / np.arange(1, ids.shape[1] + 1), ids.shape)
        out = np.stack([scores, places], 2).astype(np.float32)
        out[(ids < 0) | (not pairs.lists.retrieved) | pairs.lists.by_heart] = np.nan
        return out


RETRIEVAL = Retrieval()

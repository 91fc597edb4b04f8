"""Pair feature `face_match`: whether a face in the mention's picture is in one of the entity's pictures."""

import numpy as np

from pipeline.pairs import _blocks
from pipeline.pairs.base import CandidatePairs, PairFunction
from pipeline.pairs.values import unit


class FaceMatch(PairFunction):
    """The best cosine of a face in the mention's picture and one in any of the entity's. NaN where either has none."""

    name = "face_match"
    roles = ("mention_faces", "entity_faces")

    def __call__(self, pairs: CandidatePairs) -> np.ndarray:
        ids, (mentions, entities) = pairs.ids, (pairs.values(role) for role in self.roles)
        out = np.full(ids.shape, np.nan, np.float32)
        for block in _blocks.blocks(ids, 4 * mentions.width):
            listed, place = _blocks.distinct(ids[block])
            ours, our_count = mentions.ragged(np.arange(block.start, block.stop))
            theirs, their_count = entities.ragged(listed)
            if not len(ours) or not len(theirs):
                continue
            row, column = np.nonzero((ids[block] >= 0) & (our_count[:, None] > 0) & (their_count[place] > 0))
            other = place[row, column]
            out[block][row, column] = _best(
                _Faces(unit(ours), our_count), _Faces(unit(theirs), their_count), row, other
            )
        return out


class _Faces:
    """Unit vectors (ΣL, d) of the faces of n records, one record's after another's.

    count: (n,) faces of each record. first: (n,) place of its first one.
    """

    def __init__(self, vectors: np.ndarray, count: np.ndarray) -> None:
        self.vectors, self.count, self.first = vectors, count, count.cumsum() - count


def _best(ours: _Faces, theirs: _Faces, mention: np.ndarray, entity: np.ndarray) -> np.ndarray:
    """(p,) the largest cosine between faces of each of p pairs of records (p,) that have some."""
    best = np.empty(len(mention), np.float32)
    most = max(1, _blocks.BLOCK_BYTES // (8 * ours.vectors.shape[1]))
    for part in _blocks.neighbours(ours.count[mention] * theirs.count[entity], most):
        left, right = mention[part], entity[part]
        count = ours.count[left] * theirs.count[right]
        first = count.cumsum() - count
        number = np.arange(int(count.sum())) - np.repeat(first, count)  # of a pair of faces among those of its records
        width = np.repeat(theirs.count[right], count)
        left = np.repeat(ours.first[left], count) + number // width
        right = np.repeat(theirs.first[right], count) + number % width
        best[part] = np.maximum.reduceat(np.einsum("nd,nd->n", ours.vectors[left], theirs.vectors[right]), first)
    return best


FACE_MATCH = FaceMatch()

"""Pair feature `object_relation`: how alike the objects in two pictures are."""

from dataclasses import dataclass

import numpy as np

from foundation.errors import UserError
from pipeline.pairs._products import products
from pipeline.pairs.base import PairFunction, Pairs
from pipeline.pairs.values import RecordValues, unit

PARTS = ("confidences", "vectors", "boxes")
MENTION_OBJECTS, ENTITY_OBJECTS = 3, 1  # DRIN's release: the best boxes of a mention's and of an entity's picture


class ObjectRelation(PairFunction):
    """DRIN's edges between pictures, section 3.2: `Σ_ij s_i s_j cos(v_i, v_j) / Σ_ij s_i s_j`.

    v_i and s_i are vectors and confidences of the mention's objects, v_j and s_j of the entity's.
    The best `MENTION_OBJECTS` objects of a mention's picture and `ENTITY_OBJECTS` of an entity's count. A picture in
    which nothing was found is one object of confidence 1.
    """

    name = "object_relation"
    roles = tuple(f"{side}_objects.{part}" for side in ("mention", "entity") for part in PARTS)

    def __call__(self, pairs: Pairs) -> np.ndarray:
        mentions = _Objects.of(pairs, "mention_objects", MENTION_OBJECTS)
        entities = _Objects.of(pairs, "entity_objects", ENTITY_OBJECTS)
        return products(mentions.means, entities.means, mentions.vectors.width, pairs.ids)


@dataclass(frozen=True)
class _Objects:
    """Objects in one side's pictures, the best first. most: how many of a picture's count."""

    confidences: RecordValues
    vectors: RecordValues
    boxes: RecordValues
    most: int

    @classmethod
    def of(cls, pairs: Pairs, role: str, most: int) -> "_Objects":
        """Those whose parts are in roles that begin with `role`."""
        confidences, vectors, boxes = (pairs.values(f"{role}.{part}") for part in PARTS)
        return cls(confidences, vectors, boxes, most)

    def means(self, records: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """`Σ_i s_i v_i / Σ_i s_i` of the objects' unit vectors (n, d), and for which records (n,) Σ s_i > 0.

        The product of two such means is `Σ_ij s_i s_j cos(v_i, v_j) / Σ_ij s_i s_j`. The whole picture (box −1) has
        confidence 1.
        """
        vectors, lengths = self.vectors.ragged(records)
        boxes = self.boxes.ragged(records)[0].astype(np.int64)
        confidences, boxes_there = self.confidences.ragged(records)
        owner = np.repeat(np.arange(len(records)), lengths)
        at = (boxes_there.cumsum() - boxes_there)[owner] + boxes
        if ((boxes >= boxes_there[owner]) & (boxes >= 0)).any():
            raise UserError(
                "objects' vectors name boxes that are not there; "
                "`luigi --module tasks ExtractFeatures` extracts them again"
            )
        weight = np.ones(len(boxes), np.float32)
        weight[boxes >= 0] = confidences[at[boxes >= 0]]
        weight[np.arange(len(boxes)) - (lengths.cumsum() - lengths)[owner] >= self.most] = 0
        total = np.bincount(owner, weight, len(records)).astype(np.float32)
        mean = np.zeros((len(records), vectors.shape[1] if vectors.ndim > 1 else 0), np.float32)
        some = lengths > 0
        if some.any():
            mean[some] = np.add.reduceat(unit(vectors) * weight[:, None], (lengths.cumsum() - lengths)[some])
        return mean / np.maximum(total, 1e-12)[:, None], total > 0


OBJECT_RELATION = ObjectRelation()

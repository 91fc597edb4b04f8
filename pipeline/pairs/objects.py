"""Pair feature `object_relation`: how alike the objects in two pictures are; also the best and the mean over all
pictures of the candidate."""

from dataclasses import dataclass, replace

import numpy as np

from foundation.errors import UserError
from pipeline.pairs._products import Over, PictureVectors, products, products_over
from pipeline.pairs.base import CandidatePairs, PairFunction
from pipeline.pairs.values import RecordValues, unit

PARTS = ("confidences", "vectors", "boxes")
MENTION_OBJECTS, ENTITY_OBJECTS = 3, 1  # DRIN's release: the best boxes of a mention's and of an entity's picture


class ObjectRelation(PairFunction):
    """DRIN's edges between pictures, section 3.2: `Σ_ij s_i s_j cos(v_i, v_j) / Σ_ij s_i s_j`.

    v_i and s_i are vectors and confidences of the mention's objects, v_j and s_j of the entity's.
    The best `MENTION_OBJECTS` objects of a mention's picture and `ENTITY_OBJECTS` of an entity's count. A picture in
    which nothing was found is one object of confidence 1. over: of an entity with several pictures, see
    `products_over`.
    """

    def __init__(self, over: Over | None = None) -> None:
        self.name = f"object_relation_{over}" if over else "object_relation"
        self.over, self.entity = over, "entity_pictures_objects" if over else "entity_objects"
        self.roles = tuple(f"{role}.{part}" for role in ("mention_objects", self.entity) for part in PARTS)

    def __call__(self, pairs: CandidatePairs) -> np.ndarray:
        mentions = _Objects.of(pairs, "mention_objects", MENTION_OBJECTS)
        entities = _Objects.of(pairs, self.entity, ENTITY_OBJECTS)
        width = mentions.vectors.width
        if self.over is None:
            return products(mentions.means, entities.means, width, pairs.ids)
        pictures = PictureVectors(entities.each_picture.means, entities.vectors.key_counts, self.over)
        return products_over(mentions.means, pictures, width, pairs.ids)


@dataclass(frozen=True)
class _Objects:
    """Objects in one side's pictures, the best first. most: how many of a picture's count."""

    confidences: RecordValues
    vectors: RecordValues
    boxes: RecordValues
    most: int

    @classmethod
    def of(cls, pairs: CandidatePairs, role: str, most: int) -> "_Objects":
        """Those whose parts are in roles that begin with `role`."""
        confidences, vectors, boxes = (pairs.values(f"{role}.{part}") for part in PARTS)
        return cls(confidences, vectors, boxes, most)

    @property
    def each_picture(self) -> "_Objects":
        """The same with each picture as a record of its own."""
        return replace(
            self,
            confidences=self.confidences.each_key,
            vectors=self.vectors.each_key,
            boxes=self.boxes.each_key,
        )

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
OBJECT_RELATION_BEST = ObjectRelation("best")
OBJECT_RELATION_MEAN = ObjectRelation("mean")

"""Pair features `clip_ti`, `clip_it` and `text_cls`: the cosine of one vector per mention and one per candidate; of
`clip_ti` also the best and the mean over all pictures of the candidate."""

import numpy as np

from foundation.errors import UserError
from pipeline.pairs._products import Over, PictureVectors, products, products_over
from pipeline.pairs.base import CandidatePairs, PairFunction


class Cosine(PairFunction):
    """The cosine of the vectors in two roles, a mention's and an entity's. Values from -1 to 1. over: of an entity with
    several vectors, see `products_over`."""

    def __init__(self, name: str, mention: str, entity: str, over: Over | None = None) -> None:
        self.name, self.roles, self.over = name, (mention, entity), over

    def __call__(self, pairs: CandidatePairs) -> np.ndarray:
        mentions, entities = (pairs.values(role) for role in self.roles)
        if mentions.table.shape != entities.table.shape or mentions.table.ragged or entities.table.ragged:
            raise UserError(
                f"{self.name}: vectors of mentions {mentions.table.shape} and of entities {entities.table.shape} "
                "differ; both must come from one model"
            )
        if self.over is None:
            return products(mentions.fixed, entities.fixed, mentions.width, pairs.ids)
        pictures = PictureVectors(entities.each_key.fixed, entities.key_counts, self.over)
        return products_over(mentions.fixed, pictures, mentions.width, pairs.ids)


# DRIN's edges, section 3.2: text to image, image to text, text to text.
CLIP_TI = Cosine("clip_ti", "sentence.joint", "entity_picture.joint")
CLIP_TI_BEST = Cosine("clip_ti_best", "sentence.joint", "entity_pictures.joint", "best")
CLIP_TI_MEAN = Cosine("clip_ti_mean", "sentence.joint", "entity_pictures.joint", "mean")
CLIP_IT = Cosine("clip_it", "mention_picture.joint", "entity_text.joint")
TEXT_CLS = Cosine("text_cls", "sentence.text", "entity_text.text")

"""Which output of which feature serves each role that pair functions name; a pair job may name others. No torch."""

from collections.abc import Mapping

from cache.inputs import Side, Want
from foundation.contracts import contract


@contract
class Served(Want):
    """A want, and the output of it that serves a role."""

    output: str


def _serves(side: Side, feature: str, view: str, output: str = "pooled") -> Served:
    return Served(side=side, feature=feature, view=view, output=output)


SERVED: Mapping[str, Served] = {
    # one vector each, texts and pictures in one space
    "sentence.joint": _serves("mention", "clip_text", "sentence"),
    "entity_text.joint": _serves("entity", "clip_text", "name_sep_attributes"),
    "mention_picture.joint": _serves("mention", "clip_image", "image"),
    "entity_picture.joint": _serves("entity", "clip_image", "image"),
    "entity_pictures.joint": _serves("entity", "clip_image", "images"),
    # one vector each, texts alone
    "sentence.text": _serves("mention", "text_tokens", "sentence"),
    "entity_text.text": _serves("entity", "text_tokens", "name_sep_attributes"),
    # objects of a picture: confidence of each box; vector of each crop, and its box (-1: the whole picture)
    "mention_objects.confidences": _serves("mention", "objects", "image", "confidences"),
    "mention_objects.vectors": _serves("mention", "object_resnet", "image", "vectors"),
    "mention_objects.boxes": _serves("mention", "object_resnet", "image", "box"),
    "entity_objects.confidences": _serves("entity", "objects", "image", "confidences"),
    "entity_objects.vectors": _serves("entity", "object_resnet", "image", "vectors"),
    "entity_objects.boxes": _serves("entity", "object_resnet", "image", "box"),
    "entity_pictures_objects.confidences": _serves("entity", "objects", "images", "confidences"),
    "entity_pictures_objects.vectors": _serves("entity", "object_resnet", "images", "vectors"),
    "entity_pictures_objects.boxes": _serves("entity", "object_resnet", "images", "box"),
    # a vector of each face, in the mention's picture and in all pictures of an entity
    "mention_faces": _serves("mention", "face_embedding", "image", "vectors"),
    "entity_faces": _serves("entity", "face_embedding", "images", "vectors"),
}

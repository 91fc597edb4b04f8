"""Options of DWE+ (Song et al., 2024) and the features it reads."""

from collections.abc import Collection, Mapping
from typing import Annotated, Any, ClassVar, Literal

from foundation.contracts import contract
from foundation.errors import UserError
from heads.config.base import (
    DROPOUTS,
    ENTITY_TEXTS,
    TEXT_ONLY,
    Count,
    EntityText,
    Fraction,
    HeadConfig,
    NotNegative,
    Positive,
    Size,
    multiple,
    once,
)
from heads.contracts import HeadWant

Unit = Literal["face", "identity", "image", "text"]
UNITS: tuple[Unit, ...] = ("face", "identity", "image", "text")


@contract
class DweConfig(HeadConfig):
    """Defaults are the paper's; section 5.1.2 for those of training (`patience` is ours, it never stops early)."""

    lr: Positive = 5e-5
    batch_size: Size = 64
    epochs: Count = 300
    patience: Count = 20
    weight_decay: NotNegative = 1e-3
    text_feature: Annotated[
        str, "the feature behind mention, sentence, faces, identities and entities; auto: the first of TEXT"
    ] = "auto"
    object_feature: Annotated[str | None, "vectors of the detected objects; auto: the first of OBJECTS; null: none"] = (
        "auto"
    )
    image_feature: Annotated[str | None, "the vector of the whole picture; auto: the first of IMAGE; null: none"] = (
        "auto"
    )
    units: Annotated[
        tuple[Unit, ...],
        "the enhanced units (eq. 4 to 7); the mention itself always takes part. A unit whose features the profile "
        "lacks stands aside for every mention, and the gate with it where neither faces nor identities are left",
    ] = UNITS
    image: Annotated[
        Literal["auto", "objects", "whole"],
        "what the image unit attends to: objects (eq. 2, 3), the whole picture as the one object (Table 10), or "
        "objects where the profile has them",
    ] = "auto"
    text: Annotated[
        Literal["pooled", "tokens"],
        "the sentence as one vector (its attention is then trivial, as in the paper) or its token states",
    ] = "pooled"
    entity_text: Annotated[
        EntityText,
        "the entity's text: properties as published, or enhanced: static (section 3.1) or dynamic (3.2)",
    ] = "properties"
    width: Annotated[Size, "of the common space (d)"] = 512
    joint_width: Annotated[Size, "of g and the entities (d_m)"] = 512
    attention_heads: Annotated[Size, "of both attentions"] = 8
    dropout: Annotated[Fraction, "at the end of every map"] = 0.4
    margin: Annotated[NotNegative, "of the triplet loss, on cosines"] = 0.5
    temperature: Annotated[Positive, "of the contrastive losses"] = 0.25
    contrast: Annotated[
        Literal["equations", "prose"],
        "what the contrastive losses align: enhanced text with enhanced picture and faces with objects (eq. 11, 12), "
        "or sentence with picture and mention with objects (section 4.5.1)",
    ] = "equations"
    coarse: Annotated[bool, "whether the coarse contrastive loss is there"] = True
    fine: Annotated[bool, "whether the fine contrastive loss is there"] = True
    alpha: Annotated[NotNegative, "weight of the coarse loss, eq. 14; 0: as if it were not there"] = 1.0
    beta: Annotated[Positive, "weight of the triplet loss, eq. 14, which alone teaches the score"] = 10.0
    in_batch_negatives: Annotated[Count, "other mentions' golds in each mention's triplets"] = 1
    list_negatives: Annotated[
        Count, "how many of a mention's candidates are drawn for its triplets at each step; 0: all (the paper)"
    ] = 0

    TEXT: ClassVar[tuple[str, ...]] = ("clip_text", "text_tokens")
    OBJECTS: ClassVar[tuple[str, ...]] = ("object_clip",)
    IMAGE: ClassVar[tuple[str, ...]] = ("clip_image", "image_pooled", "image_patches")
    FACES: ClassVar[str] = "face_attributes"
    IDENTITY: ClassVar[str] = "identity"
    space: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "lr": {"low": 3e-5, "high": 3e-3, "log": True},
        "batch_size": {"choices": [32, 64, 128]},
        "dropout": {"low": 0.0, "high": 0.5},
        "width": {"choices": [128, 256, 512]},
        "joint_width": {"choices": [128, 256, 512]},
        "attention_heads": {"choices": [2, 4, 8]},
        "margin": {"low": 0.1, "high": 0.8},
        "temperature": {"low": 0.05, "high": 0.5, "log": True},
        "alpha": {"low": 0.03, "high": 3.0, "log": True},
        "beta": {"low": 1.0, "high": 30.0, "log": True},
        "picture_dropout": {"choices": DROPOUTS},
    }

    sensitivity: ClassVar[Mapping[str, tuple[Any, ...]]] = {  # figure 6
        "in_batch_negatives": (0, 1, 2, 4, 8),
        "batch_size": (16, 32, 64, 128),
        "alpha": (0.1, 1.0, 10.0),
        "beta": (1.0, 10.0, 100.0),
    }

    def __post_init__(self) -> None:
        once("units", self.units, UNITS, empty=True)
        multiple("width", self.width, "attention_heads", self.attention_heads)

    def ablations(self, available: Collection[str]) -> dict[str, dict[str, Any]]:
        """See `HeadConfig.ablations`. Table 9, one kind of input after another, table 10, whole pictures, table 11, a
        contrastive loss."""
        objects, image = (
            self.pick("object_feature", self.OBJECTS, available),
            self.pick("image_feature", self.IMAGE, available),
        )
        there = {
            "face": self.FACES in available,
            "identity": self.IDENTITY in available,
            "image": objects is not None or image is not None,
        }
        gone: list[str] = []
        variants: dict[str, dict[str, Any]] = {}
        for unit in (unit for unit, known in there.items() if known and unit in self.units):
            gone.append(unit)
            variants[f"without {', '.join(gone)}"] = {"units": [other for other in self.units if other not in gone]}
        if gone:
            variants.popitem()  # without any of them, text alone is left
            variants[TEXT_ONLY] = {
                "units": [unit for unit in self.units if unit == "text"],
                "coarse": False,
                "fine": False,
            }
        variants["mention alone"] = {"units": [], "coarse": False, "fine": False}
        if objects and image and self.image != "whole" and "image" in self.units:
            variants["whole picture instead of objects"] = {"image": "whole"}
        aligned = {
            "coarse": image if self.contrast == "prose" else there["image"],
            "fine": objects if self.contrast == "prose" else there["face"],
        }
        variants |= {
            f"without L_{loss}": {loss: False}
            for loss, known in aligned.items()
            if known and there["image"] and getattr(self, loss)
        }
        return variants

    def wants(self, available: Collection[str]) -> list[HeadWant]:
        """See `HeadConfig.wants`. Roles of the mention: phrase (m), sentence (t), objects (d), image (v), faces (f),
        identities (s); entity (g_e)."""
        text = self.pick("text_feature", self.TEXT, available)
        if text is None:
            raise UserError(
                f"dwe reads a text feature ({' or '.join(self.TEXT)}), there are: {', '.join(sorted(available))}; add "
                "one to the profile"
            )
        wanted = [_of_mention("phrase", text, "mention", "pooled")]
        if "text" in self.units or self._aligns_pictures:
            wanted.append(_of_mention("sentence", text, "sentence", self.text))
        wanted += self._pictures(available)
        if "face" in self.units and self.FACES in available:
            wanted.append(_of_mention("faces", text, "face_attributes", "pooled"))
        if "identity" in self.units and self.IDENTITY in available:
            wanted.append(_of_mention("identities", text, "identities", "pooled"))
        view = ENTITY_TEXTS[self.entity_text]
        return [*wanted, HeadWant(side="entity", role="entity", feature=text, view=view, outputs=("pooled",))]

    @property
    def _aligns_pictures(self) -> bool:
        """Whether sentence and whole picture are compared with each other."""
        return self.contrast == "prose" and self.coarse and self.alpha > 0

    def _pictures(self, available: Collection[str]) -> list[HeadWant]:
        """Objects and whole pictures, those of them that something reads."""
        objects, image = (
            self.pick("object_feature", self.OBJECTS, available),
            self.pick("image_feature", self.IMAGE, available),
        )
        seen = "image" in self.units
        if self.image == "objects" and seen and objects is None:
            raise UserError(
                f'image = \'objects\': the profile has no {" or ".join(self.OBJECTS)}; add it, or take "image": "whole"'
            )
        if self._aligns_pictures and image is None:
            raise UserError(
                "contrast = 'prose' aligns sentences with pictures and the profile has no feature of those "
                f"({', '.join(self.IMAGE)})"
            )
        wanted = []
        by_objects = objects is not None and self.image != "whole"
        if objects and seen and by_objects:
            wanted.append(_of_mention("objects", objects, "image", "vectors"))
        if image and ((seen and not by_objects) or self._aligns_pictures):
            wanted.append(_of_mention("image", image, "image", "pooled"))
        return wanted


def _of_mention(role: str, feature: str, view: str, output: str) -> HeadWant:
    return HeadWant(side="mention", role=role, feature=feature, view=view, outputs=(output,))

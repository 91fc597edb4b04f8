"""Options of DWE+ (Song et al., 2024) and the features it reads."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from foundation.errors import UserError
from heads.config.base import TEXT_ONLY, HeadConfig
from heads.contracts import HeadWant

Unit = Literal["face", "identity", "image", "text"]
UNITS: tuple[Unit, ...] = ("face", "identity", "image", "text")


@dataclass(frozen=True, kw_only=True)
class DweConfig(HeadConfig):
    """Defaults are the paper's; section 5.1.2 for those of training (`patience` is ours, it never stops early).

    text_feature: the feature behind mention, sentence, faces, identities and entities; "auto" takes the first of TEXT that the profile has.
    object_feature, image_feature: the vectors of the detected objects, and of the whole picture; "auto" as above, null: none.
    units: the enhanced units (eq. 4 to 7); the mention itself always takes part. A unit whose features the profile lacks stands aside for every
        mention, and the gate with it where neither faces nor identities are left.
    image: what the image unit attends to: "objects" (eq. 2, 3), "whole", the picture as the one object (Table 10), or "auto", objects where the
        profile has them and the whole picture elsewhere.
    text: the sentence as one vector ("pooled": its attention is then trivial, as in the paper) or its token states ("tokens").
    entity_text: the entity's text: properties as published, or enhanced, "static" (section 3.1) or "dynamic" (3.2); or name, or description.
    width, joint_width: of the common space (d), of g and the entities (d_m). attention_heads: of both attentions.
    dropout: at the end of every map. margin: of the triplet loss, on cosines. temperature: of the contrastive losses.
    contrast: what the contrastive losses align: "equations" (11, 12: enhanced text with enhanced picture, faces with objects) or "prose" (section
        4.5.1: sentence with picture, mention with objects).
    coarse, fine: whether each of the two losses is there. alpha, beta: weights of the coarse and of the triplet loss, eq. 14.
    in_batch_negatives: other mentions' golds in each mention's triplets. list_negatives: how many of a mention's candidates are drawn for them anew
        at each step, 0: all are taken (the paper).
    """

    lr: float = 5e-5
    batch_size: int = 64
    epochs: int = 300
    patience: int = 20
    weight_decay: float = 1e-3
    text_feature: str = "auto"
    object_feature: str | None = "auto"
    image_feature: str | None = "auto"
    units: tuple[Unit, ...] = UNITS
    image: Literal["auto", "objects", "whole"] = "auto"
    text: Literal["pooled", "tokens"] = "pooled"
    entity_text: Literal["properties", "static", "dynamic", "description", "name"] = "properties"
    width: int = 512
    joint_width: int = 512
    attention_heads: int = 8
    dropout: float = 0.4
    margin: float = 0.5
    temperature: float = 0.25
    contrast: Literal["equations", "prose"] = "equations"
    coarse: bool = True
    fine: bool = True
    alpha: float = 1.0
    beta: float = 10.0
    in_batch_negatives: int = 1
    list_negatives: int = 0

    TEXT: ClassVar[tuple[str, ...]] = ("clip_text", "text_tokens")
    OBJECTS: ClassVar[tuple[str, ...]] = ("object_clip",)
    IMAGE: ClassVar[tuple[str, ...]] = ("clip_image", "image_pooled", "image_patches")
    FACES: ClassVar[str] = "face_attributes"
    IDENTITY: ClassVar[str] = "identity"
    ENTITY_VIEWS: ClassVar[Mapping[str, str]] = {
        "properties": "name_sep_attributes",
        "static": "name_sep_static",
        "dynamic": "name_sep_dynamic",
        "description": "name_sep_description",
        "name": "name",
    }
    positive: ClassVar[tuple[str, ...]] = (
        *HeadConfig.positive,
        "width",
        "joint_width",
        "attention_heads",
        "temperature",
    )
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
    }

    sensitivity: ClassVar[Mapping[str, tuple[Any, ...]]] = {  # figure 6
        "in_batch_negatives": (0, 1, 2, 4, 8),
        "batch_size": (16, 32, 64, 128),
        "alpha": (0.1, 1.0, 10.0),
        "beta": (1.0, 10.0, 100.0),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(set(self.units)) != len(self.units):
            raise UserError(f"units = {list(self.units)}: expected each of {', '.join(UNITS)} at most once")
        if self.width % self.attention_heads:
            raise UserError(f"width = {self.width}: expected a multiple of attention_heads = {self.attention_heads}")
        if self.dropout >= 1:
            raise UserError(f"dropout = {self.dropout}: expected less than 1")

    def ablations(self, available: Collection[str]) -> dict[str, dict[str, Any]]:
        """See `HeadConfig.ablations`. Table 9, one kind of input after another, table 10, whole pictures, table 11, a contrastive loss."""
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
        found: dict[str, dict[str, Any]] = {}
        for unit in (unit for unit, known in there.items() if known and unit in self.units):
            gone.append(unit)
            found[f"without {', '.join(gone)}"] = {"units": [other for other in self.units if other not in gone]}
        if gone:
            found.popitem()  # without any of them, text alone is left
            found[TEXT_ONLY] = {
                "units": [unit for unit in self.units if unit == "text"],
                "coarse": False,
                "fine": False,
            }
        found["mention alone"] = {"units": [], "coarse": False, "fine": False}
        if objects and image and self.image != "whole" and "image" in self.units:
            found["whole picture instead of objects"] = {"image": "whole"}
        aligned = {
            "coarse": image if self.contrast == "prose" else there["image"],
            "fine": objects if self.contrast == "prose" else there["face"],
        }
        found |= {
            f"without L_{loss}": {loss: False}
            for loss, known in aligned.items()
            if known and there["image"] and getattr(self, loss)
        }
        return found

    def wants(self, available: Collection[str]) -> list[HeadWant]:
        """See `HeadConfig.wants`. Roles of the mention: phrase (m), sentence (t), objects (d), image (v), faces (f), identities (s); entity (g_e)."""
        text = self.pick("text_feature", self.TEXT, available)
        if text is None:
            raise UserError(
                f"dwe reads a text feature ({' or '.join(self.TEXT)}), there are: {', '.join(sorted(available))}; add one to the profile"
            )
        wanted = [_of_mention("phrase", text, "mention", "pooled")]
        if "text" in self.units or self._aligns_pictures:
            wanted.append(_of_mention("sentence", text, "sentence", self.text))
        wanted += self._pictures(available)
        if "face" in self.units and self.FACES in available:
            wanted.append(_of_mention("faces", text, "face_attributes", "pooled"))
        if "identity" in self.units and self.IDENTITY in available:
            wanted.append(_of_mention("identities", text, "identities", "pooled"))
        view = self.ENTITY_VIEWS[self.entity_text]
        return [*wanted, HeadWant(side="entity", role="entity", feature=text, view=view, outputs=("pooled",))]

    @property
    def _aligns_pictures(self) -> bool:
        """Whether sentence and whole picture are compared with each other."""
        return self.contrast == "prose" and self.coarse

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
                f"contrast = 'prose' aligns sentences with pictures and the profile has no feature of those ({', '.join(self.IMAGE)})"
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

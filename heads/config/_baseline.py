"""What the configurations of the baselines share: features by kind, the common space, the objective."""

from collections.abc import Collection, Mapping
from typing import Annotated, Any, ClassVar, Literal

from cache.inputs import SIDES, Side
from foundation.contracts import contract
from foundation.errors import UserError
from heads.config.base import (
    DROPOUTS,
    ENTITY_TEXTS,
    PICTURES,
    TEXT_ONLY,
    EntityText,
    HeadConfig,
    NotNegative,
    Positive,
    Size,
)
from heads.contracts import HeadWant


@contract
class BaselineConfig(HeadConfig):
    """Baselines compare one vector per side by cosine; both sides have text and image."""

    text_feature: Annotated[str, "a feature of the profile; auto: the first of TEXT that it has"] = "auto"
    image_feature: Annotated[
        str | None, "a feature of the profile; auto: the first of IMAGE that it has, if any; null: text alone"
    ] = "auto"
    entity_text: Annotated[
        EntityText,
        "the entity's text: properties, or enhanced: static or dynamic, by EnhanceEntities (DWE+, section 3)",
    ] = "properties"
    width: Annotated[Size, "of the common space"] = 256
    loss: Annotated[
        Literal["cross_entropy", "triplet"],
        "cross-entropy over the golds of the mini-batch (cosines over `temperature`), or the mean over them of "
        "max(cos(negative) - cos(gold) + margin, 0)",
    ] = "cross_entropy"
    temperature: Annotated[Positive, "cosines are divided by it in the cross-entropy"] = 0.05
    margin: Annotated[NotNegative, "of the triplet loss"] = 0.5

    TEXT: ClassVar[tuple[str, ...]] = ("text_tokens", "clip_text")
    IMAGE: ClassVar[tuple[str, ...]] = ("image_pooled", "clip_image", "image_patches")
    READS: ClassVar[Mapping[str, tuple[str, ...]]] = {"text": ("pooled",), "image": ("pooled",)}
    """Role -> outputs: text (mention and sentence; name and `entity_text`), phrase (mention or name alone), image."""
    VIEWS: ClassVar[Mapping[str, Mapping[Side, str]]] = {
        "text": {"mention": "mention_sep_sentence"},
        "phrase": {"mention": "mention", "entity": "name"},
        "image": PICTURES,
    }
    """Role -> the view of each side; that of the entity's text is `entity_text`'s."""
    later: ClassVar[tuple[str, ...]] = ("entity_text",)
    space: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "lr": {"low": 1e-4, "high": 1e-2, "log": True},
        "batch_size": {"choices": [32, 64, 128, 256]},
        "width": {"choices": [128, 256, 512]},
        "temperature": {"low": 0.01, "high": 0.2, "log": True},
        "hard_negatives": {"choices": [0, 1, 2, 4]},
        "picture_dropout": {"choices": DROPOUTS},
    }

    def searched(self) -> Mapping[str, Mapping[str, Any]]:
        """See `HeadConfig.searched`: a method without pictures has none to mask."""
        return {name: entry for name, entry in self.space.items() if name != "picture_dropout" or "image" in self.READS}

    def ablations(self, available: Collection[str]) -> dict[str, dict[str, Any]]:
        """See `HeadConfig.ablations`: the papers' tables have the baselines as they are."""
        reads = "image" in self.READS and self.pick("image_feature", self.IMAGE, available) is not None
        return {TEXT_ONLY: {"image_feature": None}} if reads else {}

    def wants(self, available: Collection[str]) -> list[HeadWant]:
        """See `HeadConfig.wants`."""
        text = self.pick("text_feature", self.TEXT, available)
        if text is None:
            raise UserError(
                f"this method reads a text feature ({' or '.join(self.TEXT)}), there are: "
                f"{', '.join(sorted(available))}; add one to the profile"
            )
        image = self.pick("image_feature", self.IMAGE, available) if "image" in self.READS else None
        of = {"text": text, "phrase": text, "image": image}
        return [
            HeadWant(side=side, role=role, feature=feature, view=self._view(role, side), outputs=outputs)
            for side in SIDES
            for role, outputs in self.READS.items()
            if (feature := of[role])
        ]

    def _view(self, role: str, side: Side) -> str:
        return ENTITY_TEXTS[self.entity_text] if (role, side) == ("text", "entity") else self.VIEWS[role][side]


@contract
class PretrainedConfig(BaselineConfig):
    """A pretrained encoder with or without a trained projection."""

    projection: Annotated[
        bool,
        "a trained Linear of each side over the encoder's pooled vectors; false: their cosine as it is (zero-shot, "
        "nothing is trained)",
    ] = True

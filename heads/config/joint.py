"""Options of `joint`, a cross-encoder whose lower blocks are cached."""

from collections.abc import Collection, Mapping
from dataclasses import asdict, field
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Le

from cache.inputs import SIDES, Side
from foundation.contracts import contract
from foundation.errors import UserError
from heads.config.base import (
    DROPOUTS,
    ENTITY_TEXTS,
    MOST,
    PICTURES,
    TEXT_ONLY,
    Count,
    EntityText,
    HeadConfig,
    NotNegative,
    Positive,
    Size,
    both_sides,
)
from heads.contracts import HeadWant
from heads.tune import Kind, Tune

Pair = Annotated[int, Ge(2), Le(MOST)]


@contract
class JointConfig(HeadConfig):
    """None of the four papers has this. That lower blocks can run on each side alone is PreTTR's (MacAvaney et al.,
    SIGIR 2020); all else is ours."""

    lr: Annotated[Positive, "AdamW's step size for what is not in the encoder's blocks (theirs: `tune`)"] = 1e-3
    lr_decay: bool = True
    batch_size: Size = 16
    epochs: Count = 3
    patience: Count = 2
    weight_decay: NotNegative = 0.01
    clip_norm: NotNegative = 1.0
    tune: Annotated[
        Mapping[Kind, Tune],
        "the text encoder whose blocks read mention and entity together: the first of them, `block`, and how they are "
        "trained",
    ] = field(default_factory=lambda: {"text": Tune(block=3, how="whole", lr=1e-4)})
    text_feature: Annotated[str, "a feature of the profile by a BERT-like encoder; auto: the first of TEXT"] = "auto"
    image_feature: Annotated[
        str | None,
        "states of the pictures' patches; auto: the first of IMAGE that the profile has, if any; null: text alone",
    ] = "auto"
    entity_text: Annotated[
        EntityText,
        "the entity's text: properties, or enhanced: static or dynamic, by EnhanceEntities (DWE+, section 3)",
    ] = "properties"
    candidates: Annotated[Pair, "candidates of a mention at a training step: its gold and the first others listed"] = 8
    depth: Annotated[
        Size,
        "candidates that are scored, from the first of the list on; the others stay behind them in the list's order. "
        "Lists that no retriever ordered are scored whole",
    ] = 16
    prior: Annotated[
        Literal["retrieval", "none"],
        "retrieval: a learned multiple of -log(place in the list) is added to the score, in lists that a retriever "
        "ordered",
    ] = "retrieval"
    mark: Annotated[bool, "a learned vector is added to the states of the phrase's own tokens"] = True
    picture_tokens: Annotated[Size, "states that a picture's patches become, at most as many as there are patches"] = 9
    picture_heads: Annotated[Size, "attention heads of that resampler"] = 4

    TEXT: ClassVar[tuple[str, ...]] = ("text_tokens",)
    IMAGE: ClassVar[tuple[str, ...]] = ("clip_image", "image_patches")
    MENTION_TEXT: ClassVar[str] = "mention_sep_sentence"
    stays_live: ClassVar[bool] = True
    space: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "lr": {"low": 1e-4, "high": 1e-2, "log": True},
        "batch_size": {"choices": [16, 32, 64]},
        "candidates": {"choices": [4, 8, 16]},
        "picture_tokens": {"choices": [1, 4, 9]},
        "picture_dropout": {"choices": DROPOUTS},
    }
    sensitivity: ClassVar[Mapping[str, tuple[Any, ...]]] = {"candidates": (4, 8, 16), "depth": (8, 16, 32)}

    def __post_init__(self) -> None:
        if self.live:
            raise ValueError("live = true: expected false, joint has one stage, in which its blocks run live")
        if set(self.tune) != {"text"}:
            raise ValueError(
                f"tune names {sorted(self.tune)}: expected text alone, the encoder that reads both texts together"
            )
        if not self.tune["text"].shared:
            raise ValueError("tune: text: shared = false: mention and entity go through the same blocks together")

    def wants(self, available: Collection[str]) -> list[HeadWant]:
        """See `HeadConfig.wants`: tokens, in place of which `tune` puts the states that enter the first live block, for
        the mark the characters of the mention's tokens, and patch states."""
        text = self.pick("text_feature", self.TEXT, available)
        if text is None:
            raise UserError(
                f"joint reads a text feature ({' or '.join(self.TEXT)}), there are: {', '.join(sorted(available))}; "
                "add one to the profile"
            )
        views: Mapping[Side, str] = {"mention": self.MENTION_TEXT, "entity": ENTITY_TEXTS[self.entity_text]}
        read: Mapping[Side, tuple[str, ...]] = {
            "mention": ("tokens", "offsets") if self.mark else ("tokens",),
            "entity": ("tokens",),
        }
        wanted = [
            HeadWant(side=side, role="text", feature=text, view=views[side], outputs=read[side]) for side in SIDES
        ]
        image = self.pick("image_feature", self.IMAGE, available)
        return [*wanted, *(both_sides("image", image, PICTURES, ["tokens"]) if image else ())]

    def pairs(self, available: Collection[str]) -> list[str]:
        """See `HeadConfig.pairs`: the candidates' places, which `depth` needs too."""
        return ["retrieval"]

    def ablations(self, available: Collection[str]) -> dict[str, dict[str, Any]]:
        """See `HeadConfig.ablations`."""
        tune = self.tune["text"]
        cut = {"without cached blocks": {"tune": {"text": {**asdict(tune), "block": 0}}}} if tune.block else {}
        prior = {"without prior": {"prior": "none"}} if self.prior != "none" else {}
        mark = {"without mark": {"mark": False}} if self.mark else {}
        pictures = self.pick("image_feature", self.IMAGE, available) is not None
        return {**prior, **mark, **cut, **({TEXT_ONLY: {"image_feature": None}} if pictures else {})}

"""What configurations of networks over pair features share: which pair features, training frequency, size."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import ClassVar

from foundation.errors import UserError, nearest
from heads.config.base import HeadConfig, Training
from heads.contracts import HeadWant


@dataclass(frozen=True, kw_only=True)
class PairsConfig(HeadConfig):
    """None of the four papers has this: all choices are ours.

    pair_features: names of pair features; "auto" takes those of USUAL that the profile can compute. frequency: how often an entity is gold in train,
        and how often of the same phrase. text_only: no pair feature that reads a picture.
    least_steps: as many epochs as it takes to make at least so many steps, where `epochs` are fewer (0 epochs stay 0): half of dev may be small.
    hidden: units of the network over a pair's numbers; 0: a weighted sum (a logistic regression over the list). members: networks whose mean it is.
    """

    lr_decay: bool = True
    patience: int = 0
    pair_features: tuple[str, ...] = ("auto",)
    frequency: bool = True
    text_only: bool = False
    least_steps: int = 120
    hidden: int = 16
    members: int = 2

    training: ClassVar[Training] = "combination"
    shows_parts: ClassVar[bool] = False
    """Whether a run's table also has each part alone and all parts but each."""
    positive: ClassVar[tuple[str, ...]] = (*HeadConfig.positive, "members")
    FEATURES: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "name_similarity": (),
        "retrieval": (),
        "word_overlap": (),
        "years": (),
        "text_length": (),
        "face_match": ("face_embedding",),
        "text_cls": ("text_tokens",),
        "clip_ti": ("clip_text", "clip_image"),
        "clip_it": ("clip_text", "clip_image"),
        "object_relation": ("objects", "object_resnet"),
    }
    OF_TEXT: ClassVar[tuple[str, ...]] = (
        "name_similarity",
        "retrieval",
        "text_cls",
        "text_length",
        "word_overlap",
        "years",
    )
    USUAL: ClassVar[tuple[str, ...]] = tuple(FEATURES)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in self.pair_features:
            if name != "auto" and name not in self.FEATURES:
                raise UserError(f"pair_features: {name!r} is no pair feature{nearest(name, self.FEATURES)}")

    def wants(self, available: Collection[str]) -> list[HeadWant]:
        """See `HeadConfig.wants`: nothing but what the pair features (and the heads that are fused) read."""
        return []

    def pairs(self, available: Collection[str]) -> list[str]:
        """See `HeadConfig.pairs`."""
        chosen: list[str] = []
        for name in self.pair_features:
            chosen += (
                [name]
                if name != "auto"
                else [name for name in self.USUAL if set(self.FEATURES[name]) <= set(available)]
            )
        return sorted(name for name in set(chosen) if not self.text_only or name in self.OF_TEXT)

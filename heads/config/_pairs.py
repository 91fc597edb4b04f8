"""What configurations of networks over pair features share: which pair features, training frequency, size."""

from collections.abc import Collection, Mapping
from typing import Annotated, ClassVar

from foundation.contracts import contract
from foundation.errors import nearest
from heads.config.base import Count, HeadConfig, Size, Training
from heads.contracts import HeadWant


@contract
class PairsConfig(HeadConfig):
    """None of the four papers has this: all choices are ours."""

    lr_decay: bool = True
    patience: Count = 0
    pair_features: Annotated[
        tuple[str, ...], "names of pair features; auto: those of USUAL that the profile can compute"
    ] = ("auto",)
    frequency: Annotated[bool, "read how often an entity is gold in train, and how often of the same phrase"] = True
    text_only: Annotated[bool, "no pair feature that reads a picture; of heads, their text-only ablations"] = False
    least_steps: Annotated[
        Count,
        "as many epochs as it takes to make at least so many steps, where `epochs` are fewer (0 epochs stay 0): half "
        "of dev may be small",
    ] = 120
    hidden: Annotated[
        Count, "units of the network over a pair's numbers; 0: a weighted sum (a logistic regression over the list)"
    ] = 16
    members: Annotated[Size, "networks whose mean it is"] = 2
    from_best: Annotated[
        bool,
        "start as the one number that ranks the training mentions' lists best by itself, and learn a correction; "
        "false: from random weights",
    ] = False

    later: ClassVar[tuple[str, ...]] = ("from_best",)
    training: ClassVar[Training] = "combination"
    shows_parts: ClassVar[bool] = False
    """Whether a run's table also has each part alone and all parts but each."""
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
    """Pair feature -> the features that it is computed from."""
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
        for name in self.pair_features:
            if name != "auto" and name not in self.FEATURES:
                raise ValueError(f"pair_features: {name!r} is no pair feature{nearest(name, self.FEATURES)}")

    @property
    def keeps_start(self) -> bool:
        """See `HeadConfig.keeps_start`."""
        return self.from_best

    def wants(self, available: Collection[str]) -> list[HeadWant]:
        """See `HeadConfig.wants`: nothing but what the pair features (and the heads that are fused) read."""
        return []

    def pairs(self, available: Collection[str]) -> list[str]:
        """See `HeadConfig.pairs`."""
        usual = [name for name in self.USUAL if set(self.FEATURES[name]) <= set(available)]
        chosen = {name for option in self.pair_features for name in (usual if option == "auto" else [option])}
        return sorted(name for name in chosen if not self.text_only or name in self.OF_TEXT)

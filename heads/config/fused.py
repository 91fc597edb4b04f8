"""Options of the learned combination of trained heads, pair features and training frequency."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from cache.errors import UserError, nearest
from heads.config.base import TEXT_ONLY, HeadConfig


@dataclass(frozen=True, kw_only=True)
class FusedConfig(HeadConfig):
    """None of the four papers has this: all choices are ours.

    heads: methods whose scores take part, each trained with its default parameters of this profile; "auto" takes those of FOUR that the profile has
        the features for. pair_features: names of pair features; "auto"
        takes those of FEATURES that the profile can compute. frequency: how often an entity is gold in train, and how often of the same phrase.
    text_only: the heads' own text-only ablations in their place, and no pair feature that reads a picture.
    hidden: units of the network over a pair's numbers; 0: a weighted sum (a logistic regression over the list). members: networks whose mean it is.
    """

    lr: float = 0.03
    lr_decay: bool = True
    batch_size: int = 64
    epochs: int = 10
    patience: int = 0
    weight_decay: float = 0.05
    heads: tuple[str, ...] = ("auto",)
    pair_features: tuple[str, ...] = ("auto",)
    frequency: bool = True
    text_only: bool = False
    hidden: int = 16
    members: int = 2

    positive: ClassVar[tuple[str, ...]] = (*HeadConfig.positive, "members")
    trainer: ClassVar[str] = "heads.fusion:main"
    fits_on: ClassVar[str] = "calibrate"
    FOUR: ClassVar[tuple[str, ...]] = ("drin", "dsmip", "dwe", "mimic")
    space: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "lr": {"low": 1e-3, "high": 0.1, "log": True}, "batch_size": {"choices": [32, 64, 128]}, "hidden": {"choices": [0, 8, 16, 24, 32]},
        "weight_decay": {"low": 1e-3, "high": 0.3, "log": True},
    }
    FEATURES: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "name_similarity": (), "retrieval": (), "face_match": ("face_embedding",), "text_cls": ("text_tokens",),
        "clip_ti": ("clip_text", "clip_image"), "clip_it": ("clip_text", "clip_image"), "object_relation": ("objects", "object_resnet"),
    }

    OF_TEXT: ClassVar[tuple[str, ...]] = ("name_similarity", "retrieval", "text_cls")

    def __post_init__(self) -> None:
        super().__post_init__()
        if "fused" in self.heads or len(set(self.heads)) != len(self.heads):
            raise UserError(f"heads = {list(self.heads)}: expected other methods, each once")
        for name in self.pair_features:
            if name != "auto" and name not in self.FEATURES:
                raise UserError(f"pair_features: {name!r} is no pair feature{nearest(name, self.FEATURES)}")
        if not (self.heads or self.pair_features or self.frequency):
            raise UserError("nothing to fuse: name heads or pair_features, or set frequency")

    def wants(self, available: Collection[str]) -> list[dict[str, Any]]:
        """See `HeadConfig.wants`: nothing but what the heads and the pair features read."""
        return []

    def runs(self, available: Collection[str]) -> dict[str, tuple[str, dict[str, Any]]]:
        """See `HeadConfig.runs`."""
        return {method: (method, _without_pictures(method, available) if self.text_only else {}) for method in self._methods(available)}

    def _methods(self, available: Collection[str]) -> list[str]:
        chosen: list[str] = []
        for name in self.heads:
            chosen += [name] if name != "auto" else [method for method in self.FOUR if _served(method, available)]
        return sorted(set(chosen))

    def ablations(self, available: Collection[str]) -> dict[str, dict[str, Any]]:
        """See `HeadConfig.ablations`: one part left out at a time, and the weighted sum. The run's own table has each part alone besides."""
        methods = self._methods(available)
        heads = {f"without {name}": {"heads": [other for other in methods if other != name]} for name in methods}
        rest = {
            "without pair features": {"pair_features": []}, "without frequency": {"frequency": False}, "weighted sum": {"hidden": 0},
            TEXT_ONLY: {"text_only": True},
        }
        return {**heads, **{name: changes for name, changes in rest.items() if any(value != getattr(self, key) for key, value in changes.items())}}

    def pairs(self, available: Collection[str]) -> list[str]:
        """See `HeadConfig.pairs`."""
        chosen: list[str] = []
        for name in self.pair_features:
            chosen += [name] if name != "auto" else [name for name, needs in self.FEATURES.items() if set(needs) <= set(available)]
        return sorted(name for name in set(chosen) if not self.text_only or name in self.OF_TEXT)


def _served(method: str, available: Collection[str]) -> bool:
    """Whether these features are enough for the method."""
    from heads.config import load_config

    try:
        load_config(method, {}).wants(available)
    except UserError:
        return False
    return True


def _without_pictures(method: str, available: Collection[str]) -> dict[str, Any]:
    """The parameters of the method's text-only ablation; none where it reads no picture."""
    from heads.config import load_config

    return load_config(method, {}).ablations(available).get(TEXT_ONLY, {})

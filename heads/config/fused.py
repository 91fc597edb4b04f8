"""Options of the learned combination of trained heads, pair features and training frequency."""

from collections.abc import Collection, Mapping
from typing import Annotated, Any, ClassVar

from foundation.contracts import contract
from foundation.errors import UserError
from heads.config._pairs import PairsConfig
from heads.config.base import DROPOUTS, TEXT_ONLY, Count, NotNegative, Positive, Size


@contract
class FusedConfig(PairsConfig):
    """See `PairsConfig`."""

    lr: Positive = 0.03
    batch_size: Size = 32
    epochs: Count = 10
    weight_decay: NotNegative = 0.5
    from_best: bool = True
    heads: Annotated[
        tuple[str, ...],
        "methods whose scores take part, each trained with its default parameters of this profile; auto: those of "
        "USUAL_HEADS that the profile has the features for",
    ] = ("auto",)

    shows_parts: ClassVar[bool] = True
    fits_on: ClassVar[str] = "calibrate"
    USUAL_HEADS: ClassVar[tuple[str, ...]] = ("drin", "dsmip", "dwe", "mimic", "ranker")
    USUAL: ClassVar[tuple[str, ...]] = (
        "name_similarity",
        "retrieval",
        "face_match",
        "text_cls",
        "clip_ti",
        "clip_it",
        "object_relation",  # more than dev's half can teach is the ranker's
    )
    space: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "lr": {"low": 1e-3, "high": 0.1, "log": True},
        "batch_size": {"choices": [32, 64, 128]},
        "hidden": {"choices": [0, 8, 16, 24, 32]},
        "weight_decay": {"low": 1e-3, "high": 3.0, "log": True},
        "picture_dropout": {"choices": DROPOUTS},
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        if "fused" in self.heads or len(set(self.heads)) != len(self.heads):
            raise ValueError(f"heads = {list(self.heads)}: expected other methods, each once")
        if not (self.heads or self.pair_features or self.frequency):
            raise ValueError("nothing to fuse: name heads or pair_features, or set frequency")

    def runs(self, available: Collection[str]) -> dict[str, tuple[str, dict[str, Any]]]:
        """See `HeadConfig.runs`."""
        return {method: (method, self._options(method, available)) for method in self._methods(available)}

    def _options(self, method: str, available: Collection[str]) -> dict[str, Any]:
        """The parameters of a method whose scores take part: its text-only ablation for text alone, else this
        configuration's `entity_pictures` where the method reads pictures of entities."""
        from heads.config import load_config

        if self.text_only:
            return _without_pictures(method, available)
        if self.entity_pictures == "first":
            return {}  # each method has its own default
        own = {"entity_pictures": self.entity_pictures}
        config = load_config(method, own)
        plain = load_config(method, {})
        same_pairs = config.read_pairs(available) == config.pairs(available)
        read = config.inputs(available) != plain.inputs(available) or not same_pairs
        return own if read else {}

    def _methods(self, available: Collection[str]) -> list[str]:
        usual = [method for method in self.USUAL_HEADS if _served(method, available)] if "auto" in self.heads else []
        return sorted({name for option in self.heads for name in (usual if option == "auto" else [option])})

    def ablations(self, available: Collection[str]) -> dict[str, dict[str, Any]]:
        """See `HeadConfig.ablations`: one part left out at a time, and the weighted sum. The run's own table has each
        part alone besides."""
        methods = self._methods(available)
        heads = {f"without {name}": {"heads": [other for other in methods if other != name]} for name in methods}
        rest: dict[str, dict[str, Any]] = {
            "without pair features": {"pair_features": []},
            "without frequency": {"frequency": False},
            "weighted sum": {"hidden": 0},
            TEXT_ONLY: {"text_only": True},
        }
        return {
            **heads,
            **{
                name: changes
                for name, changes in rest.items()
                if any(value != getattr(self, key) for key, value in changes.items())
            },
        }


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

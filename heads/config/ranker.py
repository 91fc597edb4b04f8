"""Options of the network over pair features that is learned on train."""

from collections.abc import Collection, Mapping
from typing import Any, ClassVar

from foundation.contracts import contract
from heads.config._pairs import PairsConfig
from heads.config.base import DROPOUTS, TEXT_ONLY, Count, NotNegative, Positive, Size


@contract
class RankerConfig(PairsConfig):
    """See `PairsConfig`. It reads no trained head, so all of train can teach it."""

    lr: Positive = 0.01
    batch_size: Size = 64
    epochs: Count = 6
    weight_decay: NotNegative = 0.05
    hidden: Count = 32
    members: Size = 1

    space: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "lr": {"low": 1e-3, "high": 0.1, "log": True},
        "batch_size": {"choices": [32, 64, 128, 256]},
        "hidden": {"choices": [0, 16, 32, 48]},
        "weight_decay": {"low": 1e-3, "high": 0.3, "log": True},
        "picture_dropout": {"choices": DROPOUTS},
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.pair_features or self.frequency):
            raise ValueError("nothing to rank by: name pair_features, or set frequency")

    def ablations(self, available: Collection[str]) -> dict[str, dict[str, Any]]:
        """See `HeadConfig.ablations`: one pair feature left out at a time, and the weighted sum."""
        chosen = self.pairs(available)
        variants: dict[str, dict[str, Any]] = {
            f"without {name}": {"pair_features": [other for other in chosen if other != name]} for name in chosen
        }
        variants |= {"without frequency": {"frequency": False}} if self.frequency else {}
        variants |= {"weighted sum": {"hidden": 0}} if self.hidden else {}
        return variants | ({TEXT_ONLY: {"text_only": True}} if set(chosen) - set(self.OF_TEXT) else {})

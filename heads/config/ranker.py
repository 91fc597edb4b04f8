"""Options of the network over pair features that is learned on train."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from foundation.errors import UserError
from heads.config._pairs import PairsConfig
from heads.config.base import TEXT_ONLY


@dataclass(frozen=True, kw_only=True)
class RankerConfig(PairsConfig):
    """See `PairsConfig`. It reads no trained head, so all of train can teach it."""

    lr: float = 0.01
    batch_size: int = 64
    epochs: int = 6
    weight_decay: float = 0.05
    hidden: int = 32
    members: int = 1

    space: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "lr": {"low": 1e-3, "high": 0.1, "log": True},
        "batch_size": {"choices": [32, 64, 128, 256]},
        "hidden": {"choices": [0, 16, 32, 48]},
        "weight_decay": {"low": 1e-3, "high": 0.3, "log": True},
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.pair_features or self.frequency):
            raise UserError("nothing to rank by: name pair_features, or set frequency")

    def ablations(self, available: Collection[str]) -> dict[str, dict[str, Any]]:
        """See `HeadConfig.ablations`: one pair feature left out at a time, and the weighted sum."""
        chosen = self.pairs(available)
        found = {f"without {name}": {"pair_features": [other for other in chosen if other != name]} for name in chosen}
        found |= {"without frequency": {"frequency": False}} if self.frequency else {}
        found |= {"weighted sum": {"hidden": 0}} if self.hidden else {}
        return found | ({TEXT_ONLY: {"text_only": True}} if set(chosen) - set(self.OF_TEXT) else {})

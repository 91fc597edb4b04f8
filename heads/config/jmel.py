"""Options of the baseline JMEL (Adjali et al., ECIR 2020)."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from foundation.contracts import contract
from heads.config._baseline import BaselineConfig


@contract
class JmelConfig(BaselineConfig):
    """`BaselineConfig` with the triplet loss that DSMIP describes."""

    loss: Literal["cross_entropy", "triplet"] = "triplet"

    space: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        **{name: entry for name, entry in BaselineConfig.space.items() if name != "temperature"},
        "margin": {"low": 0.1, "high": 1.0},
    }

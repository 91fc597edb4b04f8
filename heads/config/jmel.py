"""Options of the baseline JMEL (Adjali et al., ECIR 2020)."""

from dataclasses import dataclass
from typing import Literal

from heads.config._baseline import BaselineConfig


@dataclass(frozen=True, kw_only=True)
class JmelConfig(BaselineConfig):
    """`BaselineConfig` with the triplet loss that DSMIP describes."""

    loss: Literal["cross_entropy", "triplet"] = "triplet"

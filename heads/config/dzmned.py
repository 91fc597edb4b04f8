"""Options of the baseline DZMNED (Moon et al., ACL 2018)."""

from dataclasses import dataclass
from typing import ClassVar

from heads.config._baseline import BaselineConfig


@dataclass(frozen=True, kw_only=True)
class DzmnedConfig(BaselineConfig):
    """`BaselineConfig`; reads the mention and the entity's name by themselves besides (role `phrase`)."""

    READS: ClassVar[dict[str, list[str]]] = {"text": ["pooled"], "phrase": ["pooled"], "image": ["pooled"]}

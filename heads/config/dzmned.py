"""Options of the baseline DZMNED (Moon et al., ACL 2018)."""

from collections.abc import Mapping
from typing import ClassVar

from foundation.contracts import contract
from heads.config._baseline import BaselineConfig


@contract
class DzmnedConfig(BaselineConfig):
    """`BaselineConfig`; also reads the mention and the entity's name by themselves (role `phrase`)."""

    READS: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "text": ("pooled",),
        "phrase": ("pooled",),
        "image": ("pooled",),
    }

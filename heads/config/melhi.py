"""Options of the baseline MEL-HI (Zhang et al., DASFAA 2021)."""

from collections.abc import Mapping
from typing import Annotated, ClassVar

from foundation.contracts import contract
from heads.config._baseline import BaselineConfig
from heads.config.base import NotNegative, Size, multiple


@contract
class MelhiConfig(BaselineConfig):
    """`BaselineConfig` with attention over the text's tokens and a filter on pictures."""

    attention_heads: Annotated[Size, "of the attention over the text's tokens"] = 4
    threshold: Annotated[NotNegative, "an image enters where its similarity with the text is above it"] = 0.0

    READS: ClassVar[Mapping[str, tuple[str, ...]]] = {"text": ("tokens", "pooled"), "image": ("pooled",)}

    def __post_init__(self) -> None:
        multiple("width", self.width, "attention_heads", self.attention_heads)

"""Options of the baseline GHMFC (Wang et al., SIGIR 2022)."""

from collections.abc import Mapping
from typing import Annotated, ClassVar

from foundation.contracts import contract
from heads.config._baseline import BaselineConfig
from heads.config.base import NotNegative, Size, multiple


@contract
class GhmfcConfig(BaselineConfig):
    """`BaselineConfig` with two guided views of a mention."""

    attention_heads: Annotated[Size, "of both cross-attentions"] = 4
    contrast: Annotated[NotNegative, "weight of the contrastive loss between a mention's two guided views"] = 0.1

    IMAGE: ClassVar[tuple[str, ...]] = ("clip_image", "image_patches")
    READS: ClassVar[Mapping[str, tuple[str, ...]]] = {"text": ("tokens", "pooled"), "image": ("tokens",)}

    def __post_init__(self) -> None:
        multiple("width", self.width, "attention_heads", self.attention_heads)

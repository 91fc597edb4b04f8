"""Options of the baseline GHMFC (Wang et al., SIGIR 2022)."""

from dataclasses import dataclass
from typing import ClassVar

from foundation.errors import UserError
from heads.config._baseline import BaselineConfig


@dataclass(frozen=True, kw_only=True)
class GhmfcConfig(BaselineConfig):
    """attention_heads: of both cross-attentions. contrast: weight of the contrastive loss between a mention's two guided views."""

    attention_heads: int = 4
    contrast: float = 0.1

    IMAGE: ClassVar[tuple[str, ...]] = ("clip_image", "image_patches")
    READS: ClassVar[dict[str, list[str]]] = {"text": ["tokens", "pooled"], "image": ["tokens"]}
    positive: ClassVar[tuple[str, ...]] = (*BaselineConfig.positive, "attention_heads")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.width % self.attention_heads:
            raise UserError(f"width = {self.width}: expected a multiple of attention_heads = {self.attention_heads}")

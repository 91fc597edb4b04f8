"""Options of the baseline MEL-HI (Zhang et al., DASFAA 2021)."""

from dataclasses import dataclass
from typing import ClassVar

from foundation.errors import UserError
from heads.config._baseline import BaselineConfig


@dataclass(frozen=True, kw_only=True)
class MelhiConfig(BaselineConfig):
    """attention_heads: of the attention over the text's tokens. threshold: an image enters where its similarity with the text is above it."""

    attention_heads: int = 4
    threshold: float = 0.0

    READS: ClassVar[dict[str, list[str]]] = {"text": ["tokens", "pooled"], "image": ["pooled"]}
    positive: ClassVar[tuple[str, ...]] = (*BaselineConfig.positive, "attention_heads")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.width % self.attention_heads:
            raise UserError(f"width = {self.width}: expected a multiple of attention_heads = {self.attention_heads}")

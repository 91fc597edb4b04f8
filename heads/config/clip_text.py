"""Options of the baseline CLIP-text: CLIP's text encoder alone."""

from dataclasses import dataclass
from typing import ClassVar

from heads.config._baseline import PretrainedConfig


@dataclass(frozen=True, kw_only=True)
class ClipTextConfig(PretrainedConfig):
    """See `PretrainedConfig`."""

    TEXT: ClassVar[tuple[str, ...]] = ("clip_text",)
    READS: ClassVar[dict[str, list[str]]] = {"text": ["pooled"]}

"""Options of the baseline CLIP-text: CLIP's text encoder alone."""

from collections.abc import Mapping
from typing import ClassVar

from foundation.contracts import contract
from heads.config._baseline import PretrainedConfig


@contract
class ClipTextConfig(PretrainedConfig):
    """See `PretrainedConfig`."""

    TEXT: ClassVar[tuple[str, ...]] = ("clip_text",)
    READS: ClassVar[Mapping[str, tuple[str, ...]]] = {"text": ("pooled",)}

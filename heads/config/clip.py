"""Options of the baseline CLIP: both of its encoders."""

from dataclasses import dataclass
from typing import ClassVar

from heads.config._baseline import PretrainedConfig


@dataclass(frozen=True, kw_only=True)
class ClipConfig(PretrainedConfig):
    """See `PretrainedConfig`."""

    TEXT: ClassVar[tuple[str, ...]] = ("clip_text",)
    IMAGE: ClassVar[tuple[str, ...]] = ("clip_image",)

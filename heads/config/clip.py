"""Options of the baseline CLIP: both of its encoders."""

from dataclasses import dataclass
from typing import ClassVar

from heads.config._baseline import BaselineConfig


@dataclass(frozen=True, kw_only=True)
class ClipConfig(BaselineConfig):
    """projection: a trained Linear of each side over text and image; false: the cosine of both end to end (zero-shot, nothing is trained)."""

    projection: bool = True

    TEXT: ClassVar[tuple[str, ...]] = ("clip_text",)
    IMAGE: ClassVar[tuple[str, ...]] = ("clip_image",)

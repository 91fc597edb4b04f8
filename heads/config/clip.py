"""Options of the baseline CLIP: both of its encoders."""

from typing import ClassVar

from foundation.contracts import contract
from heads.config._baseline import PretrainedConfig


@contract
class ClipConfig(PretrainedConfig):
    """See `PretrainedConfig`."""

    TEXT: ClassVar[tuple[str, ...]] = ("clip_text",)
    IMAGE: ClassVar[tuple[str, ...]] = ("clip_image",)

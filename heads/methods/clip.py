"""CLIP as described by DWE+ (5.2): text and image features are concatenated and compared; both sides have both here, as
in MIMIC's and DSMIP's tables."""

from heads.config.clip import ClipConfig
from heads.methods._towers import Pretrained


class Clip(Pretrained):
    """Frozen; a Linear of each side stands for fine-tuning."""

    config: ClipConfig
    ROLES = ("text", "image")

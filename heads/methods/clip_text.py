"""CLIP-text as described by DWE+ (5.2): CLIP on mention, sentence and entity text alone, and their similarity."""

from heads.config.clip_text import ClipTextConfig
from heads.methods._towers import Pretrained


class ClipText(Pretrained):
    """Frozen; a Linear of each side stands for fine-tuning."""

    config: ClipTextConfig

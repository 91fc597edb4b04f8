"""Options of the baseline BERT: a text encoder alone."""

from collections.abc import Mapping
from typing import ClassVar

from foundation.contracts import contract
from heads.config._baseline import PretrainedConfig


@contract
class BertConfig(PretrainedConfig):
    """See `PretrainedConfig`."""

    TEXT: ClassVar[tuple[str, ...]] = ("text_tokens",)
    READS: ClassVar[Mapping[str, tuple[str, ...]]] = {"text": ("pooled",)}

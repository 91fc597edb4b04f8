"""Options of the baseline BERT: a text encoder alone."""

from dataclasses import dataclass
from typing import ClassVar

from heads.config._baseline import PretrainedConfig


@dataclass(frozen=True, kw_only=True)
class BertConfig(PretrainedConfig):
    """See `PretrainedConfig`."""

    TEXT: ClassVar[tuple[str, ...]] = ("text_tokens",)
    READS: ClassVar[dict[str, list[str]]] = {"text": ["pooled"]}

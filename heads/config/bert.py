"""Options of the baseline BERT: a text encoder alone."""

from dataclasses import dataclass
from typing import ClassVar

from heads.config._baseline import BaselineConfig


@dataclass(frozen=True, kw_only=True)
class BertConfig(BaselineConfig):
    """projection: a trained Linear of each side over the pooled vectors; false: their cosine as it is (zero-shot, nothing is trained)."""

    projection: bool = True
    image_feature: str | None = None

    TEXT: ClassVar[tuple[str, ...]] = ("text_tokens",)
    READS: ClassVar[dict[str, list[str]]] = {"text": ["pooled"]}

"""What recognisers share: spans of a text, and the sentences that spaCy finds."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from foundation.errors import UserError

if TYPE_CHECKING:
    from spacy.language import Language


@dataclass(frozen=True)
class Found:
    """A span of a text, end exclusive, in characters. label: its kind, as the recogniser names it."""

    start: int
    end: int
    label: str

    def __len__(self) -> int:
        return self.end - self.start


@dataclass(frozen=True)
class Recognised:
    """Of a text: all spans, in any order, which may overlap; where its sentences begin and end, in order."""

    spans: frozenset[Found]
    sentences: tuple[tuple[int, int], ...]


class Recogniser(Protocol):
    """labels: that its spans can have; none where it does not say."""

    labels: frozenset[str]

    def read(self, texts: Sequence[str]) -> list[Recognised]:
        """What is recognised in each text. Raises `UserError` for a text that is longer than it reads."""


def documents(nlp: "Language", texts: Sequence[str]) -> list[Any]:
    """spaCy's documents. Raises `UserError` for a text that is longer than the pipeline reads."""
    for text in texts:
        if len(text) > nlp.max_length:
            raise UserError(
                f"a text of {len(text):,} characters, the pipeline reads at most {nlp.max_length:,}; divide it"
            )
    return list(nlp.pipe(texts))


def sentences(document: Any) -> tuple[tuple[int, int], ...]:
    """Where the sentences of a document of spaCy's begin and end."""
    return tuple((one.start_char, one.end_char) for one in document.sents)

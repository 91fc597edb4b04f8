"""Mentions found in raw text by spaCy, and the sentences that they stand in."""

import bisect
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foundation import extras
from foundation.errors import UserError, nearest
from pipeline.models.files import locate

if TYPE_CHECKING:
    from spacy.language import Language

VALUES = frozenset(("CARDINAL", "DATE", "MONEY", "ORDINAL", "PERCENT", "QUANTITY", "TIME"))
"""Labels of OntoNotes, which spaCy's pipelines use, for what names nothing."""
_CONFIG = "config.cfg"


@dataclass(frozen=True)
class Found:
    """A span of a text, end exclusive, in characters. label: its kind, as the finder names it."""

    start: int
    end: int
    label: str

    def __len__(self) -> int:
        return self.end - self.start


@dataclass(frozen=True)
class Spans:
    """What was found in a text: spans in order, none overlapping; how many were left out for another; its sentences."""

    found: tuple[Found, ...]
    left_out: int
    sentences: tuple[tuple[int, int], ...]


class Finder:
    """A spaCy pipeline in a folder. Its entities are mentions, those of its span groups too.

    reference: the folder, or `package:NAME/PATH`. labels: that count; none: all but `VALUES`. Raises `UserError` where
    there is no pipeline, it finds no entities, or it has not these labels.
    """

    def __init__(self, reference: str, labels: Sequence[str] = ()) -> None:
        self.labels = frozenset(labels)
        self.nlp = _load(reference)
        known = {label for name in self.nlp.pipe_names for label in self.nlp.pipe_labels.get(name, ())}
        for label in labels:
            if known and label not in known:
                raise UserError(f"--labels {label!r}: {reference} has no such label{nearest(label, known)}")
        if not any(self.nlp.get_pipe_meta(name).assigns for name in self.nlp.pipe_names):
            raise UserError(
                f"--ner {reference}: the pipeline finds nothing ({', '.join(self.nlp.pipe_names) or 'empty'})"
            )
        sets_sentences = any(
            "token.is_sent_start" in self.nlp.get_pipe_meta(name).assigns for name in self.nlp.pipe_names
        )
        if not sets_sentences:
            self.nlp.add_pipe("sentencizer")

    def find(self, texts: Sequence[str]) -> list[Spans]:
        """What is found in each text. Raises `UserError` for a text that is longer than the pipeline reads."""
        for text in texts:
            if len(text) > self.nlp.max_length:
                raise UserError(
                    f"a text of {len(text):,} characters, the pipeline reads at most {self.nlp.max_length:,}; divide it"
                )
        return [self._spans(doc) for doc in self.nlp.pipe(texts)]

    def _spans(self, doc: Any) -> Spans:
        listed = [*doc.ents, *(span for group in doc.spans.values() for span in group)]
        found = {Found(span.start_char, span.end_char, span.label_) for span in listed}
        stripped = {one for each in found if self._counts(each.label) and (one := _stripped(each, doc.text))}
        kept = without_overlaps(stripped)
        sentences = tuple((one.start_char, one.end_char) for one in doc.sents)
        return Spans(kept, len({(one.start, one.end) for one in stripped}) - len(kept), sentences)

    def _counts(self, label: str) -> bool:
        return label in self.labels if self.labels else label not in VALUES


def without_overlaps(found: Iterable[Found]) -> tuple[Found, ...]:
    """The spans, in order. Of those that share a character the longest stays, then the first."""
    kept: list[Found] = []  # in order
    for one in sorted(found, key=lambda span: (-len(span), span.start, span.label)):
        at = bisect.bisect(kept, one.start, key=lambda span: span.start)
        if (at == 0 or kept[at - 1].end <= one.start) and (at == len(kept) or one.end <= kept[at].start):
            kept.insert(at, one)
    return tuple(kept)


def context(text: str, span: Found, sentences: Sequence[tuple[int, int]], most: int) -> tuple[int, int]:
    """Where the text around a span begins and ends: the sentences that it touches, cut at blanks to about `most`
    characters around it."""
    touched = [one for one in sentences if one[0] < span.end and span.start < one[1]] or [(span.start, span.end)]
    start, end = min(span.start, touched[0][0]), max(span.end, touched[-1][1])
    if end - start <= max(most, len(span)):
        return start, end
    beside = max(0, most - len(span)) // 2
    left, right = max(start, span.start - beside), min(end, span.end + beside)
    if left > start:
        left = next((at + 1 for at in range(left, span.start) if text[at].isspace()), left)
    if right < end:
        right = next((at for at in range(right, span.end - 1, -1) if text[at].isspace()), right)
    return left, right


def _stripped(span: Found, text: str) -> Found | None:
    """The span without blanks at its ends; None where nothing is left."""
    words = text[span.start : span.end]
    start = span.start + len(words) - len(words.lstrip())
    end = start + len(words.strip())
    return Found(start, end, span.label) if end > start else None


def _load(reference: str) -> "Language":
    extras.require("spacy")
    import spacy

    place = locate(reference, Path(), None, fetch=False)
    if place is None or not (place / _CONFIG).is_file():
        raise UserError(
            f"--ner {reference}: no {_CONFIG} there; name the folder of a spaCy pipeline, as `nlp.to_disk` writes it, "
            "or package:NAME/PATH of an installed one"
        )
    try:
        return spacy.load(place)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"--ner {reference}: the pipeline cannot be loaded ({str(error)[:300]})") from error

"""Mentions found in raw text by a recogniser that its user names, and the text around each."""

import bisect
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from foundation.errors import UserError, nearest
from linking.texts import by_spacy, by_tokens
from linking.texts.by_spacy import SpacyPipeline
from linking.texts.by_tokens import TokenClassifier
from linking.texts.recognised import Found, Recognised, Recogniser
from pipeline.models.files import locate

VALUES = frozenset(("CARDINAL", "DATE", "MONEY", "ORDINAL", "PERCENT", "QUANTITY", "TIME"))
"""Labels of OntoNotes, which many pipelines and models use, for what names nothing."""


@dataclass(frozen=True)
class Spans:
    """What was found in a text: spans in order, none overlapping; how many were left out for another; its sentences."""

    found: tuple[Found, ...]
    left_out: int
    sentences: tuple[tuple[int, int], ...]


class Finder:
    """A recogniser in a folder: a spaCy pipeline, or a token classifier of transformers. Its spans are mentions.

    reference: the folder, or `package:NAME/PATH`. labels: that count; none: all but `VALUES`. device: for a token
    classifier. Raises `UserError` where there is no recogniser, it finds nothing, or it has not these labels.
    """

    def __init__(self, reference: str, labels: Sequence[str] = (), device: str = "cpu") -> None:
        self.labels = frozenset(labels)
        self.recogniser = _recogniser(reference, device)
        known = self.recogniser.labels
        for label in labels:
            if known and label not in known:
                raise UserError(f"--labels {label!r}: {reference} has no such label{nearest(label, known)}")

    def find(self, texts: Sequence[str]) -> list[Spans]:
        """What is found in each text. Raises `UserError` for a text that is longer than the recogniser reads."""
        read = self.recogniser.read(texts)
        return [self._spans(text, one) for text, one in zip(texts, read, strict=True)]

    def _spans(self, text: str, recognised: Recognised) -> Spans:
        counted = (span for span in recognised.spans if self._counts(span.label))
        stripped = {one for span in counted if (one := _stripped(span, text))}
        kept = without_overlaps(stripped)
        return Spans(kept, len({(one.start, one.end) for one in stripped}) - len(kept), recognised.sentences)

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


def _recogniser(reference: str, device: str) -> Recogniser:
    """The file that a library writes beside its models says whose the folder is."""
    place = locate(reference, Path(), None, fetch=False)
    if place is not None and (place / by_spacy.CONFIG).is_file():
        return SpacyPipeline(reference, place)
    if place is not None and (place / by_tokens.CONFIG).is_file():
        return TokenClassifier(reference, device)
    raise UserError(
        f"--ner {reference}: no {by_spacy.CONFIG} or {by_tokens.CONFIG} there; name the folder of a spaCy pipeline, as "
        "`nlp.to_disk` writes it, of a token classifier of transformers, or package:NAME/PATH of an installed one"
    )

"""Mentions that a spaCy pipeline finds: its entities, and the spans of its span groups."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from foundation import extras
from foundation.errors import UserError
from linking.texts.recognised import Found, Recognised, documents, sentences

CONFIG = "config.cfg"
"""The file that makes a folder a pipeline."""


class SpacyPipeline:
    """A pipeline in a folder, see `linking.texts.recognised.Recogniser`. reference: names it in messages.

    Raises `UserError` where it cannot be loaded, or finds nothing.
    """

    def __init__(self, reference: str, folder: Path) -> None:
        extras.require("spacy")
        import spacy

        try:
            self.nlp = spacy.load(folder)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"--ner {reference}: the pipeline cannot be loaded ({str(error)[:300]})") from error
        names = self.nlp.pipe_names
        self.labels = frozenset(label for name in names for label in self.nlp.pipe_labels.get(name, ()))
        assigned = {name: self.nlp.get_pipe_meta(name).assigns for name in names}
        if not any(assigned.values()):
            raise UserError(f"--ner {reference}: the pipeline finds nothing ({', '.join(names) or 'empty'})")
        if not any("token.is_sent_start" in one for one in assigned.values()):
            self.nlp.add_pipe("sentencizer")

    def read(self, texts: Sequence[str]) -> list[Recognised]:
        return [Recognised(_spans(document), sentences(document)) for document in documents(self.nlp, texts)]


def _spans(document: Any) -> frozenset[Found]:
    groups = document.spans.values()
    listed = [*document.ents, *(span for group in groups for span in group)]
    return frozenset(Found(span.start_char, span.end_char, span.label_) for span in listed)

"""Mentions that a token classifier of transformers finds (`AutoModelForTokenClassification`).

A text longer than the model reads is read in windows that overlap; each token has its label from the window in which it
stands farthest from an end. A word has the label of its first token, because models are trained so; which tokens make a
word is told by the text's characters, since tokenizers disagree about punctuation.
"""

import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

from foundation import device as devices
from foundation import extras
from foundation.errors import UserError
from linking.texts.recognised import Found, Recognised, documents, sentences
from pipeline.models.files import ModelFiles, find, load_tokenizer, load_transformers

CONFIG = "config.json"
"""The file that makes a folder one of transformers."""
WINDOW, OVERLAP = 512, 64  # tokens
_AT_ONCE = 16  # windows
_KIND = "ForTokenClassification"
_OUTSIDE = "O"
_UNSPACED = ("CJK", "HIRAGANA", "KATAKANA", "HANGUL", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN")
"""First words of the names of letters in scripts whose words are not divided by blanks, or not by blanks alone."""


@dataclass(frozen=True)
class _Window:
    """Some tokens of a text. text: its number. tokens: what the model takes. offsets: (start, end) of each in
    characters; equal ones for what stands for no characters."""

    text: int
    tokens: dict[str, list[int]]
    offsets: list[tuple[int, int]]


class TokenClassifier:
    """A model in a folder, see `linking.texts.recognised.Recogniser`. reference: names it in messages.

    Raises `UserError` where it is none, cannot be loaded, has no label `O`, or its tokenizer gives no offsets.
    """

    def __init__(self, reference: str, device: str = "cpu") -> None:
        for package in ("spacy", "transformers"):
            extras.require(package)
        import spacy

        self.device = devices.choose(device)
        files = find(reference, Path(), None, fetch=False)
        kinds = files.config.get("architectures")
        if not isinstance(kinds, list) or not any(str(kind).endswith(_KIND) for kind in kinds):
            raise UserError(
                f"--ner {reference}: no token classifier (architectures in {CONFIG}: {str(kinds)[:100]}); expected a "
                f"folder of AutoModel{_KIND}, or of a spaCy pipeline"
            )
        self.tokenizer = load_tokenizer(files)
        if not self.tokenizer.is_fast:
            raise UserError(
                f"--ner {reference}: its tokenizer gives no offsets; save a fast one (tokenizer.json) there"
            )
        self.tokenizer.padding_side = "right"
        if self.tokenizer.pad_token is None:  # a decoder's: what stands at masked positions changes nothing
            self.tokenizer.pad_token = self.tokenizer.eos_token or self.tokenizer.convert_ids_to_tokens(0)
        self.model = load_transformers(files, f"AutoModel{_KIND}", self.device)
        self.names = {int(number): str(name) for number, name in self.model.config.id2label.items()}
        if _OUTSIDE not in self.names.values():
            listed = ", ".join(sorted(self.names.values())[:5])
            raise UserError(
                f"--ner {reference}: its labels ({listed}) have no {_OUTSIDE}; name them in {CONFIG} (id2label)"
            )
        self.labels = frozenset(_parts(name)[1] for name in self.names.values() if name != _OUTSIDE)
        self.window = _window(files, self.tokenizer)
        self.nlp = spacy.blank("xx")
        self.nlp.add_pipe("sentencizer")

    def read(self, texts: Sequence[str]) -> list[Recognised]:
        read = zip(texts, self._labels(texts), documents(self.nlp, texts), strict=True)
        return [Recognised(frozenset(spans(text, labels)), sentences(document)) for text, labels, document in read]

    def _labels(self, texts: Sequence[str]) -> list[dict[tuple[int, int], str]]:
        """Of each text: the label of each token by its characters, in order."""
        margins: list[dict[tuple[int, int], int]] = [{} for _ in texts]
        labels: list[dict[tuple[int, int], str]] = [{} for _ in texts]
        windows = chain.from_iterable(self._windows(number, text) for number, text in enumerate(texts))
        while batch := list(islice(windows, _AT_ONCE)):
            for window, best in zip(batch, self._best(batch), strict=True):
                for place, (span, number) in enumerate(zip(window.offsets, best, strict=False)):
                    margin = min(place, len(window.offsets) - 1 - place)
                    if span[0] < span[1] and margin > margins[window.text].get(span, -1):
                        margins[window.text][span], labels[window.text][span] = margin, self.names[number]
        return [dict(sorted(one.items())) for one in labels]

    def _windows(self, number: int, text: str) -> Iterator[_Window]:
        encoded = self.tokenizer(
            text,
            truncation=True,
            max_length=self.window,
            stride=min(OVERLAP, self.window // 4),
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
        )
        taken = [name for name in self.tokenizer.model_input_names if name in encoded]
        for place, offsets in enumerate(encoded["offset_mapping"]):
            yield _Window(number, {name: encoded[name][place] for name in taken}, [(one[0], one[1]) for one in offsets])

    def _best(self, windows: Sequence[_Window]) -> list[list[int]]:
        """The number of the best label of each token, and of the padding behind it."""
        import torch

        padded = self.tokenizer.pad([window.tokens for window in windows], return_tensors="pt").to(self.device)
        with torch.inference_mode():
            numbers: list[list[int]] = self.model(**padded).logits.argmax(-1).tolist()
        return numbers


def _window(files: ModelFiles, tokenizer: Any) -> int:
    """Tokens that the model reads at once, `WINDOW` at most. Architectures that count from the padding token on have
    fewer than positions."""
    positions = files.config.get("max_position_embeddings")
    most = positions - max(0, files.config.get("pad_token_id") or 0) - 1 if isinstance(positions, int) else WINDOW
    most = min(WINDOW, most, int(tokenizer.model_max_length))
    if most - tokenizer.num_special_tokens_to_add() < 8:
        raise UserError(f"model {files.reference!r}: reads {most} tokens, which is too few for a sentence")
    return most


def spans(text: str, labels: dict[tuple[int, int], str]) -> Iterable[Found]:
    """The spans that labelled tokens make: B-X begins one, I-X or X goes on with one of X or begins one."""
    found: list[Found] = []
    last = ""  # the label of the word before
    end = 0  # of that word
    for (start, stop), label in labels.items():
        if text[start:stop].isspace():
            continue
        if start < end or (last and start == end and _within_word(text, start)):
            if stop > end and last != _OUTSIDE:
                found[-1] = Found(found[-1].start, stop, found[-1].label)
            end = max(end, stop)
            continue
        begins, name = _parts(label)
        if label != _OUTSIDE:
            if not begins and last != _OUTSIDE and last and _parts(last)[1] == name:
                found[-1] = Found(found[-1].start, stop, name)
            else:
                found.append(Found(start, stop, name))
        last, end = label, stop
    return found


def _parts(label: str) -> tuple[bool, str]:
    """Whether a label begins a span, and its name: B-PER, I-PER, PER."""
    return label.startswith("B-"), label[2:] if label[:2] in ("B-", "I-") else label


def _within_word(text: str, place: int) -> bool:
    """Whether a word goes on from the character before `place` to the one there."""
    return _of_word(text[place - 1]) and _of_word(text[place])


def _of_word(letter: str) -> bool:
    if unicodedata.name(letter, "").startswith(_UNSPACED):
        return False
    return letter.isalnum() or unicodedata.category(letter).startswith("M")

"""Pair features of strings alone: words and years that a sentence shares with an entity's text, and how much is written about the entity."""

import math
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from foundation.progress import Bar

YEARS = ("after_first", "after_last", "first")
WORDS = ("shared", "number", "name")
_YEAR = re.compile(r"(?<!\d)(?:1\d{3}|20\d{2})(?!\d)")
_WORD = re.compile(r"\w+")


class Texts:
    """What is written about the N entities of a KB, taken apart when first asked for. texts: without the names."""

    def __init__(self, names: Sequence[str], texts: Sequence[str]) -> None:
        self.names, self.texts = names, texts

    @classmethod
    def of(cls, table: Mapping[str, Sequence[str | None]]) -> "Texts":
        """Of the columns name, attributes and description of entities.parquet."""
        both = zip(table["attributes"], table["description"], strict=True)
        return cls(table["name"], [" ".join(filter(None, parts)) for parts in both])  # type: ignore[arg-type]

    @cached_property
    def words(self) -> list[frozenset[str]]:
        """The words of each text."""
        return [frozenset(_words(text)) for text in self.texts]

    @cached_property
    def name_words(self) -> list[frozenset[str]]:
        """The words of each name."""
        return [frozenset(_words(name)) for name in self.names]

    @cached_property
    def weights(self) -> Mapping[str, float]:
        """log(entities / entities that have it) of each word of texts."""
        return _weights(self.words)

    @cached_property
    def name_weights(self) -> Mapping[str, float]:
        """The same of each word of names."""
        return _weights(self.name_words)

    @cached_property
    def years(self) -> np.ndarray:
        """(N, 2) float64 first and last year of each text, the last where it names two; NaN where there is none."""
        named = [_years(text) for text in self.texts]
        return np.array(
            [(min(own, default=math.nan), max(own) if len(set(own)) > 1 else math.nan) for own in named]
        ).reshape(-1, 2)

    @cached_property
    def lengths(self) -> np.ndarray:
        """(N,) float64 log(1 + words of each text)."""
        return np.log1p([float(len(_words(text))) for text in self.texts])


def around(table: Mapping[str, Sequence[Any]]) -> list[str]:
    """Each sentence without its phrase; whole where the phrase is not in it (a start below 0 or None). table: columns sentence, start and end."""
    rows = zip(table["sentence"], table["start"], table["end"], strict=True)
    return [
        sentence or "" if start is None or start < 0 else f"{sentence[:start]} {sentence[end:]}"
        for sentence, start, end in rows
    ]


def years(sentences: Sequence[str | None], kb: Texts, ids: np.ndarray) -> np.ndarray:
    """(M, k, 3) float32 of `YEARS`: years from the first of the entity's text (a birth, say) to the first of the sentence, from the last of the text
    (where it names two) to the last of the sentence, and the first of the text. A year is a number from 1000 to 2099. NaN where one is not there."""
    ours = [_years(sentence or "") for sentence in sentences]
    named = np.array([(min(own, default=math.nan), max(own, default=math.nan)) for own in ours]).reshape(-1, 2)
    theirs = kb.years[ids.clip(0)]  # (M, k, 2)
    out = np.concatenate([named[:, None] - theirs, theirs[:, :, :1]], -1).astype(np.float32)
    out[ids < 0] = np.nan
    return out


def word_overlap(sentences: Sequence[str], kb: Texts, ids: np.ndarray) -> np.ndarray:
    """(M, k, 3) float32 of `WORDS`: the summed weights of the sentence's distinct words that stand in the entity's text, their number, and the summed
    weights of the name's words that stand in the sentence. sentences: without the phrases. NaN where the list has ended."""
    out = np.full((*ids.shape, len(WORDS)), np.nan, np.float32)
    with Bar(len(ids), "pairs", "mention") as bar:
        for mention, (sentence, row) in enumerate(zip(sentences, ids, strict=True)):
            words = frozenset(_words(sentence))
            known, named = words & kb.weights.keys(), words & kb.name_weights.keys()
            for place in np.flatnonzero(row >= 0).tolist():
                shared, called = known & kb.words[row[place]], named & kb.name_words[row[place]]
                out[mention, place] = _total(shared, kb.weights), len(shared), _total(called, kb.name_weights)
            bar.update(1)
    return out


def text_length(kb: Texts, ids: np.ndarray) -> np.ndarray:
    """(M, k) float32 log(1 + words of the entity's text): more is written about what is mentioned more. NaN where the list has ended."""
    return np.where(ids >= 0, kb.lengths[ids.clip(0)], np.nan).astype(np.float32)


def _years(text: str) -> list[int]:
    return [int(year) for year in _YEAR.findall(text)]


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _weights(words: Collection[frozenset[str]]) -> Mapping[str, float]:
    """log(entities / entities that have it) of each word."""
    counts = Counter(word for own in words for word in own)
    return {word: math.log(len(words) / count) for word, count in counts.items()}


def _total(words: Iterable[str], weights: Mapping[str, float]) -> float:
    return math.fsum(weights[word] for word in words)

"""What is written about the entities of a KB, taken apart once for all pair functions."""

import math
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from foundation.spelling import words
from pipeline.candidates.known_names import KnownNames

_YEAR = re.compile(r"(?<!\d)(?:1\d{3}|20\d{2})(?!\d)")


def years_in(text: str) -> list[int]:
    """The numbers from 1000 to 2099 in a text."""
    return [int(year) for year in _YEAR.findall(text)]


class Texts:
    """Of N entities. table: columns name, attributes, description and, where there are any, aliases of
    entities.parquet; each is read, and taken apart, when first used.
    """

    def __init__(self, table: Mapping[str, Sequence[Any]]) -> None:
        self._table = table

    @cached_property
    def names(self) -> list[str]:
        """The names."""
        return [name or "" for name in self._table["name"]]

    @cached_property
    def aliases(self) -> Sequence[Sequence[str]] | None:
        """The further names of each; None where none has any."""
        return self._table.get("aliases")

    @cached_property
    def known_names(self) -> KnownNames:
        """Names and aliases as they are compared."""
        return KnownNames.of(self.names, self.aliases)

    @cached_property
    def texts(self) -> list[str]:
        """Attributes and description of each entity, without its name."""
        both = zip(self._table["attributes"], self._table["description"], strict=True)
        return [" ".join(filter(None, parts)) for parts in both]

    @cached_property
    def words(self) -> list[frozenset[str]]:
        """The words of each text."""
        return [frozenset(words(text)) for text in self.texts]

    @cached_property
    def name_words(self) -> list[frozenset[str]]:
        """The words of each name; aliases are not read."""
        return [frozenset(words(name)) for name in self.names]

    @cached_property
    def weights(self) -> Mapping[str, float]:
        """log(N / entities whose text has it) of each word of texts."""
        return _weights(self.words)

    @cached_property
    def name_weights(self) -> Mapping[str, float]:
        """The same of each word of names."""
        return _weights(self.name_words)

    @cached_property
    def years(self) -> np.ndarray:
        """(N, 2) float64 first and last year of each text, the last where it names two; NaN where there is none."""
        named = [years_in(text) for text in self.texts]
        return np.array(
            [(min(own, default=math.nan), max(own) if len(set(own)) > 1 else math.nan) for own in named]
        ).reshape(-1, 2)

    @cached_property
    def lengths(self) -> np.ndarray:
        """(N,) float64 log(1 + words of each text)."""
        return np.log1p([float(len(words(text))) for text in self.texts])


def _weights(words: Collection[frozenset[str]]) -> Mapping[str, float]:
    """log(sets / sets that have it) of each word."""
    counts = Counter(word for own in words for word in own)
    return {word: math.log(len(words) / count) for word, count in counts.items()}

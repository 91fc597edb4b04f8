"""What is written about the entities of a KB, taken apart once for all pair functions."""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
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

    def grown(self, table: Mapping[str, Sequence[Any]], kept: np.ndarray) -> "Texts":
        """Of the entities of `table`, which begins with those that stood at the rows `kept` here; only the others are
        taken apart."""
        now, rows, number = Texts(table), kept.tolist(), len(kept)
        fresh = Texts({name: column[number:] for name, column in table.items()})
        known = vars(self)
        for name in {"names", "texts", "words", "name_words"} & known.keys():
            vars(now)[name] = [*map(known[name].__getitem__, rows), *getattr(fresh, name)]
        for name in {"years", "lengths"} & known.keys():
            vars(now)[name] = np.concatenate([known[name][kept], getattr(fresh, name)])
        if "known_names" in known:
            vars(now)["known_names"] = known["known_names"].of_entities(kept).joined(fresh.known_names)
        for name, counts in {"words": "counts", "name_words": "name_counts"}.items():
            if counts in known:
                gone = np.setdiff1d(np.arange(len(known[name])), kept)
                changed = Counter(known[counts])
                changed.subtract(word for row in gone.tolist() for word in known[name][row])
                changed.update(word for own in getattr(fresh, name) for word in own)
                vars(now)[counts] = +changed
        return now

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
    def counts(self) -> Counter[str]:
        """The number of entities whose text has a word."""
        return Counter(word for own in self.words for word in own)

    @cached_property
    def name_counts(self) -> Counter[str]:
        """The number of entities whose name has a word."""
        return Counter(word for own in self.name_words for word in own)

    @cached_property
    def weights(self) -> Mapping[str, float]:
        """log(N / entities whose text has it) of each word of texts."""
        return _weights(self.counts, len(self.words))

    @cached_property
    def name_weights(self) -> Mapping[str, float]:
        """The same of each word of names."""
        return _weights(self.name_counts, len(self.name_words))

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


def _weights(counts: Mapping[str, int], entities: int) -> Mapping[str, float]:
    """log(entities / those that have it) of each word."""
    return {word: math.log(entities / count) for word, count in counts.items()}

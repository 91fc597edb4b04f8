"""What is written about the entities of a KB, taken apart once for all pair functions."""

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from pipeline.candidates.known_names import HeldNames, NamePiece
from pipeline.datasets.prepared import pieces
from pipeline.pairs.word_sets import WordSets, lengths

_YEAR = re.compile(r"(?<!\d)(?:1\d{3}|20\d{2})(?!\d)")


def years_in(text: str) -> list[int]:
    """The numbers from 1000 to 2099 in a text."""
    return [int(year) for year in _YEAR.findall(text)]


class Texts:
    """Of N entities. table: columns name, attributes, description and, where there are any, aliases of
    entities.parquet; each is read, and taken apart, when first used. Texts are read in pieces, and none is kept.
    """

    def __init__(self, table: Mapping[str, Sequence[Any]]) -> None:
        self._table = table

    def grown(self, table: Mapping[str, Sequence[Any]], kept: np.ndarray) -> "Texts":
        """Of the entities of `table`, which begins with those that stood at the rows `kept` here; only the others are
        taken apart."""
        now, number = Texts(table), len(kept)
        fresh = Texts({name: column[number:] for name, column in table.items()})
        known = vars(self)
        for name in {"years", "lengths"} & known.keys():
            vars(now)[name] = np.concatenate([known[name][kept], getattr(fresh, name)])
        if "known_names" in known:
            vars(now)["known_names"] = known["known_names"].changed(kept, fresh._spelled())
        for name, texts in {"words": fresh.texts, "name_words": fresh.entity_names}.items():
            if name in known:
                stayed: WordSets = known[name].taken(kept)
                vars(now)[name] = stayed.joined(WordSets.of(texts(), stayed))
        return now

    def texts(self) -> Iterator[str]:
        """Attributes and description of each entity, without its name."""
        for piece in pieces(self._table, ("attributes", "description")):
            for parts in zip(piece["attributes"], piece["description"], strict=True):
                yield " ".join(filter(None, parts))

    def entity_names(self) -> Iterable[str]:
        """The name of each entity."""
        for piece in pieces(self._table, ("name",)):
            yield from (name or "" for name in piece["name"])

    def _spelled(self) -> Iterator[NamePiece]:
        """Names and aliases, in pieces."""
        for piece in pieces(self._table, ("name", "aliases") if "aliases" in self._table else ("name",)):
            yield [name or "" for name in piece["name"]], piece.get("aliases")

    @cached_property
    def known_names(self) -> HeldNames:
        """Names and aliases as they are compared."""
        return HeldNames.of(self._spelled())

    @cached_property
    def words(self) -> WordSets:
        """The words of each text."""
        return WordSets.of(self.texts())

    @cached_property
    def name_words(self) -> WordSets:
        """The words of each name; aliases are not read."""
        return WordSets.of(self.entity_names())

    @cached_property
    def years(self) -> np.ndarray:
        """(N, 2) float64 first and last year of each text, the last where it names two; NaN where there is none."""
        ends = (_ends(years_in(text)) for text in self.texts())
        return np.fromiter(ends, np.dtype((np.float64, 2)))

    @cached_property
    def lengths(self) -> np.ndarray:
        """(N,) float64 log(1 + words of each text)."""
        return lengths(self.texts())


def _ends(years: Sequence[int]) -> tuple[float, float]:
    return min(years, default=math.nan), max(years) if len(set(years)) > 1 else math.nan

"""The names of a KB's entities, aliases among them, in the spelling that they are compared in."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from foundation.spelling import clean, clean_accented

Places = tuple[np.ndarray, np.ndarray]  # places of phrases (n,) and, beside them, of names or entities (n,)


@dataclass(frozen=True)
class Spelling:
    """A phrase or name as it is compared: clean, and written, which keeps accents."""

    clean: str
    written: str

    @classmethod
    def of(cls, text: str) -> "Spelling":
        cleaned = clean(text)
        return cls(cleaned, cleaned if text.isascii() else clean_accented(text))

    @property
    def accented(self) -> bool:
        return self.clean != self.written


@dataclass(frozen=True)
class KnownNames:
    """The S names of N entities, those of an entity side by side.

    clean, written: the names as they are compared. accented (S,): where the two differ. owner (S,): row of the entity.
    start (N,): place of an entity's first name.
    """

    clean: list[str]
    written: list[str]
    accented: np.ndarray
    owner: np.ndarray
    start: np.ndarray

    @classmethod
    def of(cls, names: Sequence[str], aliases: Sequence[Sequence[str]] | None) -> "KnownNames":
        """Names that are equal once cleaned count once; so do aliases of which nothing is left."""
        spellings: list[Spelling] = []
        counts: list[int] = []
        for row, name in enumerate(names):
            others = [Spelling.of(alias) for alias in (aliases[row] or () if aliases is not None else ())]
            own = dict.fromkeys([Spelling.of(name), *(other for other in others if other.clean)])
            spellings += own
            counts.append(len(own))
        return cls(
            clean=[spelling.clean for spelling in spellings],
            written=[spelling.written for spelling in spellings],
            accented=np.array([spelling.accented for spelling in spellings], bool),
            owner=np.repeat(np.arange(len(counts)), counts),
            start=np.cumsum([0, *counts[:-1]]) if counts else np.empty(0, np.int64),
        )

    def of_entities(self, rows: np.ndarray) -> "KnownNames":
        """Those of the entities at `rows` (m,)."""
        counts = self.counts[rows]
        start = np.cumsum(counts) - counts
        places = np.repeat(self.start[rows] - start, counts) + np.arange(counts.sum())
        listed = places.tolist()
        return KnownNames(
            clean=[self.clean[place] for place in listed],
            written=[self.written[place] for place in listed],
            accented=self.accented[places],
            owner=np.repeat(np.arange(len(rows)), counts),
            start=start,
        )

    def joined(self, more: "KnownNames") -> "KnownNames":
        """These, and behind them those of further entities."""
        return KnownNames(
            clean=[*self.clean, *more.clean],
            written=[*self.written, *more.written],
            accented=np.concatenate([self.accented, more.accented]),
            owner=np.concatenate([self.owner, more.owner + len(self.start)]),
            start=np.concatenate([self.start, more.start + len(self.owner)]),
        )

    @cached_property
    def counts(self) -> np.ndarray:
        """(N,) names of each entity."""
        return np.diff(self.start, append=len(self.owner))

    def best(self, scores: np.ndarray) -> np.ndarray:
        """(b, N) of each entity's best name. scores: (b, S)."""
        return scores if len(self.start) == len(self.owner) else np.maximum.reduceat(scores, self.start, axis=1)

    def names_of(self, first: np.ndarray, entity: np.ndarray) -> Places:
        """Each phrase of pairs (phrase, entity), beside each name of the entity."""
        counts = self.counts[entity]
        pair = np.repeat(np.arange(len(entity)), counts)
        within = np.arange(len(pair)) - np.repeat(np.cumsum(counts) - counts, counts)
        return first[pair], self.start[entity][pair] + within

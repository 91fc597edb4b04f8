"""The names of a KB's entities, aliases among them, in the spelling that they are compared in."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import repeat

import numpy as np
import pyarrow as pa

from foundation.spelling import clean, clean_accented
from pipeline.datasets.arrow_columns import ArrowColumn

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
    def of(cls, names: Sequence[str], aliases: Sequence[Sequence[str] | None] | None) -> "KnownNames":
        """Names that are equal once cleaned count once; so do aliases of which nothing is left."""
        spellings: list[Spelling] = []
        counts: list[int] = []
        for name, further in zip(names, repeat(()) if aliases is None else aliases, strict=aliases is not None):
            others = [Spelling.of(alias) for alias in further or ()]
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


NamePiece = tuple[Sequence[str], Sequence[Sequence[str] | None] | None]
"""Names and aliases of some entities."""


@dataclass(frozen=True)
class HeldNames:
    """The S names of N entities as Arrow columns, out of which those of some entities are `KnownNames`.

    clean, written: see `KnownNames`; written is None where it is the same. counts: (N,) int32 names of each entity.
    """

    clean: ArrowColumn
    written: ArrowColumn
    counts: np.ndarray

    @classmethod
    def of(cls, pieces: Iterable[NamePiece]) -> "HeldNames":
        """Of pieces that are asked for one after another."""
        clean, written, counts = list[pa.Array](), list[pa.Array](), [np.zeros(0, np.int32)]
        for names, aliases in pieces:
            known = KnownNames.of(names, aliases)
            clean.append(pa.array(known.clean, pa.string()))
            written.append(pa.array(known.written, pa.string(), mask=~known.accented))
            counts.append(known.counts.astype(np.int32))
        return cls(ArrowColumn(clean), ArrowColumn(written), np.concatenate(counts))

    @cached_property
    def _start(self) -> np.ndarray:
        """(N,) place of an entity's first name."""
        found: np.ndarray = np.cumsum(self.counts, dtype=np.int64) - self.counts
        return found

    @property
    def owner(self) -> np.ndarray:
        """(S,) row of the entity that has each name."""
        return np.repeat(np.arange(len(self.counts)), self.counts)

    def _places(self, rows: np.ndarray) -> np.ndarray:
        """Of the names of the entities at `rows` (m,)."""
        counts = self.counts[rows]
        start = np.cumsum(counts) - counts
        return np.repeat(self._start[rows] - start, counts) + np.arange(counts.sum())

    def of_entities(self, rows: np.ndarray) -> KnownNames:
        """Those of the entities at `rows` (m,)."""
        places, counts = self._places(rows), self.counts[rows]
        clean, other = self.clean.at(places), self.written.at(places)
        return KnownNames(
            clean,
            written=[plain if text is None else text for plain, text in zip(clean, other, strict=True)],
            accented=np.array([text is not None for text in other], bool),
            owner=np.repeat(np.arange(len(rows)), counts),
            start=np.cumsum(counts, dtype=np.int64) - counts,
        )

    def changed(self, kept: np.ndarray, more: Iterable[NamePiece]) -> "HeldNames":
        """Those of the entities at `kept` (m,) and, behind them, of further ones."""
        places, fresh = self._places(kept), HeldNames.of(more)
        clean, written = self.clean.changed(places, fresh.clean[:]), self.written.changed(places, fresh.written[:])
        return HeldNames(clean, written, np.concatenate([self.counts[kept], fresh.counts]))

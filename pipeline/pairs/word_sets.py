"""The words of many texts as numbers: a few bytes for each word of a text, and each distinct word once."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import islice

import numpy as np

from foundation.spelling import words

PIECE = 8192
"""Texts whose words are Python objects at a time."""


@dataclass(frozen=True)
class WordSets:
    """The distinct words of each of N texts.

    number: each distinct word → its number. ends: (N,) int64 where the words of each text end in `words` (Σ,) int32,
    their numbers.
    """

    number: dict[str, int]
    ends: np.ndarray
    words: np.ndarray

    @classmethod
    def of(cls, texts: Iterable[str], known: "WordSets | None" = None) -> "WordSets":
        """Of these texts, which are asked for one after another. known: sets whose words keep their numbers."""
        number, several = dict(known.number) if known else {}, iter(texts)
        lengths, numbers = [np.zeros(0, np.int64)], [np.zeros(0, np.int32)]
        while piece := list(islice(several, PIECE)):
            own = [frozenset(words(text)) for text in piece]
            lengths.append(np.array([len(each) for each in own], np.int64))
            numbers.append(np.array([number.setdefault(word, len(number)) for each in own for word in each], np.int32))
        return cls(number, np.concatenate(lengths).cumsum(), np.concatenate(numbers))

    def __len__(self) -> int:
        return len(self.ends)

    @cached_property
    def weights(self) -> np.ndarray:
        """float64 of each word's number: log(N / texts that have it); NaN where none has."""
        counts = np.bincount(self.words, minlength=len(self.number))
        distinct, of = np.unique(counts, return_inverse=True)
        logs = [math.log(len(self) / count) if count else math.nan for count in distinct.tolist()]
        return np.array(logs, np.float64)[of]

    def at(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The words of the texts `rows` (n,), one text's after another's, and how many each has (n,)."""
        count = np.diff(self.ends, prepend=0)[rows] if len(rows) > len(self) // 8 else self._counts(rows)
        first = self.ends[rows] - count
        places = np.repeat(first - (count.cumsum() - count), count) + np.arange(int(count.sum()))
        return self.words[places], count

    def _counts(self, rows: np.ndarray) -> np.ndarray:
        return self.ends[rows] - np.where(rows > 0, self.ends[rows - 1], 0)

    def shared(self, sentence: Iterable[str], rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Summed weights (n,) float64 of the words that each text of `rows` (n,) shares with a sentence's words, and
        (n,) int64 how many these are."""
        wanted = [self.number[word] for word in sentence if word in self.number]
        found, count = self.at(rows)
        hits = np.flatnonzero(np.isin(found, wanted))
        text = np.repeat(np.arange(len(rows)), count)[hits]
        weights, number = self.weights[found[hits]], np.bincount(text, minlength=len(rows))
        sums = np.bincount(text, weights, minlength=len(rows))
        # A sum of two is rounded once. One of more is, too, whatever the order of its words.
        for row in np.flatnonzero(number > 2).tolist():
            sums[row] = math.fsum(weights[slice(*np.searchsorted(text, [row, row + 1]))])
        return sums, number

    def taken(self, rows: np.ndarray) -> "WordSets":
        """Of the texts at `rows` (m,)."""
        numbers, count = self.at(rows)
        return WordSets(self.number, count.cumsum(), numbers)

    def joined(self, more: "WordSets") -> "WordSets":
        """Of these texts and, behind them, of more, whose words are numbered on from these (see `of`)."""
        last = self.ends[-1] if len(self) else 0
        ends = np.concatenate([self.ends, more.ends + last])
        return WordSets(more.number, ends, np.concatenate([self.words, more.words]))


def lengths(texts: Iterable[str]) -> np.ndarray:
    """(N,) float64 log(1 + words of each text)."""
    return np.log1p(np.fromiter((float(len(words(text))) for text in texts), np.float64))

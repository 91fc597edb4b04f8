"""Pair feature `word_overlap`: the words that the sentence shares with the entity's text and name."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from foundation.progress import Bar
from foundation.spelling import words
from pipeline.pairs.base import CandidatePairs, PairFunction


class WordOverlap(PairFunction):
    """Words (`foundation.spelling.words`) that the sentence, without its phrase, shares with the entity; each counts
    once.

    shared: summed weights of those in the entity's text. number: how many there are. name: summed weights of those in
    its name. The weight of a word is log(entities / entities that have it).
    """

    name = "word_overlap"
    VERSION = 2
    names = ("shared", "number", "name")

    def __call__(self, pairs: CandidatePairs) -> np.ndarray:
        ids, kb = pairs.ids, pairs.kb
        out = np.full((*ids.shape, len(self.names)), np.nan, np.float32)
        with Bar(len(ids), "pairs", "mention") as bar:
            for mention, (sentence, row) in enumerate(zip(around(pairs.mentions), ids, strict=True)):
                own = frozenset(words(sentence))
                in_texts, in_names = own & kb.weights.keys(), own & kb.name_weights.keys()
                for place in np.flatnonzero(row >= 0).tolist():
                    shared, named = in_texts & kb.words[row[place]], in_names & kb.name_words[row[place]]
                    out[mention, place] = _total(shared, kb.weights), len(shared), _total(named, kb.name_weights)
                bar.update(1)
        return out


def around(mentions: Mapping[str, Sequence[Any]]) -> list[str]:
    """Each sentence without its phrase; whole where the phrase is not in it. mentions: see `CandidatePairs`."""
    rows = zip(mentions["sentence"], mentions["start"], mentions["end"], strict=True)
    return [
        sentence or "" if start is None or start < 0 else f"{sentence[:start]} {sentence[end:]}"
        for sentence, start, end in rows
    ]


def _total(words: Iterable[str], weights: Mapping[str, float]) -> float:
    return math.fsum(weights[word] for word in words)


WORD_OVERLAP = WordOverlap()

"""Pair feature `word_overlap`: the words that the sentence shares with the entity's text and name."""

from collections.abc import Mapping, Sequence
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
                own, listed = frozenset(words(sentence)), np.flatnonzero(row >= 0)
                shared, number = kb.words.shared(own, row[listed])
                named, _ = kb.name_words.shared(own, row[listed])
                out[mention, listed] = np.stack([shared, number, named], 1)
                bar.update(1)
        return out


def around(mentions: Mapping[str, Sequence[Any]]) -> list[str]:
    """Each sentence without its phrase; whole where the phrase is not in it. mentions: see `CandidatePairs`."""
    rows = zip(mentions["sentence"], mentions["start"], mentions["end"], strict=True)
    return [
        sentence or "" if start is None or start < 0 else f"{sentence[:start]} {sentence[end:]}"
        for sentence, start, end in rows
    ]


WORD_OVERLAP = WordOverlap()

"""Pair feature `name_similarity`: how alike the phrase and the entity's names are."""

import numpy as np

from foundation.spelling import clean
from pipeline.pairs._blocks import blocks
from pipeline.pairs.base import CandidatePairs, PairFunction


class NameSimilarity(PairFunction):
    """Similarities by rapidfuzz of cleaned strings (`foundation.spelling.clean`: letters and digits, without case and
    accents), each from 0 to 1; equal is 1 or 0. Of an entity with aliases, each is the highest over its names.
    """

    name = "name_similarity"
    VERSION = 2
    names = ("ratio", "partial_ratio", "token_sort_ratio", "token_set_ratio", "jaro_winkler", "equal")

    def __call__(self, pairs: CandidatePairs) -> np.ndarray:
        ids, kb = pairs.ids, pairs.kb
        ours = [clean(phrase) for phrase in pairs.mentions["phrase"]]
        out = np.full((*ids.shape, len(self.names)), np.nan, np.float32)
        for block in blocks(ids, 256):
            row, column = np.nonzero(ids[block] >= 0)
            if not len(row):
                continue
            entities, entity = np.unique(ids[block][row, column], return_inverse=True)
            known, many = kb.known_names.of_entities(entities), len(entities)
            places, inverse = np.unique((row + block.start) * many + entity, return_inverse=True)
            phrases, names = known.names_of(places // many, places % many)
            left, right = [ours[i] for i in phrases.tolist()], [known.clean[i] for i in names.tolist()]
            first = np.flatnonzero(np.diff(phrases * many + known.owner[names], prepend=-1))
            for number, measure in enumerate(self.names):
                of_names = _similarities(measure, left, right, pairs.workers)
                out[block][row, column, number] = np.maximum.reduceat(of_names, first)[inverse]
        return out


def _similarities(measure: str, left: list[str], right: list[str], workers: int) -> np.ndarray:
    """(n,) float32 of the strings side by side."""
    from rapidfuzz import fuzz, process
    from rapidfuzz.distance import JaroWinkler

    if measure == "equal":
        return np.fromiter(map(str.__eq__, left, right), np.float32, len(left))
    jaro = measure == "jaro_winkler"
    scorer = JaroWinkler.normalized_similarity if jaro else getattr(fuzz, measure)
    scores = process.cpdist(left, right, scorer=scorer, dtype=np.float32, workers=workers)
    return scores / np.float32(1 if jaro else 100)


NAME_SIMILARITY = NameSimilarity()

"""The order of the KB's names by their similarity to a phrase (rapidfuzz): the first ones, and the rank of any."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from rapidfuzz import fuzz, process
from rapidfuzz.utils import default_process

from foundation.errors import UserError, nearest
from foundation.progress import Bar
from pipeline.candidates.contracts import SCORERS
from pipeline.candidates.lists import RankedLists, contenders, id_order

BLOCK_BYTES = 64 << 20  # of scores held at a time
PAIRS = 1 << 20  # pairs given to rapidfuzz at a time

Places = tuple[np.ndarray, np.ndarray]  # places of phrases (n,) and, beside them, of names (n,)


@dataclass(frozen=True)
class NameRanking:
    """The order of N entities for a phrase, by their names.

    Strings are compared after rapidfuzz's `default_process` (lower case, letters and digits only). The order is total:
    score of the rapidfuzz scorer, then `fuzz.ratio`, both descending and as float32, then the entity's id as a string.

    names, ids: (N,) of the entities. workers: threads, -1 for one per core. Methods raise `UserError` for an unknown
    scorer.
    """

    names: Sequence[str]
    ids: Sequence[str]
    scorer: str = SCORERS[0]
    workers: int = -1

    @cached_property
    def _cleaned(self) -> list[str]:
        return [default_process(name) for name in self.names]

    @cached_property
    def _id_order(self) -> np.ndarray:
        return id_order(self.ids)

    def lists(self, phrases: Sequence[str], k: int) -> RankedLists:
        """The k most similar entities of each of M phrases, exactly as if every pair had been scored.

        Pairs that score 0 are no candidates. Equal phrases are scored once.
        """
        cleaned = [default_process(phrase) for phrase in phrases]
        number = {phrase: place for place, phrase in enumerate(dict.fromkeys(cleaned))}
        distinct = list(number)
        lists = RankedLists.empty(len(distinct), k)
        with Bar(len(distinct), "candidates by name", "phrase") as bar:
            for begin, scores in self._blocks(distinct):
                best = [contenders(row, k) for row in scores]
                first = np.repeat(np.arange(len(scores)), [len(names) for names in best])
                second = np.concatenate(best)
                values, ratios = scores[first, second], self._pairs(distinct, fuzz.ratio, (begin + first, second))
                order = np.lexsort((self._id_order[second], -ratios, -values, first))
                lists.fill(begin, first[order], second[order], values[order])
                bar.update(len(scores))
        return lists.rows(np.array([number[phrase] for phrase in cleaned], np.int64))

    def ranks(self, phrases: Sequence[str], gold: np.ndarray) -> np.ndarray:
        """(M,) int64 rank from 1 of each phrase's gold (M,) >= 0 in the order, which goes on below a score of 0 by
        ratio and id.
        """
        cleaned = [default_process(phrase) for phrase in phrases]
        rows_of: dict[str, list[int]] = {}
        for row, phrase in enumerate(cleaned):
            rows_of.setdefault(phrase, []).append(row)
        distinct = list(rows_of)
        ranks, order = np.zeros(len(gold), np.int64), self._id_order
        for begin, scores in self._blocks(distinct):
            for place, values in enumerate(scores, begin):
                for row in rows_of[distinct[place]]:
                    entity = int(gold[row])
                    tied = np.flatnonzero(values == values[entity])
                    ratios = self._pairs(distinct, fuzz.ratio, (np.full(len(tied), place), tied))
                    own = ratios[tied == entity]
                    before = (ratios > own) | ((ratios == own) & (order[tied] < order[entity]))
                    ranks[row] = 1 + int((values > values[entity]).sum()) + int(before.sum())
        return ranks

    def _blocks(self, phrases: list[str]) -> Iterator[tuple[int, np.ndarray]]:
        """(place of the first phrase, scores (b, N) float32) of cleaned phrases with all names, in blocks of bounded
        memory.
        """
        if self.scorer not in SCORERS:
            raise UserError(f"--scorer {self.scorer!r} is unknown{nearest(self.scorer, SCORERS)}")
        if not self.names:
            return
        rows = max(1, BLOCK_BYTES // (4 * len(self.names)))
        if self.scorer == "token_set_ratio":
            yield from self._token_set_blocks(phrases, rows)
            return
        for begin in range(0, len(phrases), rows):
            yield begin, self._every_pair(phrases[begin : begin + rows], self._cleaned, getattr(fuzz, self.scorer))

    def _token_set_blocks(self, phrases: list[str], rows: int) -> Iterator[tuple[int, np.ndarray]]:
        """Blocks of token_set_ratio, equal to scoring every pair with it.

        Without a common token token_set_ratio is the ratio of the sorted distinct tokens, which rapidfuzz computes for
        many pairs at once (fifty times faster). Only the few pairs with a common token need the scorer itself.
        """
        sharing = _Postings(self._cleaned).sharing
        ordered_phrases, ordered_names = _sorted_tokens(phrases), _sorted_tokens(self._cleaned)
        blank = np.array([not name for name in ordered_names])
        for begin in range(0, len(phrases), rows):
            scores = self._every_pair(ordered_phrases[begin : begin + rows], ordered_names, fuzz.ratio)
            scores[:, blank] = 0  # two empty strings have ratio 100 and nothing in common
            shared = [sharing(phrase) for phrase in phrases[begin : begin + rows]]
            first = np.repeat(np.arange(len(shared)), [len(names) for names in shared])
            second = np.concatenate(shared)
            scores[first, second] = self._pairs(phrases, fuzz.token_set_ratio, (begin + first, second))
            yield begin, scores

    def _every_pair(self, phrases: list[str], names: list[str], scorer: Callable[..., float]) -> np.ndarray:
        """(b, N) float32."""
        return process.cdist(phrases, names, scorer=scorer, dtype=np.float32, workers=self.workers)

    def _pairs(self, phrases: list[str], scorer: Callable[..., float], pairs: Places) -> np.ndarray:
        """(n,) float32 scores of single pairs of cleaned strings, in pieces of bounded memory."""
        out = np.empty(len(pairs[0]), np.float32)
        for begin in range(0, len(out), PAIRS):
            first, second = (places[begin : begin + PAIRS].tolist() for places in pairs)
            left, right = [phrases[place] for place in first], [self._cleaned[place] for place in second]
            out[begin : begin + PAIRS] = process.cpdist(
                left, right, scorer=scorer, dtype=np.float32, workers=self.workers
            )
        return out


def _sorted_tokens(texts: list[str]) -> list[str]:
    """Each text's distinct tokens in order."""
    return [" ".join(sorted(set(text.split()))) for text in texts]


class _Postings:
    """For every token the names that contain it."""

    def __init__(self, names: Sequence[str]) -> None:
        lists: dict[str, list[int]] = {}
        for row, name in enumerate(names):
            for token in set(name.split()):
                lists.setdefault(token, []).append(row)
        self.rows = {token: np.array(rows, np.int32) for token, rows in lists.items()}

    def sharing(self, phrase: str) -> np.ndarray:
        """Rows of the names with at least one token of the phrase, ascending."""
        listed = [self.rows[token] for token in set(phrase.split()) if token in self.rows]
        return np.unique(np.concatenate(listed)) if listed else np.empty(0, np.int32)

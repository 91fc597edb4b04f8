"""The order of the KB's names by their similarity to a phrase (rapidfuzz): the first ones, and the rank of any."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from rapidfuzz import fuzz, process

from foundation.errors import UserError, nearest
from foundation.progress import Bar
from pipeline.candidates.contracts import SCORERS
from pipeline.candidates.known_names import KnownNames, Places, Spelling
from pipeline.candidates.lists import RankedLists, contenders, id_order

BLOCK_BYTES = 64 << 20  # of scores held at a time
PAIRS = 1 << 20  # pairs given to rapidfuzz at a time


@dataclass(frozen=True)
class NameOrder:
    """The order of entities behind a phrase, see `NameRanking`.

    known: the names of N entities. ids: (N,) of the entities. scorer: of rapidfuzz. workers: threads, -1 for one per
    core. Methods raise `UserError` for an unknown scorer.
    """

    known: KnownNames
    ids: Sequence[str]
    scorer: str
    workers: int

    @cached_property
    def _id_order(self) -> np.ndarray:
        return id_order(self.ids)

    @property
    def measure(self) -> Callable[..., float]:
        """The function of rapidfuzz that scores a pair of strings."""
        if self.scorer not in SCORERS:
            raise UserError(f"--scorer {self.scorer!r} is unknown{nearest(self.scorer, SCORERS)}")
        scorer: Callable[..., float] = getattr(fuzz, self.scorer)
        return scorer

    def ordered(
        self, phrases: list[Spelling], scores: np.ndarray, pairs: Places, turn: np.ndarray | None = None
    ) -> Places:
        """The pairs of phrases and entities by phrase, best first.

        scores: (b, S) of the phrases with all names. turn: (N,) whole numbers; of entities with the same score, also as
        written, those with the phrase as a name come first, then those with a smaller number. None: no second key.
        """
        first, second = self.known.names_of(*pairs)
        values, known = scores[first, second], self.known
        ratios = self.scores([phrase.clean for phrase in phrases], known.clean, fuzz.ratio, (first, second))
        accented = np.array([phrase.accented for phrase in phrases])
        other = np.flatnonzero(accented[first] | known.accented[second])
        same, same_ratios = values.copy(), ratios.copy()  # as written; different only where either has accents
        written = [phrase.written for phrase in phrases], known.written
        for of_pairs, scorer in ((same, self.measure), (same_ratios, fuzz.ratio)):
            of_pairs[other] = self.scores(*written, scorer, (first[other], second[other]))
        entity = known.owner[second]
        keys = [self._id_order[entity], -same_ratios, -ratios, -same, -values, first]
        if turn is not None:
            keys[3:3] = [turn[entity], ratios < 100]
        order = np.lexsort(keys)
        first, entity = first[order], entity[order]
        if len(known.owner) > len(known.start):  # of several names of an entity, the first counts
            _, kept = np.unique(first * len(known.start) + entity, return_index=True)
            kept.sort()
            first, entity = first[kept], entity[kept]
        return first, entity

    def every_score(self, phrases: list[str], names: list[str], scorer: Callable[..., float]) -> np.ndarray:
        """(b, N) float32 of all pairs of strings."""
        return process.cdist(phrases, names, scorer=scorer, dtype=np.float32, workers=self.workers)

    def scores(self, phrases: list[str], names: list[str], scorer: Callable[..., float], pairs: Places) -> np.ndarray:
        """(n,) float32 of single pairs of strings, in pieces of bounded memory."""
        out = np.empty(len(pairs[0]), np.float32)
        for begin in range(0, len(out), PAIRS):
            first, second = (places[begin : begin + PAIRS].tolist() for places in pairs)
            left, right = [phrases[place] for place in first], [names[place] for place in second]
            out[begin : begin + PAIRS] = process.cpdist(
                left, right, scorer=scorer, dtype=np.float32, workers=self.workers
            )
        return out


@dataclass(frozen=True)
class NameRanking:
    """The order of N entities for a phrase, by their names.

    Strings are compared folded, letters and digits only (`foundation.spelling.clean`). Of an entity with aliases, the
    one of its names that comes first counts. The order is total: score of the rapidfuzz scorer; its score as written,
    which decides between `Muller` and `Müller`; `fuzz.ratio`, then as written; all descending and as float32; then the
    entity's id as a string.

    names, ids: (N,) of the entities. workers: threads, -1 for one per core. aliases: (N,) further names of each, None
    where none has any. Methods raise `UserError` for an unknown scorer.
    """

    names: Sequence[str]
    ids: Sequence[str]
    scorer: str = SCORERS[0]
    workers: int = -1
    aliases: Sequence[Sequence[str]] | None = None

    @cached_property
    def _order(self) -> NameOrder:
        return NameOrder(KnownNames.of(self.names, self.aliases), self.ids, self.scorer, self.workers)

    @property
    def _known(self) -> KnownNames:
        return self._order.known

    @cached_property
    def _postings(self) -> "_Postings":
        return _Postings(self._known.clean)

    @cached_property
    def _ordered_names(self) -> list[str]:
        return _sorted_tokens(self._known.clean)

    def lists(self, phrases: Sequence[str], k: int) -> RankedLists:
        """The k most similar entities of each of M phrases, exactly as if every pair had been scored.

        Pairs that score 0 are no candidates. Equal phrases are scored once.
        """
        spellings = [Spelling.of(phrase) for phrase in phrases]
        number = {spelling: place for place, spelling in enumerate(dict.fromkeys(spellings))}
        distinct = list(number)
        lists = RankedLists.empty(len(distinct), k)
        with Bar(len(distinct), "candidates by name", "phrase") as bar:
            for begin, scores in self._blocks(distinct):
                best = self._known.best(scores)
                chosen = [contenders(row, k) for row in best]
                first = np.repeat(np.arange(len(best)), [len(entities) for entities in chosen])
                ordered = self._order.ordered(
                    distinct[begin : begin + len(scores)], scores, (first, np.concatenate(chosen))
                )
                lists.fill(begin, *ordered, best[ordered])
                bar.update(len(scores))
        return lists.rows(np.array([number[spelling] for spelling in spellings], np.int64))

    def ranks(self, phrases: Sequence[str], gold: np.ndarray) -> np.ndarray:
        """(M,) int64 rank from 1 of each phrase's gold (M,) >= 0 in the order, which goes on below a score of 0 by
        ratio and id.
        """
        rows_of: dict[Spelling, list[int]] = {}
        for row, phrase in enumerate(phrases):
            rows_of.setdefault(Spelling.of(phrase), []).append(row)
        distinct, ranks = list(rows_of), np.zeros(len(gold), np.int64)
        for begin, scores in self._blocks(distinct):
            best, block = self._known.best(scores), distinct[begin : begin + len(scores)]
            for place, values in enumerate(best):
                for row in rows_of[block[place]]:
                    entity = int(gold[row])
                    tied = np.flatnonzero(values == values[entity])
                    _, order = self._order.ordered(
                        [block[place]], scores[[place]], (np.zeros(len(tied), np.int64), tied)
                    )
                    ranks[row] = 1 + int((values > values[entity]).sum()) + int(np.flatnonzero(order == entity)[0])
        return ranks

    def _blocks(self, spellings: list[Spelling]) -> Iterator[tuple[int, np.ndarray]]:
        """(place of the first phrase, scores (b, S) float32) of phrases with all names, in blocks of bounded memory."""
        scorer = self._order.measure
        if not self.names:
            return
        phrases, names = [spelling.clean for spelling in spellings], self._known.clean
        rows = max(1, BLOCK_BYTES // (4 * len(names)))
        if self.scorer == "token_set_ratio":
            yield from self._token_set_blocks(phrases, rows)
            return
        for begin in range(0, len(phrases), rows):
            yield begin, self._order.every_score(phrases[begin : begin + rows], names, scorer)

    def _token_set_blocks(self, phrases: list[str], rows: int) -> Iterator[tuple[int, np.ndarray]]:
        """Blocks of token_set_ratio, equal to scoring every pair with it.

        Without a common token token_set_ratio is the ratio of the sorted distinct tokens, which rapidfuzz computes for
        many pairs at once (fifty times faster). Only the few pairs with a common token need the scorer itself.
        """
        names = self._known.clean
        sharing = self._postings.sharing
        ordered_phrases, ordered_names = _sorted_tokens(phrases), self._ordered_names
        blank = np.array([not name for name in ordered_names])
        for begin in range(0, len(phrases), rows):
            scores = self._order.every_score(ordered_phrases[begin : begin + rows], ordered_names, fuzz.ratio)
            scores[:, blank] = 0  # two empty strings have ratio 100 and nothing in common
            shared = [sharing(phrase) for phrase in phrases[begin : begin + rows]]
            first = np.repeat(np.arange(len(shared)), [len(names) for names in shared])
            second = np.concatenate(shared)
            scores[first, second] = self._order.scores(phrases, names, fuzz.token_set_ratio, (begin + first, second))
            yield begin, scores


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

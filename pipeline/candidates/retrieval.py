"""Retrieval: the entities most like each mention, by name or by cached vectors, in a total order."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from rapidfuzz import fuzz, process
from rapidfuzz.utils import default_process

from cache.table import Table
from foundation.errors import UserError
from foundation.progress import Bar

SCORERS = ("token_set_ratio", "token_sort_ratio", "ratio", "partial_ratio", "WRatio")
_BLOCK_BYTES = 64 << 20  # of scores held at a time
_PAIRS = 1 << 20  # pairs given to rapidfuzz at a time
ENTITY_BLOCK = 1 << 16


@dataclass
class Lists:
    """Candidates of M mentions, best first. ids: (M, k) int32 rows of the entities, -1 where a list ends; scores: (M, k) float32, 0 there."""

    ids: np.ndarray
    scores: np.ndarray

    @classmethod
    def empty(cls, mentions: int, k: int) -> "Lists":
        return cls(np.full((mentions, k), -1, np.int32), np.zeros((mentions, k), np.float32))


def pair_scores(
    left: list[str], right: list[str], scorer: Callable, first: np.ndarray, second: np.ndarray, workers: int
) -> np.ndarray:
    """scorer(left[first[i]], right[second[i]]) as float32, in pieces of bounded memory."""
    out = np.empty(len(first), np.float32)
    for begin in range(0, len(first), _PAIRS):
        piece = slice(begin, begin + _PAIRS)
        queries, choices = [left[i] for i in first[piece].tolist()], [right[i] for i in second[piece].tolist()]
        out[piece] = process.cpdist(queries, choices, scorer=scorer, dtype=np.float32, workers=workers)
    return out


class _Postings:
    """For every token the names that contain it."""

    def __init__(self, names: Sequence[str]) -> None:
        lists: dict[str, list[int]] = {}
        for row, name in enumerate(names):
            for token in set(name.split()):
                lists.setdefault(token, []).append(row)
        self.rows = {token: np.array(rows, np.int32) for token, rows in lists.items()}

    def sharing(self, phrase: str) -> np.ndarray:
        """Names with at least one token of the phrase, ascending."""
        found = [self.rows[token] for token in set(phrase.split()) if token in self.rows]
        return np.unique(np.concatenate(found)) if found else np.empty(0, np.int32)


def _token_set_blocks(
    phrases: list[str], names: list[str], rows: int, workers: int
) -> Iterator[tuple[int, np.ndarray]]:
    """Blocks of token_set_ratio, equal to scoring every pair with it.

    Without a common token token_set_ratio is the ratio of the sorted distinct tokens, which rapidfuzz computes for many pairs at once (fifty times
    faster). Only the few pairs with a common token need the scorer itself.
    """

    def ordered(text: str) -> str:
        return " ".join(sorted(set(text.split())))

    postings = _Postings(names)
    ordered_phrases, ordered_names = [ordered(phrase) for phrase in phrases], [ordered(name) for name in names]
    blank = np.array([not name for name in ordered_names])
    for begin in range(0, len(phrases), rows):
        block = phrases[begin : begin + rows]
        scores = process.cdist(
            ordered_phrases[begin : begin + rows], ordered_names, scorer=fuzz.ratio, dtype=np.float32, workers=workers
        )
        scores[:, blank] = 0  # two empty strings have ratio 100 and nothing in common
        shared = [postings.sharing(phrase) for phrase in block]
        first = np.repeat(np.arange(len(block)), [len(found) for found in shared])
        second = np.concatenate(shared) if shared else np.empty(0, np.int32)
        scores[first, second] = pair_scores(block, names, fuzz.token_set_ratio, first, second, workers)
        yield begin, scores


def _plain_blocks(
    phrases: list[str], names: list[str], rows: int, workers: int, scorer: Callable
) -> Iterator[tuple[int, np.ndarray]]:
    for begin in range(0, len(phrases), rows):
        yield (
            begin,
            process.cdist(phrases[begin : begin + rows], names, scorer=scorer, dtype=np.float32, workers=workers),
        )


def score_blocks(phrases: list[str], names: list[str], scorer: str, workers: int) -> Iterator[tuple[int, np.ndarray]]:
    """(first phrase, scores (b, N) float32) of all pairs of cleaned strings, in blocks of bounded memory. Raises `UserError` for an unknown scorer."""
    if scorer not in SCORERS:
        raise UserError(f"unknown scorer {scorer!r}; known: {', '.join(SCORERS)}")
    rows = max(1, _BLOCK_BYTES // (4 * max(1, len(names))))
    if not names:
        return iter(())
    if scorer == "token_set_ratio":
        return _token_set_blocks(phrases, names, rows, workers)
    return _plain_blocks(phrases, names, rows, workers, getattr(fuzz, scorer))


def _contenders(scores: np.ndarray, k: int) -> np.ndarray:
    """Positions whose score is positive and not below the k-th largest of `scores` (n,): at least k where there are so many, more where the last tie."""
    threshold = np.partition(scores, len(scores) - k)[len(scores) - k] if len(scores) > k else 0
    return np.flatnonzero((scores >= threshold) & (scores > 0))


def id_order(ids: Sequence[str]) -> np.ndarray:
    """(N,) position of each id in their string order."""
    rank = np.empty(len(ids), np.int64)
    rank[sorted(range(len(ids)), key=ids.__getitem__)] = np.arange(len(ids))
    return rank


def by_name(
    phrases: Sequence[str],
    names: Sequence[str],
    ids: Sequence[str],
    k: int,
    scorer: str = "token_set_ratio",
    workers: int = -1,
) -> Lists:
    """The k entities whose names are most like each phrase, exactly as if every pair had been scored.

    Strings are compared after rapidfuzz's `default_process` (lower case, letters and digits only). Total order: score of the named rapidfuzz scorer,
    then `fuzz.ratio`, both descending and as float32, then the entity's id as a string. Pairs that score 0 are no candidates. Equal phrases are scored once.
    workers: threads, -1 for one per core. Raises `UserError` for an unknown scorer.
    """
    cleaned = [default_process(phrase) for phrase in phrases]
    distinct = {phrase: number for number, phrase in enumerate(dict.fromkeys(cleaned))}
    wanted, choices = list(distinct), [default_process(name) for name in names]
    id_rank = id_order(ids)
    lists = Lists.empty(len(wanted), k)
    with Bar(len(wanted), "candidates by name", "phrase") as bar:
        for begin, scores in score_blocks(wanted, choices, scorer, workers):
            contenders = [_contenders(row, k) for row in scores]
            first = np.repeat(np.arange(len(scores)), [len(found) for found in contenders])
            second = np.concatenate(contenders)
            values, ratios = (
                scores[first, second],
                pair_scores(wanted[begin : begin + len(scores)], choices, fuzz.ratio, first, second, workers),
            )
            order = np.lexsort((id_rank[second], -ratios, -values, first))
            _fill(lists, begin, first[order], second[order], values[order])
            bar.update(len(scores))
    back = np.array([distinct[phrase] for phrase in cleaned], np.int64)
    return Lists(lists.ids[back], lists.scores[back])


def _fill(lists: Lists, begin: int, mention: np.ndarray, entity: np.ndarray, scores: np.ndarray) -> None:
    """Put ordered triples (sorted by mention, then best first) into the rows from `begin` on, as many as fit."""
    rank = np.arange(len(mention)) - np.searchsorted(mention, mention)
    kept = rank < lists.ids.shape[1]
    place = begin + mention[kept], rank[kept]
    lists.ids[place], lists.scores[place] = entity[kept], scores[kept]


def by_name_of_type(
    phrases: Sequence[str],
    names: Sequence[str],
    types: Sequence[str | None],
    entity_types: Sequence[str | None],
    ids: Sequence[str],
    k: int,
    scorer: str = "token_set_ratio",
    workers: int = -1,
) -> Lists:
    """`by_name` among the entities of each mention's type alone; among all of them for a mention without a type.

    Types are compared without case; an entity may have several, joined by `|`; one without a type is of no mention's type. Raises `UserError` where
    no mention or no entity has a type.
    """
    for side, column in (("mention", types), ("entity", entity_types)):
        if not any(column):
            raise UserError(
                f"source name-of-type: no {side} has a type in this dataset; use the source name, or add types (docs/data.md says where)"
            )
    lists = Lists.empty(len(phrases), k)
    for among, rows in of_types(types, entity_types):
        found = by_name(
            [phrases[row] for row in rows],
            [names[row] for row in among],
            [ids[row] for row in among],
            k,
            scorer,
            workers,
        )
        if len(among):
            lists.ids[rows], lists.scores[rows] = np.where(found.ids >= 0, among[found.ids], -1), found.scores
    return lists


def of_types(types: Sequence[str | None], entity_types: Sequence[str | None]) -> Iterator[tuple[np.ndarray, list[int]]]:
    """(entities, mentions) of each type that a mention has: ascending rows; all entities for the mentions without one."""
    members: dict[str, list[int]] = {}
    for row, listed in enumerate(entity_types):
        for kind in {kind.strip().casefold() for kind in (listed or "").split("|")}:
            members.setdefault(kind, []).append(row)
    asked: dict[str | None, list[int]] = {}
    for row, kind in enumerate(types):
        asked.setdefault(kind.strip().casefold() if kind and kind.strip() else None, []).append(row)
    for kind, rows in asked.items():
        yield np.array(range(len(entity_types)) if kind is None else members.get(kind, []), np.int32), rows


def as_given(given: Sequence[Sequence[int] | None], k: int) -> Lists:
    """The first k of each mention's own candidates (rows of the entities, best first). Scores are 1 / rank."""
    lists = Lists.empty(len(given), k)
    for row, listed in enumerate(given):
        listed = (listed or ())[:k]
        lists.ids[row, : len(listed)], lists.scores[row, : len(listed)] = listed, 1 / np.arange(1, len(listed) + 1)
    return lists


def unit_rows(table: Table, index: np.ndarray) -> np.ndarray:
    vectors = np.asarray(table.gather(index), np.float32)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def by_vector(mentions: Table, entities: Table, ids: Sequence[str], k: int) -> Lists:
    """The k entities whose vectors have the largest cosine with each mention's, exactly; ties by id. float32.

    Rows without a vector have no candidates and are none. Scores are (1 + cosine) / 2, so that every neighbour scores above 0 but an exact opposite.
    """
    if mentions.shape != entities.shape or len(mentions.shape) != 1 or mentions.ragged or entities.ragged:
        found = " and ".join(
            f"{'ragged ' * table.ragged}{table.output} {table.shape}" for table in (mentions, entities)
        )
        raise UserError(
            f"dense candidates need one vector of the same width on both sides, found {found}; choose another output"
        )
    id_rank = id_order(ids)
    asked, offered = np.flatnonzero(mentions.ok), np.flatnonzero(entities.ok)
    lists = Lists.empty(len(mentions), k)
    rows = max(1, _BLOCK_BYTES // (4 * ENTITY_BLOCK))
    blocks = [(start, begin) for start in range(0, len(offered), ENTITY_BLOCK) for begin in range(0, len(asked), rows)]
    with Bar(len(blocks), "candidates by vector", "block") as bar:
        for start, begin in blocks:
            columns = offered[start : start + ENTITY_BLOCK]
            if begin == 0:
                offer = unit_rows(entities, columns)
            block = asked[begin : begin + rows]
            scores = (1 + np.clip(unit_rows(mentions, block) @ offer.T, -1, 1)) / 2
            contenders = [_contenders(row, k) for row in scores]
            earlier = np.nonzero(lists.ids[block] >= 0)  # the best of the entity blocks before this one
            first = np.concatenate([earlier[0], np.repeat(np.arange(len(block)), [len(found) for found in contenders])])
            second = np.concatenate([lists.ids[block][earlier], columns[np.concatenate(contenders)]])
            values = np.concatenate(
                [lists.scores[block][earlier], np.concatenate([row[c] for row, c in zip(scores, contenders)])]
            )
            order = np.lexsort((id_rank[second], -values, first))
            merged = Lists.empty(len(block), k)
            _fill(merged, 0, first[order], second[order], values[order])
            lists.ids[block], lists.scores[block] = merged.ids, merged.scores
            bar.update()
    return lists

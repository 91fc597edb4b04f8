"""The gold's rank in the whole order that a candidate list is the beginning of: exact for one source, a bound against us for merged ones."""

from collections.abc import Sequence

import numpy as np
from rapidfuzz import fuzz
from rapidfuzz.utils import default_process

from cache.table import Table
from pipeline.candidates.retrieval import ENTITY_BLOCK, Lists, id_order, pair_scores, score_blocks, unit_rows

UNKNOWN = -1
_ROWS = 256  # mentions compared with an entity block at a time


def in_list(lists: Lists, gold: np.ndarray) -> np.ndarray:
    """(M,) place of each gold in its list, from 1; 0 where it is not listed or there is none."""
    hit = (lists.ids == gold[:, None]) & (gold >= 0)[:, None]
    return np.where(hit.any(1), 1 + hit.argmax(1), 0).astype(np.int64)


def by_name(
    phrases: Sequence[str], gold: np.ndarray, names: Sequence[str], ids: Sequence[str], scorer: str, workers: int = -1
) -> np.ndarray:
    """(m,) ranks of the golds (m,) >= 0 in the total order of `retrieval.by_name`, which goes on below a score of 0 by ratio and id."""
    cleaned, choices, order = (
        [default_process(phrase) for phrase in phrases],
        [default_process(name) for name in names],
        id_order(ids),
    )
    distinct = list(dict.fromkeys(cleaned))
    asked: dict[str, list[int]] = {}
    for row, phrase in enumerate(cleaned):
        asked.setdefault(phrase, []).append(row)
    ranks = np.zeros(len(gold), np.int64)
    for begin, scores in score_blocks(distinct, choices, scorer, workers):
        for phrase, values in zip(distinct[begin:], scores, strict=False):
            for row in asked[phrase]:
                entity = int(gold[row])
                tied = np.flatnonzero(values == values[entity])
                ratios = pair_scores([phrase], choices, fuzz.ratio, np.zeros(len(tied), np.int64), tied, workers)
                own = ratios[tied == entity]
                before = (ratios > own) | ((ratios == own) & (order[tied] < order[entity]))
                ranks[row] = 1 + int((values > values[entity]).sum()) + int(before.sum())
    return ranks


def by_vector(mentions: Table, entities: Table, ids: Sequence[str], rows: np.ndarray, gold: np.ndarray) -> np.ndarray:
    """(m,) ranks of the golds (m,) >= 0 of the mentions `rows` (m,) in the order of `retrieval.by_vector`; -1 where either side has no vector."""
    order, offered = id_order(ids), np.flatnonzero(entities.ok)
    ranks = np.full(len(rows), UNKNOWN, np.int64)
    known = np.flatnonzero(mentions.ok[rows] & entities.ok[gold])
    blocks = [offered[start : start + ENTITY_BLOCK] for start in range(0, len(offered), ENTITY_BLOCK)]
    for begin in range(0, len(known), _ROWS):
        part = known[begin : begin + _ROWS]
        asked, target = unit_rows(mentions, rows[part]), gold[part]
        own = np.zeros(len(part), np.float32)
        for turn in ("the gold's score", "who stands before it"):
            before = np.zeros(len(part), np.int64)
            for columns in blocks:
                scores = np.clip(asked @ unit_rows(entities, columns).T, -1, 1)
                if turn == "the gold's score":
                    place = np.searchsorted(columns, target).clip(max=len(columns) - 1)
                    here = columns[place] == target
                    own[here] = scores[here, place[here]]
                else:
                    earlier = order[columns][None, :] < order[target][:, None]
                    before += ((scores > own[:, None]) | ((scores == own[:, None]) & earlier)).sum(1)
        ranks[part] = 1 + before
    return ranks


def merged(ranks: Sequence[np.ndarray], lengths: Sequence[np.ndarray], how: str) -> np.ndarray:
    """(m,) ranks in the order merged from sources, of the rank in each (-1: unknown to it) and the length of each one's list (m,).

    round-robin: the earliest turn at which a source offers the gold; append: after the lists of the sources before the first that knows it. Entities
    that several sources offer count each time, so with more than one source the rank is at most too large. -1 where no source knows.
    """
    result = np.full(len(ranks[0]), UNKNOWN, np.int64)
    behind = np.zeros(len(result), np.int64)
    for source, (rank, length) in enumerate(zip(ranks, lengths, strict=True)):
        turn = (rank - 1) * len(ranks) + source + 1 if how == "round-robin" else behind + rank
        better = (rank > 0) & ((result < 0) | ((turn < result) & (how == "round-robin")))
        result[better] = turn[better]
        behind += length
    return result

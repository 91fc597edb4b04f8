"""One list from several sources, and the gold's rank in the merged order (an upper bound for several sources)."""

from collections.abc import Sequence

import numpy as np

from pipeline.candidates.base import UNKNOWN, SourceInputs
from pipeline.candidates.lists import RankedLists


def merged_lists(sources: Sequence[RankedLists], k: int, how: str, inputs: SourceInputs) -> RankedLists:
    """As `merge`; where no retriever ordered one of the sources, the whole list is in hash order: which source an
    entity came from says as much as its place.
    """
    merged = merge(sources, k, how)
    if merged.retrieved or len(sources) == 1:
        return merged
    return merged.in_hash_order(inputs.mentions["id"], inputs.entities["id"])


def merge(sources: Sequence[RankedLists], k: int, how: str = "round-robin") -> RankedLists:
    """The first k of the lists of several sources, each entity where it comes first.

    Scores are 1 / (place in the merged list), since those of different sources cannot be compared. A single source
    keeps its own. The order is a retriever's where that of every source is.
    """
    if len(sources) == 1:
        return sources[0]
    axis = 2 if how == "round-robin" else 1
    offered = sum(source.ids.shape[1] for source in sources)
    woven = np.stack([source.ids for source in sources], axis=axis).reshape(len(sources[0].ids), offered)
    merged = RankedLists.empty(len(woven), k)
    merged.retrieved = all(source.retrieved for source in sources)
    merged.by_heart = any(source.by_heart for source in sources)
    for row, listed in enumerate(woven):
        listed = listed[listed >= 0]
        firsts = listed[np.sort(np.unique(listed, return_index=True)[1])][:k]
        merged.ids[row, : len(firsts)], merged.scores[row, : len(firsts)] = firsts, 1 / np.arange(1, len(firsts) + 1)
    return merged


def merged_ranks(ranks: Sequence[np.ndarray], lengths: Sequence[np.ndarray], how: str) -> np.ndarray:
    """(m,) int64 ranks in the merged order, from each source's rank (m,) (`UNKNOWN` where it has none) and the length
    (m,) of its lists.

    round-robin: the earliest turn at which a source offers the gold; append: after the lists of the sources before the
    first that knows it. Entities that several sources offer count each time, so with more than one source the rank is
    at most too large.
    """
    result = np.full(len(ranks[0]), UNKNOWN, np.int64)
    behind = np.zeros(len(result), np.int64)
    for source, (rank, length) in enumerate(zip(ranks, lengths, strict=True)):
        turn = (rank - 1) * len(ranks) + source + 1 if how == "round-robin" else behind + rank
        better = (rank > 0) & ((result < 0) | ((turn < result) & (how == "round-robin")))
        result[better] = turn[better]
        behind += length
    return result

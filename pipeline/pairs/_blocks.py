"""Pairs in blocks of bounded memory."""

from collections.abc import Iterator

import numpy as np

from foundation.progress import Bar

BLOCK_BYTES = 64 << 20  # of gathered vectors held at a time


def blocks(ids: np.ndarray, pair_bytes: int) -> Iterator[slice]:
    """Blocks of the M mentions of ids (M, k) whose candidates take bounded memory; a bar goes along."""
    step = max(1, BLOCK_BYTES // max(1, ids.shape[1] * pair_bytes))
    with Bar(len(ids), "pairs", "mention") as bar:
        for start in range(0, len(ids), step):
            end = min(start + step, len(ids))
            yield slice(start, end)
            bar.update(end - start)


def distinct(ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The entities in ids (b, k), ascending, and for each pair (b, k) its entity's place among them (0 where a list
    has ended).
    """
    entities = np.unique(ids)
    entities = entities[entities >= 0]
    return entities, np.searchsorted(entities, np.maximum(ids, entities[0] if len(entities) else 0))


def neighbours(sizes: np.ndarray, most: int) -> list[slice]:
    """Runs of neighbours whose sizes (n,) add up to about `most`, at least one each."""
    if not len(sizes):
        return []
    borders = np.flatnonzero(np.diff(sizes.cumsum() // most)) + 1
    ends = np.unique(np.concatenate([borders, [len(sizes)]])).tolist()
    return [slice(start, end) for start, end in zip([0, *ends[:-1]], ends, strict=True)]

"""Ranks of golds among a hashed sample of the KB, beside each mention's candidates, where the whole KB takes days."""

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
import torch

from heads.metrics import not_below
from heads.scoring import MENTIONS, Golds, KbScores, Scoring, encode, entity_chunks


def sample_rows(ids: np.ndarray, size: int) -> np.ndarray:
    """(s,) int64 ascending rows of the `size` entities whose ids (N,) have the lowest hash: a sample is part of each
    larger one, and knows neither golds nor the order of the KB."""
    hashes = np.fromiter(
        (int.from_bytes(blake2b(str(name).encode(), digest_size=8).digest()) for name in ids), np.uint64, len(ids)
    )
    return np.sort(np.argsort(hashes, kind="stable")[:size])


@dataclass(frozen=True)
class Listed:
    """Candidates of m mentions, and their golds. rows: (m, k), -1 where a list ends. scores: (m, k) float32."""

    rows: np.ndarray
    scores: np.ndarray
    golds: Golds


@torch.no_grad()
def against_sample(scoring: Scoring, index: np.ndarray, listed: Listed, sample: np.ndarray, top: int = 10) -> KbScores:
    """As `Scoring.kb`, of each mention of `index` (m,) with its own candidates, its gold, and the entities of `sample`
    (s,) that are neither; an entity of the sample is encoded once."""
    golds = listed.golds
    own, scores = _with_gold(listed)
    gold_scores = torch.from_numpy(golds.scores.astype(np.float32))
    others = torch.from_numpy((own >= 0) & (own != golds.rows[:, None]))
    counts = (not_below(torch.from_numpy(scores), gold_scores) & others).sum(1)
    best, best_scores = torch.from_numpy(own), torch.from_numpy(scores)
    if not len(index):
        return KbScores(counts.numpy(), best[:, :top].numpy(), best_scores[:, :top].numpy())
    encoded = encode(scoring.head.encode_mentions, scoring.mentions, index)
    order = best_scores.argsort(dim=1, descending=True, stable=True)[:, :top]
    best, best_scores = best.gather(1, order), best_scores.gather(1, order)
    apart = _places(own, sample)
    for start, entities in entity_chunks(scoring.head, scoring.entities, rows=sample):
        for begin in range(0, len(index), MENTIONS):
            rows = torch.arange(begin, min(begin + MENTIONS, len(index)))
            block = scoring.head.score_block(encoded.take(rows), entities)["score"].float().cpu()  # (b, e)
            mention, place = apart(begin, begin + len(rows), start, start + block.shape[1])
            above = not_below(block, gold_scores[rows])
            above[mention, place], block[mention, place] = False, -torch.inf
            counts[rows] += above.sum(1)
            values, columns = block.topk(min(top, block.shape[1]), dim=1)
            merged = torch.cat([best_scores[rows], values], 1)
            entities_of = torch.cat([best[rows], torch.from_numpy(sample)[columns + start]], 1)
            order = merged.argsort(dim=1, descending=True, stable=True)[:, : best.shape[1]]
            best_scores[rows], best[rows] = merged.gather(1, order), entities_of.gather(1, order)
    best[best_scores.isneginf()] = -1
    return KbScores(counts.numpy(), best.numpy(), best_scores.numpy())


def _with_gold(listed: Listed) -> tuple[np.ndarray, np.ndarray]:
    """Candidates (m, k + 1) with the gold behind them where it is not among them, and their scores."""
    golds = listed.golds
    there = (listed.rows == golds.rows[:, None]).any(1) | (golds.rows < 0)
    gold, score = np.where(there, -1, golds.rows), np.where(there, -np.inf, golds.scores)
    rows = np.concatenate([listed.rows, gold[:, None]], 1).astype(np.int64)
    return rows, np.concatenate([listed.scores, score[:, None]], 1).astype(np.float32)


def _places(own: np.ndarray, sample: np.ndarray) -> Callable[[int, int, int, int], tuple[torch.Tensor, torch.Tensor]]:
    """Finds, of the mentions from `begin` to `end` and the places from `first` to `last` of the sample, the pairs that
    stand in a mention's own list (m, k) already; both are counted from `begin` and `first`."""
    place = np.searchsorted(sample, own).clip(max=max(0, len(sample) - 1))
    mention, column = np.nonzero((sample[place] == own) if len(sample) else np.zeros(own.shape, bool))
    place = place[mention, column]

    def between(begin: int, end: int, first: int, last: int) -> tuple[torch.Tensor, torch.Tensor]:
        part = slice(*np.searchsorted(mention, [begin, end]))
        here = np.flatnonzero((place[part] >= first) & (place[part] < last))
        return torch.from_numpy(mention[part][here] - begin), torch.from_numpy(place[part][here] - first)

    return between

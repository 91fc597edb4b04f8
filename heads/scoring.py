"""Scores of candidate lists and of the whole KB: each side is encoded once, in bounded memory for any size of KB."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import torch

from foundation.prefetch import prefetch
from heads.base import Head, Rows
from heads.data import Bundle, Side
from heads.metrics import not_below

CHUNK = 512
"""Rows that are read and encoded at a time."""
ENTITIES = 4096
"""Entities whose encodings meet all mentions before the next ones are read."""
MENTIONS = 1024
"""Mentions that are scored at a time."""
UNION = 32768
"""Distinct entities of a group of candidate lists, encoded before the group is scored."""
LISTS = 128
"""Lists that are scored at a time."""


def encode(encoder: Callable[[Rows], Rows], side: Side, index: np.ndarray) -> Rows:
    """One side's encodings of the rows at `index` (m > 0), read ahead in a thread."""
    parts = [index[start : start + CHUNK] for start in range(0, len(index), CHUNK)]
    if len(parts) == 1:  # nothing to read ahead
        return encoder(side.rows(index))
    return Rows.concatenate([encoder(inputs) for inputs in prefetch(parts, side.rows)])


@dataclass(frozen=True)
class KbScores:
    """What is kept of scores against a whole KB. not_below (m,): entities other than the gold that score at least as
    high. top (m, k) rows, best first, and their scores."""

    not_below: np.ndarray
    top: np.ndarray
    top_scores: np.ndarray


@dataclass
class Scoring:
    """A head and both sides' features. kept: what `entity_chunks` gives, where it is held in memory."""

    head: Head
    mentions: Side
    entities: Side
    kept: Sequence[tuple[int, Rows]] | None = None

    @classmethod
    def of(cls, head: Head, bundle: Bundle) -> "Scoring":
        """Of a run's own mentions and entities."""
        return cls(head, bundle.mentions, bundle.entities)

    @torch.no_grad()
    def lists(
        self,
        index: np.ndarray,
        lists: np.ndarray,
        pairs: Mapping[str, np.ndarray] = MappingProxyType({}),
        watch: Callable[[int], None] = lambda mentions: None,
    ) -> dict[str, np.ndarray]:
        """Scores of each mention of `index` (m,) with its candidates `lists` (m, k): "score" and each unit, (m, k)
        float32.

        -1 in a list is no entity; its score is -inf. pairs: pair features beside `lists`, (m, k, ...) float32 each, for
        heads that read some. watch: called with the number of mentions done.
        """
        head, device = self.head, self.entities.device
        names = ("score", *head.units)
        scores = {name: np.full(lists.shape, -np.inf, np.float32) for name in names}
        reached = head.reached(lists, pairs)
        read = lists if reached is None else np.where(reached, lists, -1)
        for start, end in _groups(read):
            distinct, place = np.unique(read[start:end], return_inverse=True)
            real = distinct >= 0
            if not real.any():
                watch(end - start)
                continue
            # -1 sorts first, so it stays -1
            columns = torch.from_numpy(place.reshape(end - start, -1) - int((~real).sum()))
            entities = encode(head.encode_entities, self.entities, distinct[real])
            mentions = encode(head.encode_mentions, self.mentions, index[start:end])
            for begin in range(0, end - start, LISTS):
                rows = torch.arange(begin, min(begin + LISTS, end - start))
                beside = {
                    name: torch.from_numpy(values[start:end][begin : begin + len(rows)]).to(device)
                    for name, values in pairs.items()
                }
                part = head.score_lists(mentions.take(rows), entities, columns[rows].to(device), beside)
                for name in names:
                    scores[name][start + begin : start + begin + len(rows)] = part[name].float().cpu().numpy()
                watch(len(rows))
        for values in scores.values():
            values[lists < 0] = -np.inf
        return scores if reached is None else {name: behind(values, reached, lists) for name, values in scores.items()}

    def part(
        self,
        index: np.ndarray,
        lists: np.ndarray,
        pairs: Mapping[str, np.ndarray],
        watch: Callable[[int], None] = lambda mentions: None,
    ) -> np.ndarray:
        """Scores (m, k) as another head reads them: NaN where a list ends, and where this one scores no candidate."""
        scores, reached = self.lists(index, lists, pairs, watch)["score"], self.head.reached(lists, pairs)
        there = np.isfinite(scores) if reached is None else np.isfinite(scores) & reached
        return np.where(there, scores, np.nan)

    @torch.no_grad()
    def kb(
        self,
        index: np.ndarray,
        golds: "Golds | None" = None,
        top: int = 10,
        watch: Callable[[int], None] = lambda pairs: None,
    ) -> KbScores:
        """Compare each mention of `index` (m,) with all N entities. golds: None where none is known. watch: called with
        the number of pairs done.

        An entity is encoded once; neither the KB's features nor the (m, N) scores are ever in memory at once.
        """
        golds = golds or Golds.none(len(index))
        device, top = self.entities.device, min(top, self.entities.count)
        counts = torch.zeros(len(index), dtype=torch.int64)
        best_scores = torch.full((len(index), top), -torch.inf)
        best = torch.full((len(index), top), -1, dtype=torch.int64)
        if not len(index):
            return KbScores(counts.numpy(), best.numpy(), best_scores.numpy())
        encoded = encode(self.head.encode_mentions, self.mentions, index)
        gold_rows, gold_scores = torch.from_numpy(golds.rows), torch.from_numpy(golds.scores.astype(np.float32))
        for start, entities in self.kept or entity_chunks(self.head, self.entities):
            for begin in range(0, len(index), MENTIONS):
                rows = torch.arange(begin, min(begin + MENTIONS, len(index)))
                block = self.head.score_block(encoded.take(rows), entities)["score"].float()  # (b, e)
                above = not_below(block, gold_scores[rows].to(device))
                inside = ((gold_rows[rows] >= start) & (gold_rows[rows] < start + block.shape[1])).nonzero().squeeze(1)
                above[inside.to(device), (gold_rows[rows][inside] - start).to(device)] = False
                counts[rows] += above.sum(1).cpu()
                values, columns = block.topk(min(top, block.shape[1]), dim=1)
                merged = torch.cat([best_scores[rows], values.cpu()], 1)
                entities_of = torch.cat([best[rows], columns.cpu() + start], 1)
                order = merged.argsort(dim=1, descending=True, stable=True)[:, :top]
                best_scores[rows], best[rows] = merged.gather(1, order), entities_of.gather(1, order)
                watch(block.numel())
        return KbScores(counts.numpy(), best.numpy(), best_scores.numpy())


def behind(scores: np.ndarray, reached: np.ndarray, lists: np.ndarray) -> np.ndarray:
    """Scores (m, k) in which the entities of `lists` that a head did not score stand in the list's order below the
    lowest score that it gave."""
    lowest = np.where(reached & np.isfinite(scores), scores, np.inf).min(1, initial=np.inf, keepdims=True)
    lowest = np.where(np.isfinite(lowest), lowest, 0)
    below = lowest - np.arange(1, scores.shape[1] + 1, dtype=np.float32)
    return np.where((lists >= 0) & ~reached, below, scores).astype(np.float32)


@torch.no_grad()
def entity_chunks(
    head: Head, entities: Side, first: int = 0, rows: np.ndarray | None = None
) -> Iterator[tuple[int, Rows]]:
    """(first place, encodings) of `ENTITIES` entities after another, the features of the next part read while one is
    scored. first: place to begin with. rows (n,): of the entities; None: all, in their order."""
    n = entities.count if rows is None else len(rows)
    starts = range(first, n, CHUNK)

    def places(start: int) -> np.ndarray:
        end = min(start + CHUNK, n)
        return np.arange(start, end) if rows is None else rows[start:end]

    parts = prefetch(starts, lambda start: entities.rows(places(start)))
    held: list[Rows] = []
    for start, inputs in zip(starts, parts, strict=True):
        held.append(head.encode_entities(inputs))
        if len(held) * CHUNK >= ENTITIES or start + CHUNK >= n:
            yield start + CHUNK - len(held) * CHUNK, Rows.concatenate(held)
            held = []


@dataclass(frozen=True)
class Golds:
    """The golds of m mentions: rows (m,) int64, negative where there is none in the KB, and their scores (m,)."""

    rows: np.ndarray
    scores: np.ndarray

    @classmethod
    def none(cls, mentions: int) -> "Golds":
        """Of mentions whose golds are not known."""
        return cls(np.full(mentions, -1), np.zeros(mentions))


def _groups(lists: np.ndarray) -> list[tuple[int, int]]:
    """Bounds of runs of lists with at most `UNION` distinct entities each."""
    if len(np.unique(lists)) <= UNION:
        return [(0, len(lists))] if len(lists) else []
    step = max(1, UNION // lists.shape[1])
    return [(start, min(start + step, len(lists))) for start in range(0, len(lists), step)]

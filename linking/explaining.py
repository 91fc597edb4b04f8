"""How a head came to the answers for new mentions, by the code that explains those of a dataset."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from cache.inputs import Want
from experiments import jobs
from heads.base import Head
from heads.explanations import Boxes, attention_of, of_lists
from linking.scorer import Chunk, Scorer
from pipeline.extraction.parents import Parent


@dataclass(frozen=True)
class Telling:
    """What is to be told. top: entities of each mention, 0: nothing. detections: features whose rows of the pictures
    are wanted."""

    top: int
    detections: Collection[str] = ()


NOTHING_TOLD = Telling(0)


@dataclass(frozen=True)
class Told:
    """Of one mention, see `linking.linked.Explained`. candidates: of its best entities, best first."""

    candidates: tuple[Mapping[str, Any], ...]
    attention: Mapping[str, Mapping[str, Any]]
    detections: Mapping[str, Parent]


def told(scorer: Scorer, chunk: Chunk, rows: np.ndarray, whole: np.ndarray, telling: Telling) -> list[Told]:
    """Of each mention of a chunk.

    rows (m, d): its best entities, best first, -1 where there are no more. whole (m,): whether the run's own head
    ranked them, else the one without `joint`.
    """
    if not telling.top:
        return []
    best, parents = rows[:, : telling.top], _detections(scorer, chunk, telling.detections)
    found: dict[int, Told] = {}
    for is_whole in (True, False):
        index = np.flatnonzero(whole == is_whole)
        if len(index):
            head = scorer.head if is_whole else scorer.without_joint
            found |= zip(index.tolist(), _of_head(scorer, chunk, (index, best[index]), head), strict=True)
    return [
        Told(one.candidates, one.attention, {name: _only(parent, at) for name, parent in parents.items()})
        for at, one in sorted(found.items())
    ]


def _of_head(scorer: Scorer, chunk: Chunk, wanted: tuple[np.ndarray, np.ndarray], head: Head) -> list[Told]:
    """Of the mentions at `index` (i,) and their best entities (i, d), the two in `wanted`. A head over lists is asked
    about the whole list: what it tells of a candidate may depend on the others."""
    index, best = wanted
    scoring, beside = scorer.scoring(chunk, index, head)
    lists = best if head.scores_blocks else scorer.lists(chunk).ids[index].astype(np.int64)
    boxes = _boxes(scorer, chunk)
    tellings = []
    for at, rows, one in zip(index.tolist(), best.tolist(), of_lists(scoring, index, lists, beside), strict=True):
        by_row = dict(zip(one.rows, one.candidates, strict=True))
        candidates = [{"id": scorer.kb.table["id"][row], **by_row[row]} for row in rows if row >= 0]
        tellings.append(Told(tuple(candidates), attention_of(one, boxes, at), {}))
    return tellings


def _boxes(scorer: Scorer, chunk: Chunk) -> dict[str, Boxes]:
    """By role, of the inputs that were cut from boxes."""
    extracted = [one for one in scorer.inputs if one.side == "mention" and not jobs.is_learned(one.feature)]
    return {
        one.role: Boxes(chunk.keys(one.feature, one.view).table(scorer.stores[one.feature], "box"))
        for one in extracted
        if "box" in scorer.stores[one.feature].outputs
    }


def _detections(scorer: Scorer, chunk: Chunk, names: Collection[str]) -> dict[str, Parent]:
    """Of the chunk's pictures, by feature; of those alone that were extracted."""
    wants = {name: Want(side="mention", feature=name, view="image") for name in names}
    return {
        name: Parent.of(scorer.stores[name], chunk.columns[want])
        for name, want in wants.items()
        if want in chunk.columns and name in scorer.stores
    }


def _only(parent: Parent, at: int) -> Parent:
    """The rows of one record."""
    place = parent.place[at]
    kept = [place] if place >= 0 else []
    return Parent(
        parent.keys[at : at + 1],
        None,
        parent.labels,
        [parent.distinct[one] for one in kept],
        [parent.digests[one] for one in kept],
        np.array([0 if kept else -1]),
    )

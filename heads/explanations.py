"""How a trained head came to its scores, by mention: units, edges, attention, selected experts, pair features."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np
import torch

from cache.keys import KeyColumn
from cache.store import Store
from cache.table import Table
from foundation.errors import UserError, nearest
from foundation.files import write_atomic
from foundation.progress import Bar
from heads import fusion
from heads.base import EXPERT, Head
from heads.config import load_config
from heads.contracts import ExplanationJob, Explanations, Selection, TrainingJob
from heads.data import Bundle
from heads.evaluation import SPLITS
from heads.runs import load_run
from heads.scoring import LISTS, Scoring, behind, encode
from heads.towers import Build, none

EDGE, ATTENTION, TOKENS = "edge_", "attention.", "tokens."


@dataclass(frozen=True)
class OfMention:
    """What a head tells of a mention and its list. rows: of the listed entities, the best first. candidates: of each,
    as `explain` gives it, without the id. attention: role -> weight of each object, face or name, to six digits."""

    rows: list[int]
    candidates: list[dict[str, Any]]
    attention: Mapping[str, list[float | None]]


def write(job: ExplanationJob, build: Build = none) -> Explanations:
    """Write one line of JSON per mention into the job's file; see `explain` for its keys. build: see
    `heads.runs.load_run`. Raises `UserError`."""
    explained = explain(job.run, job.selection, build)
    lines = [json.dumps(one, ensure_ascii=False, allow_nan=False) for one in explained]
    write_atomic(job.file, "".join(f"{line}\n" for line in lines))
    return Explanations(mentions=len(lines))


def explain(run: TrainingJob, selection: Selection, build: Build = none) -> Iterator[dict[str, Any]]:
    """The explanation of each mention over its candidate list, as plain JSON values; numbers to six digits.

    id, split, gold (id or None); candidates: best first, with id and score and, where the head has them, `units` (name
    -> score), `expert` (the one that DSMIP's gate selected), `edges` (DRIN: kind -> weight A^0, A^1, ... that each
    layer used), `tokens` (joint: `entity` -> share of each token of the candidate's text in the score) and `pairs`
    (pair feature -> value or values); attention: role -> {"weights": one per object, face or name} and, where the
    role's feature was cut from boxes, "boxes": their indices. Raises `UserError` for an unknown mention or split.
    """
    config = load_config(run.method, run.config)
    if not config.evaluates:
        raise UserError(
            f"{run.out}: a stage without scores of its own; explain the {run.method} run that continues from it"
        )
    if run.heads and config.training == "combination" and selection.split not in SPLITS:
        raise UserError(
            f"--split {selection.split}: a {run.method} run keeps the scores of its heads only for "
            f"{' and '.join(SPLITS)}"
        )
    run = fusion.with_parts(run, SPLITS, build=build)  # parts are pair features, kept in the run's folder
    head, bundle = load_run(run, build)
    index = chosen(bundle.table, selection)
    boxes, scoring = _boxes(run), Scoring.of(head, bundle)
    with Bar(len(index), "explaining", "mention") as progress:
        for start in range(0, len(index), LISTS):
            part = index[start : start + LISTS]
            yield from _part(scoring, bundle, part, boxes, selection.top)
            progress.update(len(part))


def chosen(table: Mapping[str, np.ndarray], selection: Selection) -> np.ndarray:
    """Rows of the selected mentions in the table's order; of a sample, those with the lowest hash of their id, so that
    10 are part of 20.

    Raises `UserError` for a split without mentions and for a mention that is not in it.
    """
    split, mentions, sample = selection.split, selection.mentions, selection.sample
    here = np.flatnonzero(table["split"] == split)
    if not len(here):
        raise UserError(f"--split {split}: no mention is in it{nearest(split, sorted(set(table['split'].tolist())))}")
    if mentions:
        row_of = {str(table["id"][row]): row for row in here}
        for name in mentions:
            if name not in row_of:
                raise UserError(f"mention {name!r}: not in {split}{nearest(name, list(row_of))}")
        return np.array(sorted({row_of[name] for name in mentions}))
    if sample and sample < len(here):
        here = np.array(sorted(sorted(here.tolist(), key=lambda row: by_hash(str(table["id"][row])))[:sample]))
    return here


def by_hash(name: str) -> bytes:
    """A sort key that is unrelated to the mentions' content."""
    return blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest()


@torch.no_grad()
def of_lists(
    scoring: Scoring, index: np.ndarray, lists: np.ndarray, pairs: Mapping[str, np.ndarray]
) -> list[OfMention]:
    """What the head tells of the mentions at `index` (m,) and their candidates `lists` (m, k), -1 where there are no
    more. pairs: the pair features beside the lists."""
    head, device = scoring.head, scoring.entities.device
    reached = head.reached(lists, pairs)
    read = lists if reached is None else np.where(reached, lists, -1)
    names, place = np.unique(read, return_inverse=True)
    real = names >= 0
    scores: dict[str, np.ndarray] = {"score": np.full(lists.shape, np.nan)}
    details: dict[str, np.ndarray] = {}
    if real.any():
        columns = torch.from_numpy(place.reshape(lists.shape) - int((~real).sum())).to(
            device
        )  # -1 sorts first, so it stays -1
        sides = (
            encode(head.encode_mentions, scoring.mentions, index),
            encode(head.encode_entities, scoring.entities, names[real]),
        )
        beside = {name: torch.from_numpy(values).to(device) for name, values in pairs.items()}
        scores = {
            name: values.float().cpu().numpy() for name, values in head.score_lists(*sides, columns, beside).items()
        }
        if reached is not None:
            scores = {name: behind(values, reached, lists) for name, values in scores.items()}
        details = {name: values.float().cpu().numpy() for name, values in head.explain(*sides, columns, beside).items()}
    told = []
    for at in range(len(index)):
        order = np.argsort(-np.where(lists[at] >= 0, scores["score"][at], -np.inf), kind="stable").tolist()
        listed = [one for one in order if lists[at, one] >= 0]
        told.append(
            OfMention(
                rows=[int(lists[at, one]) for one in listed],
                candidates=[_candidate(head, scores, details, pairs, (at, one)) for one in listed],
                attention={
                    name.removeprefix(ATTENTION): [number(weight) for weight in values[at] if np.isfinite(weight)]
                    for name, values in details.items()
                    if name.startswith(ATTENTION)
                },
            )
        )
    return told


def attention_of(told: OfMention, boxes: Mapping[str, "Boxes"], row: int) -> dict[str, dict[str, Any]]:
    """The attention of a mention, see `explain`. boxes: by role. row: of the mention beside them."""
    return {
        role: {"weights": weights, **({"boxes": boxes[role](row)} if role in boxes else {})}
        for role, weights in told.attention.items()
        if weights
    }


def _part(
    scoring: Scoring, bundle: Bundle, index: np.ndarray, boxes: Mapping[str, "Boxes"], top: int
) -> Iterator[dict[str, Any]]:
    told = of_lists(scoring, index, bundle.candidates[index], bundle.pairs_of(index))
    for row, one in zip(index.tolist(), told, strict=True):
        listed = zip(one.rows, one.candidates, strict=True)
        candidates = [{"id": str(bundle.entity_ids[entity]), **more} for entity, more in listed]
        gold = None if bundle.table["gold_id"][row] is None else str(bundle.table["gold_id"][row])
        yield {
            "id": str(bundle.table["id"][row]),
            "split": str(bundle.table["split"][row]),
            "gold": gold,
            "candidates": [
                each for number, each in enumerate(candidates) if not top or number < top or each["id"] == gold
            ],
            "attention": attention_of(one, boxes, row),
        }


def _candidate(
    head: Head,
    scores: Mapping[str, np.ndarray],
    details: Mapping[str, np.ndarray],
    pairs: Mapping[str, np.ndarray],
    place: tuple[int, int],
) -> dict[str, Any]:
    """What stands at a place, (mention, candidate), of these arrays (m, k, …)."""
    one: dict[str, Any] = {"score": number(scores["score"][place])}
    units = {name: number(scores[name][place]) for name in head.units if name != EXPERT}
    if EXPERT in head.units:
        one["expert"] = head.experts[int(scores[EXPERT][place])]
    edges: dict[str, list[float | None]] = {}
    tokens: dict[str, list[float | None]] = {}
    for name, values in details.items():
        if name.startswith(EDGE):
            edges.setdefault(name.split("_")[1], []).append(number(values[place]))
        elif name.startswith(TOKENS):
            tokens[name.removeprefix(TOKENS)] = [number(value) for value in values[place] if np.isfinite(value)]
        elif not name.startswith(ATTENTION):
            units[name] = number(values[place])
    beside = {
        name: number(values[place]) if values.ndim == 2 else [number(value) for value in values[place].ravel()]
        for name, values in pairs.items()
    }
    more = {
        "units": units,
        "edges": {kind: weights for kind, weights in edges.items() if any(weight is not None for weight in weights)},
        "tokens": {side: shares for side, shares in tokens.items() if shares},
        "pairs": {name: value for name, value in beside.items() if value is not None},
    }
    return one | {name: values for name, values in more.items() if values}


class Boxes:
    """Which box of a mention's picture each step of a role stands for. table: of the output `box`."""

    def __init__(self, table: Table) -> None:
        self.table = table

    def __call__(self, row: int) -> list[int]:
        return self.table.ragged_flat(np.array([row]))[0].astype(int).tolist()


def _boxes(job: TrainingJob) -> dict[str, Boxes]:
    """By role, of the mentions' inputs that were cut from boxes."""
    by_role = {}
    for one in job.inputs:
        store = Store.open(one.store)
        if one.side == "mention" and "box" in store.outputs:
            by_role[one.role] = Boxes(KeyColumn.load(one.keys).table(store, "box"))
    return by_role


def number(value: Any) -> float | None:
    """A number as JSON has it, to six digits; None where there is none."""
    return float(f"{float(value):.6g}") if np.isfinite(value) else None

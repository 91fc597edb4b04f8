"""Ranks with ties against us, H@k, MRR, MR, the parts of a split they are given for, and the table that is printed."""

from collections.abc import Mapping
from hashlib import blake2b

import numpy as np
import torch
from torch import Tensor

from foundation.tables import as_text, text_table
from heads.contracts import TAKES, Figures, Metrics

CUTOFFS = (1, 3, 5, 10, 20)
TIE = 1e-5
"""Scores nearer than this, relative to the gold's, are equal: what fp32 rounding makes of equal pairs computed in
different blocks."""


def not_below(scores: Tensor, gold_score: Tensor) -> Tensor:
    """(B, N) bool: scores that are greater than the gold's (B,) or tied with it. A NaN counts against us."""
    near = gold_score - TIE * gold_score.abs().clamp(min=1)
    bound = torch.where(gold_score.isinf(), gold_score, near)
    return ~(scores < bound[:, None])


def rank_in_lists(scores: np.ndarray, lists: np.ndarray, gold: np.ndarray) -> np.ndarray:
    """(M,) rank of the gold among its list's scores (M, k), 1 + greater + equal others; 0 where it is not listed (-1:
    no entity)."""
    listed = (lists == gold[:, None]) & (gold >= 0)[:, None]
    gold_score = np.where(listed, scores, -np.inf).max(1, initial=-np.inf)
    others = not_below(torch.from_numpy(scores), torch.from_numpy(gold_score)).numpy() & (lists >= 0) & ~listed
    return np.where(listed.any(1), 1 + others.sum(1), 0).astype(np.int64)


def rerank(in_list: np.ndarray, retrieval_rank: np.ndarray, entities: int) -> np.ndarray:
    """(M,) rank in the KB of `entities`, of the list by the head and then the rest in retrieval order.

    A listed gold keeps its rank in the list. One that is not listed stands where retrieval put it (lists are the first
    of that order), or last where the retrieval rank is unknown (-1), as it is beyond the candidates that were kept: a
    bound that never favours us.
    """
    return np.where(in_list > 0, in_list, np.where(retrieval_rank > 0, retrieval_rank, entities)).astype(np.int64)


def figures(ranks: np.ndarray, listed: np.ndarray) -> dict[str, float | int]:
    """n, H@k and MRR (fractions of 1; a rank of 0 is a miss), MR over those that have a rank, candidate recall of
    `listed` (n,) bool."""
    if not len(ranks):
        return {"n": 0}
    ranked = ranks > 0
    reciprocal = np.zeros(len(ranks))
    reciprocal[ranked] = 1 / ranks[ranked]
    result: dict[str, float | int] = {"n": len(ranks)}
    result |= {f"H@{k}": float((ranked & (ranks <= k)).mean()) for k in CUTOFFS}
    result |= {"MRR": float(reciprocal.mean()), "recall": float(listed.mean())}
    if ranked.any():
        result["MR"] = float(ranks[ranked].mean())
    return result


def dev_half(gold_id: str) -> str:
    """ "choose" (stopping, search) or "calibrate" (fusion, confidence, NIL): disjoint halves of dev, split by gold
    entity."""
    return ("choose", "calibrate")[blake2b(gold_id.encode(), digest_size=1).digest()[0] & 1]


def parts(table: Mapping[str, np.ndarray], gold: np.ndarray, entity_image: np.ndarray) -> dict[str, np.ndarray]:
    """Name -> (M,) bool of the parts that metrics are given for; each part only of mentions whose gold is in the KB."""
    known = gold >= 0
    gold_image = np.zeros(len(gold), bool)
    gold_image[known] = entity_image[gold[known]]
    split = {
        "mention image": table["image_status"] == "ok",
        "gold image": gold_image,
        "image on both sides": (table["image_status"] == "ok") & gold_image,
        "phrase is the name": table["phrase_is_name"].astype(bool),
        "gold in train": table["gold_in_train"].astype(bool),
        "sentence in train": table["sentence_in_train"].astype(bool),
        "ambiguous phrase": table["ambiguous"].astype(bool),
    }
    result = {"all": known}
    for name, mask in split.items():
        result |= {f"{name}: yes": known & mask, f"{name}: no": known & ~mask}
    groups = table["group"]
    for value in sorted({value for value in groups if value is not None}):
        result[f"group: {value}"] = known & (groups == value)
    dev = table["split"] == "dev"
    half = np.array(
        [dev_half(str(name)) if chosen else "" for name, chosen in zip(table["gold_id"], dev & known, strict=True)]
    )
    result |= {"half: choose": half == "choose", "half: calibrate": half == "calibrate"}
    return result


def table(metrics: Metrics) -> str:
    """The metrics as text, in percent but for n and MR: every split and protocol, then the parts of the last split
    under its first protocol."""
    names = ["n", *(f"H@{k}" for k in CUTOFFS), "MRR", "MR", "recall"]
    rows: list[list[str]] = []
    parts_rows: list[list[str]] = []
    for split, protocols in metrics.items():
        rows += [[f"{split}  {protocol}", *_cells(parts["all"], names)] for protocol, parts in protocols.items()]
        protocol, parts = next(iter(protocols.items()))
        parts_rows = [[f"{split}  {protocol}, by part", *[""] * len(names)]]
        parts_rows += [[name, *_cells(values, names)] for name, values in parts.items() if name != "all"]
    blank = [""] * (len(names) + 1)
    text = as_text(text_table(["", *names], [*rows, blank, *parts_rows]))
    return "\n".join([text, *(_experts_line(split, protocols) for split, protocols in metrics.items())]).rstrip()


def _experts_line(split: str, protocols: Mapping[str, Mapping[str, Figures]]) -> str:
    """How often a gate takes each of its experts; empty for a head without one."""
    figures = next(iter(protocols.values()))["all"]
    taken = [f"{name.removeprefix(TAKES)} {value:.1%}" for name, value in figures.items() if name.startswith(TAKES)]
    return f"{split}, experts taken for the ten best of each mention: {', '.join(taken)}" if taken else ""


def _cells(values: Figures, names: list[str]) -> list[str]:
    formats = {"n": "{:d}", "MR": "{:.1f}"}
    return [formats.get(name, "{:.2%}").format(values[name]).rstrip("%") if name in values else "" for name in names]

"""The numbers of a trained head: every protocol, every part, and the predictions of each mention."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from foundation.files import write_atomic
from foundation.progress import Bar
from heads.base import Head
from heads.contracts import TAKES, Figures, Metrics
from heads.data import Bundle
from heads.metrics import figures, parts, rank_in_lists, rerank
from heads.protocols import protocol_name
from heads.sampled_kb import Listed, against_sample, sample_rows
from heads.scoring import Golds, Scoring

SPLITS = ("dev", "test")
TOP = 10

Scores = dict[str, np.ndarray]
"""The head's `score` and each of its units -> float32."""


@dataclass(frozen=True)
class Measurement:
    """What was measured on the m mentions of dev and test.

    metrics: split -> protocol -> part -> figure. predictions: the columns of predictions.parquet. ids: (m,) of the
    mentions. lists: (m, k) rows of their candidates, -1 where a list ends; scores: of these, -inf there.
    pairs_per_second: by "candidates" and "full-kb", encoding both sides and scoring; the features' way from disk to the
    device is part of it.
    """

    metrics: Metrics
    predictions: Mapping[str, Any]
    ids: np.ndarray
    lists: np.ndarray
    scores: Scores
    pairs_per_second: Mapping[str, float]


@dataclass(frozen=True)
class _Measured:
    """index (m,): rows of the mentions. ranks: protocol -> (m,), 0 where there is none. top (m, d): rows of the best
    entities, -1 past the last. experts: those that a gate chooses among, whose numbers `of_top["expert"]` holds."""

    index: np.ndarray
    ranks: Mapping[str, np.ndarray]
    top: np.ndarray
    of_top: Scores
    of_gold: Scores
    experts: tuple[str, ...] = ()


def measure(head: Head, bundle: Bundle, quiet: bool = True) -> Measurement:
    """Rank the golds of dev and test with the head as it is.

    Protocols: `full-kb` (heads that score blocks; in a sample or not at all, as `full_kb` of the configuration says),
    `candidates`, `rerank`, named by `protocol_name`. Mentions without a gold in the KB have no rank; they are parts of
    their own ("NIL", "gold outside the KB") with their number alone, and their predictions stand with the others.
    """
    index = np.flatnonzero(np.isin(bundle.table["split"], SPLITS))
    gold, lists = bundle.gold[index], bundle.candidates[index]
    n, listed = len(bundle.entity_ids), (lists == gold[:, None]).any(1) & (gold >= 0)
    scoring, started = Scoring.of(head, bundle), time.monotonic()
    with Bar(len(index), "candidate lists", "mention", quiet=quiet) as progress:
        scores = scoring.lists(index, lists, bundle.pairs_of(index), progress.update)
    speed = {"candidates": _per_second(int((lists >= 0).sum()), started)}
    ranks = {"candidates": rank_in_lists(scores["score"], lists, gold)}
    ranks["rerank"] = np.where(gold >= 0, rerank(ranks["candidates"], bundle.retrieval_rank[index], n), 0)
    sample = _sample(head.config.full_kb, bundle)
    if head.scores_blocks and head.config.full_kb is not False:
        with Bar(len(index), "scores of golds", "mention", quiet=quiet) as progress:
            of_gold = scoring.lists(index, np.where(gold >= 0, gold, -1)[:, None], watch=progress.update)
        started = time.monotonic()
        golds, compared = Golds(gold, of_gold["score"][:, 0]), n if sample is None else len(sample)
        with Bar(len(index) * compared, "full KB", "pair", quiet=quiet) as progress:
            if sample is None:
                kb = scoring.kb(index, golds, TOP, progress.update)
            else:
                kb = against_sample(scoring, index, Listed(lists, scores["score"], golds), sample, TOP)
        speed["full-kb"] = _per_second(len(index) * compared, started)
        ranks = {"full-kb": np.where(gold >= 0, 1 + kb.not_below, 0), **ranks}
        with Bar(len(index), "scores of the best", "mention", quiet=quiet) as progress:
            top, of_top = kb.top, scoring.lists(index, kb.top, watch=progress.update)
    else:  # a pair's score may depend on the list it stands in: the list's own scores are the only ones
        order = np.argsort(-scores["score"], axis=1, kind="stable")[:, :TOP]
        place = np.where(lists == gold[:, None], np.arange(lists.shape[1]), -1).max(1, initial=-1)[:, None]
        top = np.take_along_axis(lists, order, 1)
        of_top = {name: np.take_along_axis(values, order, 1) for name, values in scores.items()}
        of_gold = {
            name: np.where(place >= 0, np.take_along_axis(values, place.clip(0), 1), np.nan)
            for name, values in scores.items()
        }
    measured = _Measured(index, ranks, top, of_top, of_gold, head.experts if "expert" in of_top else ())
    return Measurement(
        metrics=_metrics(bundle, measured, listed, None if sample is None else len(sample)),
        predictions=_predictions(bundle, measured),
        ids=bundle.table["id"][index],
        lists=lists,
        scores=scores,
        pairs_per_second=speed,
    )


def _sample(full_kb: bool | int, bundle: Bundle) -> np.ndarray | None:
    """Rows of the entities that stand for the KB; None where all do."""
    if isinstance(full_kb, bool) or full_kb >= len(bundle.entity_ids):
        return None
    return sample_rows(bundle.entity_ids, full_kb)


def _per_second(pairs: int, started: float) -> float:
    """Pairs per second since `started` (seconds of the monotonic clock), to three digits."""
    return float(f"{pairs / max(time.monotonic() - started, 1e-9):.3g}")


def _metrics(bundle: Bundle, measured: _Measured, listed: np.ndarray, sample: int | None) -> Metrics:
    """listed (m,): whether the gold is among the candidates. sample: entities that stand for the KB, None: all."""
    index = measured.index
    table = {name: values[index] for name, values in bundle.table.items()}
    gold = bundle.gold[index]
    masks = parts(table, gold, bundle.entity_image)
    result: dict[str, dict[str, dict[str, Figures]]] = {}
    for split in SPLITS:
        here = table["split"] == split
        if not here.any():
            continue
        result[split] = {}
        for protocol, values in measured.ranks.items():
            by_part = {name: figures(values[mask & here], listed[mask & here]) for name, mask in masks.items()}
            if not result[split]:  # the best entities are those of the first protocol
                by_part = {name: part | _taken(measured, masks[name] & here) for name, part in by_part.items()}
            by_part |= {
                "NIL": {"n": int((here & (gold == -1)).sum())},
                "gold outside the KB": {"n": int((here & (gold == -2)).sum())},
            }
            named = protocol_name(protocol, split in bundle.forced, sample)
            result[split][named] = {name: part for name, part in by_part.items() if part["n"] or name == "all"}
    return result


def _taken(measured: _Measured, here: np.ndarray) -> dict[str, float]:
    """How often a gate takes each expert for the best entities of the mentions `here` (m,) bool, as a share of 1."""
    taken = measured.of_top["expert"][here][measured.top[here] >= 0] if measured.experts and here.any() else []
    shares = {name: float(np.mean(taken == number)) for number, name in enumerate(measured.experts)}
    return {f"{TAKES}{name}": share for name, share in shares.items()} if len(taken) else {}


def _predictions(bundle: Bundle, measured: _Measured) -> dict[str, Any]:
    index, top = measured.index, measured.top
    real = top >= 0
    columns: dict[str, Any] = {
        "id": bundle.table["id"][index],
        "split": bundle.table["split"][index],
        "gold": bundle.table["gold_id"][index],
    }
    columns |= {
        f"rank_{protocol.replace('-', '_')}": values.astype(np.int32) for protocol, values in measured.ranks.items()
    }
    columns["top"] = [bundle.entity_ids[row[keep]].tolist() for row, keep in zip(top, real, strict=True)]
    for name, values in measured.of_top.items():
        columns[f"top_{name}"] = [row[keep].tolist() for row, keep in zip(values, real, strict=True)]
        of_gold = np.where(bundle.gold[index] >= 0, measured.of_gold[name][:, 0], np.nan)
        columns[f"gold_{name}"] = of_gold.astype(np.float32)
    return columns


def write_predictions(path: Path, columns: Mapping[str, Any]) -> None:
    """One row per mention of dev and test: id, split, gold id, rank per protocol (0: none), the best ten entities,
    scores of head and units."""
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(dict(columns)), sink)
    write_atomic(path, sink.getvalue().to_pybytes())

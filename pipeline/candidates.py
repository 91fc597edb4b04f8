"""Candidate lists: which entities a mention is compared with, from one source or several, and how often the right one is among them."""

import io
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from cache.errors import UserError, nearest
from cache.files import write_atomic, write_json
from cache.store import Store
from cache.table import Table
from pipeline.records import SPLITS
from pipeline.retrieval import SCORERS, Lists, as_given, by_name, by_name_of_type, by_vector

RECALL_AT = (1, 5, 10, 20, 50, 100)
SOURCES = ("name", "name-of-type", "given", "dense")
MERGES = ("round-robin", "append")


def merge(sources: Sequence[Lists], k: int, how: str = "round-robin") -> Lists:
    """One list from several, each entity where it comes first.

    round-robin: by rank, every source's first, then every source's second, …; append: the first source whole, then what the next adds, …
    Scores are 1 / (position in the merged list), since those of different sources cannot be compared. A single source keeps its own.
    """
    if len(sources) == 1:
        return sources[0]
    axis = 2 if how == "round-robin" else 1
    woven = np.stack([source.ids for source in sources], axis=axis).reshape(len(sources[0].ids), -1)  # (M, k·sources)
    merged = Lists.empty(len(woven), k)
    for row, listed in enumerate(woven):
        listed = listed[listed >= 0]
        firsts = listed[np.sort(np.unique(listed, return_index=True)[1])][:k]
        merged.ids[row, : len(firsts)], merged.scores[row, : len(firsts)] = firsts, 1 / np.arange(1, len(firsts) + 1)
    return merged


def recall(lists: Lists, gold: np.ndarray, split: np.ndarray) -> dict[str, dict[str, float]]:
    """{split: {"n": mentions with a gold in the KB, "1": share with the gold listed first, "5": …, up to k}}. NIL and golds outside the KB do not count."""
    hit = lists.ids == gold[:, None]
    rank = np.where(hit.any(axis=1), hit.argmax(axis=1), np.iinfo(np.int64).max)
    out = {}
    for name in [name for name in SPLITS if name in split]:
        rows = (split == name) & (gold >= 0)
        depths = [depth for depth in RECALL_AT if depth < lists.ids.shape[1]] + [lists.ids.shape[1]]
        out[name] = {"n": int(rows.sum())} | {str(depth): round(float((rank[rows] < depth).mean()), 6) if rows.any() else 0.0 for depth in depths}
    return out


def _table(recalls: dict[str, dict[str, dict[str, float]]]) -> str:
    depths = [depth for depth in next(iter(next(iter(recalls.values())).values())) if depth != "n"]
    width = max(len(name) for name in recalls)
    lines = ["  ".join(["candidate recall".ljust(max(width, 16)), "split", "mentions".rjust(8), *(f"@{depth}".rjust(6) for depth in depths)])]
    lines.append("-" * len(lines[0]))
    for name, splits in recalls.items():
        for split, values in splits.items():
            figures = [f"{100 * values[depth]:6.2f}" for depth in depths]
            lines.append("  ".join([name.ljust(max(width, 16)), split.ljust(5), f"{values['n']:8,}", *figures]))
    return "\n".join(lines) + "\n"


def _dense_table(source: dict[str, Any], side: str) -> Table:
    with np.load(source[f"{side}_keys"], allow_pickle=False) as columns:
        return Table(Store.open(Path(source["store"])), source.get("output", "pooled"), columns["keys"], columns["present"])


def _given(folder: Path) -> list[list[int] | None]:
    path = folder / "given.parquet"
    if not path.exists():
        raise UserError("source given: no candidates came with this dataset; use the source name, or add them (docs/data.md says where)")
    return pq.read_table(path)["given"].to_pylist()


def _retrieve(source: dict[str, Any], folder: Path, k: int, workers: int) -> tuple[str, Lists]:
    """The source's label and its lists."""
    kind, scorer = source["kind"], source.get("scorer", SCORERS[0])
    if kind == "given":
        return kind, as_given(_given(folder), k)
    typed = ["type"] if kind == "name-of-type" else []
    mentions = pq.read_table(folder / "mentions.parquet", columns=["phrase", *typed]).to_pydict()
    entities = pq.read_table(folder / "entities.parquet", columns=["id", "name", *typed]).to_pydict()
    if kind == "name":
        return f"{kind}:{scorer}", by_name(mentions["phrase"], entities["name"], entities["id"], k, scorer, workers)
    if kind == "name-of-type":
        types = mentions["type"], entities["type"]
        return f"{kind}:{scorer}", by_name_of_type(mentions["phrase"], entities["name"], *types, entities["id"], k, scorer, workers)
    if kind == "dense":
        return f"{kind}:{source['feature']}", by_vector(_dense_table(source, "mention"), _dense_table(source, "entity"), entities["id"], k)
    raise UserError(f"unknown candidate source {kind!r}{nearest(kind, SOURCES)}")


def build(job: dict[str, Any]) -> dict[str, Any]:
    """Build candidate lists for every mention of a prepared dataset and write them to `job["out"]` (.npz: ids, scores as in `Lists`).

    job: dataset (prepared folder), out, k (100), sources (a list, by name alone if absent), merge (one of MERGES), workers (threads, all cores).
      {"kind": "name", "scorer": one of SCORERS}
      {"kind": "name-of-type", "scorer"}: among the entities of the mention's type
      {"kind": "given"}: the candidates that came with the dataset
      {"kind": "dense", "feature", "store": its folder, "output", "mention_keys", "entity_keys": .npz with keys and present}
    Returns, and writes beside the lists as .json: recall per source and of the merged list, seconds and mentions per second; with `table`, the same as text.
    Raises `UserError` for an unknown source, scorer or way to merge, and where the dataset lacks what a source needs.
    """
    folder, out, k, how = Path(job["dataset"]), Path(job["out"]), int(job.get("k", 100)), job.get("merge", MERGES[0])
    if k < 1:
        raise UserError(f"candidates per mention: {k}, expected at least 1")
    if how not in MERGES:
        raise UserError(f"--merge {how!r} is unknown{nearest(how, MERGES)}")
    columns = pq.read_table(folder / "mentions.parquet", columns=["gold", "split"]).to_pydict()
    gold, split = np.array(columns["gold"], np.int64), np.array(columns["split"])
    lists, recalls, seconds = [], {}, {}
    for source in job.get("sources") or [{"kind": "name"}]:
        started = time.monotonic()
        label, found = _retrieve(source, folder, k, job.get("workers", -1))
        lists.append(found)
        seconds[label] = round(time.monotonic() - started, 3)
        recalls[label] = recall(found, gold, split)
    merged = merge(lists, k, how)
    if len(lists) > 1:
        recalls["merged"] = recall(merged, gold, split)
    sink = io.BytesIO()
    np.savez(sink, ids=merged.ids, scores=merged.scores)
    write_atomic(out, sink.getvalue())
    rates = {label: round(len(gold) / max(spent, 1e-3), 1) for label, spent in seconds.items()}
    entities = pq.read_metadata(folder / "entities.parquet").num_rows
    report = {"k": k, "merge": how, "mentions": len(gold), "entities": entities, "recall": recalls, "seconds": seconds, "mentions_per_second": rates}
    write_json(out.with_suffix(".json"), report)
    return {**report, "table": _table(recalls)}

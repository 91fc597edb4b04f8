"""Candidate lists: which entities a mention is compared with, from one source or several, and how often the right one is among them."""

import io
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from cache.store import Store
from cache.table import Table
from foundation.errors import UserError, nearest
from foundation.files import write_atomic, write_json
from pipeline.candidates import ranks
from pipeline.candidates.retrieval import SCORERS, Lists, as_given, by_name, by_name_of_type, by_vector, of_types
from pipeline.datasets.records import SPLITS

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
        out[name] = {"n": int(rows.sum())} | {
            str(depth): round(float((rank[rows] < depth).mean()), 6) if rows.any() else 0.0 for depth in depths
        }
    return out


def _table(recalls: dict[str, dict[str, dict[str, float]]]) -> str:
    depths = [depth for depth in next(iter(next(iter(recalls.values())).values())) if depth != "n"]
    width = max(len(name) for name in recalls)
    lines = [
        "  ".join(
            [
                "candidate recall".ljust(max(width, 16)),
                "split",
                "mentions".rjust(8),
                *(f"@{depth}".rjust(6) for depth in depths),
            ]
        )
    ]
    lines.append("-" * len(lines[0]))
    for name, splits in recalls.items():
        for split, values in splits.items():
            figures = [f"{100 * values[depth]:6.2f}" if values["n"] else f"{'-':>6}" for depth in depths]
            lines.append("  ".join([name.ljust(max(width, 16)), split.ljust(5), f"{values['n']:8,}", *figures]))
    return "\n".join(lines) + "\n"


def _dense_table(source: dict[str, Any], side: str) -> Table:
    with np.load(source[f"{side}_keys"], allow_pickle=False) as columns:
        return Table(
            Store.open(Path(source["store"])), source.get("output", "pooled"), columns["keys"], columns["present"]
        )


def _given(folder: Path) -> list[list[int] | None]:
    path = folder / "given.parquet"
    if not path.exists():
        raise UserError(
            "source given: no candidates came with this dataset; use the source name, or add them (docs/data.md says where)"
        )
    return pq.ParquetFile(path).read()["given"].to_pylist()


def _retrieve(source: dict[str, Any], folder: Path, k: int, workers: int) -> tuple[str, Lists]:
    """The source's label and its lists."""
    kind, scorer = source["kind"], source.get("scorer", SCORERS[0])
    if kind == "given":
        return kind, as_given(_given(folder), k)
    typed = ["type"] if kind == "name-of-type" else []
    mentions = pq.ParquetFile(folder / "mentions.parquet").read(columns=["phrase", *typed]).to_pydict()
    entities = pq.ParquetFile(folder / "entities.parquet").read(columns=["id", "name", *typed]).to_pydict()
    label = f"{kind}:{source['feature'] if kind == 'dense' else scorer}"
    return label, retrieve(source, mentions, entities, k, lambda side: _dense_table(source, side), workers)


def retrieve(
    source: dict[str, Any],
    mentions: dict[str, Sequence],
    entities: dict[str, Sequence],
    k: int,
    vectors: Callable[[str], Table],
    workers: int = -1,
) -> Lists:
    """The lists of a source that compares mentions with the KB: by name, by name within the type, or by vector.

    mentions: columns phrase and, for name-of-type, type; entities: id, name and type; vectors: the table of a side, for dense. Raises `UserError`.
    """
    kind, scorer = source["kind"], source.get("scorer", SCORERS[0])
    names = mentions["phrase"], entities["name"]
    if kind == "name":
        return by_name(*names, entities["id"], k, scorer, workers)
    if kind == "name-of-type":
        return by_name_of_type(*names, mentions["type"], entities["type"], entities["id"], k, scorer, workers)
    if kind == "dense":
        return by_vector(vectors("mention"), vectors("entity"), entities["id"], k)
    raise UserError(f"unknown candidate source {kind!r}{nearest(kind, SOURCES)}")


def _rank(source: dict[str, Any], folder: Path, rows: np.ndarray, gold: np.ndarray, workers: int) -> np.ndarray:
    """(m,) rank of the golds (m,) of the mentions `rows` (m,) in the source's whole order, -1 where it has no order beyond its list."""
    kind, result = source["kind"], np.full(len(rows), ranks.UNKNOWN, np.int64)
    if kind == "given" or not len(rows):
        return result
    entities = (
        pq.ParquetFile(folder / "entities.parquet")
        .read(columns=["id", "name", *(["type"] if kind == "name-of-type" else [])])
        .to_pydict()
    )
    if kind == "dense":
        return ranks.by_vector(
            _dense_table(source, "mention"), _dense_table(source, "entity"), entities["id"], rows, gold
        )
    phrases = pq.ParquetFile(folder / "mentions.parquet").read(columns=["phrase"])["phrase"].take(rows).to_pylist()
    scorer = source.get("scorer", SCORERS[0])
    if kind == "name":
        return ranks.by_name(phrases, gold, entities["name"], entities["id"], scorer, workers)
    types = pq.ParquetFile(folder / "mentions.parquet").read(columns=["type"])["type"].take(rows).to_pylist()
    for among, asked in of_types(types, entities["type"]):
        inside = np.isin(gold[asked], among)  # a gold of another type is nowhere in this order
        asked, names, ids = (
            np.asarray(asked)[inside],
            [entities["name"][row] for row in among],
            [entities["id"][row] for row in among],
        )
        place = np.searchsorted(among, gold[asked])
        result[asked] = ranks.by_name([phrases[row] for row in asked], place, names, ids, scorer, workers)
    return result


def _gold_rank(
    sources: Sequence[dict[str, Any]],
    lists: Sequence[Lists],
    merged: Lists,
    gold: np.ndarray,
    folder: Path,
    how: str,
    workers: int,
) -> np.ndarray:
    """(M,) the gold's rank from 1 in the whole retrieval order: its place in the merged list, else behind it as `ranks.merged` says; -1 unknown."""
    result = np.where(gold >= 0, ranks.in_list(merged, gold), ranks.UNKNOWN)
    beyond = np.flatnonzero(result == 0)
    of_source = []
    for source, found in zip(sources, lists, strict=True):
        rank = ranks.in_list(Lists(found.ids[beyond], found.scores[beyond]), gold[beyond])
        absent = np.flatnonzero(rank == 0)
        rank[absent] = _rank(source, folder, beyond[absent], gold[beyond[absent]], workers)
        of_source.append(rank)
    rank = ranks.merged(of_source, [(found.ids[beyond] >= 0).sum(1) for found in lists], how)
    result[beyond] = np.where(rank > 0, np.maximum(rank, 1 + (merged.ids[beyond] >= 0).sum(1)), ranks.UNKNOWN)
    return result


def build(job: dict[str, Any]) -> dict[str, Any]:
    """Build candidate lists for every mention of a prepared dataset and write them to `job["out"]` (.npz: ids, scores as in `Lists`, and gold_rank (M,)
    int64: the gold's rank in the whole retrieval order, -1 where there is no gold in the KB or no source ranks it).

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
    columns = pq.ParquetFile(folder / "mentions.parquet").read(columns=["gold", "split"]).to_pydict()
    gold, split = np.array(columns["gold"], np.int64), np.array(columns["split"])
    lists, recalls, seconds = [], {}, {}
    sources, workers = job.get("sources") or [{"kind": "name"}], job.get("workers", -1)
    for source in sources:
        started = time.monotonic()
        label, found = _retrieve(source, folder, k, workers)
        lists.append(found)
        seconds[label] = round(time.monotonic() - started, 3)
        recalls[label] = recall(found, gold, split)
    merged = merge(lists, k, how)
    if len(lists) > 1:
        recalls["merged"] = recall(merged, gold, split)
    sink = io.BytesIO()
    np.savez(
        sink,
        ids=merged.ids,
        scores=merged.scores,
        gold_rank=_gold_rank(sources, lists, merged, gold, folder, how, workers),
    )
    write_atomic(out, sink.getvalue())
    rates = {label: round(len(gold) / max(spent, 1e-3), 1) for label, spent in seconds.items()}
    entities = pq.read_metadata(folder / "entities.parquet").num_rows
    report = {
        "k": k,
        "merge": how,
        "mentions": len(gold),
        "entities": entities,
        "recall": recalls,
        "seconds": seconds,
        "mentions_per_second": rates,
    }
    write_json(out.with_suffix(".json"), report)
    return {**report, "table": _table(recalls)}

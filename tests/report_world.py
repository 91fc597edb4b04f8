"""A prepared dataset and finished runs for tests of reports; its texts and names try to break out of a page."""

import json
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from small_world import picture

from heads.evaluation import write_predictions
from heads.metrics import figures, parts
from pipeline.datasets.contracts import PrepareJob
from pipeline.datasets.prepare import prepare
from report.contracts import CasesJob, NamedRun, PageJob, TablesJob

HURT = "</script><script>window.hurt=1</script><img src=x onerror='window.hurt=2'><!--<script>"
NAMES = [
    f"Ada {HURT}",
    "Ben & <b>Co</b>",
    "Cléo 'quote\"",
    "Dan\u2028Line",
    "Ella ${1+1} {{ 7*7 }}",
    "Finn 🦊",
    "Gus",
    "Hal",
]
GROUPS = ("easy", "hard <i>group</i>")


def dataset(folder: Path, mentions: int, cases: int) -> CasesJob:
    """Files in the jsonl layout and the prepared tables; a third of the mentions each in train, dev and test."""
    data = folder / "data"
    entities: list[dict[str, Any]] = [
        {
            "id": f"Q{number}",
            "name": name,
            "description": f"{name} is one {HURT}",
            "attributes": f"the {number}th. {HURT}",
            "type": "person",
        }
        for number, name in enumerate(NAMES)
    ]
    for number, entity in enumerate(entities[:6]):
        entity["images"] = [f"kb/e{number} onload='hurt()' <b>.png"]
    listed = []
    for number in range(mentions):
        gold = number % 8
        phrase = NAMES[gold].split()[0]
        one: dict[str, Any] = {
            "id": f"m{number:05d}",
            "sentence": f"🦊 {HURT} number {number}, {phrase} said {HURT}.",
            "mention": phrase,
            "gold": f"Q{gold}",
            "split": ("train", "dev", "test")[number % 3],
            "group": GROUPS[number // 3 % 2],
            "type": "person",
        }
        if number % 4:
            one["image"] = f'mentions/{number % 5}"><img onerror=hurt()>.png'
        listed.append(one)
    listed[2]["gold"], listed[5]["gold"] = None, "Q-elsewhere"
    for record in [*entities, *listed]:
        for path in [*record.get("images", []), *filter(None, [record.get("image")])]:
            if not (data / path).exists():
                picture(data / path, seed=zlib.crc32(path.encode()))
    for name, records in (("entities", entities), ("mentions", listed)):
        (data / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    out = folder / "prepared"
    dataset = prepare(PrepareJob(name="small", data_dir=data, out=out, format="jsonl"))
    images = {"mention": dataset.mention_images, "entity": dataset.entity_images}
    return CasesJob(prepared=out, images=images, most=cases, picture_bytes=10_000_000)


@dataclass(frozen=True)
class Trained:
    """A run to write. hit: the chance that a mention's gold is first. units: whose scores are among its predictions."""

    method: str
    seed: int
    hit: float
    units: tuple[str, ...] = ()


def write_run(folder: Path, data: Path, trained: Trained) -> Path:
    """A finished run's folder, with a ranking of the whole KB for each mention of dev and test."""
    random = np.random.default_rng(trained.seed)
    read = pq.read_table(data / "mentions.parquet")
    table = {name: read[name].to_numpy(zero_copy_only=False) for name in read.column_names}
    ids = pq.read_table(data / "entities.parquet", columns=["id"])["id"].to_pylist()
    here = np.flatnonzero(np.isin(table["split"], ["dev", "test"]))
    places, top = [], []
    for row in here:
        gold = table["gold"][row]
        order = random.permutation(len(ids)).tolist()
        if gold >= 0:
            order.remove(gold)
            order.insert(0 if random.random() < trained.hit else int(random.integers(1, 8)), gold)
        places.append(order.index(gold) + 1 if gold >= 0 else 0)
        top.append([ids[place] for place in order[:8]])
    rank = np.array(places)
    protocols = ("full_kb", "candidates", "rerank")
    columns: dict[str, Any] = {"id": table["id"][here], "split": table["split"][here], "gold": table["gold_id"][here]}
    columns |= {f"rank_{name}": rank.astype(np.int32) for name in protocols} | {"top": top}
    for name in ("score", *trained.units):
        expert = name == "expert"
        columns[f"top_{name}"] = [
            [float(random.integers(2)) if expert else 9.0 - place for place in range(8)] for _ in here
        ]
        columns[f"gold_{name}"] = np.where(rank > 0, 0.0 if expert else 10.0 - rank, np.nan).astype(np.float32)
    folder.mkdir(parents=True)
    write_predictions(folder / "predictions.parquet", columns)
    masks = parts({name: values[here] for name, values in table.items()}, table["gold"][here], np.ones(len(ids), bool))
    of_split = {
        split: {
            name: figures(
                rank[mask & (table["split"][here] == split)], rank[mask & (table["split"][here] == split)] > 0
            )
            for name, mask in masks.items()
        }
        for split in ("dev", "test")
    }
    metrics = {
        split: {name.replace("_", "-"): {part: one for part, one in by_part.items() if one["n"]} for name in protocols}
        for split, by_part in of_split.items()
    }
    (folder / "metrics.json").write_text(json.dumps(metrics))
    record = {
        "method": trained.method,
        "seed": trained.seed,
        "parameters": 1234,
        "seconds": {"train": 2.0},
        "epochs": 5,
        "pairs_per_second": {"candidates": 10.0},
    }
    (folder / "run.json").write_text(json.dumps(record))
    epochs = [{"epoch": epoch, "loss": 1 / epoch, "dev MRR": 0.5 + 0.04 * min(epoch, 4)} for epoch in range(1, 6)]
    (folder / "history.json").write_text(json.dumps({"best_epoch": 4, "epochs": epochs}))
    return folder


def job(folder: Path, mentions: int = 60, cases: int = 1000) -> PageJob:
    """A report's job over three methods, one of them with units, one with experts."""
    shown = dataset(folder, mentions, cases)
    trained = (
        Trained("drin", 1, 0.5),
        Trained("mimic", 2, 0.7, ("tglu", "vdlu", "cmfu")),
        Trained("dsmip", 3, 0.6, ("text", "multimodal", "expert")),
    )
    folders = [write_run(folder / "runs" / one.method, shown.prepared, one) for one in trained]
    runs = dict(zip(("drin", "mimic", f"dsmip {HURT}"), folders, strict=True))
    tables = TablesJob(
        dataset=f"small {HURT}",
        runs=tuple(NamedRun(name=name, folder=place, settings=f"lr 1 {HURT}") for name, place in runs.items()),
        skipped={"dwe": f"no feature {HURT}"},
        resamples=200,
    )
    return PageJob(tables=tables, cases=shown, out=folder / "report.html", command=f"luigi {HURT}")


def explanations(name: str, ids: Iterable[str]) -> dict[str, dict[str, Any]]:
    """What heads might tell of these mentions: DRIN edges, the others attention."""
    candidates = [
        {
            "id": f"Q{number}",
            "score": 1.0,
            "edges": {"tt": [0.25, 0.75], "ii": [0.5, 1.125]},
            "pairs": {"text_cls": 0.5},
        }
        for number in range(8)
    ]
    attention = {"objects": {"weights": [0.7, 0.3], "boxes": [0, -1]}}
    answer = (
        {"candidates": candidates, "attention": {}} if name == "drin" else {"candidates": [], "attention": attention}
    )
    return {one: {"id": one, **answer} for one in ids}

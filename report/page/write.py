"""Writes the page of a report: gathers tables, curves and cases of finished runs, and renders them."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from foundation.errors import UserError
from foundation.files import read_json, write_atomic
from foundation.progress import Bar
from heads.explanations import by_hash, explain
from heads.metrics import parts
from pipeline.datasets.account import grids
from pipeline.datasets.images import Limits
from report import agreement, curves, leaderboard
from report.cases import TOP, Cases, Method, Source
from report.page.render import render
from report.runs import shared_protocol
from report.tables import table
from report.thumbnails import Thumbnails


def write(job: dict[str, Any]) -> dict[str, Any]:
    """Write `job["out"]`, one HTML file. Returns `{"file", "cases", "pictures", "left_out", "bytes"}`.

    job: as `report.leaderboard.write` takes it (splits: one), and runs (name -> the job of the run whose cases are shown), data (the prepared
    dataset's folder), roots (side -> folder of its pictures), found (see `Source.read`), limits, cases (most of them), pictures (bytes of all
    thumbnails), explain (whether heads are asked for what they tell), device, command (what is said to have made the page).
    """
    return compose(job, partial(told, job))


def compose(job: dict[str, Any], ask: Callable[[str, Sequence[str]], dict[str, dict[str, Any]]]) -> dict[str, Any]:
    """`write`, told by `ask(name, ids)` what the head of that name says of these mentions, by id (see `heads.explanations.explain`)."""
    split = job["splits"][-1]
    entries, _, tables = leaderboard.compared(job)
    experiments = [entry.experiment for entry in entries]
    protocol = shared_protocol(experiments, split)
    ids, right = agreement.hits(experiments, split, protocol)
    account = read_json(Path(job["data"]) / "account.json")
    source = Source.read(Path(job["data"]), {side: Path(root) for side, root in job["roots"].items()}, job["found"])
    rows = choose(source.mentions, split, dict(zip(ids.tolist(), right.T, strict=True)), job["cases"])
    names = [source.mentions["id"][row] for row in rows]
    methods = [
        Method(
            entry.name,
            predictions(entry.experiment.runs[0].folder, names),
            ask(entry.name, names),
            f"rank_{protocol.replace('-', '_')}",
        )
        for entry in entries
    ]
    made = Cases(source, methods, Thumbnails(Limits(**job["limits"]), budget=job["pictures"]))
    of_parts = membership(source)
    with Bar(len(rows), "cases", "case") as progress:
        cases = []
        for row in rows:
            cases.append(
                made.case(row) | {"parts": [number for number, mask in enumerate(of_parts.values()) if mask[row]]}
            )
            progress.update(1)
    there = sorted({number for one in cases for number in one["parts"]})
    for one in cases:
        one["parts"] = [there.index(number) for number in one["parts"]]
    data = {
        "cases": cases,
        "entities": made.entities,
        "pictures": {name: picture.uri for name, picture in made.thumbnails.made.items()},
        "parts": [list(of_parts)[number] for number in there],
        "methods": [method.name for method in methods],
        "kinds": {entry.name: entry.experiment.told.get("method", entry.name) for entry in entries},
    }
    in_split = source.mentions["split"].count(split)
    histories = {entry.name: read_json(entry.experiment.runs[0].folder / "history.json") for entry in entries}
    figures = {entry.name: entry.averages[split][protocol]["all"] for entry in entries}
    by_title = {
        "part": [one for one in tables if "by part" in one.title],
        "cost": [one for one in tables if one.title.startswith("Cost")],
    }
    by_title["published"] = [one for one in tables if one.title.startswith("PUBLISHED")]
    apart = [one for group in by_title.values() for one in group]
    context = {
        "dataset": job["dataset"],
        "split": split,
        "protocol": protocol,
        "figures": figures,
        "mentions": in_split,
        "right": right,
        "ids": ids,
        "entities": len(source.entities["id"]),
        "standings": [one for one in tables if not any(one is other for other in apart)],
        **by_title,
        "agreement": agreement.agreement([entry.name for entry in entries], right),
        "charts": curves.charts(histories),
        "account": [
            table(title, ["", *heads], [[label, *(f"{value:,}" for value in values)] for label, values in grid])
            for title, heads, grid in grids(account)
        ],
        "skipped": job["skipped"],
        "cases": len(cases),
        "top": TOP,
        "left_out": made.thumbnails.left_out,
        "command": job["command"],
    }
    page = render(context, data)
    write_atomic(Path(job["out"]), page)
    thumbnails = made.thumbnails
    return {
        "file": job["out"],
        "cases": len(cases),
        "pictures": len(thumbnails.made),
        "left_out": thumbnails.left_out,
        "bytes": len(page.encode()),
    }


def choose(mentions: Mapping[str, Sequence[Any]], split: str, right: Mapping[str, np.ndarray], most: int) -> list[int]:
    """Rows of the split's mentions whose cases are shown, in the table's order: all where there are no more than `most`; else up to half of them from
    those that some methods have right and others wrong, the others drawn from the rest, always the same ones. right: (E,) bool by id."""
    here = [row for row, name in enumerate(mentions["split"]) if name == split]
    if len(here) <= most:
        return here
    order = sorted(here, key=lambda row: by_hash(mentions["id"][row]))

    def disputed(row: int) -> bool:
        found = right.get(mentions["id"][row])
        return found is not None and bool(found.any() and not found.all())

    first = [row for row in order if disputed(row)][: most // 2]
    taken = set(first)
    return sorted([*first, *[row for row in order if row not in taken][: most - len(first)]])


def predictions(run: Path, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Rows of a run's predictions by mention id, of these mentions."""
    path = run / "predictions.parquet"
    try:
        read = pq.read_table(path, filters=[("id", "in", list(names))]) if names else pq.read_table(path).slice(0, 0)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({str(error).splitlines()[0]}); train the head again") from error
    return {row["id"]: row for row in read.to_pylist()}


def told(job: Mapping[str, Any], name: str, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """What the head behind a name tells of these mentions, by id; nothing where it is not asked."""
    if not job["explain"] or name not in job["runs"] or not names:
        return {}
    return {
        one["id"]: one
        for one in explain(
            {**job["runs"][name], "device": job["device"]}, split=job["splits"][-1], mentions=names, top=4 * TOP
        )
    }


def membership(source: Source) -> dict[str, np.ndarray]:
    """Part -> (M,) bool: the parts that figures are given for, and mentions without a gold in the KB."""
    table = {
        name: np.array(values, dtype=object)
        for name, values in source.mentions.items()
        if name in ("split", "group", "gold_id", "image_status")
    }
    table |= {
        name: np.array(source.mentions[name], bool)
        for name in ("phrase_is_name", "gold_in_train", "sentence_in_train", "ambiguous")
    }
    gold = np.array(source.mentions["gold"], np.int64)
    found = parts(table, gold, np.array([status == "ok" for status in source.entities["image_status"]], bool))
    found = {name: mask for name, mask in found.items() if name != "all" and not name.startswith("half: ")}
    return {**found, "NIL": gold == -1, "gold outside the KB": gold == -2}

"""Writes the page of a report: gathers tables, curves and cases of finished runs, and renders them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import inf, isnan
from typing import Any

import numpy as np

from foundation.arrays import Expected, read_npz
from foundation.checksums import read_sealed
from foundation.files import write_atomic
from foundation.progress import Bar
from foundation.tables import TextTable
from heads.contracts import Selection
from heads.explanations import by_hash, explain
from heads.metrics import parts
from pipeline.candidates.recall import per_mention, per_mention_table
from pipeline.datasets.account import tables as account_tables
from pipeline.datasets.text_statistics import text_statistics
from report import agreement, curves, leaderboard
from report.cases import TOP, CaseData, Cases, Explanation, Method
from report.contracts import CasesJob, PageJob, PageResult
from report.page.render import render
from report.runs import read_predictions, shared_protocol
from report.thumbnails import Thumbnails, uris

Explain = Callable[[str, Sequence[str]], Mapping[str, Explanation]]
"""(name of a run, ids of mentions) -> what its head tells of them, by id."""


def write_page(job: PageJob) -> PageResult:
    """Write `job.out`, one HTML file that loads nothing. Raises `UserError` where a run or dataset cannot be read."""
    return write_explained(job, partial(explanations, job.cases, job.tables.splits[-1]))


def write_explained(job: PageJob, explain_run: Explain) -> PageResult:
    """`write_page`, with the explanations that `explain_run` gives."""
    split = job.tables.splits[-1]
    standings = leaderboard.make_standings(job.tables)
    entries = standings.entries
    experiments = [entry.experiment for entry in entries]
    names = [entry.name for entry in entries]
    protocol = shared_protocol(experiments, split)
    hits = agreement.hits(experiments, split, protocol)
    source = CaseData.read(job.cases.prepared, job.cases.images, job.cases.detections)
    right = dict(zip(hits.ids.tolist(), hits.right.T, strict=True))
    rows = choose(source.mentions, split, right, job.cases.most)
    ids = [source.mentions["id"][row] for row in rows]
    methods = [
        Method(
            entry.name,
            read_predictions(entry.experiment.runs[0].folder, ids=ids),
            explain_run(entry.name, ids),
            protocol,
        )
        for entry in entries
    ]
    cases = Cases(source, methods, Thumbnails(job.cases.limits, budget=job.cases.picture_bytes))
    listed, parts_shown = _cases_with_parts(cases, rows)
    data = {
        "cases": listed,
        "entities": cases.entities,
        "pictures": uris(cases.thumbnails),
        "parts": parts_shown,
        "methods": names,
        "kinds": {entry.name: entry.experiment.record.method or entry.name for entry in entries},
    }
    colours = {name: number for number, name in enumerate(names)}
    account = read_sealed(job.cases.prepared / "account.json")
    account.setdefault("texts", text_statistics(source.mentions, source.entities))  # accounts of before lack them
    context = {
        "dataset": job.tables.dataset,
        "split": split,
        "protocol": protocol,
        "cards": cards(entries, split, protocol),
        "mentions": source.mentions["split"].count(split),
        "ids": hits.ids,
        "entities": len(source.entities["id"]),
        "standings": [*standings.by_protocol, *standings.against_text],
        "missing": [(leaderboard.missing_table(one), curves.missing_charts(one, colours)) for one in standings.missing],
        "part": [*standings.by_part, *(table for table in (standings.experts, standings.tuned) if table)],
        "cost": [standings.costs],
        "published": standings.published,
        "agreement": agreement.agreement(names, hits.right),
        "charts": curves.charts({entry.name: entry.experiment.runs[0].history() for entry in entries}),
        "account": _titled([*account_tables(account), *_list_tables(job.cases, source.mentions["split"])]),
        "lengths": curves.lengths_chart(account["texts"]["splits"]),
        "skipped": job.tables.skipped,
        "cases": len(listed),
        "left_out": cases.thumbnails.left_out,
        "command": job.command,
    }
    page = render(context, data)
    write_atomic(job.out, page)
    return PageResult(
        file=job.out,
        cases=len(listed),
        pictures=len(cases.thumbnails.by_name),
        left_out=cases.thumbnails.left_out,
        bytes=len(page.encode()),
    )


@dataclass(frozen=True)
class Card:
    """A method's figures in percent, as the head of the page shows them. colour: its place among the methods."""

    name: str
    colour: int
    hits: str
    reciprocal: str


def cards(entries: Sequence[leaderboard.Entry], split: str, protocol: str) -> list[Card]:
    """A card per method under one protocol, the best H@1 first, of equal ones the best MRR."""
    figures = {entry.name: entry.averages[split][protocol]["all"].figures for entry in entries}
    colours = {name: place for place, name in enumerate(figures)}

    def mean(name: str, figure: str) -> float:
        return figures[name][figure].mean if figure in figures[name] else float("nan")

    def shown(value: float) -> str:
        return "–" if isnan(value) else f"{100 * value:.1f}"

    def rank(name: str) -> tuple[float, ...]:
        return tuple(inf if isnan(value) else -value for value in (mean(name, "H@1"), mean(name, "MRR")))

    ordered = sorted(figures, key=rank)
    return [Card(name, colours[name], shown(mean(name, "H@1")), shown(mean(name, "MRR"))) for name in ordered]


def _titled(tables: Sequence[TextTable]) -> list[TextTable]:
    """The tables, the name of the first column above each as its title."""
    return [replace(table, title=table.header[0], header=("", *table.header[1:])) for table in tables]


def _list_tables(job: CasesJob, splits: Sequence[str]) -> list[TextTable]:
    """How many candidates a mention has in the lists that the runs were trained on; nothing without their jobs.
    splits: of all mentions."""
    files = list(dict.fromkeys(training.candidates for training in job.trainings.values()))
    by_label = {}
    for number, file in enumerate(files, 1):
        ids = read_npz(file, {"ids": Expected("iu", (len(splits), None))})["ids"]
        label = "mean" if len(files) == 1 else f"lists {number}, mean"
        by_label[label] = per_mention((ids >= 0).sum(1), np.array(splits))
    return [per_mention_table(by_label)] if by_label else []


def _cases_with_parts(cases: Cases, rows: Sequence[int]) -> tuple[list[dict[str, Any]], list[str]]:
    """The cases of some mentions, each with `parts`, numbers in the list of parts that is returned beside them."""
    members = membership(cases.source)
    shown = [name for name, mask in members.items() if mask[list(rows)].any()]
    listed = []
    with Bar(len(rows), "cases", "case") as progress:
        for row in rows:
            numbers = [number for number, name in enumerate(shown) if members[name][row]]
            listed.append(cases.case(row) | {"parts": numbers})
            progress.update(1)
    return listed, shown


def choose(mentions: Mapping[str, Sequence[Any]], split: str, right: Mapping[str, np.ndarray], most: int) -> list[int]:
    """Rows of the split's mentions whose cases are shown, in the table's order; always the same ones.

    All where there are no more than `most`; else up to half of them from those that some methods have right and others
    wrong, the others drawn from the rest. right: (E,) bool by id.
    """
    here = [row for row, name in enumerate(mentions["split"]) if name == split]
    if len(here) <= most:
        return here
    order = sorted(here, key=lambda row: by_hash(mentions["id"][row]))

    def disputed(row: int) -> bool:
        verdicts = right.get(mentions["id"][row])
        return verdicts is not None and bool(verdicts.any() and not verdicts.all())

    first = [row for row in order if disputed(row)][: most // 2]
    taken = set(first)
    return sorted([*first, *[row for row in order if row not in taken][: most - len(first)]])


def explanations(job: CasesJob, split: str, name: str, ids: Sequence[str]) -> dict[str, Explanation]:
    """What the head of the run of that name tells of these mentions, by id; nothing without its training job."""
    if name not in job.trainings or not ids:
        return {}
    run = replace(job.trainings[name], compute=job.compute)
    selection = Selection(split=split, mentions=tuple(ids), top=4 * TOP)
    return {one["id"]: one for one in explain(run, selection)}


def membership(source: CaseData) -> dict[str, np.ndarray]:
    """Part -> (M,) bool: the parts that figures are given for, and mentions without a gold in the KB."""
    texts = ("split", "group", "gold_id", "image_status")
    flags = ("phrase_is_name", "gold_in_train", "sentence_in_train", "ambiguous")
    table = {name: np.array(source.mentions[name], dtype=object) for name in texts}
    table |= {name: np.array(source.mentions[name], bool) for name in flags}
    gold = np.array(source.mentions["gold"], np.int64)
    entity_image = np.array([status == "ok" for status in source.entities["image_status"]], bool)
    masks = {
        name: mask
        for name, mask in parts(table, gold, entity_image).items()
        if name != "all" and not name.startswith("half: ")
    }
    return {**masks, "NIL": gold == -1, "gold outside the KB": gold == -2}

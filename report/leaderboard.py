"""The leaderboard: methods side by side under every protocol, with deviations over seeds, significance, and what each costs."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from foundation.files import write_atomic
from report.averages import FIGURES, Averages, averages, said, spread
from report.long_csv import tidy
from report.published import published
from report.runs import Experiment, ranks, read_experiment, shared_protocol
from report.significance import RESAMPLES, holm, p_said, paired_bootstrap
from report.tables import Cell, Table, as_latex, as_markdown, as_text, table

GROUP = "group: "
UNGROUPED = ["mention image: yes", "mention image: no", "gold image: yes", "gold image: no", "image on both sides: yes"]


@dataclass(frozen=True)
class Entry:
    """An experiment with its averages. settings: options that differ from their defaults."""

    experiment: Experiment
    averages: Averages
    settings: str

    @property
    def name(self) -> str:
        return self.experiment.name


def write(job: dict[str, Any]) -> dict[str, Any]:
    """Write leaderboard.txt, .ansi (the same for a terminal, the best in bold), .md, .tex and .csv.

    job: dataset (label), experiments (list of {name, run, settings}), text_only (the same, by the names of those that they belong to), reference (a
    name that the others are compared with; empty: the best), skipped (name -> reason), splits, out (folder), and optionally resamples.
    Returns `{"text"}`.
    """
    entries, alone, tables = compared(job)
    skipped = [f"not here: {name}: {reason}" for name, reason in job["skipped"].items()]
    heading = f"{job['dataset']}: {', '.join(entry.name for entry in entries)}"
    out = Path(job["out"])
    text = "\n\n".join([heading, *map(as_text, tables), *skipped])
    notes = table("Left out", ["", "reason"], list(job["skipped"].items()))
    listed = [*tables, *([notes] if skipped else [])]
    write_atomic(out / "leaderboard.txt", text + "\n")
    write_atomic(
        out / "leaderboard.ansi", "\n\n".join([heading, *(as_text(one, bold=True) for one in tables), *skipped]) + "\n"
    )
    write_atomic(out / "leaderboard.md", "\n".join(map(as_markdown, listed)))
    write_atomic(out / "leaderboard.tex", "% needs \\usepackage{booktabs}\n" + "\n".join(map(as_latex, listed)))
    measured = {entry.name: entry.averages for entry in [*entries, *_renamed(alone)]}
    write_atomic(out / "leaderboard.csv", tidy(job["dataset"], measured, not job["reference"]))
    return {"text": text}


def compared(job: dict[str, Any]) -> tuple[list[Entry], dict[str, Entry], list[Table]]:
    """The experiments of a job of `write`, the text-only ones by name, and all tables in their order."""
    entries = [_entry(one) for one in job["experiments"]]
    alone = {one["name"]: _entry(one) for one in job["text_only"]}
    resamples = job.get("resamples", RESAMPLES)
    tables: list[Table] = []
    for split in job["splits"]:
        tables += [
            standing(entries, split, protocol, job["reference"], resamples) for protocol in _protocols(entries, split)
        ]
    last = job["splits"][-1]
    tables.append(by_part(entries, last))
    if alone:
        tables.append(against_text(entries, alone, last))
    return entries, alone, [*tables, costs(entries), *([] if job["reference"] else [published()])]


def _entry(said_of: dict[str, Any]) -> Entry:
    experiment = read_experiment(said_of["name"], Path(said_of["run"]))
    return Entry(experiment, averages([run.metrics for run in experiment.runs]), said_of["settings"])


def _renamed(alone: dict[str, Entry]) -> list[Entry]:
    return [
        Entry(Experiment(f"{name}, text only", one.experiment.runs), one.averages, one.settings)
        for name, one in alone.items()
    ]


def _protocols(entries: Sequence[Entry], split: str) -> list[str]:
    there = [protocol for entry in entries for protocol in entry.experiment.protocols(split)]
    return [protocol for protocol in ("full-kb", "candidates", "rerank") if protocol in there]


def standing(entries: Sequence[Entry], split: str, protocol: str, reference: str, resamples: int) -> Table:
    """Every figure under one protocol, the best of each marked; p of H@1 and MRR against the best (or against `reference`)."""
    here = [entry for entry in entries if protocol in entry.experiment.protocols(split)]
    figures = {entry.name: entry.averages[split][protocol]["all"] for entry in here}
    best = {name: _best(name, [figures[entry.name].get(name) for entry in here]) for name in FIGURES}
    compared = _compared(here, split, protocol, reference, resamples)
    differs = ["Δ H@1", "relative"] if reference else []
    rows = []
    for entry in here:
        values = figures[entry.name]
        row: list[Cell | str] = [entry.name]
        row += [
            Cell(said(name, values.get(name)), name != "recall" and _is(best[name], values.get(name)))
            for name in FIGURES
        ]
        if reference:
            row += _change(figures.get(reference), values, entry.name == reference)
        rows.append([*row, *compared[entry.name]])
    counts = sorted({values["n"] for values in figures.values()})
    absent = [entry.name for entry in entries if entry not in here]
    seeds = max(len(entry.experiment.runs) for entry in here)
    return table(
        f"{split}, {protocol} ({', '.join(map(str, counts))} mentions)",
        ["", *FIGURES, *differs, "p H@1", "p MRR"],
        rows,
        f"p against {reference or 'the best'}: paired bootstrap over mentions, Holm-adjusted over this table"
        + (f"; mean ± standard deviation over {seeds} seeds." if seeds > 1 else "."),
        f"No such figures: {', '.join(absent)} (scores lists alone)." if absent else "",
    )


def _is(best: float | None, value: dict[str, Any] | None) -> bool:
    return best is not None and value is not None and value["mean"] == best


def _best(name: str, values: Sequence[dict[str, Any] | None]) -> float | None:
    """The best mean: of MR the smallest. None where all are equal: nothing is then marked."""
    means = {value["mean"] for value in values if value is not None}
    return (min if name == "MR" else max)(means) if len(means) > 1 else None


def _change(of_reference: dict[str, Any] | None, values: dict[str, Any], itself: bool) -> list[str]:
    """H@1 minus the reference's, in points and as a share of it."""
    if itself or of_reference is None:
        return ["", ""]
    before, now = of_reference["H@1"]["mean"], values["H@1"]["mean"]
    return [f"{(now - before) * 100:+.2f}", f"{now / before - 1:+.1%}" if before else "–"]


def _compared(here: Sequence[Entry], split: str, protocol: str, reference: str, resamples: int) -> dict[str, list[str]]:
    """name -> p of H@1 and of MRR against the best of each, or against `reference`."""
    if len(here) == 1:
        return {here[0].name: ["", ""]}
    measures = {entry.name: ranks(entry.experiment, split, protocol) for entry in here}
    first = next(iter(measures.values()))
    alike = {
        name: np.array_equal(one.ids, first.ids) and np.array_equal(one.gold, first.gold)
        for name, one in measures.items()
    }
    columns = []
    for place in range(2):
        values = {name: one.measures()[place] for name, one in measures.items() if alike[name]}
        chosen = (
            reference
            if reference in values
            else max(values, key=lambda name: values[name].mean() if len(values[name]) else 0.0)
        )
        others = [name for name in values if name != chosen]
        tested = (
            paired_bootstrap(np.stack([values[name] for name in others]), values[chosen], resamples=resamples)
            if others
            else []
        )
        adjusted = dict(zip(others, holm([one.p for one in tested]), strict=True))
        shown = {name: p_said(p) for name, p in adjusted.items()} | {chosen: "ref." if reference else "best"}
        columns.append({name: shown.get(name, "–") for name in measures})
    return {entry.name: [column[entry.name] for column in columns] for entry in here}


def by_part(entries: Sequence[Entry], split: str) -> Table:
    """H@1 of every part of the split, a column per experiment, the best of each part marked."""
    protocol = shared_protocol([entry.experiment for entry in entries], split)
    figures = [entry.averages[split][protocol] for entry in entries]
    parts = [name for name in figures[0] if all("H@1" in one.get(name, {}) for one in figures)]
    rows = []
    for part in parts:
        values = [one[part] for one in figures]
        best = _best("H@1", [value["H@1"] for value in values])
        cells = [Cell(said("H@1", value["H@1"]), _is(best, value["H@1"])) for value in values]
        rows.append([part, str(values[0]["n"]), *cells])
    return table(
        f"{split}, {protocol}, H@1 by part", ["", "n", *(entry.name for entry in entries)], rows, _why(protocol)
    )


def _why(protocol: str) -> str:
    if protocol != "rerank":
        return ""
    return "Some of them score lists alone: the list by the head's score, then the rest of the KB in retrieval order."


def against_text(entries: Sequence[Entry], alone: dict[str, Entry], split: str) -> Table:
    """H@1 of each method and of itself without pictures, over all and by group (or by who has a picture, where the data has no groups)."""
    rows: list[list[Cell | str]] = []
    for entry in entries:
        if entry.name not in alone:
            continue
        protocol = shared_protocol([entry.experiment, alone[entry.name].experiment], split)
        both = entry.averages[split][protocol], alone[entry.name].averages[split][protocol]
        parts = [part for part in both[0] if part.startswith(GROUP)] or UNGROUPED
        for part in ["all", *parts]:
            if all("H@1" in one.get(part, {}) for one in both):
                runs = zip(entry.experiment.runs, alone[entry.name].experiment.runs, strict=True)
                gains = [
                    run.metrics[split][protocol][part]["H@1"] - other.metrics[split][protocol][part]["H@1"]
                    for run, other in runs
                ]
                with_pictures, without = (said("H@1", one[part]["H@1"]) for one in both)
                rows.append(
                    [
                        entry.name,
                        part.removeprefix(GROUP),
                        protocol,
                        str(both[0][part]["n"]),
                        with_pictures,
                        without,
                        _gain(gains),
                    ]
                )
    header = ["", "mentions", "protocol", "n", "as it is", "text only", "gain"]
    return table(
        f"{split}, H@1 of each method and of its text-only ablation", header, rows, "gain: points of H@1, seed by seed."
    )


def _gain(gains: Sequence[float]) -> str:
    value = spread([gain * 100 for gain in gains])
    return f"{value['mean']:+.2f}" + (f" ± {value['deviation']:.2f}" if value["deviation"] is not None else "")


def costs(entries: Sequence[Entry]) -> Table:
    """Trainable parameters, seconds of training, pairs per second, the device, and the settings behind the figures."""
    rows = []
    for entry in entries:
        told = [run.told for run in entry.experiment.runs]
        first = told[0]
        speeds = [[one.get("pairs_per_second", {}).get(name) for one in told] for name in ("candidates", "full-kb")]
        seconds = [one.get("seconds", {}).get("train") for one in told]
        rows.append(
            [
                entry.name,
                str(len(told)),
                f"{first['parameters']:,}" if "parameters" in first else "–",
                _over(seconds, "{:.1f}"),
                *(_over(values, "{:,.0f}") for values in speeds),
                " / ".join(str(one.get("epochs", "–")) for one in told),
                f"{first.get('device', '–')}, {first.get('precision', '–')}",
                entry.settings or "none",
            ]
        )
    header = [
        "",
        "seeds",
        "parameters",
        "train s",
        "pairs/s, lists",
        "pairs/s, KB",
        "epochs",
        "device",
        "settings other than the method's defaults",
    ]
    note = "parameters: trainable ones. Speeds: encoding both sides and scoring, features read from the cache."
    return table("Cost and settings", header, rows, note)


def _over(values: Sequence[float | None], form: str) -> str:
    """Mean (± deviation) of what is known."""
    known = [value for value in values if value is not None]
    if not known:
        return "–"
    value = spread(known)
    return form.format(value["mean"]) + (
        f" ± {form.format(value['deviation'])}" if value["deviation"] is not None else ""
    )

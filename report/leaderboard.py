"""The leaderboard: methods side by side under every protocol, with deviations over seeds, significance, and costs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from foundation.errors import UserError
from foundation.files import write_atomic
from foundation.tables import Cell, TextTable, as_latex, as_markdown, as_text, terminal_width, text_table
from heads.contracts import TAKES
from heads.protocols import FORCED, RERANK, ordered, protocol_of
from report import tuning
from report.averages import FIGURES, MAIN, Average, PartAverages, average_text
from report.combination import behind_best_part
from report.contracts import LeaderboardJob, LeaderboardResult, TablesJob
from report.costs import cost_table
from report.entries import Entry, read_entry
from report.long_csv import long_csv
from report.missing import MissingPictures, measure, missing_table, picture
from report.published import published, published_by_text
from report.runs import ranks, shared_protocol
from report.significance import holm, p_text, paired_bootstrap, paired_t_test

GROUP = "group: "
UNGROUPED = ["mention image: yes", "mention image: no", "gold image: yes", "gold image: no", "image on both sides: yes"]


@dataclass(frozen=True)
class Standings:
    """Everything a leaderboard says. entries, text_only: of the job's runs, by their names.

    by_protocol: a table for each split, group and protocol. by_part, against_text: one for each group and kind of
    lists; the latter empty without text-only runs. missing: by kind of lists, empty where no pictures are masked.
    trained: what of their encoders the runs trained, by name. tuned: its table, None where no encoder was tuned.
    experts: None without a gate. published: the papers' figures; none for ablations, which are set against a reference.
    """

    entries: Sequence[Entry]
    text_only: Mapping[str, Entry]
    by_protocol: Sequence[TextTable]
    by_part: Sequence[TextTable]
    experts: TextTable | None
    against_text: Sequence[TextTable]
    missing: Sequence[MissingPictures]
    trained: Mapping[str, tuning.Tuning]
    tuned: TextTable | None
    costs: TextTable
    published: Sequence[TextTable]

    def tables(self) -> list[TextTable]:
        """All of them, in the order in which they are shown."""
        missing = map(missing_table, self.missing)
        of_parts = [*self.by_part, self.experts, *self.against_text, *missing, self.tuned]
        listed = [*self.by_protocol, *of_parts, self.costs, *self.published]
        return [table for table in listed if table is not None]


def write_leaderboard(job: LeaderboardJob) -> LeaderboardResult:
    """Write leaderboard.txt, .ansi (the same as wide as the terminal, the best in bold), .md, .tex and .csv; and
    missing-pictures.png where pictures are masked (-2.png for other lists), and tuned.png where encoders were cut
    at several blocks.

    Raises `UserError` for a folder without a finished run.
    """
    standings = make_standings(job.tables)
    tables = standings.tables()
    skipped = [f"not here: {name}: {reason}" for name, reason in job.tables.skipped.items()]
    heading = f"{job.tables.dataset}: {', '.join(entry.name for entry in standings.entries)}"
    text = "\n\n".join([heading, *map(as_text, tables), *skipped])
    for_terminal = [as_text(table, bold=True, width=terminal_width()) for table in tables]
    listed = [*tables, *([text_table(["", "reason"], job.tables.skipped.items(), "Left out")] if skipped else [])]
    text_only = {f"{name}, text only": entry.averages for name, entry in standings.text_only.items()}
    measured = {entry.name: entry.averages for entry in standings.entries} | text_only
    for missing in standings.missing:
        measured |= {name: missing.added(name, measured[name]) for name in missing.curves}
    contents: dict[str, str] = {
        "txt": text + "\n",
        "ansi": "\n\n".join([heading, *for_terminal, *skipped]) + "\n",
        "md": "\n".join(map(as_markdown, listed)),
        "csv": long_csv(job.tables.dataset, measured, with_published=bool(standings.published)),
        "tex": "% needs \\usepackage{booktabs}\n" + "\n".join(map(as_latex, listed)),
    }
    files: dict[Path, str | bytes] = {job.out / f"leaderboard.{kind}": content for kind, content in contents.items()}
    for number, missing in enumerate(standings.missing, 1):
        files[job.out / f"missing-pictures{f'-{number}' if number > 1 else ''}.png"] = picture(missing)
    if job.tables.cuts and standings.tuned is not None:
        files[job.out / "tuned.png"] = tuning.picture(standings.entries, standings.trained, job.tables.splits[-1])
    for path, content in files.items():
        write_atomic(path, content)
    return LeaderboardResult(text=text, files=tuple(files))


def make_standings(job: TablesJob) -> Standings:
    """The tables over a job's runs. Raises `UserError` for a folder without a finished run."""
    entries = [read_entry(run) for run in job.runs]
    text_only = {run.name: read_entry(run) for run in job.text_only}
    last = job.splits[-1]
    trained = tuning.of_entries(entries)
    groups = [[entry for entry in entries if entry.group == group] for group in dict.fromkeys(e.group for e in entries)]
    return Standings(
        entries=entries,
        text_only=text_only,
        by_protocol=[table for split in job.splits for group in groups for table in standing_tables(group, split, job)],
        by_part=[by_part(alike, last) for group in groups for alike in _of_alike_lists(group, last)],
        experts=experts_taken(entries, last),
        against_text=against_text(entries, text_only, last) if text_only else [],
        missing=[
            measure(alike, {e.name: text_only[e.name] for e in alike if e.name in text_only}, job)
            for alike in (_of_alike_lists(entries, last) if job.drop_pictures else ())
        ],
        trained=trained,
        tuned=tuning.tuning_table(entries, trained, last) if len(_of_alike_lists(entries, last)) == 1 else None,
        costs=cost_table(entries),
        published=[] if job.reference else [published(), *([published_by_text()] if job.entity_texts else [])],
    )


def _protocols(entries: Sequence[Entry], split: str) -> list[str]:
    return ordered(name for entry in entries for name in entry.experiment.protocols(split))


def standing_tables(entries: Sequence[Entry], split: str, job: TablesJob) -> list[TextTable]:
    """A table for each protocol of a split over the entries of a group; one for those under which every figure is the
    same."""
    same: dict[tuple[TextTable, bool], list[str]] = {}
    for protocol in _protocols(entries, split):
        table = standing(entries, split, protocol, job.reference, job.resamples)
        same.setdefault((table, FORCED in protocol), []).append(protocol)
    group = f", {entries[0].group}" if entries[0].group else ""
    return [
        replace(table, title=f"{split}, {' and '.join(protocols)}{group} {table.title}")
        for (table, _), protocols in same.items()
    ]


def standing(entries: Sequence[Entry], split: str, protocol: str, reference: str, resamples: int) -> TextTable:
    """Every figure under one protocol, the best of each marked; p of H@1 and MRR against the best (or `reference`).

    Its title says how many mentions there are, not under which protocol.
    """
    here = [entry for entry in entries if protocol in entry.experiment.protocols(split)]
    figures = {entry.name: entry.averages[split][protocol]["all"] for entry in here}
    best = {name: _best(name, [one.figures.get(name) for one in figures.values()]) for name in FIGURES}
    p_values = _p_values(here, split, protocol, reference, resamples)
    over_seeds = _t_tests(here, split, protocol, reference)
    rows = []
    for entry in here:
        values = figures[entry.name]
        row: list[Cell | str] = [entry.name]
        row += [
            Cell(average_text(name, value), best=name != "recall" and _is(best[name], value))
            for name in FIGURES
            for value in [values.figures.get(name)]
        ]
        if reference:
            row += ["", ""] if entry.name == reference else _change(figures.get(reference), values)
        rows.append([*row, *p_values[entry.name], *over_seeds.get(entry.name, [""] * (2 if over_seeds else 0))])
    counts = sorted({values.n for values in figures.values()})
    absent = [entry.name for entry in entries if entry not in here]
    seeds = max(len(entry.experiment.runs) for entry in here)
    return text_table(
        [
            "",
            *FIGURES,
            *(["Δ H@1", "relative"] if reference else []),
            "p H@1",
            "p MRR",
            *(["t H@1", "t MRR"] if over_seeds else []),
        ],
        rows,
        f"({', '.join(map(str, counts))} mentions)",
        [
            f"p against {reference or 'the best'}: paired bootstrap over mentions, Holm-adjusted over this table"
            + (f"; mean ± standard deviation over {seeds} seeds." if seeds > 1 else "."),
            "t: p of a paired t-test over the seeds that both methods have, two-sided, Holm-adjusted over this table: "
            "whether the training repeats the difference. p: whether other mentions would."
            if over_seeds
            else "",
            f"No such figures: {', '.join(absent)} (scores lists alone)." if absent else "",
            *(behind_best_part(entry.experiment) for entry in here if split == "test"),
        ],
    )


def _is(best: float | None, value: Average | None) -> bool:
    return best is not None and value is not None and value.mean == best


def _best(figure: str, values: Sequence[Average | None]) -> float | None:
    """The best mean: of MR the smallest. None where all are equal: nothing is then marked."""
    means = {value.mean for value in values if value is not None}
    return (min if figure == "MR" else max)(means) if len(means) > 1 else None


def _change(of_reference: PartAverages | None, values: PartAverages) -> list[str]:
    """H@1 minus the reference's, in points and as a share of it."""
    if of_reference is None:
        return ["", ""]
    before, now = of_reference.figures["H@1"].mean, values.figures["H@1"].mean
    return [f"{(now - before) * 100:+.2f}", f"{now / before - 1:+.1%}" if before else "–"]


def _p_values(here: Sequence[Entry], split: str, protocol: str, reference: str, resamples: int) -> dict[str, list[str]]:
    """name -> p of H@1 and of MRR against the best of each, or against `reference`; "–" where the mentions differ."""
    if len(here) == 1:
        return {here[0].name: ["", ""]}
    of_entry = {entry.name: ranks(entry.experiment, split, protocol) for entry in here}
    first = next(iter(of_entry.values()))
    comparable = {
        name: one.measures()
        for name, one in of_entry.items()
        if np.array_equal(one.ids, first.ids) and np.array_equal(one.gold, first.gold)
    }
    columns = []
    for place in range(2):
        values = {name: measures[place] for name, measures in comparable.items()}
        means = {name: one.mean() if len(one) else 0.0 for name, one in values.items()}
        chosen = reference if reference in values else max(means, key=means.__getitem__)
        others = [name for name in values if name != chosen]
        tested = (
            paired_bootstrap(np.stack([values[name] for name in others]), values[chosen], resamples=resamples)
            if others
            else []
        )
        adjusted = dict(zip(others, holm([one.p for one in tested]), strict=True))
        shown = {name: p_text(p) for name, p in adjusted.items()} | {chosen: "ref." if reference else "best"}
        columns.append({name: shown.get(name, "–") for name in of_entry})
    return {entry.name: [column[entry.name] for column in columns] for entry in here}


def _t_tests(here: Sequence[Entry], split: str, protocol: str, reference: str) -> dict[str, list[str]]:
    """name -> p of a paired t-test over seeds, of H@1 and of MRR, against the best of each, or against `reference`.

    Nothing where no method has two seeds in common with it.
    """
    columns: list[dict[str, str]] = []
    for figure in MAIN:
        values = {entry.name: entry.experiment.by_seed(split, protocol, figure) for entry in here}
        means = {entry.name: entry.averages[split][protocol]["all"].figures[figure].mean for entry in here}
        chosen = reference if reference in values else max(means, key=means.__getitem__)
        tested: dict[str, float] = {}
        for name, one in values.items():
            shared = sorted(seed for seed in one.keys() & values[chosen].keys() if seed is not None)
            p = paired_t_test([one[seed] for seed in shared], [values[chosen][seed] for seed in shared])
            if name != chosen and p is not None:
                tested[name] = p
        adjusted = dict(zip(tested, holm(list(tested.values())), strict=True))
        columns.append({name: p_text(adjusted[name]) if name in adjusted else "–" for name in values})
        columns[-1][chosen] = "ref." if reference else "best"
        if not tested:
            return {}
    return {entry.name: [column[entry.name] for column in columns] for entry in here}


def _of_alike_lists(entries: Sequence[Entry], split: str) -> list[list[Entry]]:
    """The entries in groups whose figures can stand in one table: all of them, where all share a protocol, else those
    with the same protocols over lists.
    """
    try:
        shared_protocol([entry.experiment for entry in entries], split)
        return [list(entries)]
    except UserError:
        groups: dict[str, list[Entry]] = {}
        for entry in entries:
            reranked = next((one for one in entry.experiment.protocols(split) if protocol_of(one) == RERANK), "")
            groups.setdefault(reranked, []).append(entry)
        return list(groups.values())


def by_part(entries: Sequence[Entry], split: str) -> TextTable:
    """H@1 of every part of the split, a column per experiment, the best of each part marked."""
    protocol = shared_protocol([entry.experiment for entry in entries], split)
    figures = [entry.averages[split][protocol] for entry in entries]
    parts = [name for name in figures[0] if all(name in one and "H@1" in one[name].figures for one in figures)]
    rows = []
    for part in parts:
        values = [one[part].figures["H@1"] for one in figures]
        best = _best("H@1", values)
        cells = [Cell(average_text("H@1", value), _is(best, value)) for value in values]
        rows.append([Cell(part), Cell(str(figures[0][part].n)), *cells])
    reranked = (
        "Some of them score lists alone: the list by the head's score, then the rest of the KB in retrieval order."
    )
    return text_table(
        ["", "n", *(entry.name for entry in entries)],
        rows,
        f"{split}, {protocol}, {f'{entries[0].group}, ' if entries[0].group else ''}H@1 by part",
        [reranked if protocol_of(protocol) == RERANK else ""],
    )


def experts_taken(entries: Sequence[Entry], split: str) -> TextTable | None:
    """How often the gate of each experiment takes each expert, over all mentions and by group; None without a gate."""
    names: dict[str, None] = {}
    shares: list[tuple[str, int, dict[str, Average]]] = []
    for entry in entries:
        for part, one in next(iter(entry.averages[split].values())).items():
            taken = {name: value for name, value in one.figures.items() if name.startswith(TAKES)}
            if taken and (part == "all" or part.startswith(GROUP)):
                shares.append((f"{entry.name}, {part.removeprefix(GROUP)}", one.n, taken))
                names |= dict.fromkeys(taken)
    if not names:
        return None
    rows = [[name, str(n), *(average_text(figure, taken.get(figure)) for figure in names)] for name, n, taken in shares]
    return text_table(
        ["", "n", *(name.removeprefix(TAKES) for name in names)],
        rows,
        f"{split}, experts taken",
        ["How often the gate takes each expert for the ten best entities of a mention, in percent."],
    )


def against_text(entries: Sequence[Entry], text_only: Mapping[str, Entry], split: str) -> list[TextTable]:
    """H@1 of each method and of itself without pictures: over all, and by group or by who has a picture.

    Figures over lists that always hold the gold have a table of their own.
    """
    by_lists: dict[bool, list[list[str]]] = {}
    for entry in entries:
        if entry.name not in text_only:
            continue
        pair = entry, text_only[entry.name]
        protocol = shared_protocol([one.experiment for one in pair], split)
        both = [one.averages[split][protocol] for one in pair]
        rows = by_lists.setdefault(FORCED in protocol, [])
        parts = [part for part in both[0] if part.startswith(GROUP)] or UNGROUPED
        for part in ["all", *parts]:
            if all(part in one and "H@1" in one[part].figures for one in both):
                by_seed = [[run.metrics[split][protocol][part]["H@1"] for run in one.experiment.runs] for one in pair]
                gains = [with_pictures - without for with_pictures, without in zip(*by_seed, strict=True)]
                where = [entry.name, part.removeprefix(GROUP), protocol, str(both[0][part].n)]
                rows.append([*where, *(average_text("H@1", one[part].figures["H@1"]) for one in both), _gain(gains)])
    return [
        text_table(
            ["", "mentions", "protocol", "n", "as it is", "text only", "gain"],
            rows,
            f"{split}, H@1 of each method and of its text-only ablation",
            ["gain: points of H@1, seed by seed."],
        )
        for rows in by_lists.values()
    ]


def _gain(gains: Sequence[float]) -> str:
    value = Average.over([gain * 100 for gain in gains])
    return f"{value.mean:+.2f}" + ("" if value.deviation is None else f" ± {value.deviation:.2f}")

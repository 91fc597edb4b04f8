"""What methods lose where mentions have no picture: H@1 and MRR against the share of pictures that are masked."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import numpy as np

from foundation.errors import UserError
from foundation.tables import Cell, TextTable, text_table
from heads.contracts import MASKED
from report.averages import MAIN, Average, Averages, PartAverages, average_text
from report.contracts import TablesJob
from report.entries import Entry
from report.runs import Experiment, Run, of_columns, ranks, shared_protocol

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DPI, SIZE = 130, (11.0, 4.2)
STROKES = (("o", "-"), ("s", "--"), ("^", "-."))
"""Marker and line of the first ten methods, of the next ten, and so on: there are ten colours."""
"""Of the picture; size in inches."""


@dataclass(frozen=True)
class MissingPictures:
    """What one table and one picture show.

    protocol: that the figures are given under. mentions: that are ranked; pictured: those of them that have a picture.
    curves: name -> figure -> share -> average over seeds. text_only: name -> figure -> that of the method trained
    without pictures, where it was. lists_stay: whether the lists were made with mentions' pictures.
    """

    split: str
    protocol: str
    mentions: int
    pictured: int
    curves: Mapping[str, Mapping[str, Mapping[float, Average]]]
    text_only: Mapping[str, Mapping[str, Average]]
    lists_stay: bool = False

    @property
    def shares(self) -> list[float]:
        """Ascending, from 0 on."""
        return sorted({share for figures in self.curves.values() for curve in figures.values() for share in curve})

    def added(self, name: str, measured: Averages) -> Averages:
        """An experiment's averages with a part `pictures masked: 25%` for each share."""
        shares = {
            f"pictures masked: {percent(share)}": PartAverages(
                self.mentions, {figure: curve[share] for figure, curve in self.curves[name].items()}
            )
            for share in self.shares
        }
        protocols = measured[self.split]
        parts = {**protocols[self.protocol], **shares}
        return {**measured, self.split: {**protocols, self.protocol: parts}}


def percent(share: float) -> str:
    """A share as tables name it: `12.5%`."""
    return f"{100 * share:.4g}%"


def masked_mentions(ids: Sequence[str], share: float) -> set[str]:
    """That share of the mentions `ids`: those with the lowest hash, so that a quarter is part of a half."""
    order = sorted(ids, key=lambda one: blake2b(one.encode("utf-8", "surrogatepass"), digest_size=8).digest())
    return set(order[: round(share * len(order))])


def curve(
    experiment: Experiment, split: str, protocol: str, shares: Sequence[float]
) -> dict[str, dict[float, Average]]:
    """figure -> share -> average over seeds.

    A head ranks each mention by itself, so a mention whose picture is masked has the rank that it has where all are.
    Raises `UserError` where that was not measured, or on other mentions.
    """
    usual = ranks(experiment, split, protocol)
    masked = np.concatenate([_masked(run, split, protocol, usual.ids) for run in experiment.runs])
    pictured = pictured_mentions(experiment.runs[0], split, usual.ids)
    of_share: dict[str, dict[float, Average]] = {figure: {} for figure in MAIN}
    for share in (0.0, *shares):
        chosen = masked_mentions(pictured, share)
        gone = np.array([str(one) in chosen for one in usual.ids], bool)
        mixed = np.where(gone, masked, usual.ranks)
        measured = {
            "H@1": (mixed == 1).mean(1),
            "MRR": np.where(mixed > 0, 1 / np.maximum(mixed, 1), 0.0).mean(1),
        }
        for figure, values in measured.items():
            of_share[figure][share] = Average.over(values.tolist())
    return of_share


def measure(entries: Sequence[Entry], text_only: Mapping[str, Entry], job: TablesJob) -> MissingPictures:
    """The curves of experiments that share a protocol, on the last split of the job."""
    split = job.splits[-1]
    protocol = shared_protocol([entry.experiment for entry in (*entries, *text_only.values())], split)
    first = entries[0].experiment
    ids = ranks(first, split, protocol).ids
    return MissingPictures(
        split=split,
        protocol=protocol,
        mentions=len(ids),
        pictured=len(pictured_mentions(first.runs[0], split, ids)),
        curves={entry.name: curve(entry.experiment, split, protocol, job.drop_pictures) for entry in entries},
        text_only={
            name: {figure: entry.averages[split][protocol]["all"].figures[figure] for figure in MAIN}
            for name, entry in text_only.items()
        },
        lists_stay=job.lists_of_pictures,
    )


def _masked(run: Run, split: str, protocol: str, ids: np.ndarray) -> np.ndarray:
    """(1, n) ranks of the mentions `ids` of a run, as if none had a picture."""
    found = of_columns(run.masked, split, protocol)
    if not np.array_equal(found.ids, ids):
        raise UserError(
            f"{run.folder}: predictions with and without pictures are of other mentions; delete {MASKED} there and run "
            "the same command again"
        )
    return found.ranks


def pictured_mentions(run: Run, split: str, ids: np.ndarray) -> list[str]:
    """Those of the mentions `ids` of a split that have a picture."""
    table = run.masked
    if table.picture is None:
        raise UserError(f"{run.folder / MASKED}: no column `picture`; delete it and run the same command again")
    return [str(one) for one in table.id[(table.split == split) & table.picture & np.isin(table.id, ids)]]


def missing_table(missing: MissingPictures) -> TextTable:
    """A row for each method and figure, a column for each share, the best of each marked."""
    rows: list[list[Cell | str]] = []
    for figure in MAIN:
        best = {
            share: max(curves[figure][share].mean for curves in missing.curves.values()) for share in missing.shares
        }
        for name, curves in missing.curves.items():
            cells = [
                Cell(average_text(figure, value), best=len(missing.curves) > 1 and value.mean == best[share])
                for share, value in sorted(curves[figure].items())
            ]
            level = missing.text_only.get(name, {}).get(figure)
            rows.append([name, figure, *cells, *([average_text(figure, level)] if missing.text_only else [])])
    notes = [
        "The pictures of that share of the mentions that have one, drawn by hash, are masked with all that is made "
        "from them: a quarter of them is part of a half. Entities keep theirs.",
        "text only: the method trained without pictures." if missing.text_only else "",
        "Candidate lists stay as they are, though one of their sources compares the mentions' pictures: the figures "
        "over lists still know who is listed because of a picture."
        if missing.lists_stay
        else "",
    ]
    return text_table(
        ["", "", *map(percent, missing.shares), *(["text only"] if missing.text_only else [])],
        rows,
        f"{missing.split}, {missing.protocol}, pictures masked "
        f"({missing.pictured} of {missing.mentions} mentions have one)",
        notes,
    )


def picture(missing: MissingPictures) -> bytes:
    """The curves as PNG: H@1 and MRR beside each other, a line for each method; dotted, the method without pictures."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    with pyplot.style.context("default"):
        drawing, axes = pyplot.subplots(1, len(MAIN), figsize=SIZE, layout="constrained")
        for axis, figure in zip(axes, MAIN, strict=True):
            _draw(axis, missing, figure)
        axes[-1].legend(loc="center left", bbox_to_anchor=(1.02, 0.5), frameon=False)
        drawing.suptitle(f"{missing.split}, {missing.protocol}: pictures of mentions masked", fontsize=11)
        buffer = io.BytesIO()
        drawing.savefig(buffer, format="png", dpi=DPI)
        pyplot.close(drawing)
    return buffer.getvalue()


def _draw(axis: "Axes", missing: MissingPictures, figure: str) -> None:
    """One figure's curves."""
    for number, (name, curves) in enumerate(missing.curves.items()):
        shares, values = zip(*sorted(curves[figure].items()), strict=True)
        places = [100 * share for share in shares]
        means = [100 * value.mean for value in values]
        colour, (marker, stroke) = f"C{number % 10}", STROKES[number // 10 % len(STROKES)]
        look: dict[str, Any] = {"color": colour, "marker": marker, "linestyle": stroke, "markersize": 4, "label": name}
        if any(value.deviation for value in values):
            spread = [100 * (value.deviation or 0.0) for value in values]
            axis.errorbar(places, means, yerr=spread, capsize=3, **look)
        else:
            axis.plot(places, means, **look)
        if level := missing.text_only.get(name, {}).get(figure):
            axis.axhline(100 * level.mean, color=colour, linestyle=":", linewidth=1)
    axis.set_xlabel("mentions' pictures masked, %")
    axis.set_ylabel(f"{figure}, %")
    axis.set_xticks([100 * share for share in missing.shares])
    axis.grid(axis="y", alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)

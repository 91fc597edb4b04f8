"""Learning curves and distributions as coordinates that a template draws: one small chart per figure, a line per method
or split."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pipeline.datasets.text_statistics import bin_names
from report.averages import MAIN
from report.missing import MissingPictures
from report.runs import History

LARGE, HALF, SMALL = (720, 280), (520, 280), (340, 180)
"""Width and height in pixels, of the chart of all methods, of two beside each other and of those of one."""
LEFT, RIGHT, TOP, BOTTOM = 46, 70, 14, 32
UNMARKED = -1
"""Of a curve without a marked place."""
Point = tuple[float, float]
"""Place on the axis across (an epoch) and value."""


@dataclass(frozen=True)
class Axis:
    """places: what stands across, from left to right. text: below a place."""

    places: Sequence[float]
    text: Callable[[float], str] = "{:g}".format


@dataclass(frozen=True)
class Curve:
    """One method's line, in pixels. colour: number of its colour. points: "x,y x,y ...". end: where its name stands.
    kept: the point of the epoch whose weights are kept; None where the figure was not measured there. label: what the
    line says."""

    name: str
    colour: int
    points: str
    end: tuple[float, float]
    kept: tuple[float, float] | None
    label: str


@dataclass(frozen=True)
class Chart:
    """A figure by epoch, or by another number. x_ticks, y_ticks: place in pixels and text. rows: the same as numbers, a
    row (method, epochs, epoch that is kept, value there) per curve. size: width and height in pixels."""

    title: str
    curves: tuple[Curve, ...]
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    rows: tuple[tuple[str, ...], ...]
    size: tuple[int, int]
    right: int = RIGHT


def charts(histories: Mapping[str, History]) -> list[Chart]:
    """Of the epochs of each method: dev MRR of all together, then the loss of each by itself, as scales differ.

    Every curve is marked at the epoch whose weights are kept. Nothing for methods that were not trained by epochs.
    """
    trained = {name: history.epochs for name, history in histories.items() if history.epochs}
    kept = {name: (number, history.kept) for number, (name, history) in enumerate(histories.items())}
    mrr = {name: _points((epoch.number, epoch.dev_mrr) for epoch in epochs) for name, epochs in trained.items()}
    drawn = [_chart("MRR on dev, by epoch", mrr, kept, LARGE)]
    for name, epochs in trained.items():
        losses = {name: _points((epoch.number, epoch.loss) for epoch in epochs)}
        drawn.append(_chart(f"{name}: training loss, by epoch", losses, kept, SMALL))
    return [chart for chart in drawn if chart.curves]


def lengths_chart(splits: Mapping[str, Mapping[str, Any]]) -> Chart:
    """How long the sentences of each split are, as figure 7 of MIMIC. splits: see `text_statistics`."""
    shares: dict[str, list[Point]] = {
        name: [(place, 100 * count / one["samples"]) for place, count in enumerate(one["lengths"], 1)]
        for name, one in splits.items()
        if name != "all"
    }
    colours = {name: (number, UNMARKED) for number, name in enumerate(shares)}
    axis = Axis(range(1, len(bin_names()) + 1), lambda place: bin_names()[int(place) - 1])
    title = "Length of sentences: % of each split's samples, by words"
    return replace(_chart(title, shares, colours, LARGE, axis), rows=())


def missing_charts(missing: MissingPictures, colours: Mapping[str, int]) -> list[Chart]:
    """H@1 and MRR of each method against the share of pictures that are masked. colours: number of each method's."""
    of_name = {name: (number, UNMARKED) for name, number in colours.items()}
    return [
        replace(
            _chart(
                f"{figure} in % by % of pictures masked",
                {
                    name: [(100 * share, 100 * value.mean) for share, value in sorted(curves[figure].items())]
                    for name, curves in missing.curves.items()
                },
                of_name,
                HALF,
                Axis([100 * share for share in missing.shares]),
            ),
            rows=(),
        )
        for figure in MAIN
    ]


def _points(values: Iterable[tuple[float, float | None]]) -> list[Point]:
    return [(epoch, value) for epoch, value in values if value is not None and math.isfinite(value)]


def _chart(
    title: str,
    series: Mapping[str, list[Point]],
    kept: Mapping[str, tuple[int, float]],
    size: tuple[int, int],
    axis: Axis | None = None,
) -> Chart:
    """kept: name -> number of its colour, and the place that is marked. axis: across; None for epochs, from 1 on where
    nothing was measured before."""
    series = {name: points for name, points in series.items() if points}
    if not series:
        return Chart(title, (), (), (), (), size)
    width, height = size
    across = [at for points in series.values() for at, _ in points]
    axis = axis or Axis(range(min(1, math.floor(min(across))), math.ceil(max(across)) + 1))
    values = [value for points in series.values() for _, value in points]
    steps = ticks(min(values), max(values))
    low, high = min(steps[0], min(values)), max(steps[-1], max(values))

    def place(point: tuple[float, float]) -> tuple[float, float]:
        across = (point[0] - axis.places[0]) / ((axis.places[-1] - axis.places[0]) or 1)
        up = (point[1] - low) / ((high - low) or 1)
        return round(LEFT + across * (width - LEFT - RIGHT), 1), round(
            height - BOTTOM - up * (height - TOP - BOTTOM), 1
        )

    curves: list[Curve] = []
    rows: list[tuple[str, ...]] = []
    for name, points in series.items():
        colour, epoch = kept[name]
        value = dict(points).get(epoch)
        shown = [place(point) for point in points]
        at = "" if value is None else f"{value:.4g} at epoch {epoch:g}, which is kept"
        path = " ".join(f"{x},{y}" for x, y in shown)
        marked = None if value is None else place((epoch, value))
        curves.append(Curve(name, colour % 8, path, shown[-1], marked, f"{name}: {at}" if at else name))
        rows.append((name, f"{points[-1][0]:g}", f"{epoch:g}", "–" if value is None else f"{value:.4f}"))
    every = max(1, math.ceil(len(axis.places) / (width // 48)))
    x_ticks = [(place((at, low))[0], axis.text(at)) for at in axis.places[::every]]
    return Chart(
        title,
        tuple(_apart(curves, height - BOTTOM + 8)),
        tuple(x_ticks),
        tuple((place((1, step))[1], f"{step:g}") for step in steps),
        tuple(rows),
        size,
    )


def _apart(curves: list[Curve], bottom: float) -> list[Curve]:
    """The same curves, their names at least 13 pixels from each other and above `bottom`."""
    lowest, placed = -math.inf, {}
    for curve in sorted(curves, key=lambda curve: curve.end[1]):
        lowest = max(curve.end[1], lowest + 13)
        placed[curve.name] = lowest
    over = max(0.0, lowest - bottom)
    return [replace(curve, end=(curve.end[0], round(placed[curve.name] - over, 1))) for curve in curves]


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers, at most `most` steps apart, from not above `low` to not below `high`."""
    spread = (high - low) or abs(high) or 1.0
    power = 10 ** math.floor(math.log10(spread / most))
    step = next(factor * power for factor in (1, 2, 5, 10, 20) if spread / (factor * power) <= most)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(number * step, 10) for number in range(first, last + 1)]

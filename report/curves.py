"""Learning curves as coordinates that a template draws: one small chart per figure, a line per method."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

LARGE, SMALL = (720, 280), (340, 180)
"""Width and height in pixels, of the chart of all methods and of those of one."""
LEFT, RIGHT, TOP, BOTTOM = 46, 70, 14, 32


@dataclass(frozen=True)
class Line:
    """name; number of its colour; points "x,y x,y ..."; end: where its name stands; best: the marked point, and what it says."""

    name: str
    colour: int
    points: str
    end: tuple[float, float]
    best: tuple[float, float]
    said: str


@dataclass(frozen=True)
class Chart:
    """title; lines; ticks (place in pixels, text) of both axes; table: the same numbers, a row (method, epochs, best, at epoch) per line."""

    title: str
    lines: tuple[Line, ...]
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    rows: tuple[tuple[str, ...], ...]
    size: tuple[int, int]
    right: int = RIGHT


def charts(histories: Mapping[str, Mapping[str, Any]]) -> list[Chart]:
    """histories: method -> its history.json. Dev MRR of all methods together, then the loss of each by itself, as scales differ; nothing for those
    that were not trained by epochs."""
    there = {name: one["epochs"] for name, one in histories.items() if one.get("epochs")}
    colours = {name: number for number, name in enumerate(histories)}
    found = [
        _chart(
            "MRR on dev, by epoch",
            {name: _points(rows, "dev MRR") for name, rows in there.items()},
            colours,
            max,
            LARGE,
        )
    ]
    found += [
        _chart(f"{name}: training loss, by epoch", {name: _points(rows, "loss")}, colours, min, SMALL)
        for name, rows in there.items()
    ]
    return [chart for chart in found if chart.lines]


def _points(rows: Sequence[Mapping[str, float]], figure: str) -> list[tuple[int, float]]:
    return [(int(row["epoch"]), float(row[figure])) for row in rows if figure in row and math.isfinite(row[figure])]


def _chart(
    title: str,
    series: Mapping[str, list[tuple[int, float]]],
    colours: Mapping[str, int],
    best: Any,
    size: tuple[int, int],
) -> Chart:
    series = {name: points for name, points in series.items() if points}
    if not series:
        return Chart(title, (), (), (), (), size)
    width, height = size
    longest = max(points[-1][0] for points in series.values())
    values = [value for points in series.values() for _, value in points]
    steps = ticks(min(values), max(values))
    low, high = min(steps[0], min(values)), max(steps[-1], max(values))

    def place(point: tuple[float, float]) -> tuple[float, float]:
        across = (point[0] - 1) / max(1, longest - 1)
        up = (point[1] - low) / ((high - low) or 1)
        return round(LEFT + across * (width - LEFT - RIGHT), 1), round(
            height - BOTTOM - up * (height - TOP - BOTTOM), 1
        )

    lines, rows = [], []
    for name, points in series.items():
        top = best(points, key=lambda point: point[1])
        shown = [place(point) for point in points]
        said = f"{name}: {top[1]:.4g} at epoch {top[0]}"
        lines.append(Line(name, colours[name] % 8, " ".join(f"{x},{y}" for x, y in shown), shown[-1], place(top), said))
        rows.append((name, str(points[-1][0]), f"{top[1]:.4f}", str(top[0])))
    every = max(1, math.ceil(longest / (width // 48)))
    x_ticks = [(place((epoch, low))[0], str(epoch)) for epoch in range(1, longest + 1, every)]
    return Chart(
        title,
        tuple(_apart(lines, height - BOTTOM + 8)),
        tuple(x_ticks),
        tuple((place((1, step))[1], f"{step:g}") for step in steps),
        tuple(rows),
        size,
    )


def _apart(lines: list[Line], bottom: float) -> list[Line]:
    """The same lines, their names at least 13 pixels from each other and above `bottom`."""
    lowest, placed = -math.inf, {}
    for line in sorted(lines, key=lambda line: line.end[1]):
        lowest = max(line.end[1], lowest + 13)
        placed[line.name] = lowest
    over = max(0.0, lowest - bottom)
    return [
        Line(
            line.name, line.colour, line.points, (line.end[0], round(placed[line.name] - over, 1)), line.best, line.said
        )
        for line in lines
    ]


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers, at most `most` steps apart, from not above `low` to not below `high`."""
    spread = (high - low) or abs(high) or 1.0
    power = 10 ** math.floor(math.log10(spread / most))
    step = next(factor * power for factor in (1, 2, 5, 10, 20) if spread / (factor * power) <= most)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(number * step, 10) for number in range(first, last + 1)]

"""What a head tells of a new mention, as tables and weights of a page, as Report shows those of a dataset."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from linking.linked import Explained
from report.cases import attended

UNITS = {"tglu": "text", "vdlu": "image", "cmfu": "cross-modal"}
EDGES = {"tt": "text–text", "ti": "text–image", "it": "image–text", "ii": "image–image"}
ROLES = {"objects": "objects", "faces": "faces", "identities": "recognised names"}
SHOWN = 2  # of many numbers; all of them where the pointer rests


@dataclass(frozen=True)
class Cell:
    """texts: one below the other. whole: all of them, where there are more."""

    texts: Sequence[str]
    whole: str = ""


@dataclass(frozen=True)
class Grid:
    """A table of the answer's entities, who stand across by their places. rows: name and cells."""

    title: str
    rows: Sequence[tuple[str, Sequence[Cell]]]


@dataclass(frozen=True)
class Weight:
    """what: an object, face or name. share: 0 to 1."""

    what: str
    share: float


@dataclass(frozen=True)
class Telling:
    """attention: title -> weights."""

    grids: Sequence[Grid]
    attention: Mapping[str, Sequence[Weight]]


def telling(explained: Explained) -> Telling:
    """For a page."""
    grids = [
        _grid("Scores of its units", explained, "units", UNITS),
        _grid("Edges, from before (above) to after", explained, "edges", EDGES),
        _grid("What it combines", explained, "pairs", {}),
        _grid("Shares of the tokens of the entity's text, the largest first", explained, "tokens", {}, _by_size),
    ]
    if any("expert" in one for one in explained.candidates):
        cells = [Cell([str(one.get("expert", "–"))]) for one in explained.candidates]
        grids.insert(1, Grid("Selected expert", [("expert", cells)]))
    attention = {
        f"Attention over {ROLES[role]}": [Weight(_called(role, what, number), weight) for what, weight, number in steps]
        for role, steps in attended(explained.attention, explained.detections).items()
    }
    return Telling([grid for grid in grids if grid.rows], attention)


def _grid(
    title: str,
    explained: Explained,
    key: str,
    names: Mapping[str, str],
    order: Callable[[list[Any]], list[Any]] = list,
) -> Grid:
    listed = [one.get(key, {}) for one in explained.candidates]
    keys = dict.fromkeys(name for one in listed for name in one)
    rows = [
        (names.get(name, name.replace("_", " ")), [_cell(order(_several(one.get(name)))) for one in listed])
        for name in keys
    ]
    return Grid(title, rows)


def _several(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _by_size(values: list[Any]) -> list[Any]:
    return sorted(values, key=lambda value: -abs(value or 0))


def _cell(values: Sequence[float | None]) -> Cell:
    texts = ["–" if value is None else f"{value:.3g}" for value in values]
    return Cell(texts[:SHOWN], ", ".join(texts) if len(texts) > SHOWN else "")


def _called(role: str, what: str, number: int) -> str:
    if number < 0 or role not in ("objects", "faces"):
        return what
    return f"{number + 1} {what}" if role == "objects" else f"{'ABCDEFGHIJKLMNOPQRSTUVWXYZ'[number % 26]} {what}"

"""Where methods agree: how many of them are right on a mention, and which is right where another is wrong."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from foundation.tables import TextTable, text_table
from report.runs import Experiment, ranks


@dataclass(frozen=True)
class Hits:
    """ids (n,): mentions with a gold in the KB that all E experiments have. right (E, n) bool: whether the first run of
    each ranks the gold first."""

    ids: np.ndarray
    right: np.ndarray


def hits(experiments: Sequence[Experiment], split: str, protocol: str) -> Hits:
    """Of the mentions that the experiments have in common. Raises `UserError` where one was not measured so."""
    of_each = [ranks(experiment, split, protocol) for experiment in experiments]
    common = of_each[0].ids
    for other in of_each[1:]:
        common = np.intersect1d(common, other.ids)
    return Hits(common, np.stack([one.hits[0][np.isin(one.ids, common)] for one in of_each]))


def agreement(names: Sequence[str], right: np.ndarray) -> list[TextTable]:
    """right (E, n) -> how many mentions 0, 1, … E experiments have right; by pairs, row right where column is wrong."""
    experiments, n = right.shape
    counts = right.sum(0)
    best = names[int(right.mean(1).argmax())]
    rows = [
        [_of(number, experiments), str(int((counts == number).sum())), _share((counts == number).mean() if n else 0)]
        for number in range(experiments + 1)
    ]
    pairs = [
        [
            name,
            *("" if row == column else str(int((right[row] & ~right[column]).sum())) for column in range(experiments)),
        ]
        for row, name in enumerate(names)
    ]
    some, alone = ((counts > 0).mean(), right.mean(1).max()) if n else (0.0, 0.0)
    note = (
        f"At least one is right on {_share(some)}\u00a0% of {n} mentions; {best}, the best alone, on "
        f"{_share(alone)}\u00a0%."
    )
    return [
        text_table(["right", "mentions", "%"], rows, "How many methods are right", [note]),
        text_table(
            ["right ↓ wrong →", *names], pairs, "Mentions that the row's method has right and the column's wrong"
        ),
    ]


def _of(number: int, experiments: int) -> str:
    return {0: "none", experiments: f"all {experiments}"}.get(number, str(number))


def _share(value: float) -> str:
    return f"{100 * value:.2f}"

"""Where methods agree: how many of them are right on a mention, and which is right where another is wrong."""

from collections.abc import Sequence

import numpy as np

from report.runs import Experiment, ranks
from report.tables import Table, table


def hits(experiments: Sequence[Experiment], split: str, protocol: str) -> tuple[np.ndarray, np.ndarray]:
    """(n,) ids of the mentions with a gold in the KB, and (E, n) whether each experiment's first run has it first. Raises `UserError` where the
    experiments do not have the same mentions."""
    found = [ranks(experiment, split, protocol) for experiment in experiments]
    common = found[0].ids
    for other in found[1:]:
        common = np.intersect1d(common, other.ids)
    return common, np.stack([one.hits[0][np.isin(one.ids, common)] for one in found])


def agreement(names: Sequence[str], right: np.ndarray) -> list[Table]:
    """right (E, n) -> how many mentions 0, 1, ... E experiments have right, and the pairs' table: row right where the column is wrong."""
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
    some = (counts > 0).mean() if n else 0.0
    return [
        table(
            "How many methods are right",
            ["right", "mentions", "%"],
            rows,
            f"At least one is right on {_share(some)}\u00a0% of {n} mentions; {best}, the best alone, on {_share(right.mean(1).max() if n else 0)}\u00a0%.",
        ),
        table("Mentions that the row's method has right and the column's wrong", ["right ↓ wrong →", *names], pairs),
    ]


def _of(number: int, experiments: int) -> str:
    return {0: "none", experiments: f"all {experiments}"}.get(number, str(number))


def _share(value: float) -> str:
    return f"{100 * value:.2f}"

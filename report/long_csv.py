"""The leaderboard as one long CSV: a line per figure."""

import csv
import io
from collections.abc import Mapping

from report.averages import FIGURES, Averages
from report.published import DATASETS, PUBLISHED

COLUMNS = ("source", "dataset", "split", "protocol", "part", "method", "figure", "n", "mean", "deviation")


def tidy(dataset: str, measured: Mapping[str, Averages], with_published: bool) -> str:
    """source is "measured" or "published"; figures are fractions of 1, MR a rank; an empty cell is unknown."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for method, splits in measured.items():
        for split, protocols in splits.items():
            for protocol, parts in protocols.items():
                for part, values in parts.items():
                    for figure in FIGURES:
                        if figure in values:
                            mean, deviation = values[figure]["mean"], values[figure]["deviation"]
                            where = [dataset, split, protocol, part, method, figure, values["n"]]
                            writer.writerow(["measured", *where, mean, "" if deviation is None else deviation])
    for method, figures, values, protocol in PUBLISHED if with_published else ():
        for name, value in zip(DATASETS, values, strict=True):
            for figure, number in zip(figures.split(" / "), value.split(" / "), strict=False):
                if number != "–":
                    writer.writerow(
                        [
                            "published",
                            name,
                            "test",
                            protocol,
                            "all",
                            method,
                            figure,
                            "",
                            round(float(number) / 100, 4),
                            "",
                        ]
                    )
    return out.getvalue()

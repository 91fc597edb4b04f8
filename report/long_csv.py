"""The leaderboard as one long CSV: a line per figure."""

import csv
import io
from collections.abc import Mapping

from report.averages import FIGURES, Averages
from report.published import DATASETS, PUBLISHED

COLUMNS = ("source", "dataset", "split", "protocol", "part", "method", "figure", "n", "mean", "deviation")


def long_csv(dataset: str, measured: Mapping[str, Averages], with_published: bool) -> str:
    """source is "measured" or "published"; figures are fractions of 1, MR a rank; an empty cell is unknown."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for method, splits in measured.items():
        for split, protocols in splits.items():
            for protocol, parts in protocols.items():
                for part, one in parts.items():
                    for figure in filter(one.figures.__contains__, FIGURES):
                        value = one.figures[figure]
                        deviation = "" if value.deviation is None else value.deviation
                        where = [dataset, split, protocol, part, method, figure, one.n]
                        writer.writerow(["measured", *where, value.mean, deviation])
    for line in PUBLISHED if with_published else ():
        for name, values in zip(DATASETS, line.values, strict=True):
            # "–" alone stands for all of a line's figures
            for figure, number in zip(line.figures.split(" / "), values.split(" / "), strict=False):
                if number != "–":
                    where = [name, "test", line.protocol, "all", line.method, figure, ""]
                    writer.writerow(["published", *where, round(float(number) / 100, 4), ""])
    return out.getvalue()

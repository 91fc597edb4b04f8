"""Metrics of several seeds: mean and sample standard deviation of each figure."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from foundation.files import read_json, write_atomic, write_json
from report.runs import MEAN
from report.tables import as_text, table

FIGURES = ("H@1", "H@3", "H@5", "H@10", "H@20", "MRR", "MR", "recall")

Averages = dict[str, dict[str, dict[str, dict[str, Any]]]]
"""split -> protocol -> part -> n, and for each figure {"mean", "deviation"} (None for a single seed)."""


def averages(metrics: Sequence[Mapping[str, Any]]) -> Averages:
    """Over runs on the same mentions, `metrics.json` of each. What is not in all of them is left out."""
    first = metrics[0]
    return {
        split: {
            protocol: {
                part: _figures([one[split][protocol][part] for one in metrics])
                for part in parts
                if all(part in one.get(split, {}).get(protocol, {}) for one in metrics)
            }
            for protocol, parts in protocols.items()
        }
        for split, protocols in first.items()
    }


def _figures(values: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    result: dict[str, Any] = {"n": values[0]["n"]}
    return result | {
        name: spread([one[name] for one in values]) for name in FIGURES if all(name in one for one in values)
    }


def spread(values: Sequence[float]) -> dict[str, float | None]:
    """Mean and sample standard deviation (n - 1); no deviation for a single value."""
    return {"mean": fmean(values), "deviation": stdev(values) if len(values) > 1 else None}


def said(name: str, value: Mapping[str, float | None] | None) -> str:
    """A figure as tables show it: percent but for MR, with its deviation where there is one; "–" where there is none."""
    if value is None:
        return "–"
    factor, digits = (1, 1) if name == "MR" else (100, 2)
    mean, deviation = value["mean"], value["deviation"]
    assert mean is not None
    return f"{mean * factor:.{digits}f}" + (f" ± {deviation * factor:.{digits}f}" if deviation is not None else "")


def main(job: dict[str, Any]) -> dict[str, Any]:
    """Write the mean over seeds. job: runs (folders, a seed each), seeds, out (folder). Returns `{"table"}`.

    Leaves metrics-mean.json (seeds, the runs relative to it, averages) and metrics-mean.txt.
    """
    out = Path(job["out"])
    folders = [Path(folder) for folder in job["runs"]]
    made = averages([read_json(folder / "metrics.json") for folder in folders])
    relative = [folder.relative_to(out.parent).as_posix() for folder in folders]
    write_json(out / MEAN, {"seeds": job["seeds"], "runs": [f"../{path}" for path in relative], "metrics": made})
    text = as_said(made, job["seeds"])
    write_atomic(out / "metrics-mean.txt", text + "\n")
    return {"table": text}


def as_said(made: Averages, seeds: Sequence[int]) -> str:
    """Every split and protocol, then the parts of the last split under its first protocol, mean ± standard deviation."""
    rows = [
        [f"{split}  {protocol}", str(parts["all"]["n"]), *(said(name, parts["all"].get(name)) for name in FIGURES)]
        for split, protocols in made.items()
        for protocol, parts in protocols.items()
    ]
    split, protocols = list(made.items())[-1]
    protocol, parts = next(iter(protocols.items()))
    by_part = [
        [name, str(values["n"]), *(said(figure, values.get(figure)) for figure in FIGURES)]
        for name, values in parts.items()
        if name != "all"
    ]
    title = f"mean ± standard deviation over {len(seeds)} seeds ({', '.join(map(str, seeds))})"
    header = ["", "n", *FIGURES]
    return (
        as_text(table(title, header, rows)) + "\n\n" + as_text(table(f"{split}  {protocol}, by part", header, by_part))
    )

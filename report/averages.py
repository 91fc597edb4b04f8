"""Metrics of several seeds: mean and sample standard deviation of each figure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from foundation.checksums import check_run, write_sealed
from foundation.files import write_atomic
from foundation.tables import as_text, text_table
from heads.contracts import TAKES, Figures, Metrics
from report.contracts import AverageJob, AverageResult
from report.runs import MEAN, read_metrics

FIGURES = ("H@1", "H@3", "H@5", "H@10", "H@20", "MRR", "MR", "recall")
MAIN = ("H@1", "MRR")
"""The figures that are tested and drawn."""


@dataclass(frozen=True)
class Average:
    """deviation: sample standard deviation (n - 1), None for a single value."""

    mean: float
    deviation: float | None

    @classmethod
    def over(cls, values: Sequence[float]) -> "Average":
        """Of one or more values."""
        return cls(fmean(values), stdev(values) if len(values) > 1 else None)


@dataclass(frozen=True)
class PartAverages:
    """The averages of one part. n: its mentions. figures: those of `FIGURES` that every run has, and how often
    a gate takes each expert."""

    n: int
    figures: Mapping[str, Average]


Averages = Mapping[str, Mapping[str, Mapping[str, PartAverages]]]
"""split -> protocol -> part -> averages."""


def averages(metrics: Sequence[Metrics]) -> Averages:
    """Over runs on the same mentions. What is not in the metrics of all of them is left out."""
    first = metrics[0]
    return {
        split: {
            protocol: {
                part: _part_averages([one[split][protocol][part] for one in metrics])
                for part in parts
                if all(part in one.get(split, {}).get(protocol, {}) for one in metrics)
            }
            for protocol, parts in protocols.items()
        }
        for split, protocols in first.items()
    }


def _part_averages(values: Sequence[Figures]) -> PartAverages:
    known = [*FIGURES, *(name for name in values[0] if name.startswith(TAKES))]
    shared = [name for name in known if all(name in one for one in values)]
    return PartAverages(int(values[0]["n"]), {name: Average.over([one[name] for one in values]) for name in shared})


def average_text(figure: str, value: Average | None) -> str:
    """A figure as tables show it: percent but for MR, `71.20 ± 0.30` over several seeds; "–" where there is none."""
    if value is None:
        return "–"
    factor, digits = (1, 1) if figure == "MR" else (100, 2)
    text = f"{value.mean * factor:.{digits}f}"
    return text if value.deviation is None else f"{text} ± {value.deviation * factor:.{digits}f}"


def average(job: AverageJob) -> AverageResult:
    """Write metrics-mean.json (seeds, the runs' folders relative to it, averages) and metrics-mean.txt to `job.out`."""
    for folder in job.runs:
        check_run(folder, "metrics.json")
    over_seeds = averages([read_metrics(folder / "metrics.json") for folder in job.runs])
    runs = [f"../{folder.relative_to(job.out.parent).as_posix()}" for folder in job.runs]
    write_sealed(job.out / MEAN, {"seeds": list(job.seeds), "runs": runs, "metrics": _plain(over_seeds)})
    table = averages_text(over_seeds, job.seeds)
    write_atomic(job.out / "metrics-mean.txt", table + "\n")
    return AverageResult(table=table)


def _plain(over_seeds: Averages) -> dict[str, Any]:
    """As metrics-mean.json holds it: split -> protocol -> part -> n, and for each figure {"mean", "deviation"}."""
    return {
        split: {
            protocol: {
                part: {"n": one.n}
                | {name: {"mean": value.mean, "deviation": value.deviation} for name, value in one.figures.items()}
                for part, one in parts.items()
            }
            for protocol, parts in protocols.items()
        }
        for split, protocols in over_seeds.items()
    }


def averages_text(over_seeds: Averages, seeds: Sequence[int]) -> str:
    """Every split and protocol, then the parts of the last split under its first protocol."""

    def row(name: str, one: PartAverages) -> list[str]:
        return [name, str(one.n), *(average_text(figure, one.figures.get(figure)) for figure in FIGURES)]

    header = ["", "n", *FIGURES]
    split, protocols = list(over_seeds.items())[-1]
    protocol, parts = next(iter(protocols.items()))
    whole = [
        row(f"{split}  {protocol}", parts["all"])
        for split, protocols in over_seeds.items()
        for protocol, parts in protocols.items()
    ]
    by_part = [row(name, one) for name, one in parts.items() if name != "all"]
    title = f"mean ± standard deviation over {len(seeds)} seeds ({', '.join(map(str, seeds))})"
    tables = text_table(header, whole, title), text_table(header, by_part, f"{split}  {protocol}, by part")
    return "\n\n".join(map(as_text, tables))

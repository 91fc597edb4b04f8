"""Why a combination ranks worse than one of its own parts: its figures on what it learned from, and on the rest."""

from statistics import fmean
from typing import Any

from foundation.checksums import read_sealed
from foundation.contracts import from_json
from heads.protocols import RERANK, under
from report.runs import Experiment, Run

LEARNED, HELD_OUT = "half: calibrate", "half: choose"
"""The half of dev that a combination learns from, and the half that chooses its epoch."""


_Parts = dict[str, dict[str, dict[str, Any]]]


def behind_best_part(experiment: Experiment) -> str:
    """A sentence about a combination that has a lower H@1 on test than its best part alone; "" for all others.

    The best part is the one that is best on the half of dev that the combination did not learn from: test decides
    nothing.
    """
    parts = [_parts(run) for run in experiment.runs]
    if not all(parts):
        return ""
    alone = [name for name in parts[0] if name.startswith("only ") and all(name in one for one in parts)]

    def mean(name: str, split: str) -> float:
        return fmean(one[name][split]["H@1"] for one in parts)

    best = max(alone, key=lambda name: mean(name, "dev"))
    if not mean(best, "test") > mean("all", "test"):
        return ""
    name, record = best.removeprefix("only "), experiment.record
    learned = [(under(run.metrics.get("dev", {}), RERANK) or {}).get(LEARNED, {}).get("H@1") for run in experiment.runs]
    known = [value for value in learned if value is not None]
    there = f"H@1 is {_percent(fmean(known))} there and" if known else "H@1 is"
    return (
        f"{experiment.name} is behind {name}, one of its {len(alone)} parts: H@1 {_percent(mean('all', 'test'))} "
        f"against {_percent(mean(best, 'test'))}. It weighs its parts by {record.parameters or 0:,} parameters "
        f"learned from {record.trained_on or 0:,} mentions, one half of dev. {there} {_percent(mean('all', 'dev'))} on "
        f"the other half, where {name} alone has {_percent(mean(best, 'dev'))}: so few mentions do not teach so many "
        f"weights. Take {name} by itself."
    )


def _parts(run: Run) -> dict[str, dict[str, dict[str, Any]]]:
    """parts.json: "all", "only NAME", "without NAME" -> split -> figures; empty for a run that combines nothing."""
    path = run.folder / "parts.json"
    return from_json(_Parts, read_sealed(path), str(path)) if path.exists() else {}


def _percent(value: float) -> str:
    return f"{100 * value:.2f}"

"""Two runs against each other: McNemar's test and the paired bootstrap, mention by mention."""

from pathlib import Path
from typing import Any

from foundation.errors import UserError
from report.runs import Experiment, paired, read_experiment, shared_protocol
from report.significance import RESAMPLES, Difference, mcnemar, p_said, paired_bootstrap
from report.tables import as_text, table


def main(job: dict[str, Any]) -> dict[str, Any]:
    """job: a, b (folders of runs, or of means over seeds), roots (folders that relative ones may start from), split, protocol (empty: the first that
    both have), resamples, seed. Returns `{"text"}`. Raises `UserError`."""
    first, second = (read_experiment(name, _folder(name, job["roots"])) for name in (job["a"], job["b"]))
    split = job["split"]
    protocol = job["protocol"] or shared_protocol([first, second], split)
    both = paired(first, second, split, protocol)
    if not len(both[0].ids):
        raise UserError(f"no mention of {split} has its gold in the KB; name another with --split")
    tested = paired_bootstrap(
        both[0].measures(), both[1].measures(), resamples=job.get("resamples", RESAMPLES), seed=job.get("seed", 0)
    )
    rows = [
        [name, *(f"{one.measures()[place].mean():.2%}" for one in both), *_difference(tested[place])]
        for place, name in enumerate(("H@1", "MRR"))
    ]
    title = f"{split}, {protocol}: a minus b over {len(both[0].ids)} mentions"
    means = [
        f"{one}: the mean over {len(one_of.runs)} seeds."
        for one, one_of in (("a", first), ("b", second))
        if len(one_of.runs) > 1
    ]
    parts = [
        f"a: {_called(first)}\nb: {_called(second)}",
        as_text(
            table(
                title,
                ["", "a", "b", "difference", "95 % interval", "p"],
                rows,
                "Paired bootstrap over mentions, two-sided.",
                *means,
            )
        ),
        *_mcnemars(first, both[0].hits, second, both[1].hits),
    ]
    return {"text": "\n\n".join(parts)}


def _folder(name: str, roots: list[str]) -> Path:
    """The folder as given, or below one of `roots`. Raises `UserError` where it is in none of them."""
    for path in (Path(name).expanduser(), *(Path(root) / name for root in roots)):
        if path.is_dir():
            return path
    raise UserError(
        f"{name}: no such run; name the folder that TrainHead printed as `run:`, or <dataset>/<method>/<hash>"
    )


def _called(experiment: Experiment) -> str:
    told = experiment.told
    return f"{told.get('method', '?')}, seed {', '.join(str(run.told.get('seed', '?')) for run in experiment.runs)}: {experiment.name}"


def _difference(tested: Difference) -> list[str]:
    return [f"{tested.mean * 100:+.2f}", f"{tested.low * 100:+.2f} to {tested.high * 100:+.2f}", p_said(tested.p)]


def _mcnemars(first: Experiment, first_hits: Any, second: Experiment, second_hits: Any) -> list[str]:
    """McNemar's test of H@1 for each pair of runs of the same place: a run against a run, or seed by seed."""
    if len(first.runs) != len(second.runs):
        return [
            "McNemar's test compares one run with one: a and b have different numbers of seeds; name single runs for it."
        ]
    rows = []
    for run, other, hits, others in zip(first.runs, second.runs, first_hits, second_hits, strict=True):
        found = mcnemar(hits, others)
        seeds = f"seed {run.told.get('seed', '?')} against {other.told.get('seed', '?')}"
        rows.append([seeds, str(found.both), str(found.first), str(found.second), str(found.neither), p_said(found.p)])
    return [
        as_text(
            table(
                "McNemar's exact test of H@1 (mentions)",
                ["", "both right", "a alone", "b alone", "both wrong", "p"],
                rows,
                "Two-sided.",
            )
        )
    ]

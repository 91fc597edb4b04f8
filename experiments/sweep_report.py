"""What a search leaves: the best parameters, every trial as a table, and three pictures."""

import csv
import io
import json
import textwrap
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from experiments.contracts import SearchJob
from experiments.studies import decoded
from foundation.checksums import write_sealed
from foundation.errors import UserError
from foundation.files import write_atomic, write_json
from heads.config.space import Drawn

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PICTURES = ("history.png", "importance.png", "parallel.png")
ATTRIBUTES = ("epochs", "best_epoch", "seconds", "parameters", "again", "refused")
DPI = 130
NARROWEST, HEIGHT, GAP = 7.0, 4.5, 0.15
"""Inches: of a picture, and beside a label of parallel coordinates."""
LONGEST = 12
"""Characters in a line of such a label."""


def write(study: optuna.Study, job: SearchJob, out: Path) -> dict[str, Any]:
    """Write best.json (for `TrainHead --params @best.json`), trials.csv, study.json and the pictures.

    Raises `UserError` where no trial came to its end.
    """
    trials = study.get_trials(deepcopy=False)
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    if not complete:
        reason = next(
            (trial.user_attrs["refused"] for trial in trials if "refused" in trial.user_attrs), "none was finished"
        )
        raise UserError(
            f"{out}: none of {len(trials)} trials could be trained to the end ({reason}); "
            "mend the space or raise --n-trials"
        )
    best = max(complete, key=lambda trial: (trial.values[0], -trial.number))
    params = {**job.given, **decoded(best.params, job.space)}
    counts = {
        state.name.lower(): sum(trial.state == state for trial in trials)
        for state in TrialState
        if any(trial.state == state for trial in trials)
    }
    importance = importances(study)
    write_json(out / "best.json", params)
    write_atomic(out / "trials.csv", table(trials, job.space))
    write_sealed(
        out / "study.json",
        {
            "study": job.name,
            "depends": job.depends,
            "trials": counts,
            "best": {"trial": best.number, "dev MRR": best.values[0], "params": params},
            "importance": importance,
        },
    )
    pictures(study, importance, out)
    refused = sum("refused" in trial.user_attrs for trial in trials)
    lines = [
        f"{', '.join(f'{count} {state}' for state, count in counts.items())}"
        + (f" ({refused} could not be trained)" if refused else "")
    ]
    lines += [
        f"best dev MRR {100 * best.values[0]:.2f} (trial {best.number})",
        *(f"  {name} = {value!r}" for name, value in params.items()),
    ]
    lines += (
        [f"importance: {', '.join(f'{name} {share:.0%}' for name, share in importance.items())}"] if importance else []
    )
    return {"best": params, "value": best.values[0], "counts": counts, "text": "\n".join(lines)}


def importances(study: optuna.Study) -> dict[str, float]:
    """Share of each drawn option in the difference between good and other trials (PED-ANOVA), the greatest first.

    Empty while too few trials are complete.
    """
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len(complete) < 4 or len({trial.value for trial in complete}) < 2:
        return {}
    shares = optuna.importance.get_param_importances(study, evaluator=optuna.importance.PedAnovaImportanceEvaluator())
    total = sum(shares.values())
    return {name: round(share / total, 6) for name, share in shares.items()} if total > 0 else {}


def table(trials: list[FrozenTrial], space: Mapping[str, Drawn]) -> str:
    """CSV with a row per trial: number, state, best dev MRR so far, drawn values, `ATTRIBUTES` of its training."""
    sink = io.StringIO()
    rows = csv.writer(sink, lineterminator="\n")
    rows.writerow(["trial", "state", "dev MRR", *space, *ATTRIBUTES])
    for trial in trials:
        reached = trial.value if trial.value is not None else max(trial.intermediate_values.values(), default=None)
        rows.writerow(
            [
                trial.number,
                trial.state.name.lower(),
                reached,
                *(trial.params.get(name) for name in space),
                *(trial.user_attrs.get(name) for name in ATTRIBUTES),
            ]
        )
    return sink.getvalue()


def pictures(study: optuna.Study, importance: Mapping[str, float], out: Path) -> None:
    """History, importance and parallel coordinates as PNG."""
    from matplotlib import pyplot

    for name, figure in figures(study, importance):
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=DPI, bbox_inches="tight")
        pyplot.close(figure)
        write_atomic(out / name, buffer.getvalue())


def figures(study: optuna.Study, importance: Mapping[str, float]) -> Iterator[tuple[str, "Figure"]]:
    """Each of `PICTURES` and its figure, no label of which covers another."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from optuna.visualization import matplotlib as plots

    def bars() -> Any:
        _, axes = pyplot.subplots()
        names = list(importance)[::-1]
        axes.barh(names, [importance[name] for name in names])
        axes.set_title("Importance of each option" if names else "Importance: too few trials were trained to the end")
        axes.set_xlabel("share (PED-ANOVA)")
        return axes

    plotted: tuple[Callable[[], Any], ...] = (
        lambda: plots.plot_optimization_history(study, target_name="dev MRR"),
        bars,
        lambda: plots.plot_parallel_coordinate(study, target_name="dev MRR"),
    )
    with pyplot.style.context("default"), warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message="Attempting to set identical low and high"
        )  # where all trials reached the same
        for name, plot in zip(PICTURES, plotted, strict=True):
            figure = plot().figure
            figure.set_size_inches(NARROWEST, max(HEIGHT, 0.25 * len(importance)))
            if name == "parallel.png":
                _make_room(figure)
            yield name, figure


def _make_room(figure: "Figure") -> None:
    """Widen parallel coordinates until every axis has room for its labels, which are set on white, long ones in several
    lines."""
    shared, colours, *axes = figure.axes
    figure.canvas.draw()
    widest, tallest = 0.0, 0.0
    for axis in axes:
        texts = [label.get_text() for label in axis.get_yticklabels()]
        if axis.get_yscale() == "linear" and texts != [_in_lines(text) for text in texts]:  # else powers of ten
            axis.set_yticks(axis.get_yticks(), [_in_lines(text) for text in texts])
        for label in axis.get_yticklabels():
            label.set_bbox({"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.5})
            size = label.get_window_extent()
            widest, tallest = max(widest, size.width / figure.dpi), max(tallest, size.height / figure.dpi)
    widest = max([widest, *(name.get_window_extent().width / figure.dpi for name in shared.get_xticklabels())])
    shared.tick_params(axis="x", pad=72 * tallest / 2)  # points: below the labels at the foot of the axes
    across, bar = shared.get_position(), colours.get_position()
    room = min(bar.x0 - across.x1, across.width / max(1, len(axes)))
    figure.set_size_inches(max(NARROWEST, (widest + GAP) / room), figure.get_figheight())


def _in_lines(label: str) -> str:
    """A choice as a label: the items of a list below each other, a long text wrapped."""
    try:
        value = json.loads(label)
    except json.JSONDecodeError:
        value = label
    lines = [str(item) for item in value] if isinstance(value, list) else [label]
    return "\n".join(part for line in lines for part in textwrap.wrap(line, LONGEST) or [""])

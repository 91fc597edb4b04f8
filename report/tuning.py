"""What tuning encoders gives and costs, against the block that it starts from: a table, and a picture."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from cache.errors import Damaged, Gone
from cache.identity import identity
from cache.store import Store, folder_name
from foundation.checksums import check_run, read_sealed
from foundation.errors import NotAsWritten
from foundation.remedies import remedy
from foundation.tables import TextTable, text_table
from heads.tune import TOWERS, TUNED, in_words
from report.averages import MAIN, average_text
from report.entries import Entry
from report.missing import DPI, SIZE
from report.runs import Run, shared_protocol

PROMPTS = ("prompts.", "coupling.")
"""Before the names of parameters that DSMIP learns in its encoders."""


@dataclass(frozen=True)
class Tuning:
    """What of its encoders a run, or the stage before it, trained. words: the cut and the way. parameters: trained ones
    of encoders. seconds: of an epoch, dev's evaluation included. bytes: of the cached states. None where nothing says
    so. tuned: whether by `tune`."""

    words: str
    parameters: int | None = None
    seconds: float | None = None
    bytes: int | None = None
    tuned: bool = True


FROZEN = Tuning("frozen", parameters=0, tuned=False)


def of_entries(entries: Sequence[Entry]) -> dict[str, Tuning]:
    """That of each experiment's first run, by name."""
    return {entry.name: tuning(entry.experiment.runs[0]) for entry in entries}


def tuning(run: Run) -> Tuning:
    """Of one run. Raises `NotAsWritten` where the weights that it trained have changed since."""
    path = run.folder / "config.json"
    depends: Mapping[str, Any] = read_sealed(path) if path.exists() else {}
    stage = _stage(depends)
    if stage is None:
        parts = depends["heads"].values() if depends.get("method") == "fused" else ()
        return Tuning("in its parts", tuned=False) if any(map(_stage, parts)) else FROZEN
    folder = run.folder
    if stage is not depends:
        folder = run.folder.parent.parent / stage["method"] / identity(stage)[:16]
    record = read_sealed(folder / "run.json") if (folder / "run.json").exists() else {}
    epochs, spent = record.get("epochs"), (record.get("seconds") or {}).get("train")
    tune = stage["config"].get("tune")
    return Tuning(
        words=in_words(tune) if tune else "prompts",
        parameters=_parameters(folder, (TOWERS,) if tune else PROMPTS),
        seconds=spent / epochs if epochs and spent is not None else None,
        bytes=_bytes(folder, {name: digest for name, digest in stage["features"].items() if "@" in name or not tune}),
        tuned=bool(tune),
    )


def _stage(depends: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The run that trained encoders, of a run and those that it reads, each as its config.json has it; None without."""
    runs = depends.get("heads", {})
    if depends.get("config", {}).get("tune"):
        stage: Mapping[str, Any] = runs.get(TUNED, depends)  # a head that stays live is its own
        return stage
    return next((one for one in runs.values() if one["config"].get("stage") == "prompts"), None)


def _parameters(folder: Path, prefixes: tuple[str, ...]) -> int | None:
    """Of encoders, in a stage's weights, by what their names start with; None where they are gone."""
    from safetensors import SafetensorError, safe_open

    path = folder / "model.safetensors"
    if not path.exists():
        return None
    check_run(folder, path.name)
    try:
        with safe_open(path, framework="numpy") as file:
            names = [name for name in file.keys() if name.startswith(prefixes)]  # noqa: SIM118  # no mapping
            return sum(prod(file.get_slice(name).get_shape()) for name in names)
    except (OSError, SafetensorError) as error:
        raise NotAsWritten(f"{path} cannot be read ({error}); {remedy(path)}") from error


def _bytes(folder: Path, features: Mapping[str, str]) -> int | None:
    """Of the stores `features`, name -> digest; None where one is gone."""
    work = folder.parents[min(3, len(folder.parents) - 1)]
    try:
        stores = [Store.open(work / "cache" / folder_name(name, digest)) for name, digest in features.items()]
    except (Damaged, Gone):
        return None
    return sum(path.stat().st_size for store in stores for path in store.folder.glob("*.h5"))


def tuning_table(entries: Sequence[Entry], trained: Mapping[str, Tuning], split: str) -> TextTable | None:
    """A row for each experiment, of which one at least was tuned; None where none was."""
    if not any(one.tuned for one in trained.values()):
        return None
    protocol = shared_protocol([entry.experiment for entry in entries], split)
    rows = []
    for entry in entries:
        one = trained[entry.name]
        cost = [
            "–" if one.parameters is None else f"{one.parameters:,}",
            "–" if one.seconds is None else f"{one.seconds:.1f}",
            "–" if one.bytes is None else f"{one.bytes / 1e6:,.1f}",
        ]
        of_all = entry.averages[split][protocol]["all"].figures
        rows.append([entry.name, one.words, *cost, *(average_text(figure, of_all[figure]) for figure in MAIN)])
    return text_table(
        ["", "trained", "parameters of encoders", "s an epoch", "MB of states", *MAIN],
        rows,
        f"{split}, {protocol}, tuned encoders",
        [
            "parameters: those that are trained in the encoders, prompts and what couples them among them. "
            "s an epoch: of the stage that trains them, with the "
            "evaluation on dev. MB of states: all that the cache holds of the states that enter the block."
        ],
    )


def picture(entries: Sequence[Entry], trained: Mapping[str, Tuning], split: str) -> bytes:
    """H@1 and MRR of each experiment, and the seconds of an epoch, from the first to the last, as PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    protocol = shared_protocol([entry.experiment for entry in entries], split)
    names, places = [entry.name for entry in entries], range(len(entries))
    seconds = [trained[entry.name].seconds for entry in entries]
    with pyplot.style.context("default"):
        drawing, axes = pyplot.subplots(1, len(MAIN) + 1, figsize=SIZE, layout="constrained")
        for axis, figure in zip(axes, MAIN, strict=False):
            values = [entry.averages[split][protocol]["all"].figures[figure] for entry in entries]
            spread = [100 * (value.deviation or 0.0) for value in values]
            axis.errorbar(places, [100 * value.mean for value in values], yerr=spread, marker="o", capsize=3)
            axis.set_ylabel(f"{figure}, %")
        known = [(place, value) for place, value in zip(places, seconds, strict=True) if value is not None]
        axes[-1].bar([place for place, _ in known], [value for _, value in known], width=0.5)
        axes[-1].set_ylabel("seconds an epoch")
        for axis in axes:
            axis.set_xticks(places, names, rotation=20, ha="right")
            axis.set_xlim(-0.5, len(names) - 0.5)
            axis.grid(axis="y", alpha=0.3)
            axis.spines[["top", "right"]].set_visible(False)
        drawing.suptitle(f"{split}, {protocol}: where the frozen part of the encoders ends", fontsize=11)
        buffer = io.BytesIO()
        drawing.savefig(buffer, format="png", dpi=DPI)
        pyplot.close(drawing)
    return buffer.getvalue()

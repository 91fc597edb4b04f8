"""What a method costs with all that it is made of: the runs that it reads, their stages, and features made by them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from cache.errors import Damaged, Gone
from cache.identity import identity
from cache.store import Store, folder_name
from foundation.checksums import read_sealed
from foundation.errors import NotAsWritten, UserError
from foundation.remedies import remedy
from foundation.tables import TextTable, text_table
from heads.config import config_class, stored_config, to_json
from heads.config.base import HeadConfig
from heads.config.dsmip import DsmipConfig
from report.averages import Average
from report.entries import Entry
from report.runs import Run, read_run

ITSELF = "itself"
FINE_TUNED = "CLIP fine-tuned instead"
"""Of an expert that learns prompts: the name of the same expert with every parameter of CLIP trained."""
COUNTED = f"{FINE_TUNED}: counted, not trained, and in no sum (DSMIP, table 3)."


@dataclass(frozen=True)
class Cost:
    """parameters: trainable ones; seconds: of training, or of extracting features. None where nothing says so."""

    parameters: int | None
    seconds: float | None


@dataclass(frozen=True)
class CostPart:
    """A run among those that a method is made of, or features that one of them made.

    depth: how many runs read it. own: what it adds to the sum: without parameters that the run that reads it trains on.
    """

    name: str
    depth: int
    cost: Cost
    own: Cost


def parts_of(run: Run) -> list[CostPart]:
    """All that a run is made of, each once, itself last; itself alone for a run that reads no others."""
    seen: set[Path] = set()
    return [*_below(run, _depends(run.folder), 1, seen), _itself(run, ITSELF)]


def total(parts: Sequence[CostPart]) -> Cost:
    """Their sum; None where a part of it is not known."""
    parameters = [part.own.parameters for part in parts]
    seconds = [part.own.seconds for part in parts]
    return Cost(
        None if None in parameters else sum(value or 0 for value in parameters),
        None if None in seconds else sum(value or 0.0 for value in seconds),
    )


def _below(run: Run, depends: Mapping[str, Any], depth: int, seen: set[Path]) -> Iterator[CostPart]:
    """The parts of the runs that `run` reads. seen: folders that were counted."""
    for label, of_part in depends.get("heads", {}).items():
        folder = run.folder.parent.parent / of_part["method"] / identity(of_part)[:16]
        if folder in seen:
            continue
        seen.add(folder)
        try:
            part = read_run(folder)
        except UserError:  # a part that was deleted, or a run that was taken elsewhere without it
            yield CostPart(label, depth, Cost(None, None), Cost(None, None))
            continue
        cost = Cost(part.record.parameters, part.record.train_seconds)
        taken = _trained_on(depends, label, folder)
        own = Cost(None if cost.parameters is None or taken is None else cost.parameters - taken, cost.seconds)
        if _left_out(of_part):  # it costs time, and nothing of it is in the method that it helps to train
            yield CostPart(label, depth, cost, Cost(0, cost.seconds))
            continue
        below = list(_below(part, of_part, depth + 1, seen))
        if below:
            itself = CostPart(ITSELF, depth + 1, cost, own)
            yield CostPart(label, depth, total([*below, itself]), Cost(0, 0.0))
            yield from [*below, itself]
        else:
            yield CostPart(label, depth, cost, own)
        if taken is not None and (encoder := _encoder(part, of_part)) is not None:
            # the other line of DSMIP's table 3: the expert's units, and every parameter of CLIP in place of prompts
            yield CostPart(f"{label}, {FINE_TUNED}", depth, Cost(encoder + taken, None), Cost(0, 0.0))
        seconds = _extraction(folder)
        if seconds is not None:
            made = Cost(0, seconds)
            yield CostPart(f"features by {label}", depth, made, made)


def _itself(run: Run, name: str) -> CostPart:
    cost = Cost(run.record.parameters, run.record.train_seconds)
    return CostPart(name, 1, cost, cost)


def _depends(folder: Path) -> Mapping[str, Any]:
    path = folder / "config.json"
    return read_sealed(path) if path.exists() else {}


def _config(depends: Mapping[str, Any]) -> HeadConfig | None:
    """The configuration of a run, without options that its method has no more; None where it cannot be read."""
    try:
        known = to_json(config_class(depends["method"])())
        options = {key: value for key, value in depends["config"].items() if key in known}
        return stored_config(depends["method"], options)
    except UserError:
        return None


def _left_out(depends: Mapping[str, Any]) -> bool:
    """Whether a run left a fold of train out."""
    config = _config(depends)
    return config is not None and config.left_out is not None


def _trained_on(depends: Mapping[str, Any], label: str, folder: Path) -> int | None:
    """How many parameters of the run in `folder` the run that reads it trains further, and counts as its own.

    None where the configuration of that run cannot be read any more.
    """
    from safetensors import SafetensorError, safe_open

    config = _config(depends)
    if config is None:
        return None
    path = folder / "model.safetensors"
    try:
        with safe_open(path, framework="numpy") as file:
            names = [name for name in file.keys() if config.trains_on(label, name)]  # noqa: SIM118  # no mapping
            return sum(prod(file.get_slice(name).get_shape()) for name in names)
    except (OSError, SafetensorError) as error:
        raise NotAsWritten(f"{path} cannot be read ({error}); {remedy(path)}") from error


def _encoder(run: Run, depends: Mapping[str, Any]) -> int | None:
    """How many parameters the CLIP has whose prompts a run learned; None for a run that learned none, and where the
    states that it started from are gone."""
    config = _config(depends)
    if not isinstance(config, DsmipConfig) or config.stage != "prompts":
        return None
    feature = config.layers_image
    work = run.folder.parents[min(3, len(run.folder.parents) - 1)]
    try:
        store = Store.open(work / "cache" / folder_name(feature, depends["features"][feature]))
    except (KeyError, Gone, Damaged):
        return None
    from pipeline.models import clip

    return clip.parameters(store.spec["architecture"])


def _extraction(folder: Path) -> float | None:
    """Seconds of extracting the features that a run learned to make; None where it made none."""
    work = folder.parents[min(3, len(folder.parents) - 1)]
    receipts = [path for task in ("PromptedFeatures", "TunedFeatures") for path in work.glob(f"receipts/{task}-*.json")]
    seconds = [
        receipt["run"]["seconds"]
        for receipt in map(read_sealed, sorted(receipts))
        if any(work / one["store"] == folder / "cache" / Path(one["store"]).name for one in receipt["result"]["inputs"])
    ]
    return sum(seconds) if seconds else None


def cost_table(entries: Sequence[Entry]) -> TextTable:
    """Trainable parameters, seconds of training, pairs per second, the device, and the settings behind the figures."""
    rows = []
    for entry in entries:
        records = [run.record for run in entry.experiment.runs]
        first = records[0]
        of_runs = [parts_of(run) for run in entry.experiment.runs]
        sums = [total(parts) for parts in of_runs]
        rows.append(
            [
                entry.name,
                str(len(records)),
                "–" if sums[0].parameters is None else f"{sums[0].parameters:,}",
                _mean_text([one.seconds for one in sums], "{:.1f}"),
                *(
                    _mean_text([one.pairs_per_second.get(name) for one in records], "{:,.0f}")
                    for name in ("candidates", "full-kb")
                ),
                " / ".join("–" if one.epochs is None else f"{one.epochs:g}" for one in records),
                f"{first.device or '–'}, {first.precision or '–'}",
                entry.settings or "none",
            ]
        )
        rows += _part_rows(of_runs) if len(of_runs[0]) > 1 else []
    header = ["", "seeds", "parameters", "train s", "pairs/s, lists", "pairs/s, KB", "epochs", "device"]
    return text_table(
        [*header, "settings other than the method's defaults"],
        rows,
        "Cost and settings",
        [
            "parameters: trainable ones, train s: seconds of training; of a method made of several runs the sum over "
            "all of them, and each below it. A parameter that two stages train counts once in the sum, and so does a "
            "run that two others read. Speeds: encoding both sides and scoring, features read from the cache.",
            COUNTED if any(FINE_TUNED in row[0] for row in rows) else "",
        ],
    )


def _part_rows(of_runs: Sequence[Sequence[CostPart]]) -> list[list[str]]:
    """A row of costs for each part of the runs of several seeds."""
    rows = []
    for place, part in enumerate(of_runs[0]):
        same = [parts[place].cost.seconds for parts in of_runs if place < len(parts)]
        parameters = "–" if part.cost.parameters is None else f"{part.cost.parameters:,}"
        rows.append(["  " * part.depth + part.name, "", parameters, _mean_text(same, "{:.1f}"), *[""] * 5])
    return rows


def _mean_text(values: Sequence[float | None], form: str) -> str:
    """Mean (± deviation) of what is known."""
    known = [value for value in values if value is not None]
    if not known:
        return "–"
    value = Average.over(known)
    return form.format(value.mean) + ("" if value.deviation is None else f" ± {form.format(value.deviation)}")

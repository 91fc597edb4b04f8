"""Files of finished runs, as reports and comparisons read them."""

import functools
import json
from pathlib import Path

import report_world
from report_world import Trained

from fuzz.arrays import tensors
from fuzz.odd import Files, as_json, files_in, folder_of, json_of, write
from fuzz.target import Target, built, each
from report import combination, costs, manifest
from report.averages import average
from report.compare import compare
from report.contracts import AverageJob, ComparisonJob, NamedRun
from report.runs import read_experiment, read_predictions, read_run


def _run(folder: Path) -> dict[str, bytes]:
    """A run's files, and those of the mean over it and a second one."""
    shown = report_world.dataset(folder, 24, 4)
    for seed in (1, 2):
        report_world.write_run(folder / "runs" / f"seed{seed}", shown.prepared, Trained("mimic", seed, 0.5, ("tglu",)))
    (folder / "runs" / "seed1" / "parts.json").write_text('{"all": {"test": {"H@1": 0.5}}}')
    (folder / "runs" / "seed1" / "config.json").write_text('{"candidates": "0", "method": "mimic", "config": {}}')
    places = tuple(folder / "runs" / f"seed{seed}" for seed in (1, 2))
    average(AverageJob(runs=places, seeds=(1, 2), out=folder / "runs" / "mean"))
    (folder / "runs" / "seed1" / "model.safetensors").write_bytes(tensors())
    return files_in(folder / "runs")


def _read(files: Files, folder: Path) -> None:
    write(folder, files)
    first, second, mean = (folder / name for name in ("seed1", "seed2", "mean"))
    run = read_run(first)
    named = [NamedRun(name=place.name, folder=place) for place in (first, second)]
    each(
        run.history,
        lambda: run.rank_columns,
        lambda: read_predictions(first, "test"),
        lambda: read_experiment("mean", mean).by_seed("test", "full-kb", "H@1"),
        lambda: compare(ComparisonJob(first=named[0], second=named[1], resamples=20)),
        lambda: combination._parts(run),
        lambda: costs._trained_on({"method": "mimic", "config": {}}, "text", first),
        lambda: average(AverageJob(runs=(first, second), seeds=(1, 2), out=folder / "again")),
    )


MANIFEST = {
    **{"layout": 1, "run": "demo/bert/0", "method": "bert", "seed": 0, "dataset": "demo", "content": "0"},
    **{"entities": 1, "kb": "0", "list_length": 1, "forced": [], "protocols": ["full-kb"], "predictions": "0"},
    "splits": {"test": {"mentions": ["m1"], "golds": [None], "candidates": "0"}},
    "figures": {"test": {"full-kb": {"n": 1.0, "H@1": 0.5}}},
}


def _read_manifest(text: str, folder: Path) -> None:
    path = folder / "manifest.json"
    path.write_bytes(as_json(text))
    found = manifest.read(path)
    manifest.compared(found, manifest.from_json(manifest.Manifest, MANIFEST), "valid")


RUNS = "report.runs"
TARGETS = (
    Target(
        kind="files of runs",
        readers=(
            f"{RUNS}:read_run",
            f"{RUNS}:read_metrics",
            "foundation.checksums:check_run",
            f"{RUNS}:read_experiment",
            f"{RUNS}:_forced",
            f"{RUNS}:Run.history",
            f"{RUNS}:_read_predictions",
            "report.combination:_parts",
            "report.costs:_trained_on",
        ),
        valid=functools.partial(built, _run),
        odd=lambda: folder_of(built(_run)),
        read=_read,
        share=4,
    ),
    Target(
        kind="evaluation manifests",
        readers=("report.manifest:read",),
        valid=lambda: json.dumps(MANIFEST),
        odd=lambda: json_of(MANIFEST),
        read=_read_manifest,
    ),
)

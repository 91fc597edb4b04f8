"""Another prepared dataset as the KB of a run: where the features that the run reads of entities lie."""

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cache.inputs import Want
from foundation import receipts
from foundation.checksums import read_sealed
from foundation.contracts import to_json
from foundation.errors import NotAsWritten, UserError
from foundation.paths import Paths
from linking.finished import Finished


@dataclass(frozen=True)
class OtherKb:
    """label: of the dataset. folder: of its tables. columns: name of a key column of its entities -> the file."""

    label: str
    folder: Path
    columns: Mapping[str, Path]


def find(run: Finished, name: str, wanted: Sequence[Want]) -> OtherKb:
    """The newest prepared dataset of a label, or that in a folder, in the run's work folder. wanted: of its entities.

    Raises `UserError` where there is none, and where features lack: with the command that extracts them.
    """
    prepared = _prepared(run.paths, name)
    folder, content = run.paths.root / prepared["folder"], prepared["content"]
    label = folder.name.rpartition("-")[0]
    stores = {feature: rows.identity for one in run.tree() for feature, rows in one.extraction.features.items()}
    columns: dict[str, Path] = {}
    others: dict[str, str] = {}
    for result in _extractions(run.paths, content):
        for want in wanted:
            if want.column in columns or want.column not in result["columns"]:
                continue
            found = result["features"][want.feature]["identity"]
            if found == stores[want.feature]:
                columns[want.column] = run.paths.root / result["columns"][want.column]
            else:
                others[want.feature] = found
    lacking = [want for want in wanted if want.column not in columns]
    if lacking:
        raise UserError(_lacking(run, label, lacking, {name: (stores[name], other) for name, other in others.items()}))
    return OtherKb(label, folder, columns)


def _newest(paths: Paths, task: str) -> list[Path]:
    return sorted(paths.receipts.glob(f"{task}-*.json"), key=lambda path: -path.lstat().st_mtime_ns)


def _prepared(paths: Paths, name: str) -> Mapping[str, Any]:
    """The result of PrepareDataset of a label or folder. Raises `UserError`."""
    labels: dict[str, None] = {}
    for path in _newest(paths, "PrepareDataset"):
        receipt = receipts.standing(paths.root, path)
        if receipt is None:
            continue
        folder = paths.root / receipt["result"]["folder"]
        label = folder.name.rpartition("-")[0]
        if name == label or Path(name).absolute() == folder:
            result: Mapping[str, Any] = receipt["result"]
            return result
        labels[label] = None
    there = f" (there are {', '.join(sorted(labels))})" if labels else ""
    raise UserError(
        f"--kb {name}: no prepared dataset of this label in {paths.root}{there}; run "
        f"`luigi --module tasks PrepareDataset --dataset {shlex.quote(name)} --data-dir PATH`"
    )


def _extractions(paths: Paths, content: str) -> list[Mapping[str, Any]]:
    """The results of extractions over a dataset, the newest first."""
    found: list[Mapping[str, Any]] = []
    for path in _newest(paths, "ExtractGroup"):
        try:
            if read_sealed(path)["request"]["dataset"] != content:
                continue
        except (NotAsWritten, KeyError):
            continue
        receipt = receipts.standing(paths.root, path, most=None)
        if receipt is not None:
            found.append(receipt["result"])
    return found


def _lacking(run: Finished, label: str, wanted: Sequence[Want], others: Mapping[str, tuple[str, str]]) -> str:
    """What is said where features lack. others: feature -> its identity in the run, and the one that is there."""
    by_profile: dict[str, list[Want]] = {}
    for want in wanted:
        reference = next(one.references[want.feature] for one in run.tree() if want.feature in one.references)[0]
        by_profile.setdefault(reference, []).append(want)
    commands = [
        f"`luigi --module tasks ExtractFeatures --dataset {shlex.quote(label)} --data-dir PATH "
        f"--profile {shlex.quote(reference)} --wants {shlex.quote(json.dumps([to_json(want) for want in listed]))}`"
        for reference, listed in by_profile.items()
    ]
    also = "".join(
        f"; {name} is there as {other[:16]}, the run reads {own[:16]}" for name, (own, other) in sorted(others.items())
    )
    names = ", ".join(sorted({want.feature for want in wanted}))
    return (
        f"--kb {label}: {names} not extracted of its entities as the run reads them{also}; run {' and '.join(commands)}"
    )

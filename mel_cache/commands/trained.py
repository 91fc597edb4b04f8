"""From a run's folder back to the task that trained it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from foundation.checksums import read_sealed
from foundation.errors import NotAsWritten, UserError
from foundation.remedies import maker
from heads.config import stored_config, to_json
from mel_cache.commands.candidates import CandidateOptions
from mel_cache.commands.heads import TrainHead
from report.runs import MEAN


def find(task: CandidateOptions, name: str) -> TrainHead:
    """The task behind a run's folder, named as `Paths.find_run` takes it; for a mean over seeds, that of all of them.

    task: gives dataset, profile and candidates. Raises `UserError` where there is no such run, or where it was made
    from other ones.
    """
    folder = task.paths.find_run(name)
    first, seeds = folder, 1
    if (folder / MEAN).exists():
        mean = read_sealed(folder / MEAN)
        first, seeds = (folder / mean["runs"][0]).resolve(), len(mean["seeds"])
    config = _asked(task.paths.receipts, first)
    trained = task.clone(
        TrainHead,
        method=config["method"],
        params=json.dumps(to_json(stored_config(config["method"], config["config"]))),
        seed=config["seed"],
        train_fraction=config["train_fraction"],
        seeds=seeds,
    )
    known = trained.examined().receipt  # of a run whose files are damaged too: it is made again before it is read
    if known is None or trained.folder(known["result"]["run"]).resolve() != folder.resolve():
        raise UserError(
            f"{folder}: not the run of this method, configuration and seed over dataset {task.dataset}, "
            f"profile {task.profile} and its {task.candidates} candidates as they are now; name those it was trained "
            f"with (--dataset, --data-dir, --profile, --candidates), or run {maker(folder / 'run.json')}"
        )
    return trained


def _asked(receipts: Path, run: Path) -> Mapping[str, Any]:
    """Method, config, seed and train_fraction that a run was asked for, by its receipt; by its own configuration where
    there is none. They differ for `fused`, whose configuration says what it was trained with in the end."""
    for path in sorted(receipts.glob("TrainHead-*.json")):
        try:
            receipt = read_sealed(path)
        except NotAsWritten:
            continue
        if (receipts.parent / receipt["result"].get("run", "")).resolve() == run.resolve():
            asked: Mapping[str, Any] = receipt["request"]
            return asked
    return read_sealed(run / "config.json")

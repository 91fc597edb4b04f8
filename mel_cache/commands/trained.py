"""From a run's folder back to the task that trained it."""

import json

from foundation.checksums import read_sealed
from foundation.errors import UserError
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
    config = read_sealed(first / "config.json")
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

"""From a run's folder back to the task that trained it."""

import json

from foundation.errors import UserError
from foundation.files import read_json
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
        mean = read_json(folder / MEAN)
        first, seeds = (folder / mean["runs"][0]).resolve(), len(mean["seeds"])
    config = read_json(first / "config.json")
    trained = task.clone(
        TrainHead,
        method=config["method"],
        params=json.dumps(to_json(stored_config(config["method"], config["config"]))),
        seed=config["seed"],
        train_fraction=config["train_fraction"],
        seeds=seeds,
    )
    if not trained.done() or trained.folder(trained.resolved()["run"]).resolve() != folder.resolve():
        raise UserError(
            f"{folder}: not the run of this method, configuration and seed over dataset {task.dataset}, "
            f"profile {task.profile} and its {task.candidates} candidates as they are now; name those it was trained "
            "with (--dataset, --data-dir, --profile, --candidates), or train it again (TrainHead)"
        )
    return trained

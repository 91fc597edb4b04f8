"""From a run's folder back to the task that trained it."""

import json

from foundation.errors import UserError
from foundation.files import read_json
from mel_cache.commands.candidates import CandidateOptions
from mel_cache.commands.heads import TrainHead
from report.runs import MEAN


def find(task: CandidateOptions, named: str) -> TrainHead:
    """The task behind a run's folder, or `<dataset>/<method>/<hash>` below the work folder's runs; that of several
    seeds for a mean over them.

    task: gives dataset, profile and candidates. Raises `UserError` where there is no such run, or where it was made
    from other ones.
    """
    folder = task.paths.find_run(named)
    first, more = folder, {"seeds": 1}
    if (folder / MEAN).exists():
        mean = read_json(folder / MEAN)
        first, more = (folder / mean["runs"][0]).resolve(), {"seeds": len(mean["seeds"])}
    said = read_json(first / "config.json")
    trained = task.clone(
        TrainHead,
        method=said["method"],
        params=json.dumps(said["config"]),
        seed=said["seed"],
        train_fraction=said["train_fraction"],
        **more,
    )
    if not trained.done() or trained.folder(trained.resolved()["run"]).resolve() != folder.resolve():
        raise UserError(
            f"{folder}: not the run of this method, configuration and seed over dataset {task.dataset}, profile {task.profile} and its {task.candidates} "
            "candidates as they are now; name those it was trained on (--dataset, --data-dir, --profile, --candidates), or train it again (TrainHead)"
        )
    return trained

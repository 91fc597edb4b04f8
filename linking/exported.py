"""Writes the encoders that were tuned with a run, as their own libraries save them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cache.identity import weights_hash
from cache.store import Store
from experiments import tuned
from foundation.errors import UserError
from foundation.files import refuse_full
from heads.contracts import TrainingJob
from linking import finished
from linking.contracts import ExportJob, ExportResult
from linking.reads import job_of


def export(job: ExportJob) -> ExportResult:
    """Write every encoder that was tuned with a run: one into the folder itself, several side by side. Towers of one
    checkpoint that read the same side (a CLIP's text and picture) become one encoder.

    Raises `UserError` for a folder that is not empty, a run without tuned encoders, and a checkpoint that has changed
    since the run was trained.
    """
    from pipeline.models import export as models

    folder = job.folder.absolute()
    refuse_full(folder)
    run = finished.read(job.run)
    training = job_of(run.learner or run, run)
    if not training.towers:
        raise UserError(
            f"{run.folder}: no encoder was tuned with it; name a run that was trained with `tune` (docs/tuning.md)"
        )
    made = tuned.trained(training)
    hashes = {files: weights_hash(list(files), None) for files in {weights(tower) for tower in made.values()}}
    for name, tower in made.items():
        refuse_other_weights(training, name, tower.live.encoder.files, hashes[weights(tower)])
    places = placed({name: tower.live.encoder.files.folder for name, tower in made.items()})
    models.export({place: [made[name].live for name in names] for place, names in places.items()}, folder)
    references = {place: made[names[0]].live.encoder.files.reference for place, names in places.items()}
    return ExportResult(encoders={str(folder / place): reference for place, reference in references.items()})


def placed(folders: Mapping[str, Path]) -> dict[str, list[str]]:
    """Tower -> folder of its checkpoint, as place -> the towers of the encoder there; "" where there is one alone."""
    groups: dict[tuple[str, Path], list[str]] = {}
    for name, folder in folders.items():
        groups.setdefault((name.partition("_")[2], folder), []).append(name)
    return {"-".join(names) if len(groups) > 1 else "": names for names in groups.values()}


def weights(tower: Any) -> tuple[Path, ...]:
    """The files of the checkpoint behind a tower."""
    return tuple(tower.live.encoder.files.weights)


def refuse_other_weights(training: TrainingJob, name: str, files: Any, now: str) -> None:
    """Raises `UserError` where the checkpoint behind a tower, of the hash `now`, is not the one whose states it was
    trained on."""
    for one in training.inputs:
        if one.made and one.role in training.towers[name].reads.get(one.side, ()):
            then = Store.open(one.store).spec["weights"]
            if then != now:
                raise UserError(
                    f"model {files.reference!r} in {files.folder}: its weights have changed since {training.out} was "
                    f"trained over them ({then[:12]}, found {now[:12]}); put the former ones back, or train again"
                )

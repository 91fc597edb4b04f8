"""Finished runs: a head back from its folder, its scores of candidate lists and of the KB."""

from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import torch

from cache.store import Store
from foundation import device as devices
from foundation.checksums import check_run
from foundation.errors import UserError
from foundation.progress import Bar
from heads import towers
from heads.base import Head
from heads.checkpoint import read_tensors
from heads.config import stored_config
from heads.contracts import HeadInput, TrainingJob
from heads.data import Bundle
from heads.scoring import Scoring


def load_head(
    folder: Path, device: torch.device, live: towers.Towers = towers.NONE, name: str = "model.safetensors"
) -> Head:
    """The head of a finished run, ready to score. live: the encoders that run live in it, as they were before it was
    trained. name: of its file.

    What a stored run has besides and no score reads is left there. Raises `UserError` where the folder holds none, or
    one that has changed since.
    """
    path = folder / name
    if not path.exists():
        raise UserError(f"{path}: no such file; train that head first (TrainHead)")
    check_run(folder, path.name)
    tensors, state = read_tensors(path)
    shapes = {name: tuple(shape) for name, shape in state["shapes"].items()}
    config = stored_config(state["method"], state["config"])
    head = towers.make_live_head(state["method"], config, shapes, live)
    parts = head.state_dict().keys()
    head.load_state_dict({name: tensor for name, tensor in tensors.items() if name in parts})
    head.features = state.get("features", {})
    return head.to(device).eval()


def refuse_other_features(head: Head, folder: Path, inputs: Sequence[HeadInput]) -> None:
    """Raises `UserError` where an input is of another feature than the one that the head of `folder` was trained on."""
    for one in inputs:
        store = Store.open(one.store)
        trained = head.features.get(one.place, store.identity)
        if trained != store.identity:
            raise UserError(
                f"{folder}: the head reads {one.role} of the {one.side}s as feature {trained[:16]} gives it, "
                f"and is given {store.folder.name.rpartition('-')[0]} {store.identity[:16]}; "
                "use the profile and weights that it was trained with, or train it on these (TrainHead)"
            )


def load_run(job: TrainingJob, build: towers.Build = towers.none) -> tuple[Head, Bundle]:
    """The head of the run that `job` trained, and what the job names; with other inputs, dataset and lists it can score
    other mentions. build: makes the encoders that run live in it.

    Raises `UserError` where the run is not finished or was trained on other features.
    """
    device = torch.device(devices.choose(job.compute.device))
    head = load_head(job.out, device, build(job))
    refuse_other_features(head, job.out, job.inputs)
    bundle = Bundle.load(job, device)
    if bundle.shapes != head.shapes:
        raise UserError(f"{job.out}: the run read {head.shapes}, the features have {bundle.shapes}; train it again")
    return head, bundle


def list_scores(job: TrainingJob, splits: Collection[str], build: towers.Build = towers.none) -> np.ndarray:
    """Scores (M, k) of a finished run, see `scores_of`.

    job: see `load_run`; that of a combination with its parts, see `heads.fusion.with_parts`. build: see `load_run`.
    """
    return scores_of(*load_run(job, build), splits)


def scores_of(head: Head, bundle: Bundle, splits: Collection[str]) -> np.ndarray:
    """Scores (M, k) float32 of a head for the candidate lists of all mentions of `splits`, NaN for the others, where
    a list ends, and where the head does not reach."""
    index = np.flatnonzero(np.isin(bundle.table["split"], sorted(splits)))
    values = np.full(bundle.candidates.shape, np.nan, np.float32)
    with Bar(len(index), "scores of candidate lists", "mention") as bar:
        lists, pairs = bundle.candidates[index], bundle.pairs_of(index)
        values[index] = Scoring.of(head, bundle).part(index, lists, pairs, bar.update)
    return values

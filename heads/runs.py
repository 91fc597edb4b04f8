"""Trained runs: a head back from its folder, and its scores of candidate lists."""

from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import torch

from cache.store import Store
from foundation.errors import UserError
from foundation.progress import Bar
from heads.base import Head, make_head
from heads.checkpoint import read_tensors
from heads.config import load_config
from heads.contracts import HeadInput, TrainingJob
from heads.data import Bundle
from heads.scoring import score_lists
from heads.training import frozen


def load_head(folder: Path, device: torch.device, blocks: Path | None = None) -> Head:
    """The head of a finished run, ready to score. blocks: of the CLIP that learned prompts go through, for the stage that learned them.

    Raises `UserError` where the folder holds none.
    """
    path = folder / "model.safetensors"
    if not path.exists():
        raise UserError(f"{path}: no such file; train that head first (TrainHead)")
    tensors, said = read_tensors(path)
    head = make_head(
        said["method"],
        load_config(said["method"], said["config"]),
        {name: tuple(shape) for name, shape in said["shapes"].items()},
        **frozen(blocks),
    )
    head.load_state_dict(tensors)
    head.features = said.get("features", {})
    return head.to(device).eval()


def refuse_other_features(head: Head, folder: Path, inputs: Sequence[HeadInput]) -> None:
    """Raises `UserError` where an input is of another feature than the one that the head of `folder` was trained on."""
    for one in inputs:
        store = Store.open(one.store)
        trained = head.features.get(f"{one.side} {one.role}", store.identity)
        if trained != store.identity:
            raise UserError(
                f"{folder}: the head reads {one.role} of the {one.side}s as feature {trained[:16]} gives it, and is given {store.folder.name.rpartition('-')[0]} "
                f"{store.identity[:16]}; use the profile and weights that it was trained with, or train it on these (TrainHead)"
            )


def list_scores(job: TrainingJob, splits: Collection[str], device: torch.device) -> np.ndarray:
    """Scores (M, k) float32 of a finished run for the candidate lists of all mentions of `splits`, NaN for the others and where a list ends.

    job: the one that the run was trained with; with other inputs, dataset and lists it scores other mentions.
    """
    head = load_head(job.out, device)
    refuse_other_features(head, job.out, job.inputs)
    bundle = Bundle.load(job, device)
    if bundle.shapes != head.shapes:
        raise UserError(f"{job.out}: the run read {head.shapes}, the features have {bundle.shapes}; train it again")
    index = np.flatnonzero(np.isin(bundle.table["split"], sorted(splits)))
    values = np.full(bundle.candidates.shape, np.nan, np.float32)
    with Bar(len(index), f"scores of {job.method}", "mention") as bar:
        scores = score_lists(
            head, bundle.mentions, bundle.entities, index, bundle.candidates[index], bundle.pairs_of(index), bar.update
        )["score"]
    values[index] = np.where(np.isfinite(scores), scores, np.nan)
    return values

"""Vectors of a finished run that gives every record one: of all mentions and entities of its dataset, in half
precision."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from foundation import device as devices
from foundation.arrays import damage, write_npz
from heads.base import Head
from heads.config.dual import FOLDS
from heads.data import Bundle, ReadOptions
from heads.folds import fold_of
from heads.runs import load_head, refuse_other_features
from heads.vectors import entity_vectors, mention_vectors, refuse
from linking import finished
from linking.contracts import VectorFiles, VectorJob
from linking.reads import inputs_of
from pipeline.candidates.base import RunVectors


def write(job: VectorJob) -> VectorFiles:
    """Write the run's vectors, and those of its folds for the training mentions that each left out; files that are
    there and whole stay.

    Raises `UserError` for a run whose score is not an inner product of one vector per record.
    """
    names = ["whole.npz", *(f"fold-{number}.npz" for number in range(len(job.folds)))]
    files = tuple(job.out / name for name in names)
    lacking = [path for path in files if not path.is_file() or damage(path)]
    if lacking:
        _write(job, files, lacking)
    return VectorFiles(files=files)


def _write(job: VectorJob, files: Sequence[Path], lacking: Sequence[Path]) -> None:
    """files: of the run, then of each fold. lacking: those that are written."""
    device = torch.device(devices.choose(job.compute.device))
    whole = Retriever.read(job.run, device)
    fold = whole.folds if job.folds else np.full(len(whole.bundle.gold), -1)
    for number, (folder, path) in enumerate(zip((job.run, *job.folds), files, strict=True), -1):
        if path in lacking:
            retriever = whole if folder == job.run else Retriever.read(folder, device, stages=True)
            write_npz(path, vars(retriever.vectors(np.flatnonzero(fold == number))), seal=True)


@dataclass
class Retriever:
    """A finished run's head over its own dataset."""

    folder: Path
    head: Head
    bundle: Bundle

    @classmethod
    def read(cls, folder: Path, device: torch.device, stages: bool = False) -> "Retriever":
        """Raises `UserError` where its head gives no vector. stages: see `finished.read`."""
        run = finished.read(folder, stages)
        head = load_head(folder, device)
        refuse(head, folder)
        inputs = inputs_of(run)
        refuse_other_features(head, folder, inputs)
        reading = ReadOptions(device, head.config.entity_pictures)
        return cls(folder, head, Bundle.read(run.prepared, run.lists, inputs, reading=reading))

    @property
    def folds(self) -> np.ndarray:
        """(M,) the fold of each training mention whose gold is in the KB, -1 of every other mention."""
        table, gold = self.bundle.table, self.bundle.gold
        train = (table["split"] == "train") & (gold >= 0)
        names = table["gold_id"].tolist()
        return np.array([fold_of(str(name), FOLDS) if here else -1 for name, here in zip(names, train, strict=True)])

    def vectors(self, rows: np.ndarray) -> RunVectors:
        """Of the mentions at `rows` (m,) and of all entities."""
        entities = entity_vectors(self.head, self.bundle.entities)
        return RunVectors(mention_vectors(self.head, self.bundle.mentions, rows), entities, rows)

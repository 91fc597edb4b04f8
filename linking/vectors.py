"""Vectors of a finished run that gives every record one: of all mentions and entities of its dataset, in half
precision."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from foundation import device as devices
from foundation.arrays import write_npz
from heads.base import Head
from heads.config.dual import FOLDS
from heads.data import Bundle, Reading
from heads.folds import fold_of
from heads.runs import load_head, refuse_other_features
from heads.vectors import entity_vectors, mention_vectors, refuse
from linking import finished
from linking.contracts import VectorFiles, VectorJob
from linking.scorer import inputs_of
from pipeline.candidates.base import RunVectors


def write(job: VectorJob) -> VectorFiles:
    """Write the run's vectors, and those of its folds for the training mentions that each left out.

    Raises `UserError` for a run whose score is not an inner product of one vector per record.
    """
    device = torch.device(devices.choose(job.compute.device))
    whole = Retriever.read(job.run, device)
    fold = whole.folds if job.folds else np.full(len(whole.bundle.gold), -1)
    files = []
    for number, folder in enumerate((job.run, *job.folds), -1):
        retriever = whole if folder == job.run else Retriever.read(folder, device, stages=True)
        path = job.out / ("whole.npz" if number < 0 else f"fold-{number}.npz")
        write_npz(path, vars(retriever.vectors(np.flatnonzero(fold == number))), seal=True)
        files.append(path)
    return VectorFiles(files=tuple(files))


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
        reading = Reading(device, head.config.entity_pictures)
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

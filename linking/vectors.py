"""Vectors of a finished run that gives every record one: of all mentions and entities of its dataset, in half
precision."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from foundation import device as devices
from foundation.arrays import write_npz
from foundation.errors import UserError
from heads.base import Head, PerPicture, Rows
from heads.config.dual import FOLDS
from heads.data import Bundle, Reading, Side
from heads.folds import fold_of
from heads.runs import load_head, refuse_other_features
from heads.scoring import encode, entity_chunks
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
        rows = np.flatnonzero(fold == number)
        path = job.out / ("whole.npz" if number < 0 else f"fold-{number}.npz")
        vectors = RunVectors(retriever.mentions(rows), retriever.entities(), rows)
        write_npz(path, vars(vectors), seal=True)
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
        """Raises `UserError` where the run's head gives no vector. stages: see `finished.read`."""
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

    def mentions(self, rows: np.ndarray) -> np.ndarray:
        """(m, d) float16 of the mentions at `rows` (m,)."""
        return vectors_of(self.head, self.bundle.mentions, rows)

    @torch.no_grad()
    def entities(self) -> np.ndarray:
        """(N, d) float16."""
        parts = [_vector(rows, self.folder) for _, rows in entity_chunks(self.head, self.bundle.entities)]
        return np.concatenate(parts)


def refuse(head: Head, folder: Path) -> None:
    """Raises `UserError` where the head does not give every record one vector."""
    if not head.one_vector:
        raise UserError(
            f"--sources dense:{folder}: the scores of this method are no inner products of one vector per record; "
            "name a run of dual, or of a baseline like bert"
        )


@torch.no_grad()
def vectors_of(head: Head, side: Side, rows: np.ndarray) -> np.ndarray:
    """(m, d) float16 of the mentions at `rows` (m,) of a side."""
    if not len(rows):
        return np.zeros((0, head.config.width), np.float16)  # type: ignore[attr-defined]  # heads with one vector have it
    return _vector(encode(head.encode_mentions, side, rows), None)


def _vector(rows: Rows, folder: Path | None) -> np.ndarray:
    if isinstance(rows, PerPicture) and not rows.single:
        raise UserError(
            f"--sources dense:{folder}: the run has a vector for each picture of an entity; name one with "
            "entity_pictures first (dual: mean too)"
        )
    values: np.ndarray = rows.fixed("vector").half().cpu().numpy()
    return values

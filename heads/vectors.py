"""Vectors of heads that give every record one (`Head.one_vector`), in half precision."""

from pathlib import Path

import numpy as np
import torch

from foundation.errors import UserError
from heads.base import Head, PerPicture, Rows
from heads.data import Side
from heads.scoring import encode, entity_chunks


def refuse(head: Head, folder: Path) -> None:
    """Raises `UserError` where the head does not give every record one vector."""
    if not head.one_vector:
        raise UserError(
            f"--sources dense:{folder}: the scores of this method are no inner products of one vector per record; "
            "name a run of dual, or of a baseline like bert"
        )


@torch.no_grad()
def mention_vectors(head: Head, side: Side, rows: np.ndarray) -> np.ndarray:
    """(m, d) float16 of the mentions at `rows` (m,) of a side; (0, 0) for none."""
    return _vector(encode(head.encode_mentions, side, rows)) if len(rows) else np.zeros((0, 0), np.float16)


def entity_vectors(head: Head, side: Side, first: int = 0) -> np.ndarray:
    """(N - first, d) float16 of the entities of a side, from a row on."""
    return np.concatenate([_vector(rows) for _, rows in entity_chunks(head, side, first)])


def _vector(rows: Rows) -> np.ndarray:
    if isinstance(rows, PerPicture) and not rows.single:
        raise UserError(
            "--sources dense:RUN: the run has a vector for each picture of an entity; name one that was trained with "
            "entity_pictures first (dual: mean too)"
        )
    values: np.ndarray = rows.fixed("vector").half().cpu().numpy()
    return values

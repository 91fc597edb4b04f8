"""One bad crop costs that crop: what a model fails on is left out, the rest of its batch is not."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np


def rows_or_none(model: Callable[[Any], np.ndarray], crops: Any) -> list[np.ndarray | None]:
    """`model(crops)` row by row; where it fails on the batch, crop by crop, None for those it fails on or gives no
    finite numbers for.

    Raises what says nothing about a crop: too little memory, and `UserError`.
    """
    from foundation.errors import UserError

    try:
        rows: Sequence[Any] = list(model(crops))
    except Exception as error:
        import torch

        if isinstance(error, torch.OutOfMemoryError | MemoryError | UserError):
            raise
        if len(crops) == 1:
            return [None]
        rows = [rows_or_none(model, crops[i : i + 1])[0] for i in range(len(crops))]
    return [row if row is not None and np.isfinite(row).all() else None for row in rows]

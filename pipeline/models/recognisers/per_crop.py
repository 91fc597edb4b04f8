"""A model on a batch of crops in which some crops may fail."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np


def rows_or_none(model: Callable[[Any], np.ndarray], crops: Any) -> list[np.ndarray | None]:
    """The rows of `model(crops)`; None for a crop that it fails on, or for which it gives a number that is not finite.

    A batch that fails is computed crop by crop. Raises errors that are not about a crop: memory, `UserError`.
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

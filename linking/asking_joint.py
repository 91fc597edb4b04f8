"""Where a run of `fused` may do without its part `joint`, and answers without it."""

import numpy as np

from foundation.errors import UserError
from heads.contracts import JOINT
from linking.finished import Finished
from linking.scorer import Chunk, Scorer


def without(scorer: Scorer, chunk: Chunk, depth: int) -> tuple[np.ndarray, np.ndarray]:
    """The best entities of a chunk's mentions without `joint`, see `Scorer.top`."""
    return scorer.top_of_lists(chunk, depth, np.arange(len(chunk)), scorer.without_joint)


def check(run: Finished, below: float) -> None:
    """Raises `UserError` for a number out of range, and for a run in which `joint` cannot be left out."""
    if not 0 < below <= 1:
        raise UserError(f"joint_below is {below}, expected a number above 0, at most 1")
    if (
        run.method != "fused"
        or JOINT not in run.runs
        or not (run.pairs or len(run.runs) > 1 or run.config["frequency"])
    ):
        raise UserError(
            f"--joint-below: {run.folder} is no run of fused with joint beside other parts; leave the option out"
        )

"""What a finished run says of candidate lists: scores as a file of arrays, explanations as lines of JSON."""

import numpy as np

from experiments.contracts import ScoreJob, ScoreResult
from foundation.arrays import write_npz
from heads.contracts import ExplanationJob, Explanations, Masking, MaskingJob


def score(job: ScoreJob) -> ScoreResult:
    """Write the scores of a run's head to `job.file` (.npz).

    mentions (m,) ids, candidates (m, k) int64 rows of the KB and -1 where a list ends, scores (m, k) float32 and NaN
    there, gold (m,) int64 row, -1 for NIL, -2 outside the KB. Raises `UserError` where the features are not those
    that the head was trained on.
    """
    from experiments import towers
    from heads import fusion
    from heads.data import Bundle
    from heads.runs import list_scores

    run = fusion.with_parts(job.run, (job.split,), build=towers.build)
    values = list_scores(run, (job.split,), build=towers.build)
    bundle = Bundle.read(job.run.dataset, job.run.candidates)
    rows = np.flatnonzero(bundle.table["split"] == job.split)
    arrays = {
        "mentions": bundle.table["id"][rows].astype(str),
        "candidates": bundle.candidates[rows],
        "scores": values[rows],
        "gold": bundle.gold[rows],
    }
    write_npz(job.file, arrays, seal=True)
    return ScoreResult(file=job.file, mentions=len(rows))


def explain(job: ExplanationJob) -> Explanations:
    """See `heads.explanations.write`."""
    from experiments import towers
    from heads import explanations

    return explanations.write(job, towers.build)


def masked(job: MaskingJob) -> Masking:
    """See `heads.masking.write`."""
    from experiments import towers
    from heads import masking

    return masking.write(job, towers.build)

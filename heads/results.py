"""Evaluation of a finished run."""

from foundation import device as devices
from foundation.errors import UserError
from heads import fusion
from heads.config import load_config
from heads.contracts import TrainingJob
from heads.evaluation import SPLITS, Measurement, measure
from heads.runs import load_run


def evaluate(job: TrainingJob) -> Measurement:
    """Metrics, predictions and scores of the run that `job` trained: on the job's inputs, which may be other mentions
    than those it was trained with.

    Raises `UserError` for a run that is not finished, and for a stage that only prepares another run.
    """
    if not load_config(job.method, job.config).evaluates:
        raise UserError(f"{job.out}: a stage without scores of its own; evaluate the run that continues from it")
    with devices.repeatable(job.compute.threads):
        return measure(*load_run(fusion.with_parts(job, SPLITS)))

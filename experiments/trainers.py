"""Training of a head of any kind: the one place that says which function trains which."""

from heads.config import load_config
from heads.contracts import TrainingJob, TrainingResult


def train(job: TrainingJob) -> TrainingResult:
    """Train a head, or read the run that is complete, see `heads.training.train`. Raises `UserError`."""
    from experiments import towers
    from heads import fusion, training

    by_kind = {"head": training.train, "combination": fusion.train}
    return by_kind[load_config(job.method, job.config).training](job, towers.build)

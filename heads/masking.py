"""A finished run as if no mention had a picture: every mention's ranks, beside whether it has one."""

import numpy as np

from cache.inputs import Side
from foundation import device as devices
from heads.contracts import Masking, MaskingJob
from heads.evaluation import SPLITS, measure, write_predictions
from heads.fusion import without_pictures
from heads.towers import Build, none

MENTION: tuple[Side, ...] = ("mention",)


def write(job: MaskingJob, build: Build = none) -> Masking:
    """Write the predictions of a run with the pictures of all mentions masked, and all that is made from them.

    A row for each mention of dev and test, as in predictions.parquet, with `picture`: whether the mention has a usable
    one; without, the ranks are the run's own. build: makes the encoders that run live. Raises `UserError` where the run
    is not finished.
    """
    with devices.repeatable(job.run.compute.threads):
        head, bundle = without_pictures(job.run, SPLITS, MENTION, build)
        predictions = measure(head, bundle).predictions
    pictured = bundle.table["image_status"][np.isin(bundle.table["split"], SPLITS)] == "ok"
    write_predictions(job.file, {**predictions, "picture": pictured})
    return Masking(pictured=int(pictured.sum()))

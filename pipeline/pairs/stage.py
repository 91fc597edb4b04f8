"""Computes pair features: numbers per (mention, candidate), one file per candidate list and features read."""

import io
import time

import numpy as np

from foundation.arrays import Expected, read_npz
from foundation.errors import UserError
from foundation.files import write_atomic
from pipeline.candidates.lists import RankedLists
from pipeline.datasets.prepared import Columns
from pipeline.pairs.base import CandidatePairs
from pipeline.pairs.contracts import PairFeature, PairJob
from pipeline.pairs.registry import pair_function
from pipeline.pairs.texts import Texts
from pipeline.pairs.values import RecordValues


def build_pairs(job: PairJob) -> PairFeature:
    """Compute one pair feature and write it to `job.out`.

    Raises `UserError` for an unknown pair feature, a role without an input, lists of another dataset, and rows that
    are not in the cache.
    """
    started = time.monotonic()
    function, pairs = pair_function(job.name), _pairs(job)
    values = function(pairs)
    sink = io.BytesIO()
    np.savez(sink, values=values, names=np.array(function.names, "U"))
    write_atomic(job.out, sink.getvalue())
    listed = int((pairs.ids >= 0).sum())
    present = int((~np.isnan(values if values.ndim == 2 else values[:, :, 0])).sum())
    return PairFeature(
        file=job.out,
        digest=job.digest,
        name=job.name,
        shape=values.shape,
        names=function.names,
        listed=listed,
        present=round(present / max(1, listed), 6),
        seconds=round(time.monotonic() - started, 3),
    )


_LISTS = {
    "ids": Expected("iu", (None, None)),
    "scores": Expected("f", (None, None)),
    "retrieved": Expected("b", (), optional=True),
    "by_heart": Expected("b", (), optional=True),
}


def _pairs(job: PairJob) -> CandidatePairs:
    """The pairs of a job."""
    saved = read_npz(job.candidates, _LISTS)
    lists = RankedLists(saved["ids"], saved["scores"], bool(saved.get("retrieved", True)))
    lists.by_heart = bool(saved.get("by_heart", False))
    mentions, entities = Columns(job.dataset / "mentions.parquet"), Columns(job.dataset / "entities.parquet")
    fitting = len(lists.ids) == mentions.rows and lists.ids.shape == lists.scores.shape
    if not fitting or not -1 <= lists.ids.min(initial=-1) <= lists.ids.max(initial=-1) < entities.rows:
        raise UserError(
            f"{job.candidates}: lists do not fit the {mentions.rows} mentions and {entities.rows} entities of "
            f"{job.dataset}; build them again"
        )
    inputs = {read.role: read for read in job.inputs}

    def values(role: str) -> RecordValues:
        if role not in inputs:
            raise UserError(f"{job.name}: no input serves {role!r}; run ExtractFeatures for this pair feature")
        return RecordValues.open(inputs[role])

    return CandidatePairs(mentions, Texts(entities), lists, values, job.workers)

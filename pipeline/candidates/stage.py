"""Builds candidate lists from one source or several, and measures how often the gold is among them."""

from collections.abc import Sequence

import numpy as np

from foundation.arrays import write_npz
from foundation.checksums import file_sha256
from foundation.contracts import to_json
from foundation.errors import UserError, nearest
from foundation.files import write_json
from pipeline.candidates import registry
from pipeline.candidates.base import UNKNOWN, SourceInputs
from pipeline.candidates.contracts import MERGES, CandidateJob, CandidateLists, GivenSource
from pipeline.candidates.given import gold_forced_in
from pipeline.candidates.lists import RankedLists
from pipeline.candidates.merging import merged_lists, merged_ranks
from pipeline.candidates.recall import per_mention, recall
from pipeline.candidates.retrieving import Retrieved, retrieve


def build_candidates(job: CandidateJob) -> CandidateLists:
    """Build the lists and write them to `job.out`, and what `CandidateLists` holds beside them as .json.

    Raises `UserError` for an unknown scorer or way to merge, and where the dataset lacks what a source needs.
    """
    if job.k < 1:
        raise UserError(f"candidates per mention: {job.k}, expected at least 1")
    if job.merge not in MERGES:
        raise UserError(f"--merge {job.merge!r} is unknown{nearest(job.merge, MERGES)}")
    inputs = SourceInputs.of_dataset(job.dataset, job.workers)
    gold, split = np.array(inputs.mentions["gold"], np.int64), np.array(inputs.mentions["split"])
    sources = [registry.source(spec) for spec in job.sources]
    for source in sources:
        source.check(inputs)
    retrieved = retrieve(sources, inputs, job.k)
    merged = merged_lists([each.lists for each in retrieved], job.k, job.merge, inputs)
    recalls = {each.source.label: recall(each.lists, gold, split) for each in retrieved}
    if len(retrieved) > 1:
        recalls["merged"] = recall(merged, gold, split)
    gold_rank = _gold_rank(retrieved, merged, gold, inputs, job.merge)
    forced = gold_forced_in(inputs) if any(isinstance(spec, GivenSource) for spec in job.sources) else ()
    arrays = {
        "ids": merged.ids,
        "scores": merged.scores,
        "retrieved": np.array(merged.retrieved),
        "by_heart": np.array(merged.by_heart),
        "gold_rank": gold_rank,
        "forced": np.array(forced, "U"),
    }
    write_npz(job.out, arrays)
    lists = CandidateLists(
        file=job.out,
        digest=job.digest or file_sha256(job.out),
        k=job.k,
        merge=job.merge,
        mentions=len(gold),
        entities=len(inputs.entities["id"]),
        recall=recalls,
        seconds={each.source.label: round(each.seconds, 3) for each in retrieved},
        mentions_per_second={
            each.source.label: round(len(gold) / max(round(each.seconds, 3), 1e-3), 1) for each in retrieved
        },
        per_mention=per_mention(merged.lengths, split),
        notes=tuple(note for each in retrieved for note in each.source.notes(inputs, job.k)),
        gold_forced_in=forced,
    )
    report = to_json(lists)
    write_json(job.out.with_suffix(".json"), {key: report[key] for key in report if key not in ("file", "digest")})
    return lists


def _gold_rank(
    retrieved: Sequence[Retrieved], merged: RankedLists, gold: np.ndarray, inputs: SourceInputs, how: str
) -> np.ndarray:
    """(M,) int64 rank from 1 of each gold (M,) in the whole order: its place in the merged list, or behind it as
    `merged_ranks` says.
    """
    result = np.where(gold >= 0, merged.places(gold), UNKNOWN)
    beyond = np.flatnonzero(result == 0)
    ranks = []
    for each in retrieved:
        rank = each.lists.rows(beyond).places(gold[beyond])
        absent = np.flatnonzero(rank == 0)
        if len(absent):
            rank[absent] = each.source.ranks(inputs, beyond[absent], gold[beyond[absent]])
        ranks.append(rank)
    rank = merged_ranks(ranks, [each.lists.lengths[beyond] for each in retrieved], how)
    result[beyond] = np.where(rank > 0, np.maximum(rank, 1 + merged.lengths[beyond]), UNKNOWN)
    return result

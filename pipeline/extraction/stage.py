"""Extraction of one group of features: what is missing is planned, computed and looked at."""

import contextlib
import dataclasses
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from cache.shard import Status
from cache.table import Table
from foundation import device as devices
from foundation.checksums import remembered
from foundation.errors import UserError
from foundation.files import free_bytes, make_folder
from foundation.paths import Paths
from pipeline.datasets.images import Limits
from pipeline.extraction import guard, planning, pool
from pipeline.extraction.base import CropExtractor, TextExtractor
from pipeline.extraction.contracts import (
    Account,
    Crops,
    Estimate,
    Extraction,
    ExtractionJob,
    ExtractionResult,
    FeatureEstimate,
    FeatureRows,
    PartJob,
    PartResult,
)
from pipeline.extraction.manifest import Coming
from pipeline.extraction.planning import Planned
from pipeline.extraction.runner import Runner, Target, undone
from pipeline.extraction.views import enhanced
from pipeline.profiles import profile as profiles

MARGIN = 64 << 20  # bytes kept free on the cache's disk
PLANS = 3
"""Times that the rows are planned at most: a shard may be removed by hand while others are computed."""


def extract(job: ExtractionJob) -> ExtractionResult:
    """Bring the cache up to date for the job's wants and write their key columns.

    Raises `UserError`, and `PassingError` where rows were left undone for a reason that may pass.
    """
    started, paths = time.monotonic(), Paths(job.work)
    planned, accounts = _planned(job), list[Account]()
    while True:
        accounts.append(_computed(planned, PartJob(extraction=job)))
        if not planned.lacks() or len(accounts) == PLANS:
            break
        planning.discard(job)
        planned = _planned(job)
    planning.discard(job)
    extracted = {name: sum(account.rows[name] for account in accounts) for name in planned.stores}
    accepted = _looked_at(planned, job)
    columns = {want.column: column for want, column in planned.columns.items()}
    extraction = Extraction(
        features={name: _rows_of(planned, name, extracted[name]) for name in planned.stores},
        columns={name: paths.relative(job.columns / f"{name}.npz") for name in columns},
        cut={name: column.texts.cut if column.texts else 0 for name, column in columns.items()},
        texts={name: column.texts for name, column in columns.items() if column.texts},
        without={
            want.column: int((~column.present).sum())
            for want, column in planned.columns.items()
            if enhanced(want.side, want.view)
        },
        accepted=accepted,
    )
    shards = [path for name, store in planned.stores.items() for path in store.files_for(planned.wanted(name))]
    return ExtractionResult(
        extraction=extraction,
        files=tuple(paths.relative(path) for path in shards),
        account=dataclasses.replace(accounts[0], rows=extracted, seconds=round(time.monotonic() - started, 3)),
    )


def extract_part(job: PartJob) -> PartResult:
    """Compute every `parts`-th chunk of an extraction, from the `part`-th on.

    All parts plan the same chunks, whether they share a work folder or each has its own. Raises as `extract`; rows are
    looked at by the extraction that finds all parts in its cache.
    """
    if not job.extraction.runtime.devices:
        devices.choose(job.extraction.runtime.device)  # one that is not there is refused, whatever others have done
    planned = _planned(job.extraction)
    account = _computed(planned, job)
    own = planned.chunks[job.part - 1 :: job.parts]
    return PartResult(chunks=len(own), all_chunks=len(planned.chunks), left=planned.lacks(), account=account)


def _planned(job: ExtractionJob) -> Planned:
    """See `planning.planned`; refused where the rows to come do not fit on the disk."""
    paths = Paths(job.work)

    def check(coming: Mapping[str, Coming]) -> None:
        estimated = _estimate(coming, paths)
        make_folder(paths.cache)
        _refuse_if_full(estimated, paths.cache)

    return planning.planned(job, check)


def _computed(planned: Planned, part: PartJob) -> Account:
    """What was done of a part's chunks, which are all in the cache afterwards."""
    job = part.extraction
    new = [store for store in planned.stores.values() if not store.described]
    for store in planned.stores.values():
        store.make()
    targets = [Target(name, planned.extractors[name], store) for name, store in planned.stores.items()]
    chunks = undone(targets, planned.chunks[part.part - 1 :: part.parts])
    try:
        if planned.reads != "rows" and chunks:
            if job.runtime.ray:
                from pipeline.extraction import on_ray

                return on_ray.run(job, targets, chunks)
            if job.runtime.devices and len(chunks) > 1:
                return pool.run(part, sum(chunk.rows for chunk in chunks))
        limits, device = Limits(**profiles.load(job.profile).limits), (*job.runtime.devices, job.runtime.device)[0]
        runtime = dataclasses.replace(job.runtime, device=device)
        return Runner(runtime, limits, Paths(job.work).rates).run(targets, chunks)
    except BaseException:
        for store in new:
            with contextlib.suppress(UserError, OSError):  # the first error is the one to be read
                store.remove_if_empty()
        raise


def _looked_at(planned: Planned, job: ExtractionJob) -> dict[str, tuple[str, ...]]:
    """What is wrong with the rows of features in `job.runtime.accept`, by column, a line per output.

    Raises `UserError` where something is wrong with those of others; the rows stay in the cache.
    """
    limits, accept = Limits(**profiles.load(job.profile).limits), job.runtime.accept
    kept: dict[str, tuple[str, ...]] = {}
    refused: list[str] = []
    for want, column in planned.columns.items():
        extractor = planned.extractors[want.feature]
        lines = guard.problems(want, column, planned.stores[want.feature], extractor, limits)
        if lines and want.feature in accept:
            kept[want.column] = tuple(lines)
        else:
            remedy = guard.remedy(extractor)
            refused += [f"{line}; {remedy}, or keep the rows with --accept {want.feature}" for line in lines]
    if refused:
        raise UserError(*refused)
    return kept


def estimate(job: ExtractionJob) -> Estimate:
    """What `extract` would add to the cache; nothing is extracted or written. Raises `UserError`."""
    return _estimate(planning.plan(job, quiet=True).coming, Paths(job.work))


def _estimate(coming: Mapping[str, Coming], paths: Paths) -> Estimate:
    rates = remembered(paths.rates)
    listed = []
    for name, rows in coming.items():
        rate = rates.get(name, {}).get("rows_per_s")
        listed.append(
            FeatureEstimate(
                feature=name,
                wanted=rows.wanted,
                rows=rows.rows,
                bytes=rows.bytes,
                seconds=round(rows.rows / rate, 1) if rate else None,
            )
        )
    return Estimate(features=tuple(listed), free_bytes=free_bytes(paths.cache))


def _refuse_if_full(coming: Estimate, cache: Path) -> None:
    size, free = coming.bytes, coming.free_bytes
    if size and size + MARGIN > free:
        raise UserError(
            f"no space for the features in {cache}: {size / 1e6:,.0f} MB to come and {MARGIN / 1e6:,.0f} MB to "
            "be kept free, "
            f"{free / 1e6:,.0f} MB free; free some, choose another --work-dir, or run `luigi --module tasks CleanCache`"
        )


def _rows_of(planned: Planned, name: str, extracted: int) -> FeatureRows:
    extractor, store, wanted = planned.extractors[name], planned.stores[name], planned.wanted(name)
    table = Table(store, next(iter(extractor.writes)), wanted, np.ones(len(wanted), bool))
    crops, boxes = None, planned.coming[name].boxes
    if isinstance(extractor, CropExtractor) and boxes is not None:
        crops = Crops(boxes=boxes, lost=boxes - int(table.lengths.sum()))
    return FeatureRows(
        identity=store.identity,
        store=store.folder.name,
        rows=len(wanted),
        extracted=extracted,
        verdicts={
            Status(code).name.lower(): int(count)
            for code, count in zip(*np.unique(table.status, return_counts=True), strict=True)
        },
        crops=crops,
        empty=int((table.ok & (table.lengths == 0)).sum())
        if table.ragged and not isinstance(extractor, TextExtractor)
        else None,
    )

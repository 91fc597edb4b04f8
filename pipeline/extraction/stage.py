"""Extraction of one group of features: views to keys, what is missing, an estimate, then the runner."""

import contextlib
import dataclasses
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cache.inputs import IMAGES, Want
from cache.keys import KeyColumn
from cache.shard import Status
from cache.store import Store
from cache.table import Table
from foundation.checksums import remembered
from foundation.errors import UserError
from foundation.files import free_bytes, make_folder
from foundation.paths import Paths
from foundation.progress import Bar
from pipeline.datasets.images import Limits
from pipeline.extraction import guard, units, wants
from pipeline.extraction.base import CropExtractor, DerivedOptions, Extractor, RowsExtractor, TextExtractor
from pipeline.extraction.contracts import (
    Crops,
    Estimate,
    Extraction,
    ExtractionJob,
    ExtractionResult,
    FeatureEstimate,
    FeatureRows,
)
from pipeline.extraction.parents import KnowledgeBase, Parent
from pipeline.extraction.runner import STEPS, PendingFeature, Runner, pending
from pipeline.extraction.views import enhanced
from pipeline.extractors import build
from pipeline.imported.contracts import IMPORTED
from pipeline.profiles import profile as profiles

MARGIN = 64 << 20  # bytes kept free on the cache's disk


def extract(job: ExtractionJob) -> ExtractionResult:
    """Bring the cache up to date for the job's wants and write their key columns.

    Raises `UserError`, and `PassingError` where rows were left undone for a reason that may pass.
    """
    started, paths = time.monotonic(), Paths(job.work)
    features, columns = _planned(job)
    coming = _estimate(features, paths)
    make_folder(paths.cache)
    _refuse_if_full(coming, paths.cache)
    new = [feature.store for feature in features if not feature.store.described]
    for feature in features:
        feature.store.make()
    limits = Limits(**profiles.load(job.profile).limits)
    try:
        account = Runner(job.runtime, limits, paths.rates).run(features)
    except BaseException:
        for store in new:
            with contextlib.suppress(UserError, OSError):  # the first error is the one to be read
                store.remove_if_empty()
        raise
    accepted = _looked_at(features, columns, job)
    files = _save_columns(columns, job.columns)
    extraction = Extraction(
        features={feature.name: _rows_of(feature) for feature in features},
        columns={want.column: paths.relative(path) for want, path in files.items()},
        cut={want.column: column.texts.cut if column.texts else 0 for want, column in columns.items()},
        texts={want.column: column.texts for want, column in columns.items() if column.texts},
        without={
            want.column: int((~column.present).sum())
            for want, column in columns.items()
            if enhanced(want.side, want.view)
        },
        accepted=accepted,
    )
    shards = [path for feature in features for path in feature.store.files_for(feature.wanted.keys)]
    return ExtractionResult(
        extraction=extraction,
        files=tuple(paths.relative(path) for path in shards),
        account=dataclasses.replace(account, seconds=round(time.monotonic() - started, 3)),
    )


def _looked_at(
    features: Sequence[PendingFeature], columns: Mapping[Want, units.UnitColumn], job: ExtractionJob
) -> dict[str, tuple[str, ...]]:
    """What is wrong with the rows of features in `job.runtime.accept`, by column, a line per output.

    Raises `UserError` where something is wrong with those of others; the rows stay in the cache.
    """
    limits, accept = Limits(**profiles.load(job.profile).limits), job.runtime.accept
    of = {feature.name: feature for feature in features}
    kept: dict[str, tuple[str, ...]] = {}
    refused: list[str] = []
    for want, column in columns.items():
        feature = of[want.feature]
        lines = guard.problems(want, column, feature.store, feature.extractor, limits)
        if lines and want.feature in accept:
            kept[want.column] = tuple(lines)
        else:
            remedy = guard.remedy(feature.extractor)
            refused += [f"{line}; {remedy}, or keep the rows with --accept {want.feature}" for line in lines]
    if refused:
        raise UserError(*refused)
    return kept


def estimate(job: ExtractionJob) -> Estimate:
    """What `extract` would add to the cache; nothing is extracted or written. Raises `UserError`."""
    features, _ = _planned(job, quiet=True)
    return _estimate(features, Paths(job.work))


def _planned(job: ExtractionJob, quiet: bool = False) -> tuple[list[PendingFeature], dict[Want, units.UnitColumn]]:
    """The features of the job with what the cache lacks of them, and the key columns of its wants."""
    profile, paths = profiles.load(job.profile), Paths(job.work)
    for name in job.runtime.accept:
        profile.feature(name)
    extractors = _extractors(profile, job)
    stores = {rows.feature: Store.open(rows.store) for rows in job.upstream}
    records = units.Records(
        units.read_tables(job.dataset, wants.enhanced(job.wants)), job.images, _parents(profile, job, stores)
    )
    limits = Limits(**profile.limits)
    specs = {name: spec_of(extractor, records, stores, limits, paths.memo) for name, extractor in extractors.items()}
    columns: dict[Want, units.UnitColumn] = {}
    counts = {side: len(table["id"]) for side, table in records.tables.items()}
    with Bar(sum(counts[want.side] for want in job.wants), "reading", "record", quiet=quiet) as bar:
        for want in job.wants:
            columns[want] = units.column(want, records, extractors[want.feature])
            bar.update(counts[want.side])
    planned = {name: Store.planned(paths.cache, name, spec) for name, spec in specs.items()}
    return pending(columns, extractors, planned), columns


def _extractors(profile: profiles.Profile, job: ExtractionJob) -> dict[str, Extractor]:
    """The extractors of the job's features, their models found or fetched. Raises `UserError` naming all models that
    cannot be had, those of `beside` too."""
    names = wants.features_of(job.wants)
    built: dict[str, Extractor] = {}
    lacking: dict[str, None] = {}
    beside = (name for name in job.beside if profile.feature(name).extractor != IMPORTED)
    for name in sorted({*names, *beside}):
        try:
            built[name] = build(profile.feature(name), profile.source, job.demo)
        except UserError as error:
            lacking[str(error)] = None
    if lacking:
        raise UserError(*lacking)
    return {name: built[name] for name in names}


def _parents(profile: profiles.Profile, job: ExtractionJob, stores: Mapping[str, Store]) -> dict[Want, Parent]:
    """The rows that the job's wants are made from."""
    keys = {(rows.side, rows.feature, rows.view): rows.keys for rows in job.upstream}
    needed = {each for want in job.wants for each in wants.requirements(profile, want)}
    return {
        want: Parent.of(stores[want.feature], KeyColumn.load(keys[want.side, want.feature, want.view]))
        for want in sorted(needed, key=lambda want: want.column)
    }


def spec_of(
    extractor: Extractor, records: units.Records, stores: Mapping[str, Store], limits: Limits, memo: Path
) -> dict[str, Any]:
    """The identity of a feature in clear.

    records: with the KB and the parents' rows, for features that are made of them; stores: of the parents.
    """
    parents = {}
    if isinstance(extractor.options, DerivedOptions):
        parent = extractor.options.of
        parents = {parent: stores[parent].identity}
        if isinstance(extractor, RowsExtractor) and extractor.needs_kb:
            entities = records.tables["entity"]
            rows = records.parents[Want(side="entity", feature=parent, view=IMAGES)]
            extractor.bind(KnowledgeBase(entities["id"], entities["name"], rows))
    return extractor.spec(memo / "weights.json", dataclasses.asdict(limits), parents)


def _estimate(features: Iterable[PendingFeature], paths: Paths) -> Estimate:
    rates = remembered(paths.rates)
    listed = []
    for feature in features:
        rate = rates.get(feature.name, {}).get("rows_per_s")
        rows = len(feature.missing)
        listed.append(
            FeatureEstimate(
                feature=feature.name,
                wanted=len(feature.wanted.keys),
                rows=rows,
                bytes=_bytes_to_come(feature),
                seconds=round(rows / rate, 1) if rate else None,
            )
        )
    return Estimate(features=tuple(listed), free_bytes=free_bytes(paths.cache))


def _bytes_to_come(feature: PendingFeature) -> int:
    """An upper bound for broken pictures; 18 bytes are a row's key and status, 8 its end in a ragged column."""
    rows, outputs = len(feature.missing), feature.extractor.writes.values()
    ragged = sum(output.row_bytes for output in outputs if output.ragged)
    total = rows * (sum(output.row_bytes for output in outputs if not output.ragged) + 18)
    if ragged and isinstance(feature.extractor, TextExtractor):
        return (
            total
            + ragged * sum(feature.extractor.count([feature.wanted.sources[i] for i in feature.missing]))
            + (8 * rows)
        )
    return total + (ragged * STEPS + 8) * rows if ragged else total


def _refuse_if_full(coming: Estimate, cache: Path) -> None:
    size, free = coming.bytes, coming.free_bytes
    if size and size + MARGIN > free:
        raise UserError(
            f"no space for the features in {cache}: {size / 1e6:,.0f} MB to come and {MARGIN / 1e6:,.0f} MB to "
            "be kept free, "
            f"{free / 1e6:,.0f} MB free; free some, choose another --work-dir, or run `luigi --module tasks CleanCache`"
        )


def _save_columns(columns: Mapping[Want, units.UnitColumn], folder: Path) -> dict[Want, Path]:
    make_folder(folder)
    files = {}
    for want, column in columns.items():
        files[want] = folder / f"{want.column}.npz"
        column.save(files[want])
    return files


def _rows_of(feature: PendingFeature) -> FeatureRows:
    output = next(iter(feature.extractor.writes))
    table = Table(feature.store, output, feature.wanted.keys, np.ones(len(feature.wanted.keys), bool))
    crops = None
    if isinstance(feature.extractor, CropExtractor):
        boxes = sum(
            max(len(source.parent["boxes"]), feature.extractor.whole_if_none) for source in feature.wanted.sources
        )
        crops = Crops(boxes=boxes, lost=boxes - int(table.lengths.sum()))
    return FeatureRows(
        identity=feature.store.identity,
        store=feature.store.folder.name,
        rows=len(feature.wanted.keys),
        extracted=feature.extracted,
        verdicts={
            Status(code).name.lower(): int(count)
            for code, count in zip(*np.unique(table.status, return_counts=True), strict=True)
        },
        crops=crops,
        empty=int((table.ok & (table.lengths == 0)).sum())
        if table.ragged and not isinstance(feature.extractor, TextExtractor)
        else None,
    )

"""What an extraction has to do: views to keys, what the cache lacks, chunks; planned once, and kept as a manifest."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from cache.index import as_void
from cache.inputs import IMAGES, Want
from cache.keys import KeyColumn
from cache.store import Store
from foundation.errors import UserError
from foundation.files import make_folder
from foundation.locks import locked
from foundation.paths import Paths
from foundation.progress import Bar
from pipeline.datasets.images import Limits
from pipeline.datasets.prepared import records_of
from pipeline.extraction import chunks, manifest, units, wants
from pipeline.extraction.base import CropExtractor, DerivedOptions, Extractor, RowsExtractor
from pipeline.extraction.chunks import Chunk, PendingFeature
from pipeline.extraction.contracts import CutTexts, ExtractionJob
from pipeline.extraction.manifest import Coming, Header, Manifest
from pipeline.extraction.parents import KnowledgeBase, Parent
from pipeline.extraction.units import PlannedColumn
from pipeline.extractors import build
from pipeline.imported.contracts import IMPORTED
from pipeline.profiles import profile as profiles


@dataclass(frozen=True)
class Planned:
    """What an extraction has to do, and with what.

    extractors, stores, coming: by feature. chunks: in the order in which they are computed.
    """

    extractors: Mapping[str, Extractor]
    stores: Mapping[str, Store]
    columns: Mapping[Want, PlannedColumn]
    coming: Mapping[str, Coming]
    chunks: list[Chunk]

    @property
    def reads(self) -> str:
        """What the extractors read, all the same."""
        return next(iter(self.extractors.values())).reads

    def wanted(self, feature: str) -> np.ndarray:
        """(n, 16) uint8: the distinct keys of a feature, ascending."""
        return self._wanted[feature]

    @cached_property
    def _wanted(self) -> dict[str, np.ndarray]:
        found = {}
        for feature in self.stores:
            of = [column.keys[column.present] for want, column in self.columns.items() if want.feature == feature]
            keys = np.concatenate(of)
            found[feature] = keys[np.unique(as_void(keys), return_index=True)[1]]
        return found

    def lacks(self) -> bool:
        """Whether the stores, as they are now, lack a wanted row."""
        for name, store in self.stores.items():
            store.refresh()
            if len(store.missing(self.wanted(name))):
                return True
        return False


@dataclass(frozen=True)
class _Inputs:
    """What a plan is made from."""

    job: ExtractionJob
    profile: profiles.Profile
    extractors: Mapping[str, Extractor]
    parents: Mapping[str, Store]  # by the feature that they are

    @classmethod
    def of(cls, job: ExtractionJob) -> "_Inputs":
        profile = profiles.load(job.profile)
        for name in job.runtime.accept:
            profile.feature(name)
        stores = {rows.feature: Store.open(rows.store) for rows in job.upstream}
        return cls(job, profile, _extractors(profile, job), stores)

    @cached_property
    def records(self) -> units.Records:
        """The dataset's tables, and the rows that others are made from."""
        tables = units.read_tables(self.job.dataset, wants.enhanced(self.job.wants))
        return units.Records(tables, self.job.images, _parents(self.profile, self.job, self.parents))

    @cached_property
    def stores(self) -> dict[str, Store]:
        """The store of each feature, on disk or not."""
        paths, limits = Paths(self.job.work), Limits(**self.profile.limits)
        none = units.Records({}, {})
        stores = {}
        for name, extractor in self.extractors.items():
            records = self.records if extractor.needs_kb else none
            spec = spec_of(extractor, records, self.parents, limits, paths.memo)
            stores[name] = Store.planned(paths.cache, name, spec)
        return stores

    @property
    def parents_of(self) -> dict[str, Store]:
        """The store that each feature reads, of those that read one."""
        named = {name: extractor.options for name, extractor in self.extractors.items()}
        return {name: self.parents[of.of] for name, of in named.items() if isinstance(of, DerivedOptions)}

    def columns(self, quiet: bool = False) -> dict[Want, units.UnitColumn]:
        """The key column of each want, with what is read for each key."""
        columns: dict[Want, units.UnitColumn] = {}
        counts = {side: records_of(table) for side, table in self.records.tables.items()}
        with Bar(sum(counts[want.side] for want in self.job.wants), "reading", "record", quiet=quiet) as bar:
            for want in self.job.wants:
                columns[want] = units.column(want, self.records, self.extractors[want.feature])
                bar.update(counts[want.side])
        return columns


def plan(job: ExtractionJob, quiet: bool = False) -> Planned:
    """What the job has to do; nothing is written. Raises `UserError`."""
    return _plan(_Inputs.of(job), quiet)


def _plan(inputs: _Inputs, quiet: bool = False) -> Planned:
    columns = inputs.columns(quiet)
    features = chunks.pending(columns, inputs.extractors, inputs.stores)
    return Planned(
        extractors=inputs.extractors,
        stores=inputs.stores,
        columns={
            want: _column(column, column.texts, partial(getattr, column, "sources")) for want, column in columns.items()
        },
        coming={feature.name: _coming(feature) for feature in features},
        chunks=chunks.chunks(features, inputs.job.runtime.shard_rows),
    )


def planned(job: ExtractionJob, check: Callable[[Mapping[str, Coming]], None]) -> Planned:
    """What the job has to do, from the manifest of a process that has planned it already, where there is one; else it
    is planned, and a manifest is written if there is anything to do. The key columns are on disk afterwards.

    check: called with a new plan before anything is written. Processes that come at once wait for the first to plan.
    Raises `UserError`.
    """
    inputs = _Inputs.of(job)
    make_folder(job.columns)
    with locked(job.columns / ".lock"):
        found = _read(inputs)
        if found is not None:
            return found
        made = _plan(inputs)
        check(made.coming)
        for want, column in made.columns.items():
            column.save(_file(job, want))
        if made.chunks:
            header = Header(
                identities={name: store.identity for name, store in made.stores.items()},
                shard_rows=job.runtime.shard_rows,
                coming=made.coming,
                chunks=tuple(
                    manifest.Listed(features=one.features, rows=one.rows, name=one.name) for one in made.chunks
                ),
                texts={want.column: column.texts for want, column in made.columns.items() if column.texts},
            )
            manifest.write(job.columns / manifest.FILE, header, made.chunks)
            return _read(inputs) or made
        return made


def discard(job: ExtractionJob) -> None:
    """Remove the manifest of a job that is done."""
    (job.columns / manifest.FILE).unlink(missing_ok=True)


def _read(inputs: _Inputs) -> Planned | None:
    """The plan in the job's manifest; None where there is none, or one of something else."""
    job = inputs.job
    try:
        listed = Manifest(job.columns / manifest.FILE, inputs.parents_of)
        header = listed.header
        identities = {name: store.identity for name, store in inputs.stores.items()}
        if header.identities != identities or header.shard_rows != job.runtime.shard_rows:
            return None
        columns = {want: KeyColumn.load(_file(job, want)) for want in job.wants}
    except UserError:
        return None
    read: dict[Want, units.UnitColumn] = {}

    def sources(want: Want) -> Sequence[Any]:
        read.update({} if read else inputs.columns(quiet=True))
        return read[want].sources

    return Planned(
        extractors=inputs.extractors,
        stores=inputs.stores,
        columns={
            want: _column(column, header.texts.get(want.column), partial(sources, want))
            for want, column in columns.items()
        },
        coming=header.coming,
        chunks=listed.chunks,
    )


def _column(column: KeyColumn, texts: CutTexts | None, read: Callable[[], Sequence[Any]]) -> PlannedColumn:
    return PlannedColumn(column.keys, column.present, column.span, column.counts, column.tokens, texts, read)


def _file(job: ExtractionJob, want: Want) -> Path:
    return job.columns / f"{want.column}.npz"


def _coming(feature: PendingFeature) -> Coming:
    boxes, extractor = None, feature.extractor
    if isinstance(extractor, CropExtractor):
        boxes = sum(max(len(each.parent["boxes"]), extractor.whole_if_none) for each in feature.wanted.sources)
    return Coming(wanted=len(feature.wanted.keys), rows=len(feature.missing), bytes=feature.bytes, boxes=boxes)


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
            extractor.bind(KnowledgeBase([*entities["id"]], [*entities["name"]], rows))
    return extractor.spec(memo / "weights.json", dataclasses.asdict(limits), parents)

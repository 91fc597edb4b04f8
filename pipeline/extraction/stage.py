"""Extraction of one group of features: views to keys, what is missing, an estimate, then the runner."""

import contextlib
import dataclasses
import time
from pathlib import Path
from typing import Any

import numpy as np

from cache.shard import Status
from cache.store import Store
from cache.table import Table
from foundation.errors import UserError
from foundation.files import free_bytes, make_folder, read_json
from foundation.progress import Bar
from pipeline.datasets.images import Limits
from pipeline.extraction import units, wants
from pipeline.extraction.base import CropExtractor, DerivedOptions, Extractor, TextExtractor
from pipeline.extraction.parents import KnowledgeBase, Parent
from pipeline.extraction.runner import STEPS, Feature, Runner
from pipeline.extraction.views import IMAGES, enhanced
from pipeline.extractors import build
from pipeline.profiles import profile as profiles

MARGIN = 64 << 20  # bytes kept free on the cache's disk


def main(job: dict[str, Any]) -> dict[str, Any]:
    """Bring the cache up to date for `job["wants"]` and write the key columns.

    job: profile (name or path), demo (folder of the demo's encoders or None), dataset (prepared folder), mention_images, entity_images, wants
    (side, feature, view), upstream (stores and key columns of the features that these read: `features`: name -> store folder, `columns`: name ->
    file), cache, columns (folder for the key columns), memo, rates, device, precision, batch_size, shard_rows, estimate (bool: only count), beside
    (further features, of whose models none may be missing either).
    Returns identities, stores, key columns, the stores' files for the receipt, and the run's account. Raises `UserError`, and `PassingError` where
    rows were left undone for a reason that may pass.
    """
    started = time.monotonic()
    profile = profiles.load(job["profile"])
    names = sorted({want["feature"] for want in job["wants"]})
    demo = Path(job["demo"]) if job["demo"] else None
    extractors = _extractors(profile, names, demo, job.get("beside", []))
    limits = Limits(**profile.limits)
    stores = {name: Store.open(Path(folder)) for name, folder in job.get("upstream", {}).get("features", {}).items()}
    roots = {"mention": Path(job["mention_images"]), "entity": Path(job["entity_images"])}
    records = units.Records(
        units.read_tables(Path(job["dataset"]), wants.enhanced(job["wants"])), roots, _parents(profile, job, stores)
    )
    specs = {
        name: spec_of(extractor, records, stores, limits, Path(job["memo"])) for name, extractor in extractors.items()
    }
    columns = {}
    with Bar(
        sum(len(records.tables[want["side"]]["id"]) for want in job["wants"]),
        "reading",
        "record",
        quiet=bool(job.get("estimate")),
    ) as bar:
        for side, feature, view in ((want["side"], want["feature"], want["view"]) for want in job["wants"]):
            columns[side, feature, view] = units.column(side, view, records, extractors[feature])
            bar.update(len(records.tables[side]["id"]))
    cache = Path(job["cache"])
    features = []
    for name, extractor in extractors.items():
        wanted = units.distinct([column for (_, feature, _), column in columns.items() if feature == name])
        store = Store.planned(cache, name, specs[name])
        features.append(Feature(name, extractor, specs[name], store, wanted, store.missing(wanted.keys)))
    estimates = [estimate(feature, Path(job["rates"])) for feature in features]
    if job.get("estimate"):
        return {"estimates": estimates, "free_bytes": free_bytes(cache)}
    make_folder(cache)
    _refuse_if_full(estimates, cache)
    new = [feature.store for feature in features if not feature.store.described]
    for feature in features:
        feature.store.make()
    runner = Runner(
        device=job["device"],
        precision=job["precision"],
        batch_size=job["batch_size"],
        shard_rows=job["shard_rows"],
        limits=limits,
        rates=Path(job["rates"]),
    )
    try:
        account = runner.run(features)
    except BaseException:
        for store in new:
            with contextlib.suppress(UserError, OSError):  # what it failed of is what the user reads
                store.remove_if_empty()
        raise
    files = _save_columns(columns, Path(job["columns"]))
    return {
        "features": {feature.name: _result(feature) for feature in features},
        "columns": {units.column_name(*want): str(path) for want, path in files.items()},
        "files": [str(path) for feature in features for path in feature.store.files_for(feature.wanted.keys)],
        "cut": {units.column_name(*want): column.cut for want, column in columns.items()},
        "without": {
            units.column_name(*want): int((~column.present).sum())
            for want, column in columns.items()
            if enhanced(want[0], want[2])
        },
        "run": {**account, "seconds": round(time.monotonic() - started, 3)},
    }


def _extractors(
    profile: profiles.Profile, names: list[str], demo: Path | None, beside: list[str]
) -> dict[str, Extractor]:
    """The extractors of `names`, their models found or fetched. Raises `UserError` naming all models that cannot be had, those of `beside` too."""
    made, lacking = {}, {}
    for name in sorted({*names, *beside}):
        try:
            made[name] = build(profile.feature(name), profile.source, demo)
        except UserError as error:
            lacking[str(error)] = None
    if lacking:
        raise UserError((f"{len(lacking)} models cannot be had: " if len(lacking) > 1 else "") + "; ".join(lacking))
    return {name: made[name] for name in names}


def _parents(
    profile: profiles.Profile, job: dict[str, Any], stores: dict[str, Store]
) -> dict[tuple[str, str, str], Parent]:
    """The rows that the job's wants are made from, by (side, feature, view)."""
    needed = {
        tuple(each[key] for key in ("side", "feature", "view"))
        for want in job["wants"]
        for each in wants.requirements(profile, want)
    }
    columns = job.get("upstream", {}).get("columns", {})
    return {want: Parent.read(stores[want[1]], Path(columns[units.column_name(*want)])) for want in sorted(needed)}


def spec_of(
    extractor: Extractor, records: units.Records, stores: dict[str, Store], limits: Limits, memo: Path
) -> dict[str, Any]:
    """The identity of a feature in clear. records: with the KB and the parents' rows, for features that are made of them; stores: of the parents."""
    parents = {}
    if isinstance(extractor.options, DerivedOptions):
        parent = extractor.options.of
        parents = {parent: stores[parent].identity}
        if extractor.needs_kb:
            entities = records.tables["entity"]
            extractor.bind(KnowledgeBase(entities["id"], entities["name"], records.parents["entity", parent, IMAGES]))
    return extractor.spec(memo / "weights.json", dataclasses.asdict(limits), parents)


def estimate(feature: Feature, rates: Path) -> dict[str, Any]:
    """Rows to do, bytes to come and seconds at the last measured rate (None where there is none); an upper bound for bytes of broken pictures."""
    rows = len(feature.missing)
    fixed = ragged = 0
    for output in feature.extractor.writes.values():
        size = int(np.prod(output.shape, dtype=np.int64)) * np.dtype(output.dtype).itemsize
        ragged, fixed = (ragged + size, fixed) if output.ragged else (ragged, fixed + size)
    total = rows * (fixed + 18)
    if ragged and isinstance(feature.extractor, TextExtractor):
        total += ragged * sum(feature.extractor.count([feature.wanted.sources[i] for i in feature.missing])) + 8 * rows
    elif ragged:
        total += (ragged * STEPS + 8) * rows
    rate = (read_json(rates) if rates.exists() else {}).get(feature.name, {}).get("rows_per_s")
    return {
        "feature": feature.name,
        "wanted": len(feature.wanted.keys),
        "rows": rows,
        "bytes": total,
        "seconds": round(rows / rate, 1) if rate else None,
    }


def _refuse_if_full(estimates: list[dict[str, Any]], cache: Path) -> None:
    coming, free = sum(entry["bytes"] for entry in estimates), free_bytes(cache)
    if coming and coming + MARGIN > free:
        raise UserError(
            f"no space for the features in {cache}: {coming / 1e6:,.0f} MB to come and {MARGIN / 1e6:,.0f} MB to be kept free, "
            f"{free / 1e6:,.0f} MB free; free some, choose another --work-dir, or run `luigi --module tasks CleanCache`"
        )


def _save_columns(columns: dict[tuple[str, str, str], units.Column], folder: Path) -> dict[tuple[str, str, str], Path]:
    make_folder(folder)
    files = {}
    for want, column in columns.items():
        files[want] = folder / f"{units.column_name(*want)}.npz"
        column.save(files[want])
    return files


def _result(feature: Feature) -> dict[str, Any]:
    output = next(iter(feature.extractor.writes))
    table = Table(feature.store, output, feature.wanted.keys, np.ones(len(feature.wanted.keys), bool))
    verdicts = table.status
    result: dict[str, Any] = {}
    if isinstance(feature.extractor, CropExtractor):
        boxes = sum(
            max(len(source.parent["boxes"]), feature.extractor.whole_if_none) for source in feature.wanted.sources
        )
        result["crops"] = {"boxes": boxes, "lost": boxes - int(table.lengths.sum())}
    return result | {
        "identity": feature.store.identity,
        "store": feature.store.folder.name,
        "rows": len(feature.wanted.keys),
        "extracted": feature.extracted,
        "verdicts": {
            Status(code).name.lower(): int(count)
            for code, count in zip(*np.unique(verdicts, return_counts=True), strict=True)
        },
    }

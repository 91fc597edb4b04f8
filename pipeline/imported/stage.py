"""Imported features: from a file to a store and key columns, and from there to an extraction's result."""

import contextlib
import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cache.errors import Damaged, Gone, RowsMissing
from cache.identity import DTYPES, KEY_BYTES, Output, canonical_json, content_key
from cache.inputs import SIDES, Side
from cache.keys import KeyColumn
from cache.shard import Status
from cache.store import Store
from foundation import parquet
from foundation.errors import UserError, nearest
from foundation.files import free_bytes, make_folder
from foundation.locks import locked
from foundation.paths import Paths
from foundation.progress import Bar
from pipeline.extraction import guard
from pipeline.extraction.contracts import (
    Account,
    Estimate,
    Extraction,
    ExtractionJob,
    ExtractionResult,
    FeatureEstimate,
    FeatureRows,
)
from pipeline.imported import reading
from pipeline.imported.contracts import (
    IMPORTED,
    MOST_BYTES,
    RECORD_VIEW,
    TABLES,
    FeatureImport,
    Imported,
    ImportedPart,
    ImportJob,
    record,
    record_file,
    write_record,
)
from pipeline.imported.extractor import ImportedFeature
from pipeline.imported.reading import Array

MARGIN = 64 << 20  # bytes kept free on the cache's disk
SHARD_ROWS, SHARD_BYTES = 4096, 256 << 20
_INT32 = np.iinfo(np.int32)


@dataclass(frozen=True)
class _Rows:
    """Rows of one side under a view, in the order of its records. keys: (n, 16) uint8. column: of all records.
    arrays: output -> rows; places: (n,) of each key's row in an array, by output."""

    side: Side
    view: str
    column: KeyColumn
    arrays: Mapping[str, Array]
    places: Mapping[str, np.ndarray]

    @property
    def name(self) -> str:
        return f"{self.side}.{self.view}"

    @property
    def keys(self) -> np.ndarray:
        keys: np.ndarray = self.column.keys[self.column.present]
        return keys


def import_features(job: ImportJob) -> FeatureImport:
    """Import the rows of a file as a feature of a prepared dataset, beside those of its other side that are there.

    Everything is looked at before anything is written. Raises `UserError`.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", job.feature):
        raise UserError(f"--feature {job.feature!r:.60}: expected a lower-case word, as a profile's features have")
    paths = Paths(job.work)
    most = min(MOST_BYTES, free_bytes(paths.cache) - MARGIN)
    ids, found = reading.read(job.source, job.ids, most)
    arrays = _chosen(job, found)
    notes: list[str] = []
    outputs = {name: _output(job, name, array, notes) for name, array in arrays.items()}
    new = [_placed(job, side, ids, places, arrays) for side, places in _sides(job, ids).items()]
    contents = {rows.name: _content(job, rows, outputs) for rows in new}
    make_folder(record_file(job.dataset, job.feature).parent)
    with locked(record_file(job.dataset, f".{job.feature}").with_suffix(".lock")):
        kept, old = _kept(job, paths, outputs, new)
        spec = _spec(outputs, {**contents, **{_name(part): part.content for part in kept}})
        store = Store.planned(paths.cache, job.feature, spec)
        fresh = not store.described
        try:
            store.make()
            for rows in new:
                _write(store, rows, outputs)
                notes += [
                    f"{rows.side}, {name}: {problem}"
                    for name, problem in guard.wrong(rows.column, store, outputs, outputs, lambda places: False)
                ]
            for part in kept:
                _copy(store, old, KeyColumn.load(paths.root / part.keys), outputs)
        except BaseException:
            if fresh:
                with contextlib.suppress(UserError, OSError):
                    store.remove_if_empty()
            raise
        parts = [_part(job, paths, store, rows, contents[rows.name]) for rows in new]
        parts += [_moved(job, paths, store, part) for part in kept]
        imported = Imported(
            feature=job.feature,
            identity=store.identity,
            store=store.folder.name,
            parts=tuple(sorted(parts, key=lambda part: (part.side, part.view))),
        )
        write_record(job.dataset, imported)
    return FeatureImport(
        imported=imported, outputs=tuple(map(_described, outputs.values())), notes=tuple(dict.fromkeys(notes))
    )


def _described(output: Output) -> str:
    shape = (*(("any",) if output.ragged else ()), *map(str, output.shape))
    return f"{output.name} {output.dtype}({', '.join(shape)})"


def _chosen(job: ImportJob, found: Mapping[str, Array]) -> dict[str, Array]:
    """The arrays that are imported, by output. One array alone is `pooled` or, ragged, `tokens`."""
    if not found:
        raise UserError(f"--from {job.source}: holds no array of numbers")
    if not job.outputs:
        if len(found) > 1:
            return dict(sorted(found.items()))
        (array,) = found.values()
        return {"pooled" if array.offsets is None else "tokens": array}
    for name in job.outputs.values():
        if name not in found:
            raise UserError(f"--outputs {name}: {job.source} has no such array{nearest(name, found)}")
    return {output: found[name] for output, name in sorted(job.outputs.items())}


def _output(job: ImportJob, name: str, array: Array, notes: list[str]) -> Output:
    """How an array is stored. Raises `UserError` for numbers that no feature has."""
    dtype, where = array.values.dtype, f"--from {job.source}: {name or 'array'}"
    stored = np.dtype(dtype.name) if dtype.kind in "iuf" and dtype.itemsize <= 8 else dtype
    if dtype.kind == "f" and dtype.itemsize == 8:
        stored = np.dtype(np.float32)
    elif dtype.kind in "iu" and stored.name not in DTYPES:
        low, high = (int(array.values.min()), int(array.values.max())) if array.values.size else (0, 0)
        if low < _INT32.min or high > _INT32.max:
            raise UserError(f"{where} holds whole numbers from {low} to {high}, expected those of int32")
        stored = np.dtype(np.int32)
    if stored.name not in DTYPES:
        raise UserError(f"{where} is {dtype}, expected one of {', '.join(DTYPES)}, float64 or whole numbers")
    if stored.name != dtype.name:
        notes.append(f"{name} is {dtype} and is stored as {stored}")
    try:
        return Output(name, array.shape, stored.name, array.offsets is not None)
    except ValueError as error:
        raise UserError(f"{where}: {error}; name it with --outputs OUTPUT=ARRAY") from None


def _sides(job: ImportJob, ids: Sequence[str]) -> dict[Side, np.ndarray]:
    """Side -> (records,) the place of each record among `ids`, -1 where it is not there.

    Raises `UserError` for ids that stand twice, that no record has, or that may be of either side.
    """
    place = {name: at for at, name in enumerate(ids)}
    if not ids:
        raise UserError(f"--from {job.source}: holds no rows")
    if len(place) < len(ids):
        twice = next(name for at, name in enumerate(ids) if place[name] != at)
        raise UserError(f"--ids: {len(ids) - len(place):,} ids stand twice, the first is {twice!r:.80}")
    sides: tuple[Side, ...] = SIDES if job.side is None else (job.side,)
    tables = {side: parquet.read(job.dataset / TABLES[side], ["id"])["id"].to_pylist() for side in sides}
    known = set[str]().union(*tables.values())
    if unknown := [name for name in ids if name not in known]:
        what = "mention and no entity" if job.side is None else job.side
        raise UserError(
            f"--ids: {len(unknown):,} of {len(ids):,} ids are of no {what} of the dataset, the first is "
            f"{unknown[0]!r:.80}; leave them out, or prepare the dataset that they are of"
        )
    found: dict[Side, np.ndarray] = {
        side: np.array([place.get(name, -1) for name in listed], np.int64) for side, listed in tables.items()
    }
    found = {side: places for side, places in found.items() if (places >= 0).any()}
    if sum(int((places >= 0).sum()) for places in found.values()) > len(ids):
        both = next(name for name in tables["entity"] if name in place and name in set(tables["mention"]))
        raise UserError(f"--ids: {both!r:.80} is the id of a mention and of an entity; say which with --side")
    return found


def _placed(job: ImportJob, side: Side, ids: Sequence[str], places: np.ndarray, arrays: Mapping[str, Array]) -> _Rows:
    """The rows of one side. A record has a row where every array has one."""
    whole = np.logical_and.reduce([array.present for array in arrays.values()])
    present = (places >= 0) & whole[places]
    taken = places[present]
    keys = np.zeros((len(places), KEY_BYTES), np.uint8)
    if len(taken):
        made = b"".join(content_key(IMPORTED, side, job.view, ids[at]) for at in taken.tolist())
        keys[present] = np.frombuffer(made, np.uint8).reshape(-1, KEY_BYTES)
    column = KeyColumn(keys, present, np.full((len(places), 2), -1, np.int32))
    among = {name: (array.present.cumsum() - 1)[taken] for name, array in arrays.items()}
    return _Rows(side, job.view, column, arrays, among)


def _blocks(rows: _Rows, outputs: Mapping[str, Output]) -> Iterator[tuple[np.ndarray, dict[str, list[np.ndarray]]]]:
    """Keys and rows as they are stored, a shard's worth at a time."""
    count = len(rows.keys)
    size = sum(array.values.size * array.values.dtype.itemsize // max(1, array.rows) for array in rows.arrays.values())
    step = max(1, min(SHARD_ROWS, SHARD_BYTES // max(1, size)))
    with np.errstate(over="ignore"):
        for start in range(0, count, step):
            part = slice(start, start + step)
            yield (
                rows.keys[part],
                {
                    name: [
                        np.ascontiguousarray(row, dtype=output.dtype)
                        for row in rows.arrays[name].take(rows.places[name][part])
                    ]
                    for name, output in outputs.items()
                },
            )


def _content(job: ImportJob, rows: _Rows, outputs: Mapping[str, Output]) -> str:
    """SHA-256 (hex) over the rows with their keys. Raises `UserError` for a number that is not finite."""
    hashed, done = hashlib.sha256(), 0
    with Bar(len(rows.keys), f"checking {rows.side}", "row") as bar:
        for keys, columns in _blocks(rows, outputs):
            hashed.update(keys.tobytes())
            for name, listed in columns.items():
                hashed.update(np.array([len(row) if row.ndim else 1 for row in listed], np.int64).tobytes())
                for at, row in enumerate(listed):
                    if row.dtype.kind == "f" and not np.isfinite(row).all():
                        raise UserError(
                            f"--from {job.source}: {name} of the {rows.side} in row {done + at + 1:,} of those that "
                            f"are imported holds NaN, infinity or a number beyond {row.dtype}, expected finite ones"
                        )
                    hashed.update(row.tobytes())
            done += len(keys)
            bar.update(len(keys))
    return hashed.hexdigest()


def _spec(outputs: Mapping[str, Output], contents: Mapping[str, str]) -> dict[str, Any]:
    return {
        "extractor": IMPORTED,
        "version": ImportedFeature.VERSION,
        "preprocessing": {},
        "outputs": [output.to_json() for output in outputs.values()],
        "content": dict(sorted(contents.items())),
    }


def _name(part: ImportedPart) -> str:
    return f"{part.side}.{part.view}"


def _kept(
    job: ImportJob, paths: Paths, outputs: Mapping[str, Output], new: Sequence[_Rows]
) -> tuple[list[ImportedPart], Store | None]:
    """What was imported before and is not replaced, and the store that it lies in."""
    path = record_file(job.dataset, job.feature)
    if not path.exists():
        return [], None
    before = record(job.dataset, job.feature)
    kept = [part for part in before.parts if _name(part) not in {rows.name for rows in new}]
    if not kept:
        return [], None
    store = Store.open(paths.cache / before.store)
    if canonical_json(_plain(store.outputs)) != canonical_json(_plain(outputs)):
        there = ", ".join(map(_described, store.outputs.values()))
        raise UserError(
            f"--feature {job.feature}: imported before is {there} of {', '.join(map(_name, kept))}, this is "
            f"{', '.join(map(_described, outputs.values()))}; a feature has the same outputs on both sides: name "
            f"another feature, or delete {path}"
        )
    return kept, store


def _plain(outputs: Mapping[str, Output]) -> list[dict[str, Any]]:
    return [output.to_json() for output in sorted(outputs.values(), key=lambda output: output.name)]


def _write(store: Store, rows: _Rows, outputs: Mapping[str, Output]) -> None:
    with Bar(len(rows.keys), f"importing {rows.side}", "row") as bar:
        for keys, columns in _blocks(rows, outputs):
            store.add(keys, np.full(len(keys), Status.OK, np.uint8), [""] * len(keys), columns)
            bar.update(len(keys))


def _copy(store: Store, old: Store | None, column: KeyColumn, outputs: Mapping[str, Output]) -> None:
    """Write the rows of another import's store."""
    assert old is not None
    tables = {name: column.table(old, name) for name in outputs}
    places = np.flatnonzero(column.present)
    for start in range(0, len(places), SHARD_ROWS):
        at = places[start : start + SHARD_ROWS]
        columns = dict[str, Any]()
        for name, table in tables.items():
            if table.ragged:
                values, lengths = table.ragged_flat(at)
                columns[name] = np.split(values, lengths.cumsum()[:-1])
            else:
                columns[name] = table.gather(at)
        store.add(column.keys[at], np.full(len(at), Status.OK, np.uint8), [""] * len(at), columns)


def _columns(job: ImportJob, store: Store) -> Path:
    return make_folder(job.dataset / IMPORTED / store.identity[:12])


def _part(job: ImportJob, paths: Paths, store: Store, rows: _Rows, content: str) -> ImportedPart:
    path = _columns(job, store) / f"{rows.side}.{job.feature}.{rows.view or RECORD_VIEW}.npz"
    rows.column.save(path)
    there = int(rows.column.present.sum())
    return ImportedPart(
        side=rows.side,
        view=rows.view,
        keys=paths.relative(path),
        content=content,
        rows=there,
        absent=rows.column.records - there,
    )


def _moved(job: ImportJob, paths: Paths, store: Store, part: ImportedPart) -> ImportedPart:
    """A part that was imported before, its key column beside those of this import."""
    column = KeyColumn.load(paths.root / part.keys)
    path = _columns(job, store) / Path(part.keys).name
    column.save(path)
    return ImportedPart(
        side=part.side,
        view=part.view,
        keys=paths.relative(path),
        content=part.content,
        rows=part.rows,
        absent=part.absent,
    )


def extract(job: ExtractionJob) -> ExtractionResult:
    """The result of an extraction whose rows were imported. Raises `UserError` where they were not, or are gone."""
    paths = Paths(job.work)
    features, columns, files = dict[str, FeatureRows](), dict[str, str](), set[str]()
    for name, imported in imports(job).items():
        parts = {want: imported.part(want.side, want.view) for want in job.wants if want.feature == name}
        rows = {part.keys: part for part in parts.values()}
        for part in rows.values():
            column = KeyColumn.load(paths.root / part.keys)
            try:
                store = Store.open(paths.cache / imported.store)
                column.table(store, next(iter(store.outputs)))
            except (RowsMissing, Gone, Damaged) as error:
                raise UserError(
                    f"{error}; run VerifyCache --repair, then ImportFeatures --feature {name} --side {part.side} with "
                    "the same file"
                ) from None
            files |= {paths.relative(path) for path in store.files_for(column.keys[column.present])}
        columns |= {want.column: part.keys for want, part in parts.items()}
        ok, absent = (sum(getattr(part, count) for part in rows.values()) for count in ("rows", "absent"))
        features[name] = FeatureRows(
            identity=imported.identity,
            store=imported.store,
            rows=ok,
            extracted=0,
            verdicts={"ok": ok, **({"missing": absent} if absent else {})},
        )
    extraction = Extraction(features=features, columns=columns, cut=dict.fromkeys(columns, 0))
    account = Account(rows=dict.fromkeys(features, 0))
    return ExtractionResult(extraction=extraction, files=tuple(sorted(files)), account=account)


def imports(job: ExtractionJob) -> dict[str, Imported]:
    """What was imported as the features of a job. Raises `UserError`."""
    return {name: record(job.dataset, name) for name in sorted({want.feature for want in job.wants})}


def estimate(job: ExtractionJob) -> Estimate:
    """Nothing is to come of features that are imported."""
    paths = Paths(job.work)
    listed = [
        FeatureEstimate(feature=name, wanted=sum(part.rows for part in one.parts), rows=0, bytes=0, seconds=None)
        for name, one in imports(job).items()
    ]
    return Estimate(features=tuple(listed), free_bytes=free_bytes(paths.cache))

"""Rows of the cache as a file of arrays with record ids, which ImportFeatures reads back bit for bit."""

import contextlib
import functools
import io
import json
import math
import os
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from cache.identity import Output
from cache.keys import KeyColumn
from cache.store import Store
from cache.table import Table
from foundation import parquet
from foundation.errors import UserError
from foundation.files import explained, write_atomic
from foundation.output import check_output
from foundation.processes import temporary_name
from foundation.progress import Bar
from pipeline.imported.contracts import TABLES, ExportFeaturesJob, FeatureExport
from pipeline.imported.reading import IDS_ENDING, OFFSETS, OUTPUTS_KEY, VALUES

BLOCK = 4096  # rows that are read at a time


@dataclass(frozen=True)
class _Side:
    """The tables of one side by output, and which of its records have all of them (n,)."""

    tables: Mapping[str, Table]
    places: np.ndarray


@dataclass(frozen=True)
class _Rows:
    """What is exported. ids: of all rows, one side's after the other's."""

    outputs: Mapping[str, Output]
    sides: tuple[_Side, ...]
    ids: list[str]

    def blocks(self, name: str) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
        """Values of an output, some rows at a time, with the lengths (b,) of ragged ones."""
        for side in self.sides:
            for start in range(0, len(side.places), BLOCK):
                at = side.places[start : start + BLOCK]
                table = side.tables[name]
                yield table.ragged_flat(at) if table.ragged else (np.asarray(table.gather(at)), None)

    def lengths(self, name: str) -> np.ndarray:
        """(n,) int64 of a ragged output."""
        return np.concatenate([side.tables[name].lengths[side.places] for side in self.sides])


def check(path: Path) -> Path:
    """The file of `--to`. Raises `UserError` for an ending that names no format, and where it cannot be written."""
    if path.suffix not in _WRITERS:
        raise UserError(f"--to {path}: expected a file that ends in {', '.join(_WRITERS)}")
    return check_output(path, "--to", beside=() if path.suffix == ".parquet" else (IDS_ENDING,))


def export_features(job: ExportFeaturesJob) -> FeatureExport:
    """Write the rows of a feature to a file. Raises `UserError`."""
    to, left_out = check(job.to), 0
    sides, ids, outputs = [], list[str](), dict[str, Output]()
    for one in job.inputs:
        store, column = Store.open(one.store), KeyColumn.load(one.keys)
        if column.counts is not None:
            raise UserError(
                f"--view {one.view}: a {one.side} has several rows there; export a view with one row of each record"
            )
        outputs = dict(store.outputs)
        tables = {name: column.table(store, name) for name in outputs}
        there = np.logical_and.reduce([table.ok for table in tables.values()])
        names = parquet.read(job.dataset / TABLES[one.side], ["id"])["id"].to_pylist()
        places = np.flatnonzero(there)
        sides.append(_Side(tables, places))
        ids += [names[at] for at in places.tolist()]
        left_out += len(there) - len(places)
    if len(set(ids)) < len(ids):
        raise UserError("--side: mentions and entities share ids; export one side at a time")
    if not ids:
        raise UserError(f"{job.inputs[0].feature}: no record has a row that could be exported")
    if len(outputs) > 1 and to.suffix == ".npy":
        raise UserError(f"--to {to}: the feature has the outputs {', '.join(outputs)}; .npy holds one, choose .npz")
    rows = _Rows(outputs, tuple(sides), ids)
    with _replacing(to) as temporary, Bar(len(ids) * len(outputs), "exporting", "row") as bar:
        _WRITERS[to.suffix](temporary, rows, bar)
    beside = "the column id"
    if to.suffix != ".parquet":
        path = to.with_name(to.name + IDS_ENDING)
        with explained(path, "--to"):
            write_atomic(path, json.dumps(ids, ensure_ascii=False))
        beside = path.name
    return FeatureExport(file=to, ids=beside, outputs=tuple(outputs), rows=len(ids), left_out=left_out)


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A temporary name, which becomes `path` when the body has ended without an error."""
    temporary = temporary_name(path)
    with explained(path, "--to"):
        try:
            yield temporary
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def _npz(path: Path, rows: _Rows, bar: Bar) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, allowZip64=True) as file:
        for name, output in rows.outputs.items():
            count = len(rows.ids)
            if output.ragged:
                offsets = np.concatenate([[0], rows.lengths(name).cumsum()]).astype(np.int64)
                _member(file, name + OFFSETS, (len(offsets),), offsets.dtype, functools.partial(_put, values=offsets))
                name, count = name + VALUES, int(offsets[-1])
            plain = name.removesuffix(VALUES) if output.ragged else name

            def write(sink: IO[bytes], plain: str = plain) -> None:
                for values, lengths in rows.blocks(plain):
                    _put(sink, values)
                    bar.update(len(values) if lengths is None else len(lengths))

            _member(file, name, (count, *output.shape), np.dtype(output.dtype), write)


def _member(
    file: zipfile.ZipFile, name: str, shape: tuple[int, ...], dtype: np.dtype, write: Callable[[IO[bytes]], None]
) -> None:
    with file.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as sink:
        header = io.BytesIO()
        described = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(header, described)
        sink.write(header.getvalue())
        write(sink)


def _put(sink: IO[bytes], values: np.ndarray) -> None:
    if values.size:
        sink.write(np.ascontiguousarray(values).data.cast("B"))


def _npy(path: Path, rows: _Rows, bar: Bar) -> None:
    ((name, output),) = rows.outputs.items()
    if output.ragged:
        raise UserError(f"{name} is ragged, and .npy holds rows of one length; choose .npz or .parquet")
    with open(path, "wb") as sink:
        described = {
            "descr": np.lib.format.dtype_to_descr(np.dtype(output.dtype)),
            "fortran_order": False,
            "shape": (len(rows.ids), *output.shape),
        }
        np.lib.format.write_array_header_1_0(sink, described)
        for values, _ in rows.blocks(name):
            _put(sink, values)
            bar.update(len(values))


def _safetensors(path: Path, rows: _Rows, bar: Bar) -> None:
    from safetensors.numpy import save_file

    arrays = dict[str, np.ndarray]()
    for name, output in rows.outputs.items():
        blocks = list(rows.blocks(name))
        bar.update(len(rows.ids))
        arrays[name + VALUES if output.ragged else name] = np.concatenate([values for values, _ in blocks])
        if output.ragged:
            arrays[name + OFFSETS] = np.concatenate([[0], rows.lengths(name).cumsum()]).astype(np.int64)
    save_file(arrays, path)


def _parquet(path: Path, rows: _Rows, bar: Bar) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    fields = [pa.field("id", pa.string())]
    fields += [pa.field(name, _type(output)) for name, output in rows.outputs.items()]
    declared = json.dumps([output.to_json() for output in rows.outputs.values()])
    schema = pa.schema(fields, metadata={OUTPUTS_KEY: declared.encode()})
    done = 0
    with pq.ParquetWriter(path, schema) as writer:
        for blocks in zip(*(rows.blocks(name) for name in rows.outputs), strict=True):
            columns = [_column(output, *block) for output, block in zip(rows.outputs.values(), blocks, strict=True)]
            count = len(columns[0])
            ids = pa.array(rows.ids[done : done + count], pa.string())
            writer.write_table(pa.Table.from_arrays([ids, *columns], schema=schema))
            done += count
            bar.update(count * len(columns))


def _type(output: Output) -> Any:
    import pyarrow as pa

    kind = pa.from_numpy_dtype(np.dtype(output.dtype))
    for size in reversed(output.shape):
        kind = pa.list_(kind, size)
    return pa.list_(kind) if output.ragged else kind


def _column(output: Output, values: np.ndarray, lengths: np.ndarray | None) -> Any:
    import pyarrow as pa

    array = pa.array(np.ascontiguousarray(values).reshape(math.prod(values.shape)))
    for size in reversed(output.shape):
        array = pa.FixedSizeListArray.from_arrays(array, size)
    if lengths is None:
        return array
    return pa.ListArray.from_arrays(pa.array(np.concatenate([[0], lengths.cumsum()]).astype(np.int32)), array)


_WRITERS: dict[str, Callable[[Path, _Rows, Bar], None]] = {
    ".npz": _npz,
    ".npy": _npy,
    ".safetensors": _safetensors,
    ".parquet": _parquet,
}

"""Files of arrays by record id that ImportFeatures reads: every format, and the ids beside them."""

import functools
import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from hypothesis import strategies as st
from safetensors.torch import save

from cache.identity import Output
from fuzz.arrays import HEADERS, lying, npz
from fuzz.odd import BYTES, Files, bytes_of, json_of, write
from fuzz.target import Target
from pipeline.imported import reading

IDS = ["a", "b", "c"]
MOST = 1 << 24
ARRAYS: dict[str, np.ndarray] = {
    "pooled": np.arange(12, dtype=np.float16).reshape(3, 4),
    "tokens/values": np.ones((5, 2), np.float32),
    "tokens/offsets": np.array([0, 2, 2, 5]),
}


def _npy() -> bytes:
    sink = io.BytesIO()
    np.save(sink, ARRAYS["pooled"])
    return sink.getvalue()


def _pt() -> bytes:
    sink = io.BytesIO()
    tensors = {"pooled": torch.from_numpy(ARRAYS["pooled"]), "tokens": [torch.ones(2, 3)] * 3, "names": IDS}
    torch.save(tensors, sink)
    return sink.getvalue()


def _table() -> pa.Table:
    tokens = pa.array([[[1.0, 2.0]], [], [[3.0, 4.0]]], pa.list_(pa.list_(pa.float32(), 2)))
    return pa.table({"id": IDS, "pooled": ARRAYS["pooled"].astype(np.float32).tolist(), "tokens": tokens})


def _parquet() -> bytes:
    sink = io.BytesIO()
    outputs = [Output("pooled", (4,), "float32"), Output("tokens", (2,), "float32", ragged=True)]
    declared = json.dumps([output.to_json() for output in outputs])
    pq.write_table(_table().replace_schema_metadata({reading.OUTPUTS_KEY: declared}), sink)
    return sink.getvalue()


def _arrow() -> bytes:
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, _table().schema) as stream:
        stream.write_table(_table())
    return sink.getvalue()


STATE = {"_data_files": [{"filename": "part.arrow"}], "_fingerprint": "x", "_indices_data_files": None}


def _files(name: str, make: Callable[[], bytes]) -> Files:
    return {name: make(), "ids.json": json.dumps(IDS).encode(), "ids.txt": "\n".join(IDS).encode()}


def _odd(name: str, make: Callable[[], bytes]) -> st.SearchStrategy[Files]:
    files = _files(name, make)
    ids = st.one_of(json_of(IDS).map(lambda text: text.encode("utf-8", "surrogatepass")), bytes_of(b"a\nb\nc\n"))
    return st.one_of(
        bytes_of(make()).map(lambda data: {**files, name: data}),
        ids.map(lambda data: {**files, "ids.json": data, "ids.txt": data}),
    )


def _read(path: Path, ids: str) -> None:
    found, arrays = reading.read(path, ids, MOST)
    for array in arrays.values():
        array.take(np.arange(array.rows))
    assert all(len(array.present) == len(found) for array in arrays.values())


def _target(
    name: str, make: Callable[[], bytes], readers: tuple[str, ...], hard: Callable[[], tuple[Files, ...]] = tuple
) -> Target:
    def read(files: Files, folder: Path) -> None:
        write(folder, files)
        _read(folder / name, str(folder / "ids.json"))

    return Target(
        kind=f"imported features, {Path(name).suffix}",
        readers=tuple(one if ":" in one else f"pipeline.imported.reading:{one}" for one in ("read_ids", *readers)),
        valid=lambda: _files(name, make),
        odd=lambda: _odd(name, make),
        read=read,
        hard=hard,
    )


def _lying() -> tuple[Files, ...]:
    return tuple(_files("rows.npz", functools.partial(lying, ARRAYS, "pooled", header)) for header in HEADERS)


def _dataset() -> Files:
    return {"set/state.json": json.dumps(STATE).encode(), "set/part.arrow": _arrow(), "ids.txt": b"a\nb\nc\n"}


def _read_dataset(files: Files, folder: Path) -> None:
    write(folder, files)
    _read(folder / "set", str(folder / "ids.txt"))


def _odd_dataset() -> st.SearchStrategy[Files]:
    states = json_of(STATE).map(lambda text: text.encode("utf-8", "surrogatepass"))
    return st.one_of(
        states.map(lambda data: {**_dataset(), "set/state.json": data}),
        bytes_of(_arrow()).map(lambda data: {**_dataset(), "set/part.arrow": data}),
    )


def _odd_outputs() -> tuple[Files, ...]:
    """Parquet files whose own account of their outputs is another."""
    files = []
    for text in (
        "[]",
        "{",
        "[1]",
        '[{"name": "tokens", "shape": [7], "dtype": "float16", "ragged": true}]',
        "[" * 9999,
    ):
        sink = io.BytesIO()
        pq.write_table(_table().replace_schema_metadata({reading.OUTPUTS_KEY: text}), sink)
        files.append({**_files("rows.parquet", _parquet), "rows.parquet": sink.getvalue()})
    return tuple(files)


TARGETS: tuple[Target, ...] = (
    _target(
        "rows.npy",
        _npy,
        ("_npy",),
        lambda: tuple(_files("rows.npy", functools.partial(bytes, [b] * 99)) for b in BYTES),
    ),
    _target("rows.npz", lambda: npz(ARRAYS, compressed=True), ("_npz", "foundation.arrays:foreign_npz"), _lying),
    _target("rows.pt", _pt, ("_torch",)),
    _target(
        "rows.safetensors",
        lambda: save({k: torch.from_numpy(v) for k, v in ARRAYS.items()}),
        ("_safetensors",),
    ),
    _target("rows.parquet", _parquet, ("_table", "_declared"), _odd_outputs),
    Target(
        kind="imported features, the folder of a Hugging Face dataset",
        readers=("pipeline.imported.reading:_of_dataset",),
        valid=_dataset,
        odd=_odd_dataset,
        read=_read_dataset,
    ),
)

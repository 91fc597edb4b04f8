"""Files of arrays: npz, shards, Parquet and safetensors, as they lie in a work folder."""

import functools
import io
import json
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from hypothesis import strategies as st
from safetensors.torch import save

from cache import layout
from cache.identity import Output
from cache.keys import KeyColumn
from cache.page import PAGE
from cache.shard import Status
from cache.store import Store
from foundation.arrays import damage
from fuzz.odd import BYTES, Files, bytes_of, files_in, folder_of, json_of, write
from fuzz.target import Target, built, each, empty_folder
from heads import data, fusion
from heads.checkpoint import read_tensors
from heads.contracts import TrainingJob
from linking.answers import DevAnswers
from linking.kb import Kb
from mel_cache import contracts
from pipeline.datasets.prepared import Columns
from pipeline.enhance import output
from pipeline.extraction import units
from pipeline.pairs import stage as pairs
from pipeline.pairs.contracts import PairJob
from report.contracts import CasesJob
from report.page import write as page

M, N, K = 6, 8, 3
Arrays = Mapping[str, np.ndarray]
OUTPUTS = {"pooled": Output("pooled", (4,)), "tokens": Output("tokens", (3,), ragged=True)}


def npz(arrays: Arrays, compressed: bool = False, pickled: bool = False) -> bytes:
    """The bytes of an .npz file."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED) as file:
        for name, array in arrays.items():
            member = io.BytesIO()
            np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=pickled)
            file.writestr(f"{name}.npy", member.getvalue())
    return buffer.getvalue()


def lying(arrays: Arrays, name: str, header: str) -> bytes:
    """An .npz file of which one array's header is another text."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for other, array in arrays.items():
            member = io.BytesIO()
            np.lib.format.write_array(member, array)
            content = member.getvalue()
            if other == name:
                text = header.encode() + b"\n"
                content = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + bytes(64)
            file.writestr(f"{other}.npy", content)
    return buffer.getvalue()


HEADERS = [
    *(f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({size},), }}" for size in (10**6, 10**12, 2**62, 2**64)),
    *("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,), }", "{'descr': '|O', 'shape': (2,)}", "{", "", "x"),
    *("{'descr': '<i8', 'fortran_order': True, 'shape': (0, 99999999999), }", "(" * 300, "{}", "1", "[1,2]"),
    "{'descr': '<U2000000000', 'fortran_order': False, 'shape': (9,), }",
    "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (2,), }",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (2.5,), }",
]
ODD_ARRAYS = [
    *(np.zeros(shape, np.float32) for shape in ((), (0,), (1,), (0, 0), (M, K, 2), (M + 1, K), (M, 0), (1,) * 12)),
    *(np.full((M, K), value, dtype) for value, dtype in ((9, np.int64), (-1, np.int64), (-7, np.int32), (2**31, int))),
    *(np.full((M, K), value, np.float64) for value in (np.nan, np.inf, -np.inf, 1e300, 0.5)),
    *(np.full((M, K), 1, kind) for kind in ("bool", "complex64", "<U3", "S2", "M8[s]", "float16", ">i4", "V8")),
    *(np.full((M, 16), 3, np.uint8), np.full((M, 15), 3, np.uint8), np.full((M, 16), -3, np.int8), np.ones(M, bool)),
    np.zeros(2, [("a", "f4"), ("b", "i8")]),
    np.array(json.dumps({"made_of": "x"})),
    np.array("{"),
    np.array([None, {}], object),
]


@st.composite
def odd_npz(draw: st.DrawFn, arrays: Arrays) -> bytes:
    """An .npz file with an array changed, gone, or announced wrongly; or damaged."""
    kind = draw(st.sampled_from(("array", "array", "array", "bytes", "header", "remove", "compressed", "whole")))
    name = draw(st.sampled_from(sorted(arrays)))
    if kind == "bytes":
        return draw(bytes_of(npz(arrays)))
    if kind == "header":
        return lying(arrays, name, draw(st.sampled_from(HEADERS)))
    if kind == "remove":
        return npz({other: array for other, array in arrays.items() if other != name})
    if kind == "compressed":
        return npz({**arrays, name: np.zeros(draw(st.sampled_from((4, 10**6))), np.uint8)}, compressed=True)
    if kind == "whole":
        array = io.BytesIO()
        np.save(array, draw(st.sampled_from(ODD_ARRAYS[:-1])))
        return draw(st.sampled_from((b"", b"PK\x05\x06" + bytes(18), b"\x80\x04.", array.getvalue())))
    return npz({**arrays, name: draw(st.sampled_from(ODD_ARRAYS))}, pickled=True)


@functools.cache
def bomb() -> bytes:
    """An .npz file of 300 kB that unpacks to 64 MB."""
    return npz({"ids": np.zeros(64 << 20, np.uint8)}, compressed=True)


@functools.cache
def lists() -> Arrays:
    random = np.random.default_rng(0)
    return {
        "ids": np.stack([random.permutation(N)[:K] for _ in range(M)]).astype(np.int32),
        "scores": np.ones((M, K), np.float32),
        "retrieved": np.array(True),
        "gold_rank": np.arange(M),
        "forced": np.array(["test"], "U"),
    }


@functools.cache
def columns() -> Arrays:
    keys = np.random.default_rng(1).integers(0, 255, (M, 16)).astype(np.uint8)
    return {"keys": keys, "present": np.ones(M, bool), "span": np.full((M, 2), -1, np.int32), "counts": np.ones(M, int)}


def tables(folder: Path) -> Path:
    """A prepared dataset of M mentions and N entities."""
    splits = ["train", "dev", "test"] * (M // 3)
    mentions = {
        "id": [f"m{row}" for row in range(M)],
        "split": splits,
        "sentence": ["Ann met Bob."] * M,
        "phrase": ["Bob"] * M,
        "gold": pa.array(range(M), pa.int32()),
        "gold_id": [f"Q{row}" for row in range(M)],
    }
    entities = {name: [f"{name} {row}" for row in range(N)] for name in ("name", "type", "attributes", "description")}
    entities |= {"id": [f"Q{row}" for row in range(N)], "image_status": ["none"] * N}
    pq.write_table(pa.table(mentions), folder / "mentions.parquet")
    pq.write_table(pa.table(entities), folder / "entities.parquet")
    return folder


def _candidates(content: bytes, folder: Path) -> None:
    """Every reader of candidate lists."""
    path, dataset = folder / "lists.npz", built(tables)
    path.write_bytes(content)
    job = PairJob(
        name="name", dataset=dataset, candidates=path, out=folder / "out.npz", digest="0", inputs=(), workers=1
    )
    each(
        lambda: data.Bundle.read(dataset, path),
        lambda: pairs._pairs(job),
        lambda: contracts._array(path, "ids"),
        lambda: page._list_tables(_cases(path), ["test"] * M),
    )


def _cases(path: Path) -> CasesJob:
    """A report's job whose one run was trained on the lists at `path`."""
    training = TrainingJob(method="mimic", config={}, inputs=(), dataset=path, candidates=path, out=path)
    return CasesJob(prepared=path, images={}, trainings={"mimic": training})


def _values(content: bytes, folder: Path) -> None:
    path = folder / "values.npz"
    path.write_bytes(content)
    data._pair_feature(path, lists()["ids"])
    data._unpictured(path)


def _keys(content: bytes, folder: Path) -> None:
    path = folder / "keys.npz"
    path.write_bytes(content)
    damage(path)
    column = KeyColumn.load(path)
    assert column.keys.shape == (len(column.present), 16) and len(column.span) == len(column.keys)


def _dev_answers() -> Arrays:
    arrays = {"evidence": np.zeros((M, 3)), "softmax": np.zeros(M), "right": np.ones(M, bool), "nil": np.zeros(M, bool)}
    arrays["fold"] = np.zeros(M, np.int64)
    about = {"nil_share": 0.0, "part": "dev", "nil": {}, "made_of": "x"}
    return {**arrays, "about": np.array(json.dumps(about))}


def _answers(content: bytes, folder: Path) -> None:
    path = folder / "answers.npz"
    path.write_bytes(content)
    DevAnswers.read(path, "x")


def _npz(kind: str, arrays: Callable[[], Arrays], read: Any, *readers: str) -> Target:
    return Target(
        kind=f"npz, {kind}",
        readers=readers,
        valid=lambda: npz(arrays()),
        odd=lambda: odd_npz(arrays()),
        read=read,
        hard=lambda: (bomb(), *(lying(arrays(), name, header) for name in arrays() for header in HEADERS)),
    )


# Shards


def _store(folder: Path) -> Path:
    """A store with one shard."""
    store = Store.create(folder, "odd", {"outputs": [output.to_json() for output in OUTPUTS.values()]})
    keys = np.arange(5 * 16, dtype=np.uint8).reshape(5, 16)
    status = np.array([Status.OK, Status.OK, Status.BROKEN, Status.OK, Status.OK], np.uint8)
    rows = [np.ones((length, 3), np.float16) for length in (1, 2, 0, 3, 1)]
    store.add(keys, status, ["", "", "truncated", "", ""], {"pooled": np.ones((5, 4), np.float16), "tokens": rows})
    return store.folder


@functools.cache
def store_files() -> dict[str, bytes]:
    with empty_folder() as folder:
        return files_in(_store(folder))


def _shard(files: Files, folder: Path) -> None:
    place = write(folder / "odd-0123456789abcdef", files)
    for path in sorted(place.glob("*.h5")):
        layout.damage(path)
    store = Store.open(place)
    store.refresh()
    keys = np.arange(5 * 16, dtype=np.uint8).reshape(5, 16)
    for name in OUTPUTS:
        table = store_table(store, name, keys)
        table.gather(np.arange(5))
    store.probe  # noqa: B018


def store_table(store: Store, name: str, keys: np.ndarray) -> Any:
    from cache.table import Table

    return Table(store, name, keys, np.ones(len(keys), bool))


def _odd_shard() -> st.SearchStrategy[Files]:
    files = store_files()
    (shard,) = (name for name in files if name.endswith(".h5"))

    @st.composite
    def structures(draw: st.DrawFn) -> Files:
        content = bytearray(files[shard])
        for _ in range(draw(st.integers(1, 5))):
            at = draw(st.integers(PAGE, min(len(content), 4 * PAGE) - 1))
            content[at] = draw(st.sampled_from(BYTES))
        return {**files, shard: bytes(content)}

    return st.one_of(structures(), structures(), folder_of(files))


# Parquet


def parquet(folder: Path) -> dict[str, bytes]:
    """The tables that descriptions and views are read from."""
    tables(folder)
    ids = [f"Q{row}" for row in range(N)]
    path = output.descriptions(folder, "static")
    pq.write_table(pa.table({"id": ids, "name": ids, "text": ["A text."] * N}), path)
    return files_in(folder)


@st.composite
def _odd_tables(draw: st.DrawFn) -> Files:
    """Tables damaged, or with a column gone or of another type."""
    files: dict[str, bytes | None] = dict(built(parquet))
    name = draw(st.sampled_from(sorted(files)))
    content = files[name]
    assert content is not None
    if draw(st.booleans()):
        files[name] = draw(bytes_of(content))
        return files
    table = pq.read_table(io.BytesIO(content))
    at = draw(st.integers(0, table.num_columns - 1))
    column = table.column_names[at]
    rows = table.num_rows
    odd = draw(
        st.sampled_from(
            [
                None,
                pa.nulls(rows),
                pa.array([float("nan")] * rows),
                pa.array([[1]] * rows),
                pa.array([b"\xff"] * rows, pa.binary()),
                pa.array([2**40] * rows),
                pa.array(["nan"] * rows),
                pa.array([{"a": 1}] * rows),
                pa.array([""] * rows).dictionary_encode(),
                pa.array([None, *["x"] * (rows - 1)], pa.string()),
            ]
        )
    )
    table = table.remove_column(at)
    if odd is not None:
        table = table.append_column(column, odd)
    sink = io.BytesIO()
    pq.write_table(table, sink)
    files[name] = sink.getvalue()
    return files


def _tables(files: Files, folder: Path) -> None:
    write(folder, files)
    each(
        lambda: units.read_tables(folder, ["static"]),
        lambda: output.read_entities(folder),
        lambda: output.read_texts(folder, "static"),
        lambda: data.Bundle.read(folder, built(_lists_file)),
        lambda: Kb.read(folder),
        lambda: fusion.read_phrases(folder),
        lambda: [Columns(folder / "mentions.parquet", folder / "entities.parquet")[name] for name in ("id", "split")],
        lambda: [*Columns(folder / "entities.parquet").pieces(("name", "attributes"), 2)],
    )


def _lists_file(folder: Path) -> Path:
    (folder / "lists.npz").write_bytes(npz(lists()))
    return folder / "lists.npz"


# safetensors


def tensors(metadata: dict[str, str] | None = None) -> bytes:
    return save({"a": torch.ones(2, 3), "model.b": torch.zeros(4, dtype=torch.float16)}, metadata)


@st.composite
def odd_safetensors(draw: st.DrawFn, content: bytes) -> bytes:
    """A file whose header or bytes are changed."""
    if draw(st.integers(0, 3)) == 0:
        return draw(bytes_of(content))
    size = int.from_bytes(content[:8], "little")
    header = draw(json_of(json.loads(content[8 : 8 + size]))).encode("utf-8", "surrogatepass")
    stated = len(header) + draw(st.sampled_from([0, 0, 0, 0, 1, -1, 10**6, 2**62]))
    return max(0, stated).to_bytes(8, "little") + header + content[8 + size :]


def _checkpoint(content: bytes, folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(content)
    read_tensors(path)


TARGETS = (
    _npz(
        "candidate lists",
        lists,
        _candidates,
        "heads.data:Bundle.read",
        "pipeline.pairs.stage:_pairs",
        "mel_cache.contracts:_array",
        "report.page.write:_list_tables",
    ),
    _npz(
        "pair features",
        lambda: {"values": np.ones((M, K), np.float32), "unpictured": np.zeros((M, K, 3), np.float32)},
        _values,
        "heads.data:_pair_feature",
        "heads.data:_unpictured",
    ),
    _npz("key columns", columns, _keys, "cache.keys:KeyColumn.load", "foundation.arrays:damage"),
    _npz("answers for dev", _dev_answers, _answers, "linking.answers:DevAnswers.read"),
    Target(
        kind="shards of the cache",
        readers=(
            "cache.key_reader:KeyReader.read",
            "cache.layout:_of_first_page",
            "cache.layout:seal_broken",
            "cache.page:brief",
            "cache.page:read",
            "cache.page:seal_broken",
            "cache.layout:read",
            "cache.layout:damage",
            "cache.store:Store.open",
            "cache.store:Store.probe",
        ),
        valid=store_files,
        odd=_odd_shard,
        read=_shard,
        share=8,
    ),
    Target(
        kind="Parquet tables",
        readers=(
            "pipeline.extraction.units:read_tables",
            "pipeline.enhance.output:read_entities",
            "pipeline.enhance.output:read_texts",
            "pipeline.datasets.prepared:Columns.__getitem__",
            "heads.fusion:read_phrases",
            "linking.kb:Kb.read",
        ),
        valid=lambda: built(parquet),
        odd=_odd_tables,
        read=_tables,
    ),
    Target(
        kind="safetensors of a run",
        readers=("heads.checkpoint:read_tensors",),
        valid=lambda: tensors({"state": json.dumps({"method": "mimic", "shapes": {}})}),
        odd=lambda: odd_safetensors(tensors({"state": json.dumps({"method": "mimic", "shapes": {}})})),
        read=_checkpoint,
    ),
)

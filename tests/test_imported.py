"""`ImportFeatures` and `ExportFeatures`: every format, round trips bit for bit, and bad files, which leave nothing."""

import io
import json
import shutil
import warnings
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import commands
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import small_world
import torch
import yaml
from safetensors.torch import save_file

from cache.inputs import Input
from cache.keys import KeyColumn
from cache.shard import Status
from cache.store import Store
from foundation.errors import UserError
from pipeline.imported import reading, stage, writing
from pipeline.imported.contracts import ExportFeaturesJob, ImportJob

MENTIONS, ENTITIES = [f"m{n}" for n in range(6)], [f"Q{n}" for n in range(5)]
IDS = [*MENTIONS[::-1], *ENTITIES]
RANDOM = np.random.default_rng(0)
POOLED = RANDOM.standard_normal((len(IDS), 4)).astype(np.float16)
LENGTHS = RANDOM.integers(0, 5, len(IDS))
TOKENS = RANDOM.standard_normal((int(LENGTHS.sum()), 3)).astype(np.float16)
OFFSETS = np.concatenate([[0], LENGTHS.cumsum()]).astype(np.int64)
BOTH: dict[str, Any] = {"pooled": POOLED, "tokens/values": TOKENS, "tokens/offsets": OFFSETS}


class World:
    def __init__(self, folder: Path) -> None:
        self.folder, self.work = folder, folder / "work"
        self.dataset = self.work / "datasets" / "small-0"
        self.dataset.mkdir(parents=True)
        for name, ids in (("mentions", MENTIONS), ("entities", ENTITIES)):
            pq.write_table(pa.table({"id": pa.array(ids, pa.string())}), self.dataset / f"{name}.parquet")
        (folder / "ids.txt").write_text("".join(f"{one}\n" for one in IDS))

    def job(self, source: Path, **more) -> ImportJob:
        job = ImportJob(
            source=source, ids=str(self.folder / "ids.txt"), feature="mine", dataset=self.dataset, work=self.work
        )
        return replace(job, **more)

    def load(self, source: Path, **more):
        return stage.import_features(self.job(source, **more))

    def rows(self, imported, side="mention"):
        """Record id -> output -> row."""
        part = next(part for part in imported.parts if part.side == side)
        store, column = Store.open(self.work / "cache" / imported.store), KeyColumn.load(self.work / part.keys)
        found: dict[str, dict[str, np.ndarray]] = {}
        for name, output in store.outputs.items():
            table = column.table(store, name)
            for at, record in enumerate(MENTIONS if side == "mention" else ENTITIES):
                if table.ok[at]:
                    value = table.gather(np.array([at]))
                    row = value[0][0][: int(value[1][0])] if output.ragged else value[0]
                    found.setdefault(record, {})[name] = row
        return found

    def written(self) -> list[str]:
        folders = (self.work / "cache", self.dataset / "imported")
        return [str(path) for folder in folders for path in folder.rglob("*") if path.suffix != ".lock"]

    def inputs(self, imported) -> tuple[Input, ...]:
        return tuple(
            Input(
                side=part.side,
                feature="mine",
                view="record",
                store=self.work / "cache" / imported.store,
                keys=self.work / part.keys,
            )
            for part in imported.parts
        )


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


def expected(name: str) -> dict[str, np.ndarray]:
    at = IDS.index(name)
    return {"pooled": POOLED[at], "tokens": TOKENS[OFFSETS[at] : OFFSETS[at + 1]]}


def assert_equal(rows: dict, names: list[str], outputs=("pooled", "tokens")) -> None:
    assert sorted(rows) == sorted(names)
    for name in names:
        for output in outputs:
            assert rows[name][output].dtype == np.float16
            assert rows[name][output].tobytes() == np.ascontiguousarray(expected(name)[output]).tobytes()


def parquet(path: Path, **columns) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def rows_of_tokens() -> list[list[list[float]]]:
    return [TOKENS[OFFSETS[at] : OFFSETS[at + 1]].tolist() for at in range(len(IDS))]


def made(folder: Path, kind: str) -> Path:
    """Both outputs of all ids in one format."""
    path = folder / f"rows.{kind}"
    tensors = {name: torch.from_numpy(array) for name, array in BOTH.items()}
    if kind == "npz":
        np.savez_compressed(path, **BOTH)
    elif kind == "safetensors":
        save_file(tensors, path)
    elif kind == "pt":
        torch.save(
            {"pooled": tensors["pooled"], "tokens": list(torch.split(tensors["tokens/values"], LENGTHS.tolist()))}, path
        )
    else:
        half = pa.float16()
        pooled = pa.array([[np.float16(x) for x in row] for row in POOLED], pa.list_(half))
        tokens = pa.array(
            [[[np.float16(x) for x in step] for step in row] for row in rows_of_tokens()], pa.list_(pa.list_(half, 3))
        )
        table = pa.table({"id": pa.array(IDS), "pooled": pooled, "tokens": tokens, "text": pa.array(["x"] * len(IDS))})
        if kind == "parquet":
            pq.write_table(table, path)
        else:  # as `Dataset.save_to_disk` leaves it
            path.mkdir()
            with pa.ipc.new_stream(path / "data-00000-of-00001.arrow", table.schema) as stream:
                stream.write_table(table)
            (path / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}))
    return path


@pytest.mark.parametrize("kind", ["npz", "safetensors", "pt", "parquet", "dataset"])
def test_every_format_gives_the_same_rows_and_the_same_identity(world, kind):
    imported = world.load(made(world.folder, kind)).imported
    assert_equal(world.rows(imported), MENTIONS)
    assert_equal(world.rows(imported, "entity"), ENTITIES)
    other = world.load(made(world.folder, "npz") if kind != "npz" else made(world.folder, "pt"))
    assert other.imported.identity == imported.identity


@pytest.mark.parametrize("ending", [".npz", ".safetensors", ".parquet"])
def test_what_is_exported_is_imported_bit_for_bit(world, ending):
    imported = world.load(made(world.folder, "npz")).imported
    to = world.folder / f"out{ending}"
    exported = writing.export_features(ExportFeaturesJob(inputs=world.inputs(imported), dataset=world.dataset, to=to))
    assert (exported.rows, exported.left_out) == (len(IDS), 0)
    again = world.load(to, ids="", feature="again").imported
    for side, names in (("mention", MENTIONS), ("entity", ENTITIES)):
        assert_equal(world.rows(again, side), names)
    assert again.identity == imported.identity


def test_one_array_is_exported_as_npy_and_float32_stays(world):
    values = POOLED.astype(np.float32) / 3
    np.save(world.folder / "a.npy", values)
    imported = world.load(world.folder / "a.npy").imported
    to = world.folder / "out.npy"
    writing.export_features(ExportFeaturesJob(inputs=world.inputs(imported), dataset=world.dataset, to=to))
    ids = json.loads((world.folder / "out.npy.ids.json").read_text())
    assert np.load(to).tobytes() == values[[IDS.index(name) for name in ids]].tobytes()


def test_records_without_a_row_are_absent_and_counted(world):
    (world.folder / "few.json").write_text(json.dumps(["m1", "Q2"]))
    np.save(world.folder / "few.npy", POOLED[:2])
    result = world.load(world.folder / "few.npy", ids=str(world.folder / "few.json"))
    assert "mention: 1 rows, 5 records without one" in result.text
    part = next(part for part in result.imported.parts if part.side == "mention")
    store, column = Store.open(world.work / "cache" / result.imported.store), KeyColumn.load(world.work / part.keys)
    status = column.table(store, "pooled").status
    assert status.tolist() == [Status.MISSING, Status.OK, *[Status.MISSING] * 4]
    exported = ExportFeaturesJob(inputs=world.inputs(result.imported), dataset=world.dataset, to=world.folder / "o.npz")
    assert writing.export_features(exported).left_out == 9


def test_rows_that_are_null_in_a_table_are_absent(world):
    column = pa.array([None if at == 2 else row.tolist() for at, row in enumerate(POOLED)], pa.list_(pa.float32()))
    rows = world.rows(world.load(parquet(world.folder / "a.parquet", id=IDS, embedding=column), ids="id").imported)
    assert sorted(rows) == sorted(set(MENTIONS) - {IDS[2]})


def test_a_second_import_adds_the_other_side_and_replaces_its_own(world):
    half = len(MENTIONS)
    for name, ids, rows in (("m", IDS[:half], POOLED[:half]), ("e", IDS[half:], POOLED[half:])):
        np.save(world.folder / f"{name}.npy", rows)
        (world.folder / f"{name}.npy.ids.json").write_text(json.dumps(ids))
    first = world.load(world.folder / "m.npy", ids="", side="mention").imported
    both = world.load(world.folder / "e.npy", ids="", side="entity").imported
    assert first.identity != both.identity and len(both.parts) == 2
    assert_equal(world.rows(both), MENTIONS, ["pooled"])
    assert_equal(world.rows(both, "entity"), ENTITIES, ["pooled"])
    np.save(world.folder / "m.npy", POOLED[:half] * 2)
    replaced = world.load(world.folder / "m.npy", ids="", side="mention").imported
    assert len(replaced.parts) == 2 and replaced.identity != both.identity
    assert_equal(world.rows(replaced, "entity"), ENTITIES, ["pooled"])
    with pytest.raises(UserError, match="the same outputs on both sides"):
        np.save(world.folder / "m.npy", POOLED[:half, :3])
        world.load(world.folder / "m.npy", ids="", side="mention")


@pytest.mark.parametrize(
    ("dtype", "stored"), [("float64", "float32"), ("int64", "int32"), (">f4", "float32"), ("uint8", "uint8")]
)
def test_other_numbers_are_converted_and_that_is_said(world, dtype, stored):
    np.save(world.folder / "a.npy", (POOLED * 10).astype(np.int8).astype(np.uint8).astype(dtype))
    result = world.load(world.folder / "a.npy")
    assert f"pooled {stored}(4)" in result.text
    assert bool(result.notes) == (dtype in ("float64", "int64"))


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_rows_that_are_all_the_same_are_taken_and_that_is_said(world, value):
    np.save(world.folder / "same.npy", np.full((len(POOLED), 16), value, np.float32))
    notes = world.load(world.folder / "same.npy").notes
    assert sorted(note.partition(":")[0] for note in notes) == ["entity, pooled", "mention, pooled"]
    np.save(world.folder / "other.npy", np.random.default_rng(0).normal(size=(len(POOLED), 16)).astype(np.float32))
    assert not world.load(world.folder / "other.npy").notes


def test_bfloat16_is_stored_as_float32(world):
    save_file({"pooled": torch.from_numpy(POOLED).bfloat16()}, world.folder / "a.safetensors")
    assert "pooled float32(4)" in world.load(world.folder / "a.safetensors").text


def with_nan() -> np.ndarray:
    values = POOLED.copy()
    values[3, 1] = np.nan
    return values


def pickled(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        np.save(path, np.array([{"a": 1}] * len(IDS), object), allow_pickle=True)


class Malicious:
    def __reduce__(self):
        return (print, ("code ran",))


def expanded(path: Path) -> None:
    torch.save(torch.zeros(1).expand(len(IDS), 10**9), path)


def announcing(path: Path) -> None:
    """An .npz file whose array announces more than it holds."""
    member = io.BytesIO()
    np.lib.format.write_array_header_1_0(member, {"descr": "<f4", "fortran_order": False, "shape": (len(IDS), 10**9)})
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("pooled.npy", member.getvalue())


def cut(folder: Path, kind: str, path: Path) -> None:
    data = made(folder, kind).read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])


BAD = {
    "nan.npy": (lambda path: np.save(path, with_nan()), "holds NaN, infinity"),
    "large.npy": (lambda path: np.save(path, np.full((len(IDS), 2), 1e300)), "a number beyond float32"),
    "whole.npy": (lambda path: np.save(path, np.full((len(IDS), 2), 2**40)), "expected those of int32"),
    "short.npy": (lambda path: np.save(path, POOLED[:-1]), f"{len(IDS) - 1} rows of the array for {len(IDS)} ids"),
    "complex.npy": (lambda path: np.save(path, POOLED.astype(np.complex64)), "expected numbers"),
    "texts.npy": (lambda path: np.save(path, np.array(IDS)), "holds no array of numbers"),
    "number.npy": (lambda path: np.save(path, np.float32(1)), "expected rows"),
    "pickled.npy": (pickled, "cannot be read"),
    "announcing.npz": (announcing, "cannot be read"),
    "code.pt": (lambda path: torch.save({"a": Malicious()}, path), "weights_only"),
    "expanded.pt": (expanded, "announces more numbers than it has bytes for"),
    "cut.npz": (lambda path: cut(path.parent, "npz", path), "cannot be read"),
    "cut.pt": (lambda path: cut(path.parent, "pt", path), "cannot be read"),
    "cut.safetensors": (lambda path: cut(path.parent, "safetensors", path), "cannot be read"),
    "cut.parquet": (lambda path: cut(path.parent, "parquet", path), "cannot be read"),
    "uneven.parquet": (
        lambda path: parquet(path, pooled=[[1.0] * (2 + (at == 3)) for at in range(len(IDS))]),
        "expected the same number in all",
    ),
    "inner.parquet": (
        lambda path: parquet(path, pooled=[[1.0, None if at == 3 else 2.0] for at in range(len(IDS))]),
        "missing values inside",
    ),
    "offsets.npz": (lambda path: np.savez(path, **{**BOTH, "tokens/offsets": OFFSETS[::-1]}), "does not fit"),
    "wrong.csv": (lambda path: path.write_text("a"), "no known format"),
    "gone.npz": (lambda path: None, "no such file"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_one_line_and_nothing_is_written(world, name, capfd):
    make, message = BAD[name]
    make(world.folder / name)
    with pytest.raises(UserError, match=message) as caught:
        world.load(world.folder / name)
    assert "\n" not in str(caught.value) and str(world.folder / name) in str(caught.value)
    assert not world.written() and "code ran" not in capfd.readouterr().out


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([*IDS[:-2], "X1", "X2"], "2 of 11 ids are of no mention and no entity of the dataset, the first is 'X1'"),
        ([*IDS[:-1], IDS[0]], "1 ids stand twice, the first is 'm5'"),
        (IDS[:-1], "11 rows of the array for 10 ids"),
    ],
)
def test_wrong_ids_are_refused_with_their_number_and_the_first(world, ids, message):
    np.save(world.folder / "a.npy", POOLED)
    (world.folder / "other.json").write_text(json.dumps(ids))
    with pytest.raises(UserError, match=message):
        world.load(world.folder / "a.npy", ids=str(world.folder / "other.json"))
    assert not world.written()


def test_ids_of_both_sides_need_a_side(world):
    pq.write_table(pa.table({"id": pa.array(["m1", *ENTITIES[1:]])}), world.dataset / "entities.parquet")
    np.save(world.folder / "a.npy", POOLED[:2])
    (world.folder / "a.npy.ids.json").write_text('["m1", "m2"]')
    with pytest.raises(UserError, match="'m1' is the id of a mention and of an entity; say which with --side"):
        world.load(world.folder / "a.npy", ids="")
    assert len(world.load(world.folder / "a.npy", ids="", side="mention").imported.parts) == 1


def test_what_a_file_announces_is_compared_before_it_is_read(world):
    for kind in ("npz", "pt", "safetensors", "parquet", "dataset"):
        with pytest.raises(UserError, match=r"announces|are read"):
            reading.read(made(world.folder, kind), str(world.folder / "ids.txt"), most=64)


@pytest.mark.parametrize("state", ['{"_data_files": [{"filename": "../x.arrow"}]}', "[]", "{", '{"_data_files": []}'])
def test_a_datasets_folder_names_files_inside_it(world, state):
    folder = made(world.folder, "dataset")
    (folder / "state.json").write_text(state)
    with pytest.raises(UserError) as caught:
        world.load(folder, ids="id")
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A small world whose profile has an imported feature, which a head was trained on."""
    root = tmp_path_factory.mktemp("imported")
    small_world.write(root / "data")
    path = small_world.profile(root)
    content = yaml.safe_load(path.read_text())
    content["features"]["mine"] = {"extractor": "imported"}
    path.write_text(yaml.safe_dump(content))
    return root


def run(root: Path, command: str, *options: str) -> tuple[int, str]:
    named = ["--dataset", "small", "--data-dir", str(root / "data"), "--profile", str(root / "small.yaml")]
    return commands.run(command, "--work-dir", str(root / "work"), *named, *options)


def test_a_head_reads_an_imported_feature_and_new_mentions_are_refused(trained):
    params = ["--method", "bert", "--params", json.dumps({"text_feature": "mine", "epochs": 1})]
    code, said = run(trained, "TrainHead", *params)
    assert code and "nothing was imported for the dataset" in said and "ImportFeatures --feature mine" in said
    ids = [*(f"m{n}" for n in range(40)), *(f"Q{n}" for n in range(12))]
    np.savez(trained / "rows.npz", ids=np.array(ids), pooled=np.random.default_rng(1).random((52, 6), np.float32))
    code, said = run(trained, "ImportFeatures", "--from", str(trained / "rows.npz"), "--feature", "mine")
    assert code == 0 and "entity: 12 rows" in said
    code, said = run(trained, "TrainHead", *params)
    assert code == 0 and "MRR" in said
    folder = next(path for path in (trained / "work" / "runs" / "small" / "bert").iterdir())
    depends = json.loads((folder / "config.json").read_text())
    assert set(depends["features"]) == {"mine"}
    (trained / "new.jsonl").write_text('{"sentence": "Ann Powers was seen.", "mention": "Powers"}\n')
    linked = ["--run", str(folder), "--input", str(trained / "new.jsonl"), "--output", str(trained / "out.jsonl")]
    code, said = commands.run("LinkMentions", "--work-dir", str(trained / "work"), *linked)
    assert code and "feature mine was imported (ImportFeatures): there is no extractor" in said
    np.savez(trained / "rows.npz", ids=np.array(ids), pooled=np.random.default_rng(2).random((52, 6), np.float32))
    assert run(trained, "ImportFeatures", "--from", str(trained / "rows.npz"), "--feature", "mine")[0] == 0
    assert run(trained, "TrainHead", *params)[0] == 0
    assert len([*(trained / "work" / "runs" / "small" / "bert").iterdir()]) == 2
    code, said = run(trained, "EstimateCache", "--features", "mine")
    assert code == 0 and "mine" in said
    code, said = commands.run("CleanCache", "--work-dir", str(trained / "work"))
    assert code == 0 and said.count("mine-") == 1  # the store of the first import alone
    code, said = run(trained, "ExportFeatures", "--feature", "mine", "--to", str(trained / "back.npz"))
    assert code == 0 and "pooled of 52 records" in said
    shutil.rmtree(trained / "work" / "cache")
    code, said = run(trained, "TrainHead", *params)
    assert code and "then ImportFeatures --feature mine --side" in said

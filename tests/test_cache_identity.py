import json
import multiprocessing
import os
from pathlib import Path

import numpy as np
import pytest

from cache.identity import Output, canonical_json, content_key, identity, weights_hash
from foundation.checksums import remembered
from foundation.errors import UserError


def test_keys_and_identities_never_change_between_versions():
    assert content_key("text", b"Ulysses") == content_key("text", "Ulysses")
    assert content_key("text", "Ulysses").hex() == "8924a02605dcaf5e8d89209571536d45"
    spec = {"version": 1, "outputs": [Output("tokens", (50, 768)).to_json()], "mean": [0.5, 1e-05], "name": "é"}
    assert identity(spec) == "05dbcb6e13c087080628331c1526221671b9f955e442645715e0664dc099a60e"


def test_key_depends_on_kind_and_on_where_parts_end():
    parts = [("text", "ab"), ("image", "ab"), ("text", "a", "b"), ("text", "", "ab"), ("texta", "b")]
    keys = [content_key(*part) for part in parts]
    assert len({*keys}) == len(keys)
    assert all(len(key) == 16 for key in keys)


def test_key_of_text_that_is_no_valid_unicode():
    assert content_key("text", "\ud800") != content_key("text", "?")


def test_canonical_json_ignores_order_and_white_space():
    assert canonical_json({"b": (1, 2), "a": {"y": None, "x": True}}) == '{"a":{"x":true,"y":null},"b":[1,2]}'


@pytest.mark.parametrize(
    ("value", "place"),
    [
        ({"mean": [0.5, float("nan")]}, "spec.mean[1]"),
        ({"a": float("inf")}, "spec.a"),
        ({"model": Path("weights")}, "spec.model"),
        ({"outputs": {"tokens"}}, "spec.outputs"),
        ({"sizes": {224: "a"}}, "spec.sizes"),
        ([np.float32(1)], "spec[0]"),
        ({"raw": b"x"}, "spec.raw"),
    ],
)
def test_identity_refuses_what_has_no_one_json_text(value, place):
    with pytest.raises(UserError) as error:
        identity(value)
    assert str(error.value).startswith(f"{place} ")


def test_weights_hash_of_one_file_is_its_content_alone(tmp_path):
    (tmp_path / "a").mkdir()
    first, second = tmp_path / "a" / "model.safetensors", tmp_path / "pytorch_model.bin"
    for path in (first, second):
        path.write_bytes(b"weights")
    assert weights_hash([first], None) == weights_hash([second], None)
    second.write_bytes(b"weightz")
    assert weights_hash([first], None) != weights_hash([second], None)


def test_weights_hash_of_several_files_includes_names_but_no_folder_and_no_order(tmp_path):
    def write(folder: str, **contents: bytes) -> list[Path]:
        (tmp_path / folder).mkdir()
        for name, content in contents.items():
            (tmp_path / folder / name).write_bytes(content)
        return [tmp_path / folder / name for name in contents]

    files = write("x", a=b"1", b=b"2")
    assert (
        weights_hash(files, None) == weights_hash(files[::-1], None) == weights_hash(write("y", a=b"1", b=b"2"), None)
    )
    assert weights_hash(files, None) != weights_hash(write("z", a=b"2", b=b"1"), None)


def test_memo_saves_reading_and_notices_a_changed_file(tmp_path):
    file, memo = tmp_path / "weights", tmp_path / "memo" / "weights.json"
    file.write_bytes(b"one")
    first = weights_hash([file], memo)
    state = file.stat()
    file.write_bytes(b"two")
    os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert weights_hash([file], memo) == first, "same path, size and mtime: not read again"
    os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns + 1))
    assert weights_hash([file], memo) == weights_hash([file], None) != first


@pytest.mark.parametrize("content", ["", "{", "[]", '{"PATH": 3}', '{"PATH": {"size": 3}}'])
def test_damaged_memo_only_costs_time(tmp_path, content):
    file, memo = tmp_path / "weights", tmp_path / "memo.json"
    file.write_bytes(b"one")
    memo.write_text(content.replace("PATH", str(file)))
    assert weights_hash([file], memo) == weights_hash([file], None)
    assert json.loads(memo.read_text())[str(file)]["sha256"] == weights_hash([file], None)


def _hash_many(files: list[Path], memo: Path, barrier) -> None:
    barrier.wait(60)
    for file in files:
        weights_hash([file], memo)


def test_memo_keeps_the_entries_of_writers_at_the_same_time(tmp_path):
    files = [tmp_path / f"weights{i}" for i in range(30)]
    for file in files:
        file.write_text(file.name)
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(3)
    workers = [
        context.Process(target=_hash_many, args=(files[i::3], tmp_path / "memo.json", barrier)) for i in range(3)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    memo = remembered(tmp_path / "memo.json")
    assert {path: entry["sha256"] for path, entry in memo.items()} == {
        str(file): weights_hash([file], None) for file in files
    }


def test_missing_weights_are_named(tmp_path):
    with pytest.raises(UserError, match=r"nowhere.bin"):
        weights_hash([tmp_path / "nowhere.bin"], tmp_path / "memo.json")
    with pytest.raises(UserError, match="no file"):
        weights_hash([], None)


def test_output_survives_json():
    output = Output("boxes", [4], "int32", ragged=True)
    assert Output.from_json(json.loads(json.dumps(output.to_json()))) == output
    assert output.row_bytes == 16


@pytest.mark.parametrize(
    "fields",
    [
        {"name": "keys"},
        {"name": "../x"},
        {"name": "Tokens"},
        {"shape": (0,)},
        {"shape": (2.0,)},
        {"shape": ("3",)},
        {"dtype": "float64"},
        {"dtype": "object"},
        {"ragged": 1},
    ],
)
def test_output_refuses_what_a_shard_cannot_hold(fields):
    with pytest.raises(ValueError):
        Output(**{"name": "tokens", "shape": (3,), **fields})


@pytest.mark.parametrize("shape", [(), (1,), (3, 1)])
def test_an_output_of_any_whole_shape_is_given_back_by_its_json(shape):
    output = Output("tokens", shape, "float32")
    assert Output.from_json(json.loads(json.dumps(output.to_json()))) == output
    assert output.row_bytes == 4 * int(np.prod(shape))


@pytest.mark.parametrize("value", [{}, None, {"name": "a", "shape": 3, "dtype": "float16", "ragged": False}])
def test_output_from_other_json_is_refused(value):
    with pytest.raises(ValueError, match="is no output"):
        Output.from_json(value)

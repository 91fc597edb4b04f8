"""Layers beneath a cache: rows that colleagues have are read, nothing of theirs is ever changed, and what is bad there
ends in one line that a reader can follow."""

import hashlib
import json
import os
import pickle
import re
import shutil
from pathlib import Path

import commands
import numpy as np
import pytest
import small_world
from cache_rows import OUTPUTS, filled, keys_of, row, rows, spec

from cache import merge, page
from cache.fresh import HoldingStore
from cache.layers import LayerFault
from cache.store import Store
from cache.table import Table
from foundation import layers
from foundation.checksums import read_sealed, write_sealed
from foundation.errors import UserError


def state(folder: Path) -> dict[str, tuple]:
    """All below a folder: bytes, times and modes."""
    found: dict[str, tuple] = {}
    for path in [folder, *sorted(folder.rglob("*"))]:
        status = path.lstat()
        content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else sorted(os.listdir(path))
        found[str(path)] = (content, status.st_mtime_ns, status.st_ctime_ns, status.st_mode)
    return found


@pytest.fixture
def layered(tmp_path):
    """Own cache with the rows 0 to 2, a layer with 2 to 5, and below it one with 5 to 7."""
    for name, names in (("theirs", [2, 3, 4, 5]), ("others", [5, 6, 7])):
        filled(tmp_path / name, names)
    filled(tmp_path / "own", [0, 1, 2])
    layers.use(tmp_path / "own", f":{tmp_path / 'theirs'}:{tmp_path / 'others'}")
    return tmp_path, Store.open(next(path for path in (tmp_path / "own").iterdir() if path.is_dir()))


def assert_rows(store: Store, names: list[int]) -> None:
    for output in OUTPUTS:
        table = Table(store, output.name, keys_of(*names), np.ones(len(names), bool))
        if type(store) is Store:
            table = pickle.loads(pickle.dumps(table))
        expected = [row(output, name) if name % 5 or not name else None for name in names]
        if not output.ragged:
            got = table.gather(np.arange(len(names)))
            assert all(
                (one == (0 if wanted is None else wanted)).all() for one, wanted in zip(got, expected, strict=True)
            )
            continue
        flat, lengths = table.ragged_flat(np.arange(len(names)))
        assert lengths.tolist() == [0 if wanted is None else len(wanted) for wanted in expected]
        assert (flat == np.concatenate([wanted for wanted in expected if wanted is not None])).all()


def test_rows_of_layers_are_read_and_what_is_missing_is_written_to_ones_own(layered):
    root, store = layered
    before = {name: state(root / name) for name in ("theirs", "others")}
    assert store.missing(keys_of(0, 3, 6, 8, 9)).tolist() == [3, 4]
    assert_rows(store, [7, 0, 3, 5, 2, 6, 1, 3])
    store.make()
    store.add(**rows([8, 9]))
    assert store.missing(keys_of(8, 9, 3)).tolist() == [] and store.rows == 5
    assert_rows(store, [9, 3, 8, 7])
    shards = {path.parent.parent.name for path in store.files_for(keys_of(0, 3, 7)) if path.suffix == ".h5"}
    assert shards == {"own", "theirs", "others"}
    for number in range(100, 100 + merge.MANY):  # so many small shards are merged, one's own alone
        store.add(**rows([number]))
    store.sweep()
    assert len(list(store.folder.glob("*.h5"))) < merge.MANY
    assert_rows(store, [100, 3, 7, 0])
    assert {name: state(root / name) for name in before} == before, "no byte, time or mode of a layer has changed"


def test_the_first_that_has_a_row_counts_and_rows_in_memory_are_found_beside(layered):
    store = layered[1]
    number, _ = store.locate(keys_of(2, 5))
    assert [store.shard(one).path.parent.parent.name for one in number.tolist()] == ["own", "theirs"]
    holding = HoldingStore.open(store.folder)
    holding.add(**rows([11]))
    assert_rows(holding, [11, 3, 0, 7])
    holding.flush()
    assert_rows(holding, [11, 3, 0, 7])


def test_a_feature_that_only_a_layer_has_starts_with_its_probe(layered):
    root = layered[0]
    theirs = filled(root / "theirs", [20, 21], tag="b")
    theirs.set_probe({"grid": [1.0]})
    own = Store.create(root / "own", "feature", spec("b"))
    assert own.probe == {"grid": [1.0]} and own.rows == 0 and own.missing(keys_of(20, 21, 22)).tolist() == [2]
    assert Store.create(root / "own", "feature", spec("c")).probe is None


def follow(error: pytest.ExceptionInfo, cache: Path) -> None:
    """Do what a line says: the one option in it."""
    assert "\n" not in str(error.value)
    (option,) = re.findall(r"--cache-path (\S+?),", str(error.value))
    layers.use(cache, option)


def damage_shard(folder: Path) -> None:
    path = next(folder.glob("*.h5"))
    path.write_bytes(path.read_bytes()[: page.PAGE + 100])


def newer_layout(folder: Path) -> None:
    import h5py

    path = next(folder.glob("*.h5"))
    with h5py.File(path, "r+") as file:
        file.attrs["layout"] = 9
    content = bytearray(path.read_bytes())
    content[: page.PAGE] = bytes(page.PAGE)  # as one that says it to HDF5 alone
    path.write_bytes(content)


def other_spec(folder: Path) -> None:
    content = read_sealed(folder / "spec.json")
    write_sealed(folder / "spec.json", {**content, "identity": "0" * 64})


def a_file(folder: Path) -> None:
    shutil.rmtree(folder.parent)
    folder.parent.write_text("")


FAULTS = {
    "gone": lambda folder: shutil.rmtree(folder.parent),
    "a shard cut short": damage_shard,
    "a newer layout": newer_layout,
    "a spec that is none": lambda folder: (folder / "spec.json").write_text("{"),
    "a spec of another feature": other_spec,
    "a file in its place": a_file,
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_wrong_with_a_layer_is_one_line_whose_remedy_works(layered, fault):
    root, store = layered
    FAULTS[fault](root / "theirs" / store.folder.name)
    with pytest.raises(LayerFault, match="only reads") as error:
        assert_rows(Store.open(store.folder), [3, 6])
    assert "VerifyCache" not in str(error.value), "what its owner alone can do"
    follow(error, root / "own")
    fresh = Store.open(store.folder)
    assert fresh.missing(keys_of(3, 6)).tolist() == [0], "the other layer is still read"
    fresh.add(**rows([3]))
    assert_rows(fresh, [3, 6])


def test_a_shard_that_a_colleague_merges_meanwhile_is_found_in_its_successor(layered):
    root, store = layered
    table = Table(store, "states", keys_of(3, 6), np.ones(2, bool))
    theirs = Store.open(root / "theirs" / store.folder.name)
    old = [path.name for path in theirs.folder.glob("*.h5")]
    theirs.add(**rows([2, 3, 4, 5, 30]))
    for name in old:
        (theirs.folder / name).unlink()
    assert (table.ragged_flat(np.array([0]))[0] == row(OUTPUTS[1], 3)).all()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (":ROOT/nowhere", "there is no folder ROOT/nowhere; mount it"),
        (":ROOT/own", "this work folder's own cache"),
        (":ROOT/theirs:ROOT/theirs", "stands twice"),
        (":ROOT", "holds no features"),
        (
            "ROOT/elsewhere:ROOT/theirs",
            r"has its cache in ROOT/own already; leave the first folder out \(--cache-path :",
        ),
    ],
)
def test_a_cache_path_that_cannot_be_meant_is_refused_and_changes_nothing(layered, text, reason):
    root, _ = layered
    before = layers.read(root / "own")
    with pytest.raises(UserError, match=reason.replace("ROOT", re.escape(str(root)))):
        layers.use(root / "own", text.replace("ROOT", str(root)))
    assert layers.read(root / "own") == before


def test_the_own_folder_may_lie_elsewhere_and_a_dry_run_writes_nothing(tmp_path):
    filled(tmp_path / "theirs", [1])
    cache = tmp_path / "work" / "cache"
    text = f"{tmp_path / 'fast' / 'cache'}:{tmp_path / 'theirs'}"
    layers.use(cache, text, dry=True)
    assert not (tmp_path / "work").exists() and not (tmp_path / "fast").exists()
    layers.use(cache, text)
    assert cache.resolve() == tmp_path / "fast" / "cache" and layers.read(cache) == (tmp_path / "theirs",)
    layers.use(cache, text)
    layers.use(cache, str(cache))
    assert layers.read(cache) == ()


def test_commands_read_a_colleagues_features_and_say_which_layer(tmp_path):
    data, profile = small_world.write(tmp_path / "data"), small_world.profile(tmp_path)
    options = ["--dataset", "small", "--data-dir", str(data), "--profile", str(profile), "--local-scheduler"]
    theirs, own = tmp_path / "theirs", tmp_path / "own"
    extract = ["ExtractFeatures", *options, "--features", "text_tokens"]
    assert commands.run(*extract, "--work-dir", str(theirs))[0] == 0
    before = state(theirs)
    layer = theirs / "cache"
    mine = ["--work-dir", str(own)]
    code, said = commands.run(*extract, *mine, "--cache-path", f":{layer}")
    assert code == 0, said
    assert not list(own.rglob("*.h5")), "nothing was extracted"
    (receipt,) = (json.loads(path.read_text()) for path in own.glob("receipts/ExtractGroup-*.json"))
    assert receipt["run"]["rows"] == {"text_tokens": 0}
    assert any(file["path"].startswith(str(layer)) for file in receipt["files"])
    assert commands.run("TrainHead", *options, *mine, "--method", "bert", "--params", '{"epochs": 1}')[0] == 0
    assert f"layer {layer}" in commands.run("Status", *options, *mine)[1]
    code, said = commands.run("VerifyCache", *mine, "--local-scheduler", "--repair")
    assert code == 0 and f"layer {layer}" in said
    assert state(theirs) == before, "no byte, time or mode has changed"
    shard = next(layer.rglob("*.h5"))
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    damaged = state(theirs)
    code, said = commands.run("VerifyCache", *mine, "--local-scheduler", "--repair")
    assert code != 0 and f"bad, in a layer: {shard}" in said and "goes on without" in said
    assert state(theirs) == damaged
    shard.unlink()
    assert commands.run(*extract, *mine)[0] == 0
    assert len(list(own.rglob("*.h5"))) == 1, "what the layer has no more is extracted to one's own"

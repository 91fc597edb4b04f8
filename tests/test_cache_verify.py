import json
import os
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from cache_rows import filled, keys_of, rows

from cache import layout, page
from cache.shard import NewRows, write
from cache.store import Store
from cache.verify import remove, repair, usage, verify
from foundation.errors import UserError
from foundation.processes import Process, temporary_name

LISTS = ([0, 1, 2], [3, 5, 6], [7, 8])


def shard_of(store: Store, names: list[int]) -> Path:
    return store.folder / Store.shard_name(keys_of(*names))


def everything(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


def assert_found_and_repaired(root: Path, path: Path, names: list[int]) -> None:
    """Exactly `path` is found, exactly it is removed, and adding its rows again gives back every byte."""
    findings = verify(root)
    assert [finding.path for finding in findings] == [path], findings
    assert repair(findings) == [path]
    assert verify(root) == []
    store = filled(root)
    assert store.missing(keys_of(*[name for part in LISTS for name in part])).size == len(names)
    assert store.missing(keys_of(*names)).tolist() == list(range(len(names)))
    store.add(**rows(names))


def test_a_sound_cache_has_no_findings(tmp_path):
    filled(tmp_path, *LISTS)
    filled(tmp_path, *LISTS, tag="b")
    assert verify(tmp_path) == []
    assert verify(tmp_path / "nowhere") == []


def test_any_flipped_bit_is_found_and_repaired(tmp_path):
    store = filled(tmp_path, *LISTS)
    filled(tmp_path, *LISTS, tag="b")
    whole = everything(tmp_path)
    path = shard_of(store, LISTS[1])
    with h5py.File(path) as file:
        places = [
            file[name].id.get_offset() + 1
            for name in ("keys", "status", "cause", "grid", "states/values", "boxes/offsets")
        ]
    random = np.random.default_rng(0)
    size = path.stat().st_size
    places += [*random.integers(0, size, 20).tolist(), 0, page.PAGE - 1, page.PAGE, size - 1]
    for place in places:
        content = bytearray(path.read_bytes())
        content[place] ^= 1 << random.integers(8)
        path.write_bytes(content)
        assert_found_and_repaired(tmp_path, path, LISTS[1])
        assert everything(tmp_path) == whole


@pytest.mark.parametrize("size", [0, 1, 5000, -4096, -1])
def test_a_truncated_shard_is_found_and_repaired(tmp_path, size):
    store = filled(tmp_path, *LISTS)
    path = shard_of(store, LISTS[0])
    os.truncate(path, size if size >= 0 else path.stat().st_size + size)
    assert_found_and_repaired(tmp_path, path, LISTS[0])


def test_a_shard_under_another_name_or_in_another_folder_is_found(tmp_path):
    store, other = filled(tmp_path, *LISTS), filled(tmp_path, tag="b")
    stray = other.folder / shard_of(store, LISTS[2]).name
    shutil.copy(shard_of(store, LISTS[2]), stray)
    renamed = store.folder / "renamed.h5"
    shutil.copy(shard_of(store, LISTS[0]), renamed)
    assert {finding.path: finding.problem.split()[0] for finding in verify(tmp_path)} == {
        renamed: "has",
        stray: "belongs",
    }


def test_a_shard_whose_identity_only_begins_like_its_folders_is_found(tmp_path):
    store = filled(tmp_path, *LISTS)
    for names, identity in (([11], store.identity + "0"), ([12], store.identity[:-1])):
        path = shard_of(store, names)
        write(path, "feature", identity, store.outputs, NewRows(**rows(names)))
        (finding,) = verify(tmp_path)
        assert finding.path == path and finding.problem.startswith("belongs to the identity")
        path.unlink()


@pytest.mark.parametrize(
    ("array", "value"),
    [
        ("states/offsets", [0, 9, 4, 5]),
        ("states/offsets", [1, 4, 4, 5]),
        ("states/offsets", [0, 1, 1, 1]),
        ("status", [0, 9, 0]),
        ("cause", [0, 0, 7]),
    ],
)
def test_arrays_that_contradict_each_other_are_found_under_right_checksums(tmp_path, array, value):
    store = filled(tmp_path, *LISTS)
    path = shard_of(store, LISTS[0])
    with h5py.File(path, "r+") as file:
        file[array][:] = value
        file[array].attrs["sha256"] = np.bytes_(layout.checksum(file[array][:]).encode())
    with open(path, "r+b") as handle:
        page.seal(handle)
    assert_found_and_repaired(tmp_path, path, LISTS[0])


def test_an_array_that_was_not_written_as_computed_is_found_under_a_right_seal(tmp_path):
    store = filled(tmp_path, *LISTS)
    path = shard_of(store, LISTS[0])
    with h5py.File(path, "r+") as file:
        file["grid"][0] = 1
    with open(path, "r+b") as handle:
        page.seal(handle)
    (finding,) = verify(tmp_path)
    assert finding.path == path and "array grid" in finding.problem


def test_a_spec_that_is_not_its_folders_is_found_and_repaired(tmp_path):
    store = filled(tmp_path, *LISTS)
    path = store.folder / "spec.json"
    content = json.loads(path.read_text())
    for change in (
        {"spec": {**content["spec"], "tag": "c"}},
        {"feature": "other"},
        {"identity": "f" * 64},
        {"spec": 3},
    ):
        path.write_text(json.dumps({**content, **change}))
        assert [finding.path for finding in verify(tmp_path)] == [path], change
    path.write_text("{")
    assert repair(verify(tmp_path)) == [path]
    assert [finding.path for finding in verify(tmp_path)] == [path], "a missing spec is a finding"
    assert repair(verify(tmp_path)) == []
    assert filled(tmp_path).rows == 8 and verify(tmp_path) == []


def test_leftovers_of_killed_writers_are_found_and_live_writers_left_alone(tmp_path):
    store = filled(tmp_path, *LISTS)
    me = Process.this()
    dead = store.folder / f".x.h5.{me.host}-{2**22 + 1}-1-ab.tmp"
    live = temporary_name(store.folder / "x.h5")
    for path in (dead, live):
        path.write_bytes(b"half")
    assert repair(verify(tmp_path)) == [dead]
    assert live.exists()


def test_usage_lists_rows_and_bytes_of_each_feature(tmp_path):
    store, other = filled(tmp_path, *LISTS), filled(tmp_path, tag="b")
    found = {line.identity: line for line in usage(tmp_path)[0]}
    assert (found[store.identity].rows, found[store.identity].bytes, found[store.identity].feature) == (
        8,
        store.bytes,
        "feature",
    )
    assert found[store.identity].mtime == max(path.stat().st_mtime_ns / 1e9 for path in store.folder.glob("*.h5"))
    assert (found[other.identity].rows, found[other.identity].bytes, found[other.identity].folder) == (
        0,
        0,
        other.folder,
    )


def test_usage_goes_on_past_a_feature_that_cannot_be_told(tmp_path):
    store, other = filled(tmp_path, *LISTS), filled(tmp_path, tag="b")
    (store.folder / "spec.json").unlink()
    found, problems = usage(tmp_path)
    assert [line.folder for line in found] == [other.folder]
    assert problems == [f"{store.folder / 'spec.json'} is gone"]


def test_remove_takes_a_feature_folder_and_nothing_else(tmp_path):
    store, other = filled(tmp_path, *LISTS), filled(tmp_path, LISTS[0], tag="b")
    (tmp_path / "mine").mkdir()
    for path in (tmp_path / "mine", tmp_path / "nowhere", store.folder / "claims"):
        with pytest.raises(UserError, match="no feature folder"):
            remove(path)
    assert remove(store.folder) >= store.bytes
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["mine", other.folder.name])


def test_remove_refuses_while_a_live_process_writes(tmp_path):
    store = filled(tmp_path, LISTS[0])
    with store.claim("a.h5"), pytest.raises(UserError, match=r"being written.*a\.h5"):
        remove(store.folder)
    assert store.folder.exists()
    remove(store.folder)


def test_what_the_features_take_is_told_beside_a_link_that_leads_nowhere(tmp_path):
    store = filled(tmp_path, [1, 2])
    (before,), _ = usage(tmp_path)
    (store.folder / f"{0:032x}.h5").symlink_to(tmp_path / "nowhere")
    (found,), _ = usage(tmp_path)
    assert found == before and found.rows == 2 and found.bytes > 0

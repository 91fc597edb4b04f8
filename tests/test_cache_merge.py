"""Small shards are merged, and no row is lost: not by a kill, not for a reader, not for a receipt."""

import json
import os
import pickle
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cache_rows import OUTPUTS, filled, keys_of, row, rows, spec

from cache import merge
from cache.fresh import HoldingStore
from cache.identity import Output
from cache.shard import Shard, Status
from cache.store import Store
from cache.table import Table
from cache.verify import repair, verify
from foundation import receipts, successors
from foundation.checksums import entry
from foundation.errors import PassingError, UserError
from foundation.successors import LIST, Successors

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def eight(monkeypatch):
    """Eight small shards are many."""
    monkeypatch.setattr(merge, "MANY", 8)


def shards(store: Store) -> list[Path]:
    return sorted(store.folder.glob("*.h5"))


def assert_every_row(store: Store, names: list[int]) -> None:
    """Each name has its row and verdict, read anew from disk."""
    opened = Store.open(store.folder)
    for output in OUTPUTS:
        table = Table(opened, output.name, keys_of(*names), np.ones(len(names), bool))
        ok = np.array([name == 0 or name % 5 > 0 for name in names])
        assert (table.status == np.where(ok, Status.OK, Status.BROKEN)).all()
        for at in np.flatnonzero(ok).tolist():
            one = np.array([at])
            found = table.ragged_flat(one)[0] if table.ragged else table.gather(one)[0]
            assert np.array_equal(found, row(output, names[at]))


def test_many_small_shards_become_one_with_the_same_rows_when_the_next_is_added(tmp_path):
    store = filled(tmp_path, *([2 * i, 2 * i + 1] for i in range(7)))
    assert len(shards(store)) == 7
    store.add(**rows([14, 15, 20]))
    (path,) = shards(store)
    assert_every_row(store, [*range(16), 20])
    assert store.rows == 17 and store.missing(keys_of(*range(16), 20)).size == 0 and verify(tmp_path) == []
    assert [Shard(path).causes[code] for code in Shard(path).cause[:]].count("truncated") == 4
    assert not list((store.folder / "claims").glob("*.claim"))


def test_opening_a_store_for_writing_merges_what_readers_left(tmp_path, monkeypatch):
    monkeypatch.setattr(merge, "MANY", 1000)
    store = filled(tmp_path, *([name] for name in range(1, 20)))
    monkeypatch.setattr(merge, "MANY", 8)
    assert Store.open(store.folder).rows == 19 and len(shards(store)) == 19
    Store.create(tmp_path, "feature", spec())
    assert len(shards(store)) == 1
    assert_every_row(store, list(range(1, 20)))


def test_large_shards_stay_and_what_is_merged_is_cut_into_parts_that_fit(tmp_path, monkeypatch):
    store = filled(tmp_path, list(range(40)))
    (large,) = shards(store)
    monkeypatch.setattr(merge, "SMALL", large.stat().st_size)
    monkeypatch.setattr(merge, "MERGED", 5 * Shard(large).nbytes // 40)
    for name in range(41, 49):
        store.add(**rows([name]))
    assert large in shards(store) and 3 <= len(shards(store)) <= 5
    assert_every_row(store, [*range(40), *range(41, 49)])


def test_rows_in_several_small_shards_are_kept_once(tmp_path):
    lists = [[i, i + 1, i + 2] for i in range(8)]
    store = filled(tmp_path, *lists)
    (path,) = shards(store)
    assert len(Shard(path)) == 10
    assert_every_row(store, list(range(10)))


def test_a_damaged_shard_is_not_merged_and_stays_to_be_found(tmp_path, monkeypatch):
    monkeypatch.setattr(merge, "MANY", 1000)
    store = filled(tmp_path, *([name] for name in range(1, 12)))
    path = store.folder / Store.shard_name(keys_of(3))
    content = bytearray(path.read_bytes())
    content[path.read_bytes().rfind(row(OUTPUTS[0], 3).tobytes())] ^= 1
    path.write_bytes(content)
    monkeypatch.setattr(merge, "MANY", 8)
    Store.create(tmp_path, "feature", spec())
    assert len(shards(store)) == 2 and path in shards(store)
    assert repair(verify(tmp_path)) == [path]
    filled(tmp_path, [3])
    assert_every_row(store, list(range(1, 12)))


def test_causes_of_all_shards_come_along_however_many(tmp_path):
    store = filled(tmp_path)
    broken = list(range(5, 2000, 5))
    for start in range(0, 400, 50):
        names = broken[start : start + 50]
        given = rows(names)
        store.add(**{**given, "causes": [f"cause {name}" for name in names]})
    told = {}
    for path in shards(store):
        shard = Shard(path)
        told |= {bytes(key): shard.causes[code] for key, code in zip(shard.keys, shard.cause, strict=True)}
    names = broken[: len(told)]
    assert len(told) == 399 and len(shards(store)) < 8
    assert all(told[keys_of(name)[0].tobytes()] == f"cause {name}" for name in names)


# Readers and other processes


def test_tables_and_stores_that_are_open_read_on(tmp_path):
    store = filled(tmp_path, *([name] for name in range(1, 8)))
    reader = Store.open(store.folder)
    tables = [Table(reader, output.name, keys_of(*range(1, 8)), np.ones(7, bool)) for output in OUTPUTS]
    travelled = pickle.loads(pickle.dumps(tables))
    before = [table.ragged_flat(np.arange(7))[0] if table.ragged else table.gather(np.arange(7)) for table in tables]
    store.add(**rows([8]))
    assert len(shards(store)) == 1
    for table, old, wanted in zip(travelled, tables, before, strict=True):
        for one in (table, old):
            found = one.ragged_flat(np.arange(7))[0] if one.ragged else one.gather(np.arange(7))
            assert np.array_equal(found, wanted)
    assert reader.missing(keys_of(*range(1, 8))).size == 0
    reader.refresh()
    assert reader.missing(keys_of(*range(1, 9))).size == 0
    assert_every_row(reader, list(range(1, 9)))


def test_receipts_of_merged_shards_stand_until_the_rows_are_gone(tmp_path):
    store = filled(tmp_path, *([name] for name in range(1, 8)))
    listed = store.files_for(keys_of(1, 2, 3))
    place = tmp_path / "receipt.json"

    def keep() -> None:
        entries = [entry(tmp_path, path) for path in listed]
        receipts.write(place, receipts.Receipt("Task", {}, {}, entries, {}))

    keep()
    for start in (8, 20, 40):  # merged again and again
        for name in range(start, start + 8):
            store.add(**rows([name]))
        assert not listed[1].exists() and receipts.standing(tmp_path, place) is not None
    keep()  # as by a task that listed its files before the merge
    assert receipts.standing(tmp_path, place) is not None
    for path in shards(store):
        os.truncate(path, path.stat().st_size - 1)
    assert receipts.standing(tmp_path, place) is None
    for path in shards(store):
        path.unlink()
    assert receipts.standing(tmp_path, place) is None


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"merged": {}, "sizes": {}, "sha256": "0"}'])
def test_a_damaged_list_of_successors_is_found_and_its_loss_costs_a_look_at_the_rows(tmp_path, content):
    store = filled(tmp_path, *([name] for name in range(1, 9)))
    path = store.folder / LIST
    assert len(Successors.read(store.folder).merged) == 8
    path.write_text(content)
    assert successors.current(store.folder / Store.shard_name(keys_of(1))) is None
    (finding,) = verify(tmp_path)
    assert finding.path == path and repair([finding]) == [path] and verify(tmp_path) == []
    path.write_text(content)
    for name in range(10, 18):
        store.add(**rows([name]))
    assert verify(tmp_path) == [], "the next merge writes it anew"
    assert_every_row(store, [*range(1, 9), *range(10, 18)])


def test_one_process_merges_and_others_pass(tmp_path):
    store = filled(tmp_path, *([name] for name in range(1, 8)))
    with Store.open(store.folder).claim("merge"):
        store.add(**rows([8]))
        assert len(shards(store)) == 8
    store.add(**rows([9]))
    assert len(shards(store)) == 1


def test_a_store_that_holds_its_rows_merges_alone_too(tmp_path):
    """It claims no shard of its own; what it merges is claimed as by any other."""
    store = filled(tmp_path, *([name] for name in range(1, 8)))
    holding = HoldingStore.open(store.folder)
    holding.add(**rows([8]))
    with Store.open(store.folder).claim("merge"):
        holding.flush()
        assert len(shards(store)) == 8
    assert merge.merge_small(holding) == 8 and len(shards(store)) == 1


@pytest.mark.parametrize("error", [PassingError("of another user"), UserError("damaged")])
def test_a_shard_that_cannot_be_opened_is_left_and_the_others_are_merged(tmp_path, monkeypatch, error):
    store = filled(tmp_path, *([name] for name in range(1, 8)))
    refused = shards(store)[0].name

    class Refusing(Shard):
        def __init__(self, path):
            if path.name == refused:
                raise error
            super().__init__(path)

    monkeypatch.setattr(merge, "Shard", Refusing)
    store.add(**rows([8]))
    assert len(shards(store)) == 2 and refused in {path.name for path in shards(store)}


# Kills

WRITER = f"""
import sys
sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "tests")!r}]
from pathlib import Path
from cache import merge
from cache_rows import filled
merge.MANY = 8
filled(Path(sys.argv[1]), *([name, name + 1] for name in range(1, 17, 2)))
"""


@pytest.mark.parametrize("point", ["merge-written", "merge-remove:5", "mid-write:20"])
def test_a_kill_while_merging_loses_no_row_and_the_next_writer_goes_on(tmp_path, point):
    done = subprocess.run([sys.executable, "-c", WRITER, tmp_path], env={**os.environ, "MEL_FAULT": point}, check=False)
    assert done.returncode == -9
    (folder,) = tmp_path.glob("feature-*")
    before = shards(Store.open(folder))
    if point != "mid-write:20":
        assert_every_row(Store.open(folder), list(range(1, 17)))
        assert len(before) > 1
    assert subprocess.run([sys.executable, "-c", WRITER, tmp_path], check=False).returncode == 0
    assert_every_row(Store.open(folder), list(range(1, 17)))
    store = Store.open(folder)
    for name in range(20, 28):
        store.add(**rows([name]))
    assert len(shards(store)) < 8 and verify(tmp_path) == []
    assert_every_row(store, [*range(1, 17), *range(20, 28)])


class Killed(BaseException):
    pass


@pytest.mark.parametrize(("point", "passing"), [("merge-written", 1), ("merge-remove", 1), ("merge-remove", 8)])
def test_a_merge_that_ends_at_any_gate_loses_no_row_and_the_next_writer_goes_on(tmp_path, monkeypatch, point, passing):
    monkeypatch.setattr(merge, "MANY", 8)
    passed = list[str]()

    def dies(name: str) -> None:
        passed.append(name)
        if passed.count(point) == passing:
            raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(merge, "fault_point", dies)
        filled(tmp_path, *([name, name + 1] for name in range(1, 17, 2)))
    (folder,) = tmp_path.glob("feature-*")
    assert_every_row(Store.open(folder), list(range(1, 17)))
    filled(tmp_path, *([name] for name in range(20, 28)))
    assert len(shards(Store.open(folder))) < 8 and verify(tmp_path) == []
    assert_every_row(Store.open(folder), [*range(1, 17), *range(20, 28)])


@pytest.mark.parametrize("seed", range(6))
def test_random_rows_in_random_shards_survive_merges_that_end_anywhere(tmp_path, monkeypatch, seed):
    chance = random.Random(seed)
    output = Output("x", (3,), "int32")
    monkeypatch.setattr(merge, "MANY", chance.choice([2, 3, 5]))
    monkeypatch.setattr(merge, "MERGED", chance.choice([600, 1 << 20]))

    def dies(point: str) -> None:
        if point.startswith("merge") and chance.random() < 0.2:
            raise Killed

    monkeypatch.setattr(merge, "fault_point", dies)
    store, written = Store.create(tmp_path, "feature", spec(outputs=(output,))), set[int]()
    for _ in range(12):
        names = chance.sample(range(60), chance.randint(1, 8))
        try:
            store.add(**rows(names, (output,)))
        except Killed:
            store = Store.open(store.folder)
        written |= set(names)
        wanted = sorted(written)
        table = Table(Store.open(store.folder), "x", keys_of(*wanted), np.ones(len(wanted), bool))
        found = table.gather(np.arange(len(wanted)))
        assert all(
            np.array_equal(one, row(output, name) * (0 if name and name % 5 == 0 else 1))
            for one, name in zip(found, wanted, strict=True)
        )
        assert verify(tmp_path) == []
    names = json.loads((store.folder / LIST).read_text())["merged"]
    assert names, "something was merged"

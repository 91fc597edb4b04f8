"""Stores of many shards, and of files among them that are none."""

import contextlib
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cache_rows import OUTPUTS, filled, keys_of, row, rows

from cache import key_reader, pool, table
from cache.errors import Gone
from cache.fresh import HoldingStore
from cache.identity import Output
from cache.listing import Listing, listing
from cache.shard import Shard
from cache.store import Store
from cache.table import Table
from cache.verify import repair, verify
from foundation.errors import Unwritable, UserError

ROOT = Path(__file__).parents[1]
LARGE = Output("large", (50, 100))  # copied row by row
ALL = (*OUTPUTS, LARGE)
NAME = Store.shard_name(keys_of(90, 91))  # of a shard that is not there


def maps() -> int:
    """Shards that this process has mapped."""
    return sum(".h5" in line for line in Path("/proc/self/maps").read_text().splitlines())


# Shards in turn


@pytest.fixture
def few(monkeypatch):
    """A store and a table keep four shards mapped each."""
    monkeypatch.setattr(pool, "MAPPED", 4)
    monkeypatch.setattr(table, "TURN", 4)
    monkeypatch.setattr(pool.Pool.__init__, "__defaults__", (4,))


def test_more_shards_than_may_be_mapped_are_read_in_turn(tmp_path, few):
    names = [name for name in range(60) if name == 0 or name % 5]
    store = Store.open(filled(tmp_path, *([2 * i, 2 * i + 1] for i in range(30)), outputs=ALL).folder)
    order = np.random.default_rng(0).permutation(len(names))
    before = maps()
    for output in ALL:
        rows_of = Table(store, output.name, keys_of(*names), np.ones(len(names), bool))
        wanted = [row(output, names[i]) for i in order]
        if output.ragged:
            padded, lengths = rows_of.gather(order)
            assert lengths.tolist() == [len(one) for one in wanted]
            assert all(np.array_equal(one[: len(two)], two) for one, two in zip(padded, wanted, strict=True))
            assert not any(one[len(two) :].any() for one, two in zip(padded, wanted, strict=True))
            assert np.array_equal(rows_of.ragged_flat(order)[0], np.concatenate(wanted))
        else:
            assert np.array_equal(rows_of.gather(order), np.stack(wanted))
        assert maps() - before <= 10
    assert len(store.files_for(keys_of(*range(60)))) == 31


def test_a_turn_of_empty_rows_ends_no_reading(tmp_path, few):
    names = [1, 101, 201, 301, 401, 2, 3]  # each in a shard of its own; the states of the first five are empty
    store = filled(tmp_path, *([name] for name in names))
    states = Table(store, "states", keys_of(*names), np.ones(len(names), bool))
    found, lengths = states.ragged_flat(np.arange(len(names)))
    assert lengths.tolist() == [0] * 5 + [1, 7]
    assert np.array_equal(found, np.concatenate([row(OUTPUTS[1], 2), row(OUTPUTS[1], 3)]))


def alike(root: Path, count: int) -> Store:
    """A store of shards that differ in keys and values alone."""
    return filled(root, *([10 * i + 1, 10 * i + 2] for i in range(count)), outputs=(LARGE,))


def test_shards_of_one_kind_are_checked_once_and_those_of_another_kind_too(tmp_path, monkeypatch):
    folder = alike(tmp_path, 9).folder
    store, opened = Store.open(folder), list[str]()
    store.add(**rows([400, 401], (LARGE,)))  # has a cause
    store.add(**rows([403], (LARGE,)))

    def counted(path: Path, keys_alone: bool) -> Shard:
        opened.append(path.name)
        return Shard(path, keys_alone)

    monkeypatch.setattr(key_reader, "Shard", counted)
    store = Store.open(folder)
    names = [10 * i + j for i in range(9) for j in (1, 2)]
    assert not len(store.missing(keys_of(*names, 400, 401, 403))) and store.rows == 21 and len(opened) == 3
    for name in names:
        number, at = store.locate(keys_of(name))
        assert (store.shard(number[0]).keys[at[0]] == keys_of(name)).all()
    monkeypatch.setattr(key_reader, "_KNOWN", 0)
    assert Store.open(folder).rows == 21 and len(opened) == 14


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[data.index(b'"keys"') + 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("harm", [cut, flipped])
def test_a_damaged_shard_among_many_of_its_kind_is_named(tmp_path, harm):
    folder = alike(tmp_path, 6).folder
    path = sorted(folder.glob("*.h5"))[4]
    harm(path)
    with pytest.raises(UserError, match=f"^shard {path} .*damaged"):
        Store.open(folder).missing(keys_of(1))


def test_a_shard_of_another_feature_among_many_of_its_kind_is_named(tmp_path):
    folder = alike(tmp_path / "own", 6).folder
    other = filled(tmp_path / "other", [1, 2], tag="b", outputs=(LARGE,)).folder
    name = next(other.glob("*.h5")).name
    (folder / name).write_bytes((other / name).read_bytes())
    with pytest.raises(UserError, match=f"^shard {folder / name}: belongs to the identity"):
        Store.open(folder).missing(keys_of(1))


def test_opening_a_store_maps_nothing_and_reads_no_hdf5(tmp_path, monkeypatch):
    folder = filled(tmp_path, *([2 * i, 2 * i + 1] for i in range(10))).folder
    before = maps()
    monkeypatch.setattr("h5py.File", None)
    assert Store.open(folder).rows == 20 and maps() == before


def test_a_store_of_more_shards_than_descriptors_is_extended_verified_and_repaired(tmp_path):
    store = filled(tmp_path, *([name] for name in range(1, 60)))
    path = store.folder / Store.shard_name(keys_of(7))
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    code = f"""
import resource, sys
sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "tests")!r}]
resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
from pathlib import Path
from cache.store import Store
from cache.verify import repair, verify
from cache_rows import filled, rows
root = Path(sys.argv[1])
print(len(repair(verify(root))), len(verify(root)))
store = filled(root, [7], [100])
print(store.rows, len(verify(root)))
"""
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["1", "0", "60", "0"], done.stderr


# Shards that go away while they are read


def test_a_table_reads_on_when_its_shards_were_merged_into_another(tmp_path, monkeypatch):
    for turn in (512, 1):
        monkeypatch.setattr(table, "TURN", turn)
        store = filled(tmp_path / str(turn), [1, 2], [3, 4])
        tables = [Table(Store.open(store.folder), output.name, keys_of(4, 1), np.ones(2, bool)) for output in OUTPUTS]
        wanted = [row(output, name) for output in OUTPUTS for name in (4, 1)]
        store.add(**rows([1, 2, 3, 4]))
        for names in ([1, 2], [3, 4]):
            (store.folder / Store.shard_name(keys_of(*names))).unlink()
        found = []
        for one in tables:
            one._store._pool._open.clear()  # as in a process that got the table only now
            values = one.ragged_flat(np.arange(2))[0] if one.ragged else one.gather(np.arange(2))
            found += np.split(values, [one.lengths[0]]) if one.ragged else list(values)
        assert all(np.array_equal(a, b) for a, b in zip(found, wanted, strict=True))
        (store.folder / Store.shard_name(keys_of(1, 2, 3, 4))).unlink()
        with pytest.raises(Gone, match="h5 is gone"):
            one._held = None
            one._store._pool._open.clear()
            one.gather(np.arange(2))


def test_a_table_whose_shards_keep_going_away_says_so(tmp_path, monkeypatch):
    store = filled(tmp_path, [1, 2])

    def gone(number: int) -> None:
        raise Gone(f"shard {number} is gone")

    monkeypatch.setattr(store, "shard", gone)
    with pytest.raises(Gone, match="is gone"):
        Table(store, "grid", keys_of(1, 2), np.ones(2, bool))


def test_shards_that_are_merged_away_at_each_look_do_not_end_the_search_for_the_rest(tmp_path, monkeypatch):
    store, looks = filled(tmp_path, [1, 2], [3, 4]), []

    def behind(folder: Path) -> Listing:
        """A list of before ten merges."""
        looks.append(folder)
        found = listing(folder)
        return Listing({**found.stamps, **({NAME: (1, 2, 3)} if len(looks) < 10 else {})}, found.strays)

    monkeypatch.setattr("cache.store.listing", behind)
    assert Store.open(store.folder).rows == 4 and len(looks) == 10


# Among the shards


def leave(store: Store, kind: str) -> Path:
    """Something that has a shard's ending and is none."""
    path = store.folder / NAME
    if kind == "a link to nothing":
        path.symlink_to(store.folder / "nowhere.h5")
    elif kind == "a folder":
        path.mkdir()
    elif kind == "a named pipe":
        os.mkfifo(path)
    elif kind == "a link to itself":
        path.symlink_to(path)
    else:
        path = store.folder / f"Kopie von {NAME}"
        path.write_bytes((store.folder / Store.shard_name(keys_of(1, 2))).read_bytes())
    return path


KINDS = ("a link to nothing", "a folder", "a named pipe", "a link to itself", "a strange name")


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_shard_hides_no_rows_and_is_named_with_a_remedy(tmp_path, kind, capfd):
    store = filled(tmp_path, [1, 2], [3, 4])
    path = leave(store, kind)
    opened = Store.open(store.folder)
    assert opened.missing(keys_of(1, 2, 3, 4)).size == 0 and opened.rows == 4
    opened.refresh()
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(str(path)) and "delete" in line and line.endswith("; the other shards are read")
    assert [stray.path for stray in opened.strays] == [path]
    findings = verify(tmp_path)
    assert [finding.path for finding in findings] == [path] and "delete" in findings[0].problem
    assert repair(findings) == ([] if kind == "a folder" else [path]), "a folder may hold anything"
    if kind == "a folder":
        path.rmdir()
    assert verify(tmp_path) == [] and opened.rows == 4


@pytest.mark.parametrize("kind", KINDS[:4])
def test_what_has_the_name_of_a_shard_to_be_written_is_named_instead_of_losing_the_rows(tmp_path, kind):
    store = filled(tmp_path, [1, 2])
    path = leave(store, kind)
    with pytest.raises(UserError, match=rf"cannot write the shard {re.escape(str(path))}.*delete"):
        store.add(**rows([90, 91]))
    if kind == "a folder":
        path.rmdir()
    else:
        path.unlink()
    store.add(**rows([90, 91]))
    assert store.missing(keys_of(90, 91)).size == 0 and verify(tmp_path) == []


def test_a_shard_that_may_not_be_read_hides_no_other_rows(tmp_path):
    store = filled(tmp_path, [1, 2], [3, 4])
    path = store.folder / Store.shard_name(keys_of(3, 4))
    path.chmod(0)
    code = f"""
import os, sys
sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "tests")!r}]
from pathlib import Path
from cache.store import Store
from cache_rows import keys_of
store = Store.open(Path(sys.argv[1]))
if os.getuid() == 0:
    real, os.access = os.access, lambda path, mode: os.stat(path).st_mode & 0o400 and real(path, mode)
    import cache.layout, builtins
    def opened(path, *rest, **more):
        if str(path).endswith(".h5") and not os.stat(path).st_mode & 0o400:
            raise PermissionError(13, os.strerror(13), str(path))
        return builtins.open(path, *rest, **more)
    cache.layout.open = opened
    real_open = os.open
    def low(path, flags, *rest, dir_fd=None):
        if str(path).endswith(".h5") and not os.stat(path, dir_fd=dir_fd).st_mode & 0o400:
            raise PermissionError(13, os.strerror(13), str(path))
        return real_open(path, flags, *rest, dir_fd=dir_fd)
    os.open = low
print(store.missing(keys_of(1, 2, 3, 4)).tolist())
"""
    done = subprocess.run([sys.executable, "-c", code, store.folder], capture_output=True, text=True, check=False)
    assert done.stderr.startswith(f"{path} may not be read by this user; give the right (chmod u+r {path})")
    assert done.stdout == "[2, 3]\n"
    path.chmod(0o600)
    assert Store.open(store.folder).missing(keys_of(3, 4)).size == 0


# Rows in memory


def test_rows_that_are_held_are_read_like_others_and_written_as_one_shard(tmp_path):
    store = HoldingStore.open(filled(tmp_path, [1, 2]).folder)
    store.most = 6
    for name in (3, 5, 7, 8):
        assert store.missing(keys_of(name)).size == 1
        store.add(**rows([name]))
        assert store.missing(keys_of(name)).size == 0

    def values(names: list[int]) -> list[np.ndarray]:
        tables = [Table(store, output.name, keys_of(*names), np.ones(len(names), bool)) for output in OUTPUTS]
        index = np.arange(len(names))
        return [table.ragged_flat(index)[0] if table.ragged else table.gather(index) for table in tables]

    def wanted(names: list[int]) -> list[np.ndarray]:
        listed = [[row(output, name) for name in names] for output in OUTPUTS]
        return [
            np.concatenate(found) if output.ragged else np.stack(found)
            for output, found in zip(OUTPUTS, listed, strict=True)
        ]

    for _ in range(3):
        assert all(np.array_equal(a, b) for a, b in zip(values([8, 1, 3]), wanted([8, 1, 3]), strict=True))
        store.refresh()
    table = Table(store, "grid", keys_of(3, 5), np.ones(2, bool))
    assert table.status.tolist() == [0, 2] and store.held == 4
    assert len(list(store.folder.glob("*.h5"))) == 1 and Store.open(store.folder).rows == 2
    store.add(**rows([9, 11]))
    assert store.held == 0 and len(list(store.folder.glob("*.h5"))) == 2 and verify(tmp_path) == []
    assert Store.open(store.folder).rows == store.rows == 8
    assert np.array_equal(table.gather(np.array([0]))[0], row(OUTPUTS[0], 3)), "found in the shard that was written"
    store.add(**rows([12]))
    store.forget()
    assert store.missing(keys_of(12, 9)).tolist() == [0]


def test_rows_that_cannot_be_written_stay_in_memory(tmp_path, monkeypatch):
    store = HoldingStore.open(filled(tmp_path, [1, 2]).folder)
    store.add(**rows([3]))

    def full(*_: object) -> None:
        raise UserError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr("cache.shard.write", full)
        with pytest.raises(UserError, match="no space left"):
            store.flush()
    assert store.held == 1 and store.missing(keys_of(3)).size == 0
    store.flush()
    assert store.held == 0 and Store.open(store.folder).missing(keys_of(3)).size == 0


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), Unwritable("no space left")])
def test_rows_in_memory_have_a_bound_where_writing_fails(tmp_path, monkeypatch, error):
    store = HoldingStore.open(filled(tmp_path, [1, 2]).folder)
    store.most = 2

    def fail(*_: object) -> None:
        raise error

    held = []
    with monkeypatch.context() as patch:
        patch.setattr("cache.shard.write", fail)
        for name in range(10, 20):
            with contextlib.nullcontext() if store.held == 0 else pytest.raises(type(error)):
                store.add(**rows([name]))
            held.append(store.held)
    assert held == [1, 2, 3, 0, 1, 2, 3, 0, 1, 2]
    store.add(**rows([20]))
    assert store.held == 0 and Store.open(store.folder).missing(keys_of(18, 19, 20)).size == 0

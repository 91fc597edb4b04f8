import contextlib
import json
import multiprocessing
import os
import pickle
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from cache_rows import filled, keys_of, rows, spec

from cache import claims
from cache.errors import Damaged, Gone
from cache.identity import Output
from cache.shard import Status
from cache.store import Store
from cache.table import Table
from cache.verify import verify
from foundation.errors import UserError
from foundation.files import write_json
from foundation.processes import Process, temporary_name

ROOT = Path(__file__).parents[1]


def names_at(store: Store, *names: int) -> list[str | None]:
    """For each key the shard that answers for it."""
    return [store.shard(number).name if number >= 0 else None for number in store.locate(keys_of(*names))[0]]


def run_python(code: str, *arguments: object) -> subprocess.CompletedProcess:
    header = f"import sys; sys.path[:0] = [{str(ROOT / 'tests')!r}, {str(ROOT)!r}]\n"
    return subprocess.run(
        [sys.executable, "-c", header + code, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


# Lookup


def test_added_rows_are_found_and_absent_ones_are_listed_once_in_order(tmp_path):
    store = filled(tmp_path, [0, 1, 2], [3, 5])
    assert store.rows == 5
    assert store.missing(keys_of(9, 1, 8, 9, 3, 7, 8)).tolist() == [0, 2, 5]
    assert store.missing(keys_of(5, 0)).tolist() == []
    assert store.missing(keys_of()).tolist() == []
    number, row = store.locate(keys_of(2, 9, 5))
    assert row.tolist() == [2, -1, 1] and number[1] == -1 and number[0] != number[2]
    assert store.shard(number[2]).status[row[2]] == Status.BROKEN


def test_the_files_of_keys_are_the_spec_and_the_shards_that_hold_them(tmp_path):
    store = filled(tmp_path, [0, 1], [2, 3], [4])
    found = store.files_for(keys_of(3, 1, 99, 2))
    assert found == [store.folder / "spec.json", *sorted(store.folder / name for name in names_at(store, 1, 2))]
    assert store.bytes == sum(path.stat().st_size for path in store.folder.glob("*.h5"))


def test_lookup_agrees_with_a_dictionary_on_awkward_keys(tmp_path):
    """Keys that share their first or last bytes, end in zeros or have high bits set."""
    random = np.random.default_rng(0)
    keys = np.zeros((3000, 16), np.uint8)
    keys[:1000, 14:] = random.integers(0, 256, (1000, 2))
    keys[1000:2000, :2] = random.integers(0, 256, (1000, 2))
    keys[2000:] = random.integers(0, 2, (1000, 16)) * 255
    keys = np.unique(keys, axis=0)[random.permutation(len(np.unique(keys, axis=0)))]
    store = Store.create(tmp_path, "feature", spec(outputs=(Output("x", ()),)))
    stored, place = keys[: len(keys) // 2], {}
    for part in np.array_split(stored, 3):
        name = store.add(part, np.zeros(len(part)), [""] * len(part), {"x": np.zeros(len(part))})
        place |= {key.tobytes(): (name, row) for row, key in enumerate(part)}
    number, row = store.locate(keys)
    found = [(store.shard(n).name, r) if n >= 0 else None for n, r in zip(number.tolist(), row.tolist(), strict=True)]
    assert found == [place.get(key.tobytes()) for key in keys]


def test_the_smallest_shard_name_answers_for_a_key_whatever_the_order_of_arrival(tmp_path):
    lists = [[1, 2], [2, 3], [3, 1, 2], [2, 4]]
    smallest = min(Store.shard_name(keys_of(*names)) for names in lists)
    for folder, order in (("a", lists), ("b", lists[::-1]), ("c", lists[2:] + lists[:2])):
        store = filled(tmp_path / folder, *order)
        for name in (1, 2, 3, 4):
            expected = min(Store.shard_name(keys_of(*names)) for names in lists if name in names)
            assert names_at(store, name) == names_at(Store.open(store.folder), name) == [expected]
        assert store.rows == 4
    (store.folder / smallest).unlink()
    store.refresh()
    left = [names for names in lists if Store.shard_name(keys_of(*names)) != smallest]
    assert names_at(store, 2) == [min(Store.shard_name(keys_of(*names)) for names in left)]


def test_refresh_opens_new_shards_only_and_keeps_numbers(tmp_path):
    store = filled(tmp_path, [0, 1])
    first = store.locate(keys_of(0))[0][0]
    opened = store.shard(first)
    name = Store.open(store.folder).add(**rows([2, 3]))
    assert store.missing(keys_of(2)).tolist() == [0], "not seen before refresh"
    assert store.has_shard(name)
    store.refresh()
    assert store.missing(keys_of(2)).tolist() == []
    assert store.shard(first) is opened


def test_a_shard_removed_by_hand_is_dropped_and_its_rows_are_missing(tmp_path):
    store = filled(tmp_path, [0, 1], [2, 3])
    number = int(store.locate(keys_of(2))[0][0])
    (store.folder / store.shard(number).name).unlink()
    store.refresh()
    assert store.missing(keys_of(0, 1, 2, 3)).tolist() == [2, 3]
    with pytest.raises(Gone, match="has been removed"):
        store.shard(number)
    name = store.add(**rows([2, 3]))
    assert names_at(store, 2) == [name]


def test_a_truncated_shard_is_named_when_the_store_is_opened(tmp_path):
    store = filled(tmp_path, [0, 1])
    (path,) = store.folder.glob("*.h5")
    os.truncate(path, path.stat().st_size - 1)
    with pytest.raises(Damaged, match=re.escape(str(path))):
        Store.open(store.folder).missing(keys_of(0))


def test_a_shard_of_another_feature_is_refused_by_name(tmp_path):
    store, other = filled(tmp_path, [0, 1]), filled(tmp_path, [2], tag="b")
    (path,) = other.folder.glob("*.h5")
    shutil.copy(path, store.folder)
    with pytest.raises(UserError, match=f"{path.name}.*belongs to"):
        store.refresh()


# The folder


def test_folder_is_named_by_feature_and_identity_and_describes_itself(tmp_path):
    store = filled(tmp_path)
    assert store.folder == tmp_path / f"feature-{store.identity[:16]}"
    content = json.loads((store.folder / "spec.json").read_text())
    assert len(content.pop("seal")) == 64
    assert content == {"feature": "feature", "identity": store.identity, "spec": spec(), "probe": None}
    opened = Store.open(store.folder)
    assert (opened.feature, opened.identity, opened.spec, opened.outputs) == (
        store.feature,
        store.identity,
        store.spec,
        store.outputs,
    )
    assert Store.create(tmp_path, "feature", spec("b")).folder != store.folder


def test_the_probe_outlives_a_second_creation(tmp_path):
    filled(tmp_path).set_probe({"tokens": [0.5]})
    assert filled(tmp_path).probe == {"tokens": [0.5]}


def test_a_spec_removed_by_hand_is_written_again(tmp_path):
    store = filled(tmp_path, [0])
    (store.folder / "spec.json").unlink()
    with pytest.raises(UserError, match=r"spec.json"):
        Store.open(store.folder)
    assert filled(tmp_path).rows == 1


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"feature": "f", "identity": "0", "spec": {"outputs": [{"name": "x"}]}}']
)
def test_a_damaged_spec_is_named(tmp_path, content):
    store = filled(tmp_path)
    (store.folder / "spec.json").write_text(content)
    for attempt in (lambda: Store.open(store.folder), lambda: filled(tmp_path)):
        with pytest.raises(UserError, match=r"spec\.json"):
            attempt()


def test_a_spec_that_is_not_the_folders_own_is_refused(tmp_path):
    store, other = filled(tmp_path), filled(tmp_path, tag="b")
    shutil.copy(other.folder / "spec.json", store.folder)
    with pytest.raises(UserError, match="another feature"):
        filled(tmp_path)


# Several processes


def _add_all(folder: Path, lists: list[list[int]], barrier, answers) -> None:
    store = Store.open(folder)
    barrier.wait(60)
    for names in lists:
        name = Store.shard_name(keys_of(*names))
        with store.claim(name) or contextlib.nullcontext() as claim:
            if claim is not None and not store.has_shard(name):
                store.add(**rows(names))
                answers.put(name)


def test_two_processes_divide_the_work_and_make_one_cache(tmp_path):
    store, lists = filled(tmp_path), [[10 * i + k for k in range(10)] for i in range(12)]
    context = multiprocessing.get_context("spawn")
    barrier, answers = context.Barrier(2), context.Queue()
    workers = [
        context.Process(target=_add_all, args=(store.folder, order, barrier, answers)) for order in (lists, lists[::-1])
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0]
    written = [answers.get(timeout=60) for _ in lists]
    assert answers.empty() and len(set(written)) == len(lists), "each shard was written by one of them"
    store.refresh()
    assert store.rows == 120 and verify(tmp_path) == []
    assert [path.name for path in (store.folder / "claims").iterdir()] == [".lock"]


def _add_same(folder: Path, barrier) -> None:
    store = Store.open(folder)
    for i in range(10):
        barrier.wait(60)
        store.add(**rows([10 * i + k for k in range(10)]))


def test_writers_of_the_same_shard_at_once_all_succeed(tmp_path):
    store = filled(tmp_path)
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(3)
    workers = [context.Process(target=_add_same, args=(store.folder, barrier)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert store.rows == 100 and verify(tmp_path) == []


def _read(store: Store, table: Table, answers) -> None:
    answers.put((store.locate(keys_of(3, 99))[1].tolist(), table.gather(np.array([2, 0])).tobytes()))


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_open_stores_and_tables_read_the_same_in_another_process(tmp_path, method):
    store = filled(tmp_path, [0, 1], [2, 3])
    table = Table(store, "grid", keys_of(0, 1, 2, 3), np.ones(4, bool))
    here = table.gather(np.array([2, 0])).tobytes()
    context = multiprocessing.get_context(method)
    answers = context.Queue()
    worker = context.Process(target=_read, args=(store, table, answers))
    worker.start()
    assert answers.get(timeout=60) == ([1, -1], here)
    worker.join()
    assert len(pickle.dumps(table)) < 2000 and len(pickle.dumps(store)) < 500


def test_an_open_store_holds_no_descriptors_and_its_pages_go_with_it(tmp_path):
    filled(tmp_path, *([number] for number in range(60)))  # fewer than are merged
    code = """
import gc, resource
from pathlib import Path
from cache.store import Store
from cache.table import Table
from cache_rows import keys_of
import numpy as np
resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
folder = next(Path(sys.argv[1]).glob("*/spec.json")).parent
def maps():
    return sum(".h5" in line for line in open("/proc/self/maps"))
store = Store.open(folder)
output = next(name for name, one in store.outputs.items() if not one.ragged)
table = Table(store, output, keys_of(*range(60)), np.ones(60, bool))
values = table.gather(np.arange(60))
held = maps()
del store, table
gc.collect()
print(held, maps(), values.shape[0])
"""
    done = run_python(code, tmp_path)
    assert done.stdout.split() == ["60", "0", "60"], done.stderr


def test_reading_a_whole_store_takes_no_memory_of_its_own(tmp_path):
    if not Path("/proc/self/status").exists():
        pytest.skip("RssAnon is told by Linux only")
    output = Output("wide", (4096,), "float32")
    store = Store.create(tmp_path, "feature", spec(outputs=(output,)))
    for part in range(4):
        names = [part * 1000 + i for i in range(1000)]
        store.add(keys_of(*names), np.zeros(1000), [""] * 1000, {"wide": np.ones((1000, 4096), np.float32)})
    code = """
from pathlib import Path
import numpy as np
from cache.store import Store
from cache.table import Table
from cache_rows import keys_of
anonymous = lambda: int(next(line for line in open("/proc/self/status") if line.startswith("RssAnon")).split()[1])
table = Table(Store.open(Path(sys.argv[1])), "wide", keys_of(*range(4000)), np.ones(4000, bool))
table.gather(np.arange(100))
before = anonymous()
total = sum(table.gather(np.arange(i, i + 100)).sum() for i in range(0, 4000, 100))
assert total == 4000 * 4096
print(anonymous() - before)
"""
    assert int(run_python(code, store.folder).stdout) < 16_000, "kB, of 64 MB read"


# Claims


def test_a_claim_excludes_everyone_until_it_is_released(tmp_path):
    store = filled(tmp_path)
    with store.claim("a.h5") as claim:
        assert claim.held
        assert store.claim("a.h5") is None and Store.open(store.folder).claim("a.h5") is None
        assert store.claim("b.h5") is not None
        code = "from pathlib import Path\nfrom cache.store import Store\n"
        code += "print(Store.open(Path(sys.argv[1])).claim('a.h5'))"
        assert run_python(code, store.folder).stdout == "None\n"
    assert not claim.held
    assert store.claim("a.h5") is not None


@pytest.mark.parametrize(("end", "code"), [("os.kill(os.getpid(), 9)", -9), ("", 0)], ids=["killed", "ends"])
def test_the_claim_of_a_process_that_is_no_more_is_free_at_once(tmp_path, end, code):
    store = filled(tmp_path)
    dies = "import os\nfrom pathlib import Path\nfrom cache.store import Store\n"
    dies += f"Store.open(Path(sys.argv[1])).claim('a.h5')\n{end}"
    assert run_python(dies, store.folder).returncode == code
    assert (store.folder / "claims" / "a.h5.claim").exists()
    assert store.claim("a.h5").held


def claim_of_another(folder: Path, **changes: object) -> Path:
    """A claim file as some other process would have left it."""
    me = Process.this()
    folder.mkdir(exist_ok=True)
    path = folder / "a.h5.claim"
    path.write_text(json.dumps({"host": me.host, "pid": me.pid, "started": me.started, "token": "other", **changes}))
    return path


@pytest.mark.parametrize(
    ("changes", "age", "free"),
    [
        ({}, 0, False),
        ({}, 700, True),
        ({"pid": 2**22 + 1}, 0, True),
        ({"started": "1"}, 0, True),
        ({"host": "elsewhere", "pid": 2**22 + 1}, 0, False),
        ({"host": "elsewhere"}, 700, True),
        ({"pid": "x"}, 0, False),
        ({"pid": "x"}, 700, True),
    ],
    ids=[
        "alive",
        "asleep",
        "dead",
        "its number given to another",
        "other machine",
        "other machine, silent",
        "unreadable",
        "unreadable, old",
    ],
)
def test_a_stale_claim_falls_to_the_next_one_and_a_live_one_does_not(tmp_path, changes, age, free):
    store = filled(tmp_path)
    if "started" in changes and not Path("/proc/self/stat").exists():
        pytest.skip("start times are told by Linux only")
    path = claim_of_another(store.folder / "claims", **changes)
    os.utime(path, (time.time() - age, time.time() - age))
    claim = store.claim("a.h5", ttl=600)
    assert (claim is not None) == free
    assert (
        json.loads(path.read_text())["token"] != "other" if free else json.loads(path.read_text())["token"] == "other"
    )


@pytest.mark.parametrize("content", ["", "no JSON", "[" * 100_000, "[]", '{"pid": {}}', b"\xff\xfe"])
def test_a_claim_that_cannot_be_read_is_held_until_it_is_old(tmp_path, content):
    store = filled(tmp_path)
    path = claim_of_another(store.folder / "claims")
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert store.claim("a.h5") is None and claims.live(path.parent) == [path]
    os.utime(path, (time.time() - 700, time.time() - 700))
    assert claims.live(path.parent) == [] and store.claim("a.h5").held


def test_a_claim_says_who_holds_it_and_when_it_ends(tmp_path):
    store = filled(tmp_path)
    path = claim_of_another(store.folder / "claims", host="elsewhere", machine="node7", pid=4242)
    line = claims.described(path, ttl=90)
    assert line.startswith(f"{path}: held by process 4242 on node7") and ", last sign of life " in line
    assert "taken over 90 s after" in line and "delete that file" in line
    path.write_text("no JSON")
    assert "held by a process that did not say which, last sign" in claims.described(path)
    path.unlink()
    assert ", last sign of life " not in claims.described(path)


def test_a_link_to_nothing_in_a_claims_place_holds_nobody_up(tmp_path):
    store = filled(tmp_path)
    path = claim_of_another(store.folder / "claims")
    path.unlink()
    path.symlink_to(tmp_path / "nowhere")
    assert claims.live(path.parent) == [] and store.claim("a.h5").held


def _take_stale(folder: Path, barrier, answers) -> None:
    store, kept = Store.open(folder), []
    for number in range(40):
        barrier.wait(60)
        claim = store.claim(f"{number}.h5")
        if claim is not None:
            kept.append(claim)
            answers.put(number)


def test_of_several_takers_of_a_stale_claim_one_wins(tmp_path):
    store = filled(tmp_path)
    for number in range(40):
        claim_of_another(store.folder / "claims", pid=2**22 + 1).rename(store.folder / "claims" / f"{number}.h5.claim")
    context = multiprocessing.get_context("spawn")
    barrier, answers = context.Barrier(4), context.Queue()
    workers = [context.Process(target=_take_stale, args=(store.folder, barrier, answers)) for _ in range(4)]
    for worker in workers:
        worker.start()
    taken = sorted(answers.get(timeout=60) for _ in range(40))
    for worker in workers:
        worker.join()
    assert taken == list(range(40)) and answers.empty()


def test_a_held_claim_is_kept_fresh(tmp_path):
    store = filled(tmp_path)
    with store.claim("a.h5", ttl=0.2) as claim:
        os.utime(claim.path, (0, 0))
        deadline = time.time() + 30
        while claim.path.stat().st_mtime == 0 and time.time() < deadline:
            time.sleep(0.01)
        assert claim.path.stat().st_mtime > 0


@pytest.mark.parametrize("ttl", [0.2, claims.TTL])
def test_a_claim_is_refreshed_more_than_once_before_it_would_be_stale(tmp_path, monkeypatch, ttl):
    store, waits = filled(tmp_path), []
    monkeypatch.setattr(claims.Claim, "_keep_fresh", lambda self, seconds: waits.append(seconds))
    before = threading.enumerate()  # among them may be those of other tests
    with store.claim("a.h5", ttl=ttl):
        for thread in threading.enumerate():
            if thread not in before:
                thread.join(60)
    assert len(waits) == 1 and 0 < waits[0] < ttl / 2


def test_a_claim_lost_to_another_is_neither_refreshed_nor_released(tmp_path):
    store = filled(tmp_path)
    claim = store.claim("a.h5")
    path = claim_of_another(store.folder / "claims")
    assert not claim.held
    claim.release()
    assert path.exists()


def test_leftovers_of_dead_writers_are_swept_and_those_of_live_ones_stay(tmp_path):
    store = filled(tmp_path)
    me = Process.this()
    hour_ago = time.time() - 2 * claims.UNKNOWN_AGE

    def leave(name: str, old: bool) -> str:
        (store.folder / name).write_bytes(b"half")
        os.utime(store.folder / name, (hour_ago, hour_ago) if old else None)
        return name

    stay = [
        leave(temporary_name(store.folder / "a.h5").name, old=True),
        leave(".b.h5.00000000-5-7-abcd.tmp", old=False),
        leave(".spec.json.x1y2z3.tmp", old=False),
    ]
    for name, old in (
        (f".c.h5.{me.host}-{2**22 + 1}-7-abcd.tmp", False),
        (".d.h5.00000000-5-7-abcd.tmp", True),
        (".spec.json.q1w2.tmp", True),
    ):
        leave(name, old)
    Store.open(store.folder).add(**rows([1]))
    assert sorted(path.name for path in store.folder.glob(".*.tmp")) == sorted(stay)


def test_a_writer_of_the_spec_killed_before_the_rename_leaves_nothing_to_the_next(tmp_path):
    code = "import os, sys; from pathlib import Path; from cache_rows import spec; from cache.store import Store; "
    code += "os.replace = lambda *names: os.kill(os.getpid(), 9)"
    killed = run_python(f"{code}; Store.create(Path(sys.argv[1]), 'numbers', spec())", tmp_path)
    assert killed.returncode == -9
    (folder,) = tmp_path.iterdir()
    assert [path.name.startswith(".spec.json.") for path in folder.glob(".*.tmp")] == [True]
    assert Store.create(tmp_path, "numbers", spec()).folder == folder
    assert [path.name for path in folder.iterdir() if path.suffix == ".tmp"] == [] and (folder / "spec.json").exists()


def test_what_is_written_may_be_read_by_whom_the_umask_lets(tmp_path):
    before = os.umask(0o027)
    try:
        store = filled(tmp_path, [0])
        write_json(tmp_path / "note.json", {})
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "note.json", *store.files_for(keys_of(0)))} == {0o640}


# An empty store is removed


def test_an_empty_store_is_removed_unless_it_has_a_shard_or_a_process_is_at_it(tmp_path):
    store, other = filled(tmp_path), filled(tmp_path, [0], tag="b")
    with store.claim("a.h5"):
        store.remove_if_empty()
        assert store.described
    other.remove_if_empty()
    store.remove_if_empty()
    assert [path.name for path in tmp_path.iterdir()] == [other.folder.name] and other.described


def test_whoever_has_a_removed_store_open_adds_to_it_all_the_same(tmp_path):
    store, other = filled(tmp_path), filled(tmp_path)
    taken = []
    with claims.idle(store.folder / "claims"):
        waiting = threading.Thread(target=lambda: taken.append(other.claim("a.h5")))
        waiting.start()
        waiting.join(0.2)
        shutil.rmtree(store.folder)
    waiting.join(20)
    assert taken[0].held and store.claim("a.h5") is None
    assert other.probe is None and other.missing(keys_of(1)).size == 1
    other.add(**rows([1]))
    assert Store.open(store.folder).rows == 1 and verify(tmp_path) == []


def test_process_numbers_of_this_machine_are_told_from_other_machines():
    me = Process.this()
    assert me.alive() is True
    assert Process(me.host, 2**22 + 1, "5").alive() is False
    assert Process(socket.gethostname() + "-other", me.pid, me.started).alive() is None


def test_a_thread_that_still_reads_when_the_interpreter_ends_does_not_crash_it(tmp_path):
    filled(tmp_path, list(range(3)))
    code = """
import threading, time
from pathlib import Path
from cache import layout
array = layout._mapped(next(Path(sys.argv[1]).glob("*/*.h5")))
def read():
    while True:
        array.sum()
threading.Thread(target=read, daemon=True).start()
time.sleep(0.2)
"""
    assert run_python(code, tmp_path).returncode == 0

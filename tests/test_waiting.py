"""Waiting for other processes: it is said who is waited for, and what cannot go on is passed over."""

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from cache import claims
from foundation import waiting
from foundation.errors import UserError
from foundation.locks import acquire, locked
from foundation.processes import Holder, Process
from pipeline.servers.store import answer_store

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def said(monkeypatch):
    """What is said about waits, which is at once."""
    lines: list[str] = []
    monkeypatch.setattr(waiting, "PATIENCE", 0.0)
    monkeypatch.setattr("foundation.waiting.say", lines.append)
    monkeypatch.setattr("foundation.locks.say", lines.append)
    return lines


class Stopped:
    """A process that runs `code` with a path as `place`, prints a line and is stopped; `go_on` gives its next line."""

    def __init__(self, code: str, place: Path) -> None:
        head = "import sys; from pathlib import Path; place = Path(sys.argv[1])\n"
        self.process = subprocess.Popen(
            [sys.executable, "-c", head + code, str(place)],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None and self.process.stdout.readline() == "ready\n"
        os.kill(self.process.pid, signal.SIGSTOP)
        os.waitpid(self.process.pid, os.WUNTRACED)

    def go_on(self) -> str:
        os.kill(self.process.pid, signal.SIGCONT)
        return self.process.communicate("\n", timeout=60)[0].strip()

    def __enter__(self) -> "Stopped":
        return self

    def __exit__(self, *error: object) -> None:
        self.process.kill()
        self.process.communicate()


def test_who_holds_a_lock_is_said_once_and_the_wait_ends_when_it_is_released(tmp_path, monkeypatch):
    lines, told = [], threading.Event()

    def say(text):
        lines.append(text)
        told.set()

    monkeypatch.setattr(waiting, "PATIENCE", 0.0)
    monkeypatch.setattr(waiting, "say", say)
    first = acquire(tmp_path / "x.lock")
    second = []
    waiter = threading.Thread(target=lambda: second.append(acquire(tmp_path / "x.lock")))
    waiter.start()
    assert told.wait(60) and not second
    first.release()
    waiter.join(60)
    assert second[0].held
    second[0].release()
    assert len(lines) == 1 and "\n" not in lines[0]
    assert lines[0].startswith(
        f"waiting for {tmp_path}/x.lock: held by process {os.getpid()} on {socket.gethostname()}"
    )
    assert (tmp_path / "x.lock").read_text() == "", "nobody holds it any more"


def test_a_short_wait_is_not_said(tmp_path, capfd):
    first = acquire(tmp_path / "x.lock")
    threading.Timer(0.05, first.release).start()
    acquire(tmp_path / "x.lock").release()
    assert capfd.readouterr() == ("", "")


LOCKS = """
from foundation.locks import locked
with locked(place) as lock:
    print("ready", flush=True)
    sys.stdin.readline()
    print(lock.held)
"""


def test_a_lock_whose_holder_is_stopped_is_taken_over_and_the_holder_knows_it(tmp_path, said):
    with Stopped(LOCKS, tmp_path / "x.lock") as other:
        lock = acquire(tmp_path / "x.lock")
        assert other.go_on() == "False"
        assert lock.held and f"held by process {other.process.pid} on " in said[-1] and "which is stopped" in said[-1]
        lock.release()


def test_of_several_that_take_over_a_stopped_ones_lock_one_is_inside_at_a_time(tmp_path, said):
    inside, most = [0], [0]

    def one():
        with locked(tmp_path / "x.lock"):
            inside[0] += 1
            most[0] = max(most[0], inside[0])
            time.sleep(0.002)
            inside[0] -= 1

    with Stopped(LOCKS, tmp_path / "x.lock"):
        threads = [threading.Thread(target=one) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert most[0] == 1 and sum("goes on without it" in line for line in said) == 1


def test_what_is_no_file_in_a_locks_place_is_one_line(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("precious")
    os.mkfifo(tmp_path / "pipe")
    for name in ("folder", "link", "pipe"):
        with pytest.raises(UserError, match=rf"{name}: .*remove it") as error:
            acquire(tmp_path / name)
        assert "\n" not in str(error.value)
    assert not (tmp_path / "precious").exists()


def test_a_foreign_file_in_a_locks_place_is_locked_and_kept(tmp_path, said):
    (tmp_path / "x").write_text("precious")
    with locked(tmp_path / "x"):
        descriptor = os.open(tmp_path / "x", os.O_RDWR)
        with pytest.raises(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(descriptor)
    assert (tmp_path / "x").read_text() == "precious"


def claim_of(folder: Path, **changes: object) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / "a.claim"
    path.write_text(json.dumps({**Holder.this().to_json(), "token": "other", **changes}))
    return path


def test_a_claim_that_is_dated_ahead_ages_from_when_it_is_seen(tmp_path):
    path = claim_of(tmp_path, host="elsewhere")
    ahead = time.time() + 7 * 24 * 3600
    os.utime(path, (ahead, ahead))
    assert claims.take(tmp_path, "a.claim", 600) is None
    assert path.stat().st_mtime < ahead - 6 * 24 * 3600
    while (claim := claims.take(tmp_path, "a.claim", 0.05)) is None:
        time.sleep(0.01)
    assert claim.held
    claim.release()


CLAIMS = """
from cache import claims
with claims.take(place, "a.claim", 600) as claim:
    print("ready", flush=True)
    sys.stdin.readline()
    print(claim.held)
"""


def test_a_claim_whose_holder_is_stopped_is_taken_over_and_the_holder_knows_it(tmp_path):
    with Stopped(CLAIMS, tmp_path) as other:
        assert claims.take(tmp_path, "a.claim", 600) is None, "it may go on soon"
        past = time.time() - waiting.PATIENCE - 5
        os.utime(tmp_path / "a.claim", (past, past))
        with claims.take(tmp_path, "a.claim", 600) as claim:
            assert other.go_on() == "False"
            assert claim.held


def test_a_claim_says_who_holds_it_since_when_and_what_ends_it(tmp_path):
    with claims.take(tmp_path, "a.claim", 600) as claim:
        said = claims.described(claim.path)
    assert f"process {os.getpid()} on {socket.gethostname()} since 20" in said and "last sign of life 20" in said
    assert "600 s after" in said and f"{claim.path}: " in said and "delete that file" in said
    assert "a process that did not say which" in claims.described(claim_of(tmp_path, pid="x"))


def test_a_signature_that_cannot_be_meant_is_none():
    for content in (None, [], {"host": 1}, {"host": "a", "pid": 1e999, "started": ""}):
        assert Holder.of_json(content) is None
    for since in ("x", -1, 1e300, float("nan"), None):
        assert "since" not in str(Holder.of_json({"host": "a", "pid": 1, "started": "", "since": since}))
    assert Process(Process.this().host, 1 << 80, "").alive() in (True, False)


def test_answers_of_a_process_that_was_stopped_for_long_are_not_mixed_with_those_of_the_next(tmp_path, said):
    code = """
from foundation.errors import UserError
from pipeline.servers.store import answer_store
with answer_store(place) as store:
    store.put("a", 1)
    print("ready", flush=True)
    sys.stdin.readline()
    try:
        store.put("b", 1)
    except UserError as error:
        print(error)
"""
    with Stopped(code, tmp_path / "answers") as other, answer_store(tmp_path / "answers") as store:
        assert store.get("a") == 1
        store.put("b", 2)
        assert "another process took it over while this one was stopped; run the same" in other.go_on()
        store.put("c", 3)
    with answer_store(tmp_path / "answers", writable=False) as store:
        assert [store.get(key) for key in "abc"] == [1, 2, 3]

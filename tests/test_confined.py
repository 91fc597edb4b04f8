"""Work in processes of their own: what takes too long or too much ends there, and the next call is answered."""

import os
import signal
import struct
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from foundation import confined
from foundation.confined import Bounds, Busy, Confined, Exceeded

KEPT: list[bytes] = []
EASY = Bounds(seconds=60, memory=1 << 30, wait=60)


def work(job, data):
    """What a job says."""
    if job == "loop":
        while True:
            pass
    if job == "fill":
        return 0, bytes(2 << 30)
    if job == "use":
        KEPT.append(b"x" * (300 << 20))
        return os.getpid(), b""
    if job == "half":
        connection = sys._getframe(1).f_locals["connection"]
        os.write(connection.fileno(), struct.pack("!i", 100) + b"only so much")
        time.sleep(600)
    if job == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    if job == "die":
        os._exit(3)
    if job == "fail":
        raise ValueError("no")
    return {"job": job, "process": os.getpid()}, data[::-1]


@pytest.fixture(scope="module")
def pool():
    pool = Confined("test_confined:work", 1, EASY)
    yield pool
    pool.close()


def test_an_answer_comes_from_one_other_process_that_lives_on(pool):
    first, data = pool({"a": [1, None, "é"]}, b"\0abc")
    assert data == b"cba\0" and first["job"] == {"a": [1, None, "é"]} and first["process"] != os.getpid()
    assert pool(2, b"")[0]["process"] == first["process"]


@pytest.mark.parametrize(
    "job, words",
    [
        ("loop", "longer than 0.2 s"),
        ("half", "longer than 0.2 s"),
        ("stop", "longer than 0.2 s"),
        ("fill", "more memory than it may"),
        ("die", "ends its process"),
        ("fail", "ends its process"),
    ],
)
def test_work_that_exceeds_its_bounds_is_told_and_the_next_is_answered(pool, job, words):
    pool("warm", b"")
    with pytest.raises(Exceeded, match=words):
        pool(job, b"", 0.2 if "0.2 s" in words else None)
    assert pool("next", b"ab")[1] == b"ba"


def test_a_process_that_has_grown_is_not_asked_again(pool):
    grown, _ = pool("use", b"")
    assert pool("next", b"")[0]["process"] != grown


class JustOver(threading.Timer):
    """Its time is over between the last byte of an answer and the end of the wait."""

    def cancel(self):
        self.function()
        super().cancel()


def test_a_process_whose_time_is_over_behind_its_answer_is_not_asked_again(pool, monkeypatch):
    first = pool("warm", b"")[0]["process"]
    with monkeypatch.context() as patch:
        patch.setattr(threading, "Timer", JustOver)
        answer, data = pool("job", b"ab")
    assert answer["process"] == first and data == b"ba"
    answer, data = pool("next", b"ab")
    assert answer["process"] != first and data == b"ba"


def test_a_process_that_is_ready_too_late_is_given_up(monkeypatch):
    monkeypatch.setattr(threading, "Timer", JustOver)
    with pytest.raises(Exceeded, match="longer than 120 s"):
        Confined("test_confined:work", 1, EASY)("job", b"")


def test_no_time_left_is_told_without_a_process():
    with pytest.raises(Exceeded, match="no time"):
        Confined("test_confined:work", 1, EASY)("job", b"", -1)


def test_a_call_waits_for_a_process_and_then_is_told_to_come_again(pool):
    pool("warm", b"")
    with ThreadPoolExecutor(1) as threads:
        held = threads.submit(pool, "loop", b"", 1)
        while not pool._idle.empty():
            time.sleep(0.01)
        with pytest.raises(Busy):
            pool("job", b"", 0.05)
        assert pool("job", b"ab")[1] == b"ba"
    assert isinstance(held.exception(), Exceeded)


def test_processes_end_with_their_pool():
    pool = Confined("test_confined:work", 1, EASY)
    process = pool("job", b"")[0]["process"]
    pool.close()
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)


def test_memory_that_cannot_be_limited_is_left_as_it_is(monkeypatch):
    monkeypatch.setattr(confined.resource, "setrlimit", lambda *_: (_ for _ in ()).throw(ValueError()))
    confined._limit(1)

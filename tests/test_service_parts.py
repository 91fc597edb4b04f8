"""Parts of the service by themselves: batches across callers, who may ask, what is read of a request, the stop."""

import asyncio
import threading
import time
from concurrent.futures import CancelledError

import httpx
import pytest

from foundation.errors import UserError
from linking.service.access import TOKEN, access, loopback
from linking.service.batching import Batcher, Bounds, Full
from linking.service.guard import Guard, Manner
from linking.service.meter import Meter
from linking.service.serve import address_line

SECRET = "a-secret-of-20-chars"


class Work:
    """Doubles numbers, once it is let; keeps the batches. A negative number fails."""

    def __init__(self):
        self.batches, self.go, self.begun = [], threading.Event(), threading.Event()

    def __call__(self, items):
        self.batches.append(list(items))
        self.begun.set()
        assert self.go.wait(30)
        if min(items) < 0:
            raise UserError(f"negative: {min(items)}")
        return [2 * item for item in items]


@pytest.fixture
def work():
    made = Work()
    yield made
    made.go.set()


def test_what_comes_while_a_batch_is_at_work_is_the_next_batch_and_each_caller_gets_its_own(work):
    seen = []
    batcher = Batcher(work, Bounds(waiting=100, batch=4, seconds=30), lambda *what: seen.append(what))
    first = batcher.add([1])
    assert work.begun.wait(10)
    later = [answer for number in range(2, 8) for answer in batcher.add([number])]
    assert len(batcher) == 6
    work.go.set()
    assert [answer.result(10) for answer in [*first, *later]] == [2, 4, 6, 8, 10, 12, 14]
    batcher.close()
    assert work.batches == [[1], [2, 3, 4, 5], [6, 7]]
    assert [number for what, number in seen if what == "batch"] == [1, 4, 2]
    assert sum(number for what, number in seen if what == "answered") == 7


def test_one_callers_failure_spoils_no_others_answer(work):
    work.go.set()
    batcher = Batcher(work, Bounds(waiting=100, batch=8, seconds=30))
    work.go.clear()
    batcher.add([0])
    assert work.begun.wait(10)
    good, bad, other = batcher.add([1, -5, 3])
    work.go.set()
    assert good.result(10) == 2 and other.result(10) == 6
    with pytest.raises(UserError, match="negative: -5"):
        bad.result(10)
    batcher.close()


def test_a_full_queue_refuses_all_of_a_request_and_says_when_to_come_again(work):
    seen = []
    batcher = Batcher(work, Bounds(waiting=3, batch=1, seconds=30), lambda *what: seen.append(what))
    batcher.add([1])
    assert work.begun.wait(10)
    waiting = batcher.add([2, 3])
    with pytest.raises(Full) as refused:
        batcher.add([4, 5])
    assert 1 <= refused.value.seconds <= 60 and ("refused", 2) in seen and len(batcher) == 2
    waiting += batcher.add([6])
    work.go.set()
    assert [answer.result(10) for answer in waiting] == [4, 6, 12]
    batcher.close()
    assert [5] not in work.batches and [4] not in work.batches


def test_what_waited_too_long_and_whose_caller_has_gone_is_not_worked_on(work):
    batcher = Batcher(work, Bounds(waiting=9, batch=9, seconds=0.05))
    batcher.add([1])
    assert work.begun.wait(10)
    late, gone = batcher.add([2, 3])
    gone.cancel()
    time.sleep(0.1)
    work.go.set()
    with pytest.raises(Full, match=r"waited for more than 0\.05 s"):
        late.result(10)
    with pytest.raises(CancelledError):
        gone.result(10)
    batcher.close()
    assert work.batches == [[1]]


def test_a_closed_batcher_has_answered_what_waited_and_takes_no_more(work):
    batcher = Batcher(work, Bounds(waiting=9, batch=2, seconds=30))
    answers = batcher.add([1, 2, 3, 4, 5])
    threading.Timer(0.1, work.go.set).start()
    batcher.close()
    assert [answer.result(0) for answer in answers] == [2, 4, 6, 8, 10]
    with pytest.raises(Full, match="stopping"):
        batcher.add([6])


def test_others_than_this_machine_need_a_token_and_a_token_is_never_shown(monkeypatch, tmp_path):
    monkeypatch.delenv(TOKEN, raising=False)
    assert all(map(loopback, ("127.0.0.1", "localhost", "::1", "127.0.0.2")))
    assert not any(map(loopback, ("0.0.0.0", "::", "192.168.1.4", "box")))
    with pytest.raises(UserError, match="set a token"):
        access("0.0.0.0", None, ())
    assert access("127.0.0.1", None, ()).token is None
    (tmp_path / "token").write_text(f"{SECRET}\n")
    monkeypatch.setenv(TOKEN, "another-secret-of-this")
    assert access("0.0.0.0", tmp_path / "token", ()).token == SECRET
    assert access("::", None, ()).token == "another-secret-of-this"
    for short in ("short", "", "sixteen letters\x00\x01", "é" * 20):
        (tmp_path / "token").write_text(short)
        with pytest.raises(UserError, match="token") as refused:
            access("0.0.0.0", tmp_path / "token", ())
        assert short == "" or short not in str(refused.value)
    assert "without" not in address_line("0.0.0.0", 80) and "whoever has the token" in address_line("0.0.0.0", 80)
    assert "http://[::1]:80/ for this machine alone" in address_line("::1", 80)


async def plain(scope, receive, send):
    """Answers how many bytes came; `/error` fails."""
    if scope["path"] == "/error":
        raise RuntimeError("secret of the program")
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(len(body)).encode()})


def client(rules, app=plain, **manner):
    guard = Guard(app, rules, Meter(), Manner(**manner))
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(guard, raise_app_exceptions=False), base_url="http://box.lan"
    )


def test_with_a_token_requests_without_it_are_refused(monkeypatch):
    monkeypatch.setenv(TOKEN, SECRET)
    rules = access("0.0.0.0", None, ())

    async def ask():
        async with client(rules) as asked:
            for header in ({}, {"authorization": SECRET}, {"authorization": f"Bearer {SECRET}x"},
                           {"authorization": "Bearer "}, {"authorization": f"Basic {SECRET}"}):  # fmt: skip
                for path in ("/link", "/entities", "/metrics", "/reconcile", "/", "/Docs", "//docs"):
                    answer = await asked.get(path, headers=header)
                    assert answer.status_code == 401 and answer.headers["www-authenticate"] == "Bearer", (path, header)
                    assert SECRET not in answer.text
            for path in ("/health", "/docs", "/openapi.json"):
                assert (await asked.get(path)).status_code == 200
            assert (await asked.get("/link", headers={"authorization": f"bearer {SECRET}"})).status_code == 200

    asyncio.run(ask())


def test_a_body_is_read_whole_or_refused():
    rules = access("127.0.0.1", None, ())

    async def parts(number, pause=0.0):
        for _ in range(number):
            await asyncio.sleep(pause)
            yield b"x" * 100

    async def ask():
        async with client(rules, body=1000, seconds=0.2) as asked:
            asked.base_url = "http://localhost"
            assert (await asked.post("/", content=parts(10))).text == "1000"
            assert (await asked.post("/", content=parts(11))).status_code == 413
            assert (await asked.post("/", content=b"x" * 1001)).status_code == 413
            assert (await asked.post("/", content=parts(9, 0.05))).status_code == 408

    asyncio.run(ask())


def test_an_error_is_answered_without_a_word_of_the_program_and_logged_under_the_requests_id(capsys):
    async def ask():
        async with client(access("127.0.0.1", None, ())) as asked:
            return await asked.get("http://localhost/error", headers={"x-request-id": "r-1\n"})

    answer = asyncio.run(ask())
    name = answer.json()["request_id"]
    assert answer.status_code == 500 and "secret" not in answer.text and name != "r-1\n"
    logged = capsys.readouterr().err
    assert name in logged and "secret of the program" in logged


def test_more_requests_than_are_answered_at_once_are_refused():
    wait = asyncio.Event()

    async def slow(scope, receive, send):
        await wait.wait()
        await plain(scope, receive, send)

    async def ask():
        async with client(access("127.0.0.1", None, ()), slow, requests=3) as asked:
            asked.base_url = "http://localhost"
            held = [asyncio.create_task(asked.get("/")) for _ in range(3)]
            await asyncio.sleep(0.05)
            refused = await asked.get("/")
            assert refused.status_code == 503 and refused.headers["retry-after"] == "1"
            wait.set()
            assert [(await one).status_code for one in held] == [200] * 3

    asyncio.run(ask())


def test_a_body_that_is_too_large_is_read_and_dropped_up_to_a_limit_before_it_is_refused():
    sent = []

    async def parts(number):
        for at in range(number):
            sent.append(at)
            yield b"x" * 100

    async def ask():
        async with client(access("127.0.0.1", None, ()), body=1000, drained=5000) as asked:
            asked.base_url = "http://localhost"
            assert (await asked.post("/", content=parts(40))).status_code == 413 and len(sent) == 40
            sent.clear()
            assert (await asked.post("/", content=parts(400))).status_code == 413 and len(sent) < 60

    asyncio.run(ask())

"""Pictures that are uploaded to the page over a run, or shown on it: one that is slow holds up no other request."""

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
from fastapi.testclient import TestClient
from PIL import Image
from test_images import BAD, GOOD, drawn, encoded

from foundation.confined import Busy
from linking.linker import Linked
from linking.service import desk as desks
from linking.service.access import Access
from linking.service.desk import Desk
from linking.service.pictures import Examiner
from pipeline.datasets.contracts import Limits
from pipeline.datasets.images import ImageError, image_key
from report.explore import app, serve
from report.explore.pictures import Pictures
from report.thumbnails import Thumbnails, thumbnail

HERE = Access(None, frozenset(), any_host=False)
LARGE = encoded(Image.new("1", (8_000, 7_000)), "PNG")  # a tenth of a second at least
EMPTY = SimpleNamespace(entities={}, pictures={})


@pytest.fixture(scope="module")
def pictures():
    pictures = Pictures(Limits())
    yield pictures
    pictures.close()


class FakeLinker:
    """Answers without a model. gate: waited for. given: whether each mention came with a picture."""

    def __init__(self, gate=None):
        self.gate, self.given = gate, []

    def link_all(self, mentions, root, top_k):
        self.given += [mention.image is not None for mention in mentions]
        if self.gate:
            self.gate.pass_through()
        return [Linked(one.phrase, one.span, (), None, False, "ok" if one.image else "none") for one in mentions]

    def close(self):
        """As `Linker.close`."""


class Gate:
    """Holds who comes until it is opened."""

    def __init__(self):
        self.entered, self.opened = threading.Semaphore(0), threading.Event()

    def pass_through(self):
        self.entered.release()
        assert self.opened.wait(60)


class Page:
    """The application over a run without mentions, and how its form is sent."""

    def __init__(self, client, desk):
        self.client, self.desk = client, desk
        self.token = client.get("/link").text.split('name="token" value="')[1].split('"')[0]

    def link(self, picture=None):
        """Status and text of the answer to a form."""
        form = {"token": self.token, "sentence": "Powers sang.", "phrase": "Powers"}
        files = {"none": ("", b"")} if picture is None else {"picture": ("a.png", picture)}
        answer = self.client.post("/link", data=form, files=files)
        return answer.status_code, answer.text


@contextmanager
def opened(linker, seconds=10, **of_book):
    """A page. seconds: of the decoding of an upload. of_book: in place of parts of the book."""
    desk = Desk(lambda: linker, Limits(), serve.FORMS, serve.FORMS)
    desk.examiner = Examiner(Limits(), seconds)
    book = SimpleNamespace(
        name="run",
        mentions=[None] * 40,
        search=lambda query: [],
        cards=lambda ids: EMPTY,
        pictures=SimpleNamespace(close=lambda: None),
    )
    vars(book).update(of_book)
    with TestClient(app.make(book, desk, HERE), base_url="http://localhost") as client:
        yield Page(client, desk)


def test_an_upload_has_the_verdict_of_every_other_picture():
    examiner = Examiner(Limits())
    assert examiner.problem(GOOD["jpeg"]) is None
    found = {cause: examiner.problem(data) for cause, (data, _) in BAD.items()}
    assert found == {cause: f"{status.name.lower().replace('_', ' ')}: {cause}" for cause, (_, status) in BAD.items()}
    examiner.close()


def test_a_thumbnail_is_that_of_the_report(pictures):
    assert pictures.shrinking()(GOOD["jpeg"], 48, Limits()) == thumbnail(GOOD["jpeg"], 48, Limits())


def test_a_slow_upload_ends_in_a_line_and_the_mention_is_linked_without_it():
    linker = FakeLinker()
    with opened(linker, seconds=0.001) as page:
        status, text = page.link(LARGE)
    assert status == 200 and "too large: takes longer than 0.001 s when it is decoded" in text
    assert linker.given == [False]


def test_a_slow_picture_of_a_page_is_not_shown(tmp_path):
    (tmp_path / "a.png").write_bytes(LARGE)
    slow = Pictures(Limits(), seconds=0.001)
    thumbnails = Thumbnails(Limits(), slow.shrinking())
    assert thumbnails.add(tmp_path / "a.png", image_key(LARGE), 96) is None
    slow.close()


def test_the_pictures_of_a_page_have_an_end(pictures, monkeypatch):
    monkeypatch.setattr("report.explore.pictures.PAGE", 0)
    with pytest.raises(ImageError, match="no time is left"):
        pictures.shrinking()(GOOD["png"], 96, Limits())


def test_pages_that_wait_for_pictures_hold_up_no_other():
    gate = Gate()

    def case(at):
        gate.pass_through()
        raise KeyError(at)

    with opened(FakeLinker(), case=case) as page, ThreadPoolExecutor(40) as threads:
        held = [threads.submit(page.client.get, f"/case/{at}") for at in range(40)]
        for _ in range(app.PICTURED):
            assert gate.entered.acquire(timeout=60)
        assert page.client.get("/").status_code == page.client.get("/link").status_code == 200
        assert not any(one.done() for one in held)
        gate.opened.set()
        assert {one.result().status_code for one in held} == {500}


def test_mentions_that_come_while_others_are_linked_are_answered_together_or_told_to_come_again(monkeypatch):
    monkeypatch.setattr(desks, "SECONDS", 60.0)
    gate = Gate()
    with opened(FakeLinker(gate)) as page, ThreadPoolExecutor(serve.FORMS + 1) as threads:
        first = threads.submit(page.link, GOOD["png"])
        assert gate.entered.acquire(timeout=60)
        held = [threads.submit(page.link) for _ in range(serve.FORMS)]
        while len(page.desk.batcher) < serve.FORMS:
            assert not any(one.done() for one in held)
        assert page.client.get("/").status_code == page.client.get("/link").status_code == 200
        status, text = page.link()
        assert status == 503 and f"Busy: {serve.FORMS} mentions wait already" in text
        gate.opened.set()
        assert {one.result()[0] for one in (first, *held)} == {200} and page.link()[0] == 200


def test_a_mention_that_waits_too_long_is_told_to_come_again(monkeypatch):
    monkeypatch.setattr(desks, "SECONDS", 0.05)
    gate = Gate()
    with opened(FakeLinker(gate)) as page, ThreadPoolExecutor(2) as threads:
        first = threads.submit(page.link)
        assert gate.entered.acquire(timeout=60)
        late = threads.submit(page.link)
        while not len(page.desk.batcher):
            assert not late.done()
        threading.Timer(0.2, gate.opened.set).start()
        status, text = late.result()
        assert status == 503 and "Busy: waited for more than 0.05 s" in text and first.result()[0] == 200


def test_a_busy_decoder_is_told():
    def busy(data):
        raise Busy("others are being answered; try again in a while")

    with opened(FakeLinker()) as page:
        page.desk.examiner = SimpleNamespace(problem=busy, close=lambda: None)
        assert page.link(encoded(drawn(), "PNG"))[0] == 503


def test_a_page_for_others_asks_for_the_token_as_a_password():
    desk = Desk(FakeLinker, Limits(), serve.FORMS, serve.FORMS)
    book = SimpleNamespace(
        name="run", pictures=SimpleNamespace(close=lambda: None), search=lambda query: [], mentions=[]
    )
    secret = "a-secret-of-20-chars"
    with TestClient(
        app.make(book, desk, Access(secret, frozenset(), any_host=True)), base_url="http://box.lan"
    ) as client:
        for path in ("/", "/link", "/explore.css", "/case/0"):
            refused = client.get(path)
            assert refused.status_code == 401 and refused.headers["www-authenticate"].startswith("Basic "), path
            assert "<!doctype html>" in refused.text and "password" in refused.text and secret not in refused.text
        for name, password in (("", "wrong"), (secret, ""), ("é", "ü" * 20)):
            assert client.get("/", auth=(name, password)).status_code == 401
        assert client.get("/", headers={"authorization": "Basic ?"}).status_code == 401
        assert (
            client.get("/", auth=("anybody", secret)).status_code
            == client.get("/link", auth=("", secret)).status_code
            == 200
        )

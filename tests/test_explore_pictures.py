"""Pictures that are uploaded to the page over a run, or shown on it: one that is slow holds up no other request."""

import io
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
from PIL import Image
from test_images import BAD, GOOD, drawn, encoded

from foundation.confined import Busy
from heads.contracts import Compute
from linking.linker import Linked
from pipeline.datasets.contracts import Limits
from pipeline.datasets.images import ImageError, image_key
from report.explore import app, serve
from report.explore.pictures import Pictures
from report.thumbnails import Thumbnails, thumbnail

HOST = "localhost"
LARGE = encoded(Image.new("1", (8_000, 7_000)), "PNG")  # a tenth of a second at least


@pytest.fixture(scope="module")
def pictures():
    pictures = Pictures(Limits())
    yield pictures
    pictures.close()


class Page:
    """The application over a run without mentions, and how its form is sent."""

    def __init__(self, pictures, link):
        book = SimpleNamespace(
            name="run", mentions=[], names={}, search=lambda query: [], pictures=pictures, cards=lambda ids: EMPTY
        )
        self.client = app.make(book, link, app.Hosts(frozenset({HOST}))).test_client()
        text = self.client.get("/link").get_data(as_text=True)
        self.token = text.split('name="token" value="')[1].split('"')[0]

    def link(self, picture=None):
        """Status and text of the answer to a form."""
        form = {"token": self.token, "sentence": "Powers sang.", "phrase": "Powers"}
        if picture is not None:
            form["picture"] = (io.BytesIO(picture), "a.png")
        answer = self.client.post("/link", data=form)
        return answer.status_code, answer.get_data(as_text=True)


EMPTY = SimpleNamespace(entities={}, pictures={})


def linked(sentence, phrase, picture):
    return Linked(phrase, None, (), None, False, "none" if picture is None else "ok")


def test_an_upload_has_the_verdict_of_every_other_picture(pictures):
    assert pictures.problem(GOOD["jpeg"]) is None
    found = {cause: pictures.problem(data) for cause, (data, _) in BAD.items()}
    assert found == {cause: f"{status.name.lower().replace('_', ' ')}: {cause}" for cause, (_, status) in BAD.items()}


def test_a_thumbnail_is_that_of_the_report(pictures):
    assert pictures.shrinking()(GOOD["jpeg"], 48, Limits()) == thumbnail(GOOD["jpeg"], 48, Limits())


def test_a_slow_upload_ends_in_a_line_and_the_mention_is_linked_without_it():
    slow = Pictures(Limits(), seconds=0.001)
    given = []
    page = Page(slow, lambda *fields: given.append(fields[2]) or linked(*fields))
    status, text = page.link(LARGE)
    slow.close()
    assert status == 200 and "too large: takes longer than 0.001 s when it is decoded" in text and given == [None]


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


class Gate:
    """Links nothing until it is opened."""

    def __init__(self):
        self.entered, self.opened = threading.Semaphore(0), threading.Event()

    def link(self, *fields):
        self.entered.release()
        self.opened.wait(60)
        return linked(*fields)


def test_while_a_mention_is_linked_others_are_answered_or_told_to_come_again(pictures, monkeypatch, tmp_path):
    monkeypatch.setattr(serve, "QUEUE", 0.05)
    gate = Gate()
    linker = serve.LazyLinker(tmp_path, Compute())
    linker.linker = gate
    page = Page(pictures, linker)
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(page.link, GOOD["png"])
        gate.entered.acquire()
        assert page.client.get("/").status_code == page.client.get("/link").status_code == 200
        status, text = page.link(GOOD["jpeg"])
        assert status == 503 and "Busy: other mentions are being linked" in text
        gate.opened.set()
    assert first.result()[0] == 200 and page.link()[0] == 200


def test_forms_that_wait_are_few(pictures):
    gate = Gate()
    page = Page(pictures, gate.link)
    with ThreadPoolExecutor(app.FORMS) as threads:
        held = [threads.submit(page.link) for _ in range(app.FORMS)]
        for _ in held:
            gate.entered.acquire()
        status, text = page.link()
        assert status == 503 and "other forms wait" in text and page.client.get("/").status_code == 200
        gate.opened.set()
    assert {one.result()[0] for one in held} == {200} and page.link()[0] == 200


def test_a_busy_decoder_is_told(monkeypatch):
    def busy(data):
        raise Busy("others are being answered; try again in a while")

    page = Page(SimpleNamespace(problem=busy), linked)
    assert page.link(encoded(drawn(), "PNG"))[0] == 503

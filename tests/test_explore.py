"""The page over a finished run, as a browser and as somebody hostile would ask the real server for it."""

import contextlib
import functools
import html.parser
import http.client
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
import zlib
from pathlib import Path

import browser
import linking_world
import numpy as np
import pytest
import small_world
from PIL import Image

from report.explore import app, serve
from report.searching import holds, plain

ROOT = Path(__file__).resolve().parents[1]
HOSTILE = '<script>alert("x")</script>\' onload=alert(1) & <b>Ann Powers</b>'


class Page:
    """The server, and what it answers."""

    def __init__(self, process, port):
        self.process, self.port, self.rest = process, port, []
        self.reader = threading.Thread(target=lambda: self.rest.extend(process.stdout), daemon=True)
        self.reader.start()

    def output(self):
        """The lines it has printed when it ends."""
        self.reader.join(60)
        return self.rest

    def server(self):
        """The server's folder in /proc: a child of Luigi's worker, itself a child of Luigi. None without a /proc."""
        place = Path(f"/proc/{self.process.pid}")
        while place.exists() and (children := (place / "task" / place.name / "children").read_text().split()):
            place = Path(f"/proc/{children[0]}")
        return place if place.exists() else None

    def ask(self, path, method="GET", body=None, host=None, **headers):
        """Status, text and headers of an answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body, {"Host": host or f"127.0.0.1:{self.port}", **headers})
        answer = connection.getresponse()
        text = answer.read().decode()
        connection.close()
        return answer.status, text, answer.headers

    @property
    def token(self):
        return re.search(r'name="token" value="([^"]+)"', self.ask("/link")[1])[1]

    def link(
        self,
        sentence="Ann Powers was seen.",
        phrase="Ann Powers",
        picture=None,
        token=None,
        name="picture.png",
        explain=None,
        **headers,
    ):
        edge = uuid.uuid4().hex
        fields = {"token": self.token if token is None else token, "sentence": sentence, "phrase": phrase}
        fields |= {} if explain is None else {"explain": explain}
        body = b"".join(
            f'--{edge}\r\nContent-Disposition: form-data; name="{key}"\r\n\r\n{value}\r\n'.encode()
            for key, value in fields.items()
        )
        if picture is not None:
            header = f'--{edge}\r\nContent-Disposition: form-data; name="picture"; filename="{name}"\r\n'
            body += f"{header}Content-Type: image/png\r\n\r\n".encode() + picture + b"\r\n"
        return self.ask(
            "/link",
            "POST",
            body + f"--{edge}--\r\n".encode(),
            Content_Type=f"multipart/form-data; boundary={edge}",
            **headers,
        )


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A run over data that holds hostile text wherever there is text."""
    root = tmp_path_factory.mktemp("explore")
    data = small_world.write(root / "data", mentions=60)
    small_world.picture(data / "mentions" / "<i>'&amp;.png", 5)
    mention = {
        "id": HOSTILE,
        "sentence": HOSTILE,
        "mention": "Ann Powers",
        "gold": "Q<u>",
        "split": "test",
        "image": "mentions/<i>'&amp;.png",
        "group": HOSTILE,
    }
    entity = {
        "id": "Q<u>",
        "name": f"Ann Powers {HOSTILE}",
        "attributes": HOSTILE,
        "description": HOSTILE,
        "type": HOSTILE,
    }
    nil = {"id": "nil", "sentence": "Nobody knows Zed.", "mention": "Zed", "gold": None, "split": "test"}
    for side, records in (("mentions", [mention, nil]), ("entities", [entity])):
        with open(data / f"{side}.jsonl", "a") as handle:
            handle.writelines(json.dumps(record) + "\n" for record in records)
    with pytest.MonkeyPatch.context() as patch:
        return root, linking_world.train(root, patch, "mimic")["mimic"]


@pytest.fixture(scope="module")
def page(world):
    root, run = world
    command = [
        sys.executable,
        "-m",
        "luigi",
        "--module",
        "tasks",
        "Explore",
        "--run",
        str(run),
        "--port",
        "0",
        "--dataset",
        "small",
        "--data-dir",
        str(root / "data"),
    ]
    command += ["--profile", str(root / "small.yaml"), "--work-dir", str(root / "work")]
    heard = functools.partial(
        signal.signal, signal.SIGINT, signal.SIG_DFL
    )  # tests in the background of a shell inherit that Ctrl-C is ignored
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=heard,
    )
    output = []
    for line in process.stdout:
        output.append(line)
        found = re.search(r"http://127\.0\.0\.1:(\d+)/", line)
        if found:
            break
    else:
        pytest.fail("".join(output))
    server = Page(process, int(found[1]))
    yield server
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == -signal.SIGINT and server.output()[-1].startswith("stopped")


def picture(size=(48, 40)):
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(1).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)).save(
        buffer, "PNG"
    )
    return buffer.getvalue()


def parsed(text):
    """Names of the tags and of the attributes of a page, as a browser reads it."""
    tags, attributes = set(), set()

    class Reader(html.parser.HTMLParser):
        def handle_starttag(self, tag, attrs):
            tags.add(tag)
            attributes.update(name for name, _ in attrs)

    Reader().feed(text)
    return tags, attributes


def bomb():
    """A small PNG that says it has 3.6 thousand million pixels."""
    header = b"IHDR" + (60_000).to_bytes(4, "big") * 2 + b"\x08\x02\0\0\0"
    return b"\x89PNG\r\n\x1a\n" + b"\0\0\0\x0d" + header + zlib.crc32(header).to_bytes(4, "big") + picture()[33:]


def sent_raw(page, body, length=None):
    """Status line and text of the answer to a form that is sent as it stands, its sender gone afterwards where more was
    announced."""
    head = (
        f"POST /link HTTP/1.1\r\nHost: 127.0.0.1:{page.port}\r\nContent-Type: multipart/form-data; boundary=B\r\n"
        f"Content-Length: {len(body) if length is None else length}\r\nConnection: close\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", page.port), timeout=60) as connection:
        connection.sendall(head.encode() + body)
        if length is not None:
            connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(65536), b"")).decode()


@pytest.mark.parametrize("cut", ["in the picture", "in a field", "before the end it announced", "no part at all"])
def test_a_form_whose_end_is_missing_is_told_so(page, cut):
    fields = (("token", page.token), ("sentence", "Powers sang."), ("phrase", "Powers"))
    parts = [f'--B\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}' for name, value in fields]
    picture = '--B\r\nContent-Disposition: form-data; name="picture"; filename="a.jpg"\r\n\r\n'
    whole = "\r\n".join([*parts, picture]).encode() + os.urandom(2000)
    body = {"in a field": "\r\n".join(parts).encode()[:-3], "no part at all": b"nothing"}.get(cut, whole)
    if cut == "before the end it announced":
        assert sent_raw(page, body, len(body) + 500) == "" and page.ask("/")[0] == 200
        return
    answer = sent_raw(page, body)
    assert answer.startswith("HTTP/1.1 400 "), answer[:200]
    assert "the upload is not whole" in answer and "earlier start" not in answer


def asked_raw(page, request):
    """The answer to bytes that are sent as they stand."""
    with socket.create_connection(("127.0.0.1", page.port), timeout=60) as connection:

        def send():
            with contextlib.suppress(OSError):  # what is too large is answered before it has come whole
                connection.sendall(request)
                if not request:
                    connection.shutdown(socket.SHUT_WR)

        sender, answer = threading.Thread(target=send, daemon=True), b""
        sender.start()
        with contextlib.suppress(ConnectionResetError):
            while block := connection.recv(65536):
                answer += block
                head, _, body = answer.partition(b"\r\n\r\n")
                length = re.search(rb"content-length: (\d+)", head)
                if length and len(body) >= int(length[1]):
                    break
        return answer.decode()


POST = "POST /link HTTP/1.1\r\nHOST"
FORM = "Content-Type: multipart/form-data; boundary=B\r\n"
HUNDREDS = '--B\r\nContent-Disposition: form-data; name="abcdefghijklmnopq"\r\n\r\nx\r\n' * 500 + "--B--"
ODD_REQUESTS = {  # what is sent; HOST stands for the page's own Host header: how the answer begins
    "no HTTP": ("\x16\x03\x01\r\n\r\n", "HTTP/1.1 400 "),
    "nothing": ("", ""),
    "two hosts": ("GET / HTTP/1.1\r\nHOSTHost: evil.example\r\n\r\n", "HTTP/1.1 400 "),
    "another host": ("GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n", "HTTP/1.1 403 "),
    "another address": ("GET http://evil.example/ HTTP/1.1\r\nHOST\r\n", "HTTP/1.1 404 "),
    "a path of a megabyte": (f"GET /{'a' * 1_000_000} HTTP/1.1\r\nHOST\r\n", "HTTP/1.1 400 "),
    "a header of a megabyte": (f"GET / HTTP/1.1\r\nHOSTX: {'a' * 1_000_000}\r\n\r\n", "HTTP/1.1 400 "),
    "thousands of headers": ("GET / HTTP/1.1\r\nHOST" + "X: a\r\n" * 60_000 + "\r\n", "HTTP/1.1 400 "),
    "a path out of the page": ("GET /case/%2e%2e%2f%2e%2e%2fetc%2fpasswd HTTP/1.1\r\nHOST\r\n", "HTTP/1.1 404 "),
    "NUL in a path": ("GET /%00 HTTP/1.1\r\nHOST\r\n", "HTTP/1.1 404 "),
    "a case of many digits": (f"GET /case/{'9' * 5_000} HTTP/1.1\r\nHOST\r\n", "HTTP/1.1 404 "),
    "a page of many digits": (f"GET /?page={'9' * 5_000} HTTP/1.1\r\nHOST\r\n", "HTTP/1.1 200 "),
    "bytes that are no text": ("GET /?phrase=%ff%00%fe HTTP/1.1\r\nHOST\r\n", "HTTP/1.1 200 "),
    "another method": ("TRACE / HTTP/1.1\r\nHOST\r\n", "HTTP/1.1 405 "),
    "a method that is none": ("__class__ / HTTP/1.1\r\nHOST\r\n", "HTTP/1.1 405 "),
    "a negative length": (f"{POST}{FORM}Content-Length: -1\r\n\r\n--B--", "HTTP/1.1 400 "),
    "a length of many digits": (f"{POST}{FORM}Content-Length: {'9' * 5_000}\r\n\r\n", "HTTP/1.1 400 "),
    "an endless length": (f"{POST}{FORM}Content-Length: {10**18}\r\n\r\n", "HTTP/1.1 413 "),
    "chunks that are none": (f"{POST}{FORM}Transfer-Encoding: chunked\r\n\r\nzz\r\n", "HTTP/1.1 400 "),
    "no boundary": (f"{POST}Content-Type: multipart/form-data\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 4"),
    "hundreds of parts": (f"{POST}{FORM}Content-Length: {len(HUNDREDS)}\r\n\r\n{HUNDREDS}", "HTTP/1.1 413 "),
}  # fmt: skip


@pytest.mark.parametrize("kind", ODD_REQUESTS)
def test_an_odd_request_is_answered_in_a_line_and_the_page_goes_on(page, kind):
    request, begins = ODD_REQUESTS[kind]
    answer = asked_raw(page, request.replace("HOST", f"Host: 127.0.0.1:{page.port}\r\n").encode("latin-1"))
    assert (
        answer.startswith(begins)
        and bool(answer) == bool(begins)
        and "Traceback" not in answer
        and "root:" not in answer
    )
    assert page.ask("/")[0] == 200 and page.rest == []


def test_requests_that_never_end_hold_up_no_other(page):
    head = f"POST /link HTTP/1.1\r\nHost: 127.0.0.1:{page.port}\r\n{FORM}Content-Length: 9000000\r\n\r\n--B".encode()
    waiting = [socket.create_connection(("127.0.0.1", page.port), timeout=60) for _ in range(40)]
    for connection in waiting:
        connection.sendall(head)
    try:
        assert page.ask("/")[0] == 200 and page.link()[0] == 200
    finally:
        for connection in waiting:
            connection.close()


def test_mentions_are_found_by_phrase_entity_and_outcome(page):
    status, text, _ = page.ask("/")
    assert status == 200 and "17 of 17 mentions" in text
    assert "1 of 17 mentions" in page.ask("/?phrase=zed")[1] and "1 of 17 mentions" in page.ask("/?outcome=NIL")[1]
    assert "0 of 17 mentions" in page.ask("/?phrase=zed&outcome=right")[1]
    by_outcome = [
        int(re.search(r"<p>(\d+) of 17", page.ask(f"/?outcome={name}".replace(" ", "%20"))[1])[1])
        for name in ("right", "wrong", "NIL", "gold outside the KB")
    ]
    assert sum(by_outcome) == 17 and by_outcome[2:] == [1, 0] and by_outcome[1]
    by_entity = [
        int(re.search(r"<p>(\d+) of 17", page.ask(f"/?entity={name}")[1])[1])
        for name in ("q3", "N%C3%B6el+HARRISON", "nobody")
    ]
    assert by_entity[1] >= by_entity[0] > 0 and by_entity[2] == 0
    assert page.ask("/?outcome=no")[0] == 400 and page.ask("/?page=99999")[0] == 200


SPELLINGS = [
    *(
        "Çelik",
        "İzmir",
        "ﬁne Straße",
        "Ø Łódź",
        "Нёман",
        "ΣΊΣΥΦΟΣ",
        "①㎏",
        "\uff26ull",
        "e\u0301",
        "Þór Æsir",
        "Brand™",
    ),
    *("हिन्दी", "दिल्ली", "กรุงเทพ", "ភ្នំពេញ", "ガﾊﾞ", "한국", "\u1112\u1161\u11ab", "ông Nguyễn Đức", "മോഹൻലാൽ"),
    *("مُحَمَّد", "محـمـد", "ایران ہند", "שָׁלוֹם", "١٩٤٥ १९४५ \uff17", "I\u011eDIR \u0131\u011fd\u0131r"),
    *("Ste\u200bfan\u00ad", "An\x00na\ufeff", "☺\ufe0f", "Hawai\u02bbi O\u00b4Brien", "rock’n’roll “x” a–b"),
]


def test_accents_are_folded_as_on_the_page_of_report(tmp_path):
    script = (ROOT / "report" / "page" / "page.js").read_text()
    function = re.search(r"function plain\(text\) \{.*?\n  \}", script, re.S)[0]
    with browser.page(tmp_path) as tab:
        tab.open("about:blank")
        assert tab.value(f"(() => {{ {function}; return {json.dumps(SPELLINGS)}.map(plain) }})()") == [
            *map(plain, SPELLINGS)
        ]
    assert holds(plain("Mehmet Çelik of İzmir"), "izmir CELIK") and not holds(plain("Çelik"), "celik izmir")


def test_it_has_the_style_of_report(page):
    style = page.ask("/explore.css")[1]
    assert style.startswith((ROOT / "report" / "page" / "page.css").read_text())
    names = set(re.findall(r"\.([a-z][\w-]*)", style))
    classes = {name for path in ("/", "/case/0", "/link") for name in re.findall(r'class="([^"]*)"', page.ask(path)[1])}
    assert {one for name in classes for one in name.split()} <= names | {"top", "right", "wrong"}


def test_a_case_shows_picture_gold_and_the_best_entities(page):
    at = re.search(r'href="/case/(\d+)">', page.ask("/?phrase=Ann+Powers&sentence=script")[1])[1]
    status, text, _ = page.ask(f"/case/{at}")
    assert (
        status == 200
        and 'href="data:image/' in text
        and "<mark>Ann Powers</mark>" in text
        and len(re.findall("<li[ >]", text)) >= 5
    )
    assert "Rank of the gold" in text and page.ask("/case/17")[0] == 404 and page.ask("/case/x")[0] == 404


def test_hostile_text_is_shown_as_text_everywhere(page):
    pages = [
        page.ask(path)[1]
        for path in ("/", f"/?phrase={HOSTILE.replace(' ', '+').replace('&', '%26')}", "/?entity=%22%3E%3Cscript%3E")
    ]
    pages += [page.ask(f"/case/{at}")[1] for at in range(17)]
    pages += [page.link(HOSTILE, "Ann Powers", b"none", name="<script>.png")[1], page.link('"><script>', "")[1]]
    assert html.escape(HOSTILE, quote=False) in pages[-2].replace("&#34;", '"').replace("&#39;", "'")
    assert sum("&lt;script&gt;" in text for text in pages) >= 6
    for text in pages:
        tags, attributes = parsed(text)
        assert not tags & {"script", "b", "i", "u"} and not any(name.startswith("on") for name in attributes)


def test_a_sentence_with_a_picture_is_linked(page):
    status, text, _ = page.link(picture=picture())
    assert (
        status == 200
        and "picture: ok" in text
        and "confidence" in text
        and len(re.findall("<li[ >]", text)) == 5
        and "Ann Powers" in text
    )
    assert "picture: none" in page.link()[1] and "How the head came to it" not in text


def test_an_answer_is_explained_where_that_is_asked_for(page):
    for upload in (None, picture()):
        status, text, _ = page.link(HOSTILE, "Ann Powers", upload, explain=HOSTILE)
        assert status == 200 and "How the head came to it" in text and " checked>" in text
        rows = [
            re.findall("<td[^>]*><span>([^<]*)</span>", row) for row in re.findall('<th scope="row">.*?</tr>', text)
        ]
        assert re.findall('<th scope="row">([^<]*)</th>', text) == ["text", "image", "cross-modal"]
        assert [len(row) for row in rows] == [5, 5, 5]
        mean = [sum(float(row[place]) for row in rows) / 3 for place in range(5)]
        scores = [float(score) for score in re.findall('<span class="score">([^<]*)</span>', text)]
        assert scores == pytest.approx(mean, rel=0.02, abs=0.02)
        tags, attributes = parsed(text)
        assert not tags & {"script", "b", "i", "u"} and not any(name.startswith("on") for name in attributes)


@pytest.mark.parametrize(
    "upload, words",
    [
        (b"no picture at all", "not an image"),
        (bomb(), "too many pixels"),
        (picture()[:300], "truncated"),
        (b"", "empty file"),
        (b"\xff\xd8" + b"\xff\xfe\0\2" * 200_000, "too many parts"),
    ],
)
def test_uploads_that_are_no_pictures_end_in_a_message(page, upload, words):
    status, text, _ = page.link(picture=upload)
    assert status == 200 and 'role="alert"' in text and words in text and "Linked without it" in text
    assert page.ask("/")[0] == 200


def test_an_upload_of_100_mb_ends_in_a_message_and_takes_no_memory(page):
    status, text, _ = page.link(picture=bytes(app.UPLOAD + 2 * app.FORM))
    assert status == 413 and "20 MB" in text
    server = page.server()
    if server:
        before = kilobytes(server, "VmRSS")
        (server / "clear_refs").write_text("5")  # the peak is counted from here
    status, text, _ = page.link(picture=bytes(100_000_000))
    assert status == 413 and "20 MB" in text and page.ask("/")[0] == 200
    if server:
        assert kilobytes(server, "VmHWM") < before + 60_000, "not even once was the upload held"


def kilobytes(server, name):
    return int(re.search(rf"{name}:\s+(\d+) kB", (server / "status").read_text())[1])


@pytest.mark.parametrize(
    "sentence, phrase", [("", "Ann"), ("Ann", " "), ("x" * (app.SENTENCE + 1), "x"), ("Ann", "y" * (app.PHRASE + 1))]
)
def test_fields_that_cannot_be_linked_end_in_a_message(page, sentence, phrase):
    status, text, _ = page.link(sentence, phrase)
    assert status == 400 and 'role="alert"' in text


def test_pages_elsewhere_can_neither_read_nor_post(page):
    for host in ("evil.example", f"evil.example:{page.port}", "127.0.0.1.evil.example", "", "localhost.evil.example"):
        assert page.ask("/", host=host or " ")[0] in (400, 403), host
    assert page.ask("/", host=f"localhost:{page.port}")[0] == 200
    assert page.link(token="")[0] == page.link(token="x" * 43)[0] == page.link(token="é")[0] == 403
    assert page.link(Origin="http://evil.example")[0] == page.link(Origin="null")[0] == 403
    assert page.link(Origin=f"http://127.0.0.1:{page.port}")[0] == 200


def test_every_answer_forbids_scripts_frames_and_guessing(page):
    for path in ("/", "/link", "/case/0", "/explore.css", "/nowhere"):
        headers = page.ask(path)[2]
        assert (
            headers["Content-Security-Policy"] == app.POLICY
            and "script-src" not in app.POLICY
            and "default-src 'none'" in app.POLICY
        )
        assert (
            headers["X-Content-Type-Options"] == "nosniff"
            and headers["X-Frame-Options"] == "DENY"
            and headers["Cache-Control"] == "no-store"
        )
    assert page.ask("/console")[0] == 404 and page.ask("/?__debugger__=yes&cmd=resource&f=style.css")[1].startswith(
        "<!doctype html>"
    )
    assert page.ask("/link", "DELETE")[0] == 405


def test_the_page_works_in_a_browser_on_a_phone_and_a_desk(page, tmp_path):
    url = f"http://127.0.0.1:{page.port}"
    with browser.page(tmp_path) as tab:
        for path in ("/", "/case/0", "/link"):
            for width in (390, 1280):
                tab.open(url + path, width, dark=width == 390)
                assert tab.value("document.documentElement.scrollWidth <= innerWidth"), (path, width)
                assert tab.value("getComputedStyle(document.querySelector('nav.bar')).borderBottomStyle") == "solid", (
                    "the style sheet is read"
                )
        for width in (390, 1280):
            tab.open(f"{url}/link", width)
            tab.loaded = False
            tab.value("""(() => { const field = name => document.querySelector(`[name=${name}]`);
                field("sentence").value = "Ann Powers was seen."; field("phrase").value = "Ann Powers";
                field("explain").click(); document.querySelector("form").requestSubmit() })()""")
            while not tab.loaded:
                tab._next(time.monotonic() + browser.WAIT)
            text = tab.value("document.body.innerText")
            assert "picture: none" in text and "How the head came to it" in text
            assert tab.value("document.querySelectorAll('ol li').length") == 5
            assert tab.value("document.documentElement.scrollWidth <= innerWidth"), width
            inside = "[...document.querySelectorAll('.scroll')].every(one => one.scrollWidth <= one.clientWidth)"
            assert tab.value(inside), "the tables fit"
        assert tab.errors == [] and all(address.startswith(url) for address in tab.requests)


def test_it_says_who_can_reach_it():
    assert serve.address_line("127.0.0.1", 8080).startswith("http://127.0.0.1:8080/ for this machine alone")
    assert serve.address_line("::", 80).startswith("http://[::]:80/ for whoever has the token")


@pytest.mark.parametrize(
    "options, words",
    [
        (["--run", "small/mimic/none"], "no such run"),
        (["--port", "99999"], "--port 99999"),
        (["--dataset", "demo"], "no finished run"),
        (["--host", "0.0.0.0"], "set a token"),
    ],
)
def test_what_cannot_be_served_is_told_in_one_line(world, options, words, tmp_path):
    work = world[0] / "work" if "--host" in options else tmp_path
    over = ["--run", str(world[1]), "--dataset", "small", "--data-dir", str(world[0] / "data")]
    given = [*options, *over] if "--host" in options else options
    command = [sys.executable, "-m", "luigi", "--module", "tasks", "Explore", "--work-dir", str(work), *given]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    output = done.stdout + done.stderr
    assert done.returncode != 0 and words in output and "Traceback" not in output

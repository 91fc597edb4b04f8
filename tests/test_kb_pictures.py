"""Pictures of a KB: fetched once, with author and licence; broken, missing and unfree ones by cause; nothing in a
private network; servers that misbehave."""

import csv
import io
import socket
import struct
import zlib
from dataclasses import replace
from urllib.parse import unquote

import pytest
from enhance_world import QUICK
from loopback import Reply, Seen, serving
from PIL import Image
from wikidata_world import lines

from foundation.errors import PassingError, UserError
from pipeline.datasets.contracts import LayoutOptions, Limits
from pipeline.datasets.layouts import jsonl
from pipeline.kb import commons, picture_list
from pipeline.kb.contracts import PicturesJob
from pipeline.kb.fetch import fetch_images
from pipeline.servers import guarded


def picture(colour: str = "red", size: tuple[int, int] = (40, 30), form: str = "PNG") -> bytes:
    out = io.BytesIO()
    Image.new("RGB", size, colour).save(out, form)
    return out.getvalue()


class Commons:
    """Answers `imageinfo` as Commons does, and gives the thumbnails. files: licence by name."""

    def __init__(self, files=None):
        self.files = files or {"Ann.jpg": "cc-by-sa-4.0"}
        self.bodies: dict[str, Reply] = {}

    def __call__(self, seen: Seen) -> Reply:
        if seen.path == "/w/api.php":
            return Reply(self.info(seen))
        return self.bodies.get(unquote(seen.path), Reply(picture(), headers={"Content-Type": "image/png"}))

    def info(self, seen):
        titles, width = seen.query["titles"].split("|"), seen.query["iiurlwidth"]
        assert len(titles) <= 50 and seen.query["prop"] == "imageinfo"
        pages = []
        for title in titles:
            name = title.removeprefix("File:")
            if name not in self.files:
                pages.append({"ns": 6, "title": title, "missing": True})
                continue
            address = f"http://{seen.headers['Host']}/thumb/{name.replace(' ', '_')}/{width}px.png"
            code = self.files[name]
            said = {
                "Artist": {"value": '<a href="//commons">Bo &amp; Co</a>'},
                "LicenseShortName": {"value": code.upper()},
                "License": {"value": code},
                "LicenseUrl": {"value": "https://creativecommons.org/x"},
            }
            info = {
                "thumburl": address,
                "url": address,
                "descriptionurl": f"https://c.org/{name}",
                "extmetadata": said if code else {},
            }
            pages.append({"ns": 6, "title": title, "imageinfo": [info]})
        return {"batchcomplete": True, "query": {"pages": pages}}


def listed(folder, *entries):
    folder.mkdir(exist_ok=True)
    path = folder / "list.tsv"
    path.write_text("".join(f"{name}\t{place}\n" for name, place in entries))
    return path


def fetch(path, server=None, **more):
    job = {
        "list": path,
        "out": path.parent,
        "contact": "a@b.org",
        "private": ("127.0.0.1",),
        "rate": 0,
        "patience": QUICK,
        "commons": f"{server.address}/w/api.php" if server else None,
        **more,
    }
    return fetch_images(PicturesJob(**job))


def table(folder):
    with open(folder / "pictures.tsv", encoding="utf-8", newline="") as file:
        return {row["picture"]: row for row in csv.DictReader(file, dialect="excel-tab")}


def test_a_file_of_commons_is_fetched_at_the_width_with_author_licence_and_address(tmp_path):
    path = listed(tmp_path / "kb", ("Q1", "File:Ann.jpg"), ("Q2", "Ann.jpg"), ("Q1", "None.jpg"))
    with serving(Commons()) as server:
        report = fetch(path, server, width=320)
    rows = table(tmp_path / "kb")
    assert (report.listed, report.fetched, report.without) == (2, 1, {"no such file on Commons": 1})
    ann = rows["Ann.jpg"]
    assert (ann["author"], ann["licence"], ann["page"]) == ("Bo & Co", "CC-BY-SA-4.0", "https://c.org/Ann.jpg")
    assert ann["address"].endswith("/thumb/Ann.jpg/320px.png") and (ann["width"], ann["height"]) == ("40", "30")
    assert (tmp_path / "kb" / ann["path"]).read_bytes() == picture()
    assert [seen.path for seen in server.seen] == ["/w/api.php", "/thumb/Ann.jpg/320px.png"]
    assert all("a@b.org" in seen.headers["User-Agent"] for seen in server.seen)
    assert rows["None.jpg"]["without"] == "no such file on Commons" and not rows["None.jpg"]["path"]


def test_entities_get_the_paths_of_their_pictures_and_the_layout_reads_them(tmp_path):
    path = listed(tmp_path / "kb", ("Q1", "Ann.jpg"), ("Q2", "None.jpg"))
    entities = tmp_path / "kb" / "entities.jsonl"
    entities.write_text('{"id": "Q1", "name": "Ann"}\n{"id": "Q2", "name": "Bo", "images": ["old.jpg"]}\n')
    with serving(Commons()) as server:
        fetch(path, server)
    place = table(tmp_path / "kb")["Ann.jpg"]["path"]
    assert lines(entities) == [{"id": "Q1", "name": "Ann", "images": [place]}, {"id": "Q2", "name": "Bo"}]
    raw = jsonl.load("mine", tmp_path / "kb", LayoutOptions())
    assert [len(one.images) for one in raw.entities] == [1, 0]


def test_what_is_known_is_not_asked_again_and_a_picture_that_was_deleted_is(tmp_path):
    path = listed(tmp_path, ("Q1", "Ann.jpg"), ("Q2", "None.jpg"))
    with serving(Commons()) as server:
        first = fetch(path, server)
        before, count = (tmp_path / "pictures.tsv").read_bytes(), len(server.seen)
        again = fetch(path, server)
        assert len(server.seen) == count and again.requests == 0 and again.fetched == first.fetched
        (tmp_path / table(tmp_path)["Ann.jpg"]["path"]).unlink()
        fetch(path, server)
        assert [seen.path for seen in server.seen[count:]] == ["/thumb/Ann.jpg/500px.png"]
    assert (tmp_path / "pictures.tsv").read_bytes() == before


@pytest.mark.parametrize(
    ("code", "free"),
    [
        ("cc-by-sa-4.0", True),
        ("cc0", True),
        ("pd", True),
        ("pd-us-expired", True),
        ("gfdl", True),
        ("cc-by-nc-2.0", False),
        ("cc-by-nd-2.0", False),
        ("cc-by-nc-sa-4.0", False),
        ("fair use", False),
        ("", False),
    ],
)
def test_free_is_what_anybody_may_use_change_and_pass_on(code, free):
    assert commons.is_free({"code": code, "licence": ""}) is free
    assert commons.is_free({"code": "", "licence": code.upper().replace("-", " ")}) is free


def test_of_free_ones_alone_the_others_are_never_asked_for(tmp_path):
    path = listed(tmp_path, ("Q1", "Ann.jpg"), ("Q2", "Nc.jpg"), ("Q3", "Odd.jpg"), ("Q4", "http://127.0.0.1:1/x.png"))
    with serving(Commons({"Ann.jpg": "cc0", "Nc.jpg": "cc-by-nc-2.0", "Odd.jpg": ""})) as server:
        report = fetch(path, server, licences="free")
    assert report.without == {"licence is not free": 1, "licence is not known": 2} and report.fetched == 1
    assert [seen.path for seen in server.seen] == ["/w/api.php", "/thumb/Ann.jpg/500px.png"]


HEAD = b"IHDR" + struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
BOMB = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + HEAD + struct.pack(">I", zlib.crc32(HEAD)) + picture()[33:]


@pytest.mark.parametrize(
    ("reply", "cause"),
    [
        (Reply({}, 404), "missing at its address"),
        (Reply({}, 403), "refused: 403"),
        (Reply(b"<html>not found</html>"), "not an image"),
        (Reply(picture()[:-30]), "truncated"),
        (Reply(b""), "empty file"),
        (Reply(endless=True), "too many bytes"),
        (Reply(picture(size=(300, 300))), "too many pixels"),
        (Reply(BOMB), "too many pixels"),
        (Reply(b"<svg xmlns='http://www.w3.org/2000/svg'/>"), "not an image"),
    ],
)
def test_what_is_no_picture_is_said_by_cause_and_not_asked_again(tmp_path, reply, cause):
    with serving(lambda seen: reply) as server:
        path = listed(tmp_path, ("Q1", f"{server.address}/a.png"))
        for _ in range(2):
            report = fetch(path, limits=Limits(max_pixels=50_000, max_bytes=200_000))
            assert report.without == {cause: 1} and not report.fetched
        assert len(server.seen) == 1
    assert not list((tmp_path).glob("images/*/*"))


@pytest.mark.parametrize(
    "trouble",
    [
        Reply({}, 429, {"Retry-After": "0"}),
        Reply({}, 503),
        Reply(picture(), cut=True),
        Reply(picture(), wait=2.0),
    ],
)
def test_what_passes_is_tried_again_until_it_is_there(tmp_path, trouble):
    with serving(lambda seen: Reply(picture())) as server:
        server.trouble = [trouble]
        path = listed(tmp_path, ("Q1", f"{server.address}/a.png"), ("Q2", f"{server.address}/b.png"))
        report = fetch(path, concurrency=1, patience=replace(QUICK, timeout=1.0))
    assert report.fetched == 2 and [seen.path for seen in server.seen] == ["/a.png", "/a.png", "/b.png"]


def test_a_retry_after_is_waited_for(tmp_path):
    with serving(lambda seen: Reply(picture())) as server:
        server.trouble = [Reply({}, 429, {"Retry-After": "1"})]
        fetch(listed(tmp_path, ("Q1", f"{server.address}/a.png")))
    assert server.seen[1].at - server.seen[0].at >= 0.9


def test_a_server_that_stays_down_is_said_others_are_asked_on_and_the_rest_is_fetched_later(tmp_path):
    state = {"down": True}
    broken = r"6 of 7 pictures could not be fetched now.*answers 503.*--max-failed 6"
    with (
        serving(lambda seen: Reply({}, 503) if state["down"] else Reply(picture())) as bad,
        serving(lambda seen: Reply(picture())) as good,
    ):
        entries = [(f"Q{n}", f"{bad.address}/{n}.png") for n in range(6)] + [("Q9", f"{good.address}/9.png")]
        path = listed(tmp_path, *entries)
        with pytest.raises(PassingError, match=broken) as error:
            fetch(path, concurrency=1)
        assert len(str(error.value).splitlines()) == 1
        assert len(bad.seen) == 3 * QUICK.tries and len(good.seen) == 1
        report = fetch(path, concurrency=1, max_failed=6)
        assert report.without == {"not fetched": 6} and report.fetched == 1
        state["down"] = False
        assert fetch(path).fetched == 7 and len(good.seen) == 1


# Private networks


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.216.34", True),
        ("2606:2800:220:1:248:1893:25c8:1946", True),
        ("127.0.0.1", False),
        ("10.1.2.3", False),
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("::1", False),
        ("fe80::1%eth0", False),
        ("fc00::1", False),
        ("::ffff:127.0.0.1", False),
        ("64:ff9b::7f00:1", False),
        ("64:ff9b::5db8:d822", True),
        ("2002:7f00:1::", False),
    ],
)
def test_addresses_of_private_networks_are_told_from_public_ones(address, public):
    assert guarded.is_public(address) is public


@pytest.mark.parametrize(
    "place",
    [
        "http://localhost:{port}/a.png",
        "http://127.1:{port}/",
        "http://2130706433:{port}/",
        "http://[::1]:{port}/",
        "http://[::ffff:127.0.0.1]:{port}/",
    ],
)
def test_an_address_in_a_private_network_is_not_asked(tmp_path, place):
    with serving(lambda seen: Reply(picture())) as server:
        report = fetch(listed(tmp_path, ("Q1", place.format(port=server.http.server_port))), private=())
    assert report.without == {"address in a private network": 1} and not server.seen


def test_neither_a_redirect_nor_a_thumbnails_address_leads_there(tmp_path):
    inner_seen = []
    with serving(lambda seen: inner_seen.append(seen) or Reply(picture())) as inner:
        away = f"http://localhost:{inner.http.server_port}/secret"
        with serving(lambda seen: Reply({}, 302, {"Location": away})) as server:
            report = fetch(listed(tmp_path / "a", ("Q1", f"{server.address}/a.png")))
            assert report.without == {"address in a private network": 1}

        class Odd(Commons):
            def info(self, seen):
                content = super().info(seen)
                content["query"]["pages"][0]["imageinfo"][0]["thumburl"] = away
                return content

        with serving(Odd()) as server:
            report = fetch(listed(tmp_path / "b", ("Q1", "Ann.jpg")), server)
            assert report.without == {"address in a private network": 1}
    assert not inner_seen


def test_a_name_is_looked_up_once_and_refused_where_one_of_its_addresses_is_private(tmp_path, monkeypatch):
    plain, looked_up = socket.getaddrinfo, []

    def answer(host, port, *rest, **more):
        looked_up.append(host)
        if host == "pictures.example":
            both = ("93.184.216.34", "10.0.0.7")
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, port)) for one in both]
        return plain(host, port, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", answer)
    report = fetch(listed(tmp_path, ("Q1", "http://pictures.example/a.png")))
    assert report.without == {"address in a private network": 1} and looked_up == ["pictures.example"]


def test_redirects_are_followed_a_few_times_and_circles_end(tmp_path):
    def answer(seen):
        if seen.path == "/circle":
            return Reply({}, 301, {"Location": "/circle"})
        return Reply({}, 302, {"Location": "/b.png"}) if seen.path == "/a.png" else Reply(picture())

    with serving(answer) as server:
        path = listed(tmp_path, ("Q1", f"{server.address}/a.png"), ("Q2", f"{server.address}/circle"))
        report = fetch(path)
    assert report.fetched == 1 and report.without == {"redirects that do not end": 1}
    assert table(tmp_path)[f"{server.address}/a.png"]["address"] == f"{server.address}/b.png"


@pytest.mark.parametrize(
    "address", ["http://a:b@127.0.0.1/x", "http://", "http:///x.png", "https://[x/", "http://a\u0000b/"]
)
def test_what_is_no_address_is_said(tmp_path, address):
    assert fetch(listed(tmp_path, ("Q1", address))).without == {"no address of a picture": 1}


# The list


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("list.jsonl", '{"id": "Q1", "file": "A.jpg"}\n{"id": "Q2"}\n', r"list.jsonl:2: expected `file`"),
        ("list.jsonl", '{"id": "Q1", "file": "A.jpg", "url": "http://a"}\n', "an address, not both"),
        ("list.jsonl", '{"id": "Q1", "fil": "A.jpg"}\n', "unknown field 'fil'"),
        ("list.jsonl", "{\n", r"list.jsonl:1:\d+: malformed JSON"),
        ("list.tsv", "Q1\n", "list.tsv:1: 'Q1': expected an id, a tab"),
        ("list.tsv", "\n", "holds no picture"),
        ("list.csv", "x", r"expected a file ending in \.jsonl or \.tsv"),
    ],
)
def test_a_list_of_another_form_is_said_with_the_line(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=message):
        picture_list.read(tmp_path / name)


def test_without_contact_server_or_a_known_licence_word_nothing_is_asked(tmp_path):
    path = listed(tmp_path, ("Q1", "Ann.jpg"))
    with serving(Commons()) as server:
        for more, message in (
            ({"contact": " "}, "--wiki-contact"),
            ({"commons": None}, "--commons-api https"),
            ({"licences": "open"}, "--licences 'open': expected all or free"),
        ):
            with pytest.raises(UserError, match=message):
                fetch(path, server, **more)
    assert not server.seen

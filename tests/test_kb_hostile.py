"""What servers do wrong and what hostile dumps and lists hold, at full size: said in a line or left out and counted,
nothing lost, nothing asked twice."""

import gzip
import json
import time
from dataclasses import replace
from email.utils import formatdate

import pytest
from enhance_world import QUICK
from loopback import Reply, serving
from test_kb_api import Wikidata, asked
from test_kb_api import build as build_by_api
from test_kb_pictures import Commons, fetch, listed, picture, table
from wikidata_world import by_id, dump, entity

from foundation.errors import PassingError
from pipeline.kb.build import build_kb
from pipeline.kb.contracts import KBJob

HASTY = replace(QUICK, timeout=1.0, whole=1.5)
BOMB = gzip.compress(bytes(50_000_000), 9)
PASSING = {
    "too many requests": Reply({}, 429, {"Retry-After": "0"}),
    "a Retry-After that is a date": Reply({}, 429, {"Retry-After": formatdate(usegmt=True)}),
    "a Retry-After that is none": Reply({}, 503, {"Retry-After": "soon"}),
    "maxlag": Reply({"error": {"code": "maxlag", "info": "Waiting: 6 seconds lagged"}}, 200, {"Retry-After": "0"}),
    "read only": Reply({"error": {"code": "readonly", "info": "The wiki is in read-only mode"}}),
    "a page of HTML": Reply(b"<!DOCTYPE html><html>Wikimedia Error</html>"),
    "half an answer": Reply({"entities": {}, "query": {"pages": []}, "success": 1}, cut=True),
    "an empty answer": Reply(b""),
    "a list": Reply([]),
    "an object without an answer": Reply({}),
    "an answer that is a number": Reply({"entities": 7, "query": 7}),
    "entities and pages that are none": Reply({"entities": {"Q101": 7, "Q102": {}}, "query": {"pages": [7, "x"]}}),
    "brackets without end": Reply(b"[" * 100_000),
    "no first byte in time": Reply({}, wait=3.0),
    "a byte now and then": Reply(b" " * 1000, drip=0.05),
}


@pytest.mark.parametrize("trouble", PASSING)
def test_after_each_misbehaviour_of_wikidata_the_same_is_asked_once_more_and_nothing_is_lost(tmp_path, trouble):
    with serving(Wikidata()) as server:
        server.trouble = [PASSING[trouble]]
        build_by_api(tmp_path, server, patience=HASTY)
    assert len(server.seen) == 3 and asked(server)[:4] == ["Q101", "Q102"] * 2
    assert set(by_id(tmp_path / "kb")) == {"Q101", "Q102"}


@pytest.mark.parametrize("trouble", PASSING)
def test_after_each_misbehaviour_of_commons_the_same_is_asked_once_more_and_nothing_is_lost(tmp_path, trouble):
    with serving(Commons()) as server:
        server.trouble = [PASSING[trouble]]
        report = fetch(listed(tmp_path, ("Q1", "Ann.jpg"), ("Q2", "None.jpg")), server, patience=HASTY)
    assert report.fetched == 1 and report.without == {"no such file on Commons": 1}
    assert [seen.path for seen in server.seen] == ["/w/api.php", "/w/api.php", "/thumb/Ann.jpg/500px.png"]


@pytest.mark.parametrize("trouble", PASSING)
def test_a_misbehaviour_that_does_not_pass_is_said_in_one_line_and_the_rest_is_asked_for_later(tmp_path, trouble):
    if PASSING[trouble].wait or PASSING[trouble].drip:
        pytest.skip("takes as many timeouts as tries")
    state, wikidata = {"bad": True}, Wikidata()
    with serving(lambda seen: PASSING[trouble] if state["bad"] else wikidata(seen)) as server:
        with pytest.raises(PassingError, match="the same command") as error:
            build_by_api(tmp_path, server)
        assert len(str(error.value).splitlines()) == 1 and len(server.seen) == QUICK.tries
        state["bad"] = False
        build_by_api(tmp_path, server)
    assert set(by_id(tmp_path / "kb")) == {"Q101", "Q102"}


def test_a_server_that_wants_a_long_wait_is_left_with_a_line_that_says_how_long(tmp_path):
    reply = Reply({}, 429, {"Retry-After": "3600"})
    with serving(lambda seen: reply) as server:
        with pytest.raises(PassingError, match=r"the server asks to wait 3,600 s"):
            build_by_api(tmp_path, server)
        assert len(server.seen) == 1
        with pytest.raises(PassingError, match=r"the server asks to wait 3,600 s"):
            fetch(listed(tmp_path / "list", ("Q1", f"{server.address}/a.png")))
        assert len(server.seen) == 2


def test_an_answer_that_expands_without_end_is_not_held(tmp_path):
    with serving(Wikidata()) as server:
        server.trouble = [Reply(BOMB, headers={"Content-Encoding": "gzip"})]
        build_by_api(tmp_path, server)
        assert asked(server)[:4] == ["Q101", "Q102", "Q101", "Q102"]
    assert set(by_id(tmp_path / "kb")) == {"Q101", "Q102"}
    with serving(lambda seen: Reply(BOMB, headers={"Content-Encoding": "gzip"})) as server:
        report = fetch(listed(tmp_path / "list", ("Q1", f"{server.address}/a.png")))
    assert report.without == {"not an image": 1}, "the bytes are looked at as they are sent"


def test_commons_answers_in_pages_are_put_together_and_names_in_a_circle_end(tmp_path):
    files = {f"F{number}.jpg": "cc0" for number in range(9)}

    class InPages(Commons):
        """Gives what it says of 4 files at a time, and names that lead in a circle for one."""

        def info(self, seen):
            content = super().info(seen)
            pages, start = content["query"]["pages"], int(seen.query.get("iistart", 0))
            for number, page in enumerate(pages):
                if not start <= number < start + 4:
                    page.pop("imageinfo", None)
            more = {"continue": {"iistart": str(start + 4), "continue": "||"}} if start + 4 < len(pages) else {}
            circle = [{"from": "File:Round.jpg", "to": "File:A.jpg"}, {"from": "File:A.jpg", "to": "File:Round.jpg"}]
            content["query"]["redirects"] = circle
            content["query"]["pages"] = [page for page in pages if page["title"] != "File:Round.jpg"]
            return {**content, **more}

    with serving(InPages(files)) as server:
        report = fetch(listed(tmp_path, *((f"Q{n}", name) for n, name in enumerate([*files, "Round.jpg"]))), server)
    assert report.fetched == 9 and report.without == {"no such file on Commons": 1}
    assert sum(seen.path == "/w/api.php" for seen in server.seen) == 3


def test_a_redirect_that_leaves_the_web_is_not_followed(tmp_path):
    for number, target in enumerate(("file:///etc/passwd", "ftp://a.org/x", "http://a:b@127.0.0.1/")):
        with serving(lambda seen, target=target: Reply({}, 302, {"Location": target})) as server:
            report = fetch(listed(tmp_path / str(number), ("Q1", f"{server.address}/a.png")))
        assert report.without == {"no address of a picture": 1} and len(server.seen) == 1


def test_markup_in_what_commons_says_of_an_author_is_text(tmp_path):
    class Odd(Commons):
        def info(self, seen):
            content = super().info(seen)
            said = content["query"]["pages"][0]["imageinfo"][0]["extmetadata"]
            said["Artist"]["value"] = "<script>alert(1)</script>\t<b>Bo</b>\n" + "<a>" * 5_000
            return content

    with serving(Odd()) as server:
        fetch(listed(tmp_path, ("Q1", "Ann.jpg")), server)
    assert table(tmp_path)["Ann.jpg"]["author"] == "alert(1) Bo"


@pytest.mark.parametrize("form", [".json", ".json.gz", ".json.bz2"])
def test_a_label_of_100_mb_is_left_out_by_its_length(tmp_path, form):
    entities = [entity("Q1", {"en": "One"}), entity("Q2", {"en": "x" * 100_000_000}), entity("Q3", {"en": "Three"})]
    path, began = dump(tmp_path / f"dump{form}", entities), time.process_time()
    report = build_kb(KBJob(out=tmp_path / "kb", dump=path, processes=1, max_bad_records=0.5))
    assert list(by_id(tmp_path / "kb")) == ["Q1", "Q3"] and time.process_time() - began < 120
    (cause,) = [name for name in report.counts if name.startswith("malformed")]
    assert "longer than" in cause and len(report.examples[0]) < 200


def test_a_million_aliases_are_cut_to_those_that_a_kb_keeps_and_counted(tmp_path):
    few = {"en": [f"N{number}" for number in range(1_000_000)]}
    one = json.dumps(entity("Q1", {"en": "One"}, aliases={"en": ["A"]}))
    short = ",".join(f'{{"language":"en","value":"{name}"}}' for name in few["en"][:400_000])
    path = tmp_path / "dump.json"  # 400,000 take the 16 MB that a record may have
    path.write_text("[\n" + one.replace('{"language": "en", "value": "A"}', short) + "\n]\n")
    report = build_kb(KBJob(out=tmp_path / "kb", dump=path, processes=1))
    assert len(by_id(tmp_path / "kb")["Q1"]["aliases"]) == 1000
    assert sum(count for name, count in report.counts.items() if name.startswith("names left out")) == 399_000
    many = entity("Q1", {"en": "One"}, aliases=few)
    path = dump(tmp_path / "more.json", [many, entity("Q2", {"en": "Two"})])
    report = build_kb(KBJob(out=tmp_path / "more", dump=path, processes=1, max_bad_records=0.5))
    assert list(by_id(tmp_path / "more")) == ["Q2"] and any("longer than" in name for name in report.counts)


def test_a_picture_that_answers_now_and_then_is_asked_for_again(tmp_path):
    with serving(lambda seen: Reply(picture())) as server:
        server.trouble = [Reply(picture() * 20, drip=0.05)]
        report = fetch(listed(tmp_path, ("Q1", f"{server.address}/a.png")), patience=HASTY)
    assert report.fetched == 1 and len(server.seen) == 2

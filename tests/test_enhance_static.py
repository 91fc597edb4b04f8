"""Static descriptions, from files in every layout that is read, and from a real server that answers well, slowly, badly
or not at all."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from enhance_world import IMPATIENT, people, prepared, static_job, texts, wiki_at, without
from loopback import Reply, Wiki, serving

from foundation.contracts import to_json
from foundation.errors import PassingError, UserError
from pipeline.enhance import static

ROOT = Path(__file__).resolve().parents[1]
LONG = "Ann Powers is an actor.\nShe lives in Red City.\nA third paragraph."


def wiki_of(count: int) -> Wiki:
    return Wiki(pages={name: {"extract": f"{name} is a person.", "item": qid} for qid, name in people(count)})


# From a file


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("pages.jsonl", '{"qid": "Q1", "text": "%s"}\n\n{"title": "Ben_Powers", "extract": "Ben is an actor."}\n'),
        ("pages.json", '{"Q1": "%s", "Ben Powers": "Ben is an actor."}'),
        (
            "list.json",
            '[{"id": "Q1", "description": "%s"}, '
            '{"url": "https://en.wikipedia.org/wiki/Ben_Powers", "abstract": "Ben is an actor."}]',
        ),
        ("pages.tsv", "Q1\t%s\nBen Powers\tBen is an actor.\n"),
        ("header.tsv", "qid\tlabel\ttext\nQ1\tx\t%s\nQ2\ty\tBen is an actor.\n"),
        ("entity2desc.tsv", "Q1@@@@%s\nBen_Powers@@@@Ben is an actor.\n"),
    ],
)
def test_every_layout_of_a_page_file_is_read(tmp_path, name, content):
    data = prepared(tmp_path / "data", ("Q1", "Ann Powers"), ("Q2", "Ben Powers"), ("Q3", "Nobody"))
    (tmp_path / name).write_text(
        "\ufeff" * (not name.endswith(".json"))
        + content % LONG.replace("\n", "\\n" if "json" in name else "\n" if "@@@@" in content else " ")
    )
    report = static.describe(static_job(data, pages=tmp_path / name, max_chars=46))
    assert texts(data, "static") == {"Q1": "Ann Powers is an actor. She lives in Red City.", "Q2": "Ben is an actor."}
    assert (
        without(data, "static") == {"Q3": "not in the file"}
        and report.written == 2
        and report.without == {"not in the file": 1}
    )


def test_a_name_that_two_entities_have_gives_neither_a_page(tmp_path):
    data = prepared(tmp_path / "data", ("Q1", "Ann Powers"), ("Q2", "Ann Powers"), ("Q3", "Ann Powers"))
    (tmp_path / "pages.jsonl").write_text(
        '{"title": "Ann Powers", "text": "An actor."}\n{"qid": "Q3", "text": "A ship."}\n'
    )
    static.describe(static_job(data, pages=tmp_path / "pages.jsonl"))
    assert texts(data, "static") == {"Q3": "A ship."}
    assert set(without(data, "static").values()) == {"only under a name that several entities have"}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"qid": "Q1", "text": "x"}\n{"qid": ', r"a\.jsonl:2: malformed JSON"),
        ("a.jsonl", b'{"text": "x"}\n', "no key; expected a text in one of the fields"),
        ("a.jsonl", b'{"qid": "Q1", "text": ["x"]}\n', "the text is list"),
        ("a.jsonl", b"[" * 100_000, "malformed JSON"),
        ("a.tsv", b"Q1\tx\nQ2 y\n", r"a\.tsv:2: no '\\t' in this line"),
        ("a.tsv", b"Q1\tx\n\xff\xfe\tb\n", "not UTF-8"),
        ("a.json", b'{"Q1": 7}', "holds int"),
        ("a.json", b'"x"', "expected an object key"),
        ("a.csv", b"", "expected a file ending in"),
    ],
)
def test_a_malformed_page_file_is_one_line_with_its_place(tmp_path, name, content, message):
    data = prepared(tmp_path / "data", ("Q1", "Ann"))
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        static.describe(static_job(data, pages=tmp_path / name))
    assert "\n" not in str(error.value) and not (data / "descriptions-static.parquet").exists()


def test_the_files_are_the_same_bytes_for_the_same_pages(tmp_path):
    data = prepared(tmp_path / "data", ("Q1", "Ann"), ("Q2", "Ben"))
    (tmp_path / "p.jsonl").write_text('{"qid": "Q1", "text": "x."}\n')
    before = None
    for _ in range(2):
        static.describe(static_job(data, pages=tmp_path / "p.jsonl"))
        after = {path.name: path.read_bytes() for path in data.iterdir()}
        assert before in (None, after)
        before = after


# From a wiki


def test_pages_come_in_batches_by_title_through_redirects_and_continuation(tmp_path):
    wiki = wiki_of(45)
    wiki.pages["Person 3"]["extract"] = LONG
    wiki.redirects = {"Person 4": ("Person Four", None)}
    wiki.pages["Person Four"] = {"extract": "Four is a person.", "item": "Q4"}
    data = prepared(tmp_path / "data", *people(45))
    with serving(wiki) as server:
        report = static.describe(static_job(data, wiki=wiki_at(server.address + "/w/api.php")))
    found = texts(data, "static")
    assert (
        len(found) == 45
        and found["Q3"] == "Ann Powers is an actor. She lives in Red City."
        and found["Q4"] == "Four is a person."
    )
    assert report.usage.requests == len(server.seen) == 3 + 3 + 1, "three batches, each continued until it is whole"
    agent = server.seen[0].headers["User-Agent"]
    assert "mel-cache/" in agent and "a@b.org" in agent and server.seen[0].query["maxlag"] == "5"


@pytest.mark.parametrize("form", ["extracts", "parse"])
def test_what_is_no_page_of_the_entity_is_told_apart_and_listed(tmp_path, form):
    wiki = Wiki(
        pages={
            "Ann": {"extract": "Ann is an actor.", "item": "Q1"},
            "Ben": {"extract": "Ben may be:", "disambiguation": True},
            "Cleo": {"extract": "x", "item": "Q99"},
            "Ship": {"extract": "A ship."},
            "Twin": {"extract": "Twin is a city.", "item": "Q8"},
        },
        redirects={"Old": ("Ship", "History")},
    )
    data = prepared(
        tmp_path / "d",
        ("Q1", "Ann"),
        ("Q2", "Ben"),
        ("Q3", "Cleo"),
        ("Q4", "Old"),
        ("Q5", "None"),
        ("Q6", "A|B"),
        ("Q7", "Twin"),
        ("Q8", "Twin"),
        ("x", "Ship"),
    )
    with serving(wiki) as server:
        static.describe(static_job(data, wiki=wiki_at(server.address, form=form)))
    assert texts(data, "static") == {"Q1": "Ann is an actor.", "Q8": "Twin is a city.", "x": "A ship."}
    assert without(data, "static") == {
        "Q2": "disambiguation page",
        "Q3": "page of another entity",
        "Q4": "section of another page",
        "Q5": "no page",
        "Q6": "name that no page can have",
        "Q7": "page of another entity",
    }


def test_titles_come_from_the_sitelinks_of_qids_and_one_unknown_qid_does_not_lose_the_others(tmp_path):
    wiki = Wiki(
        pages={"Ann Powers (actor)": {"extract": "The actor."}, "Ship": {"extract": "A ship."}},
        links={"Q1": "Ann Powers (actor)", "Q2": None, "Q4": "Ship"},
    )
    data = prepared(tmp_path / "data", ("Q1", "Ann Powers"), ("Q2", "Ann Powers"), ("Q3", "Gone"), ("Q4", "Ship"))
    with serving(wiki) as server:
        static.describe(static_job(data, wiki=wiki_at(server.address + "/w", wikidata_api=server.address + "/d")))
        assert texts(data, "static") == {"Q1": "The actor.", "Q4": "A ship."}
        assert without(data, "static") == {"Q2": "no page on this wiki", "Q3": "no page on this wiki"}
        before = len(server.seen)
        report = static.describe(
            static_job(data, wiki=wiki_at(server.address + "/w", wikidata_api=server.address + "/d"))
        )
        assert len(server.seen) == before and report.usage.requests == 0 and report.usage.reused == 6


@pytest.mark.parametrize("name", ["q8", "http://www.wikidata.org/entity/Q8", "Q8"])
def test_a_qid_is_one_in_whatever_form_it_is_written(tmp_path, name):
    wiki = Wiki(pages={"Linked": {"extract": "The linked one."}}, links={"Q8": "Linked"})
    data = prepared(tmp_path / "data", (name, "Plain"))
    with serving(wiki) as server:
        static.describe(static_job(data, wiki=wiki_at(server.address + "/w", wikidata_api=server.address + "/d")))
    assert texts(data, "static") == {name: "The linked one."}


def test_of_a_single_page_that_failed_the_reason_is_given(tmp_path):
    data = prepared(tmp_path / "data", ("Q1", "Ann"))
    broken = pytest.raises(PassingError, match=r"1 of 1 pages could not be fetched now: .*not JSON: <html>mainten")
    with serving(lambda seen: Reply(b"<html>maintenance</html>")) as server, broken:
        static.describe(static_job(data, wiki=wiki_at(server.address + "/w")))


def test_a_wiki_that_fails_limits_drips_and_babbles_is_asked_again(tmp_path):
    data = prepared(tmp_path / "data", *people(3))
    with serving(wiki_of(3)) as server:
        for trouble in (
            [Reply(status=500), Reply(status=503)],
            [Reply(b"<html>no</html>"), Reply(b"[]")],
            [Reply(wait=3.0)],
            [Reply(b"{" + b" " * 100, drip=0.1)],
            [Reply({"error": {"code": "maxlag", "info": "lagged"}}, headers={"Retry-After": "0"})],
            [Reply(b'{"query": {}}' * 50, cut=True)],
            [Reply({}), Reply({"query": None})],
            [Reply({"query": {"redirects": [{}]}})],
        ):
            for path in (tmp_path / "kept").glob("*.jsonl"):
                path.unlink()
            server.trouble = list(trouble)
            report = static.describe(static_job(data, wiki=wiki_at(server.address), patience=IMPATIENT))
            assert report.written == 3 and report.usage.requests == 1 + len(trouble), trouble


def test_retry_after_is_honoured_and_a_wait_that_is_too_long_ends_the_run(tmp_path):
    data = prepared(tmp_path / "data", *people(1))
    with serving(wiki_of(1)) as server:
        server.trouble = [Reply(status=429, headers={"Retry-After": "1"})]
        static.describe(static_job(data, wiki=wiki_at(server.address)))
        assert server.seen[1].at - server.seen[0].at >= 1.0
    data = prepared(tmp_path / "other" / "data", *people(61))
    with serving(lambda _: Reply(status=429, headers={"Retry-After": "86400"})) as server:
        with pytest.raises(PassingError, match="asks to wait 86,400 s"):
            static.describe(static_job(data, wiki=wiki_at(server.address)))
        assert len(server.seen) == 3, "a server that says no three times is left alone"


def test_the_rate_is_kept(tmp_path):
    data = prepared(tmp_path / "data", *people(61))
    with serving(wiki_of(0)) as server:
        static.describe(static_job(data, wiki=wiki_at(server.address, rate=10)))
    assert len(server.seen) == 10 and server.seen[-1].at - server.seen[0].at > 0.5, "nine gaps of a tenth of a second"


def test_a_run_that_broke_off_goes_on_where_it_stopped(tmp_path):
    data, wiki, fine = prepared(tmp_path / "data", *people(45)), wiki_of(45), threading.Event()
    count = [0]

    def answer(seen):
        count[0] += 1
        return wiki(seen) if fine.is_set() or count[0] <= 3 else Reply(status=503)

    with serving(answer) as server:
        with pytest.raises(PassingError, match="25 of 45 pages could not be fetched now"):
            static.describe(static_job(data, wiki=wiki_at(server.address)))
        assert not (data / "descriptions-static.parquet").exists()
        fine.set()
        before = len(server.seen)
        report = static.describe(static_job(data, wiki=wiki_at(server.address)))
        titles = {title for seen in server.seen[before:] for title in seen.query["titles"].split("|")}
        assert len(titles) == 25 and report.usage.reused == 20 and report.written == 45


def test_pages_that_cannot_be_had_may_be_left_out_on_request(tmp_path):
    data, wiki = prepared(tmp_path / "data", *people(25)), wiki_of(25)
    with serving(
        lambda seen: Reply(status=502) if "Person 9" in seen.query["titles"].split("|") else wiki(seen)
    ) as server:
        report = static.describe(static_job(data, wiki=wiki_at(server.address), max_failed=20))
    assert (
        report.written >= 5
        and report.without["not fetched"] == 25 - report.written
        and 0 < report.without["not fetched"] <= 20
    )


def test_one_huge_page_costs_that_page_and_is_read_no_further_than_the_limit(tmp_path):
    data, wiki = prepared(tmp_path / "data", *people(5)), wiki_of(5)
    with serving(
        lambda seen: Reply(endless=True) if "Person 2" in seen.query["titles"].split("|") else wiki(seen)
    ) as server:
        report = static.describe(static_job(data, wiki=wiki_at(server.address)))
    assert report.written == 4 and without(data, "static") == {"Q2": "page too large"}


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (
            Reply(status=302, headers={"Location": "http://169.254.1.1/api.php"}),
            "redirects to http://169.254.1.1/api.php; give the final address",
        ),
        (Reply(status=404), "answers 404; check the address"),
        (Reply({"error": {"code": "badvalue", "info": "Bad\nvalue"}}), "refuses query: badvalue: Bad value"),
        (
            Reply({"warnings": {"query": {"warnings": 'Unrecognized value for parameter "prop": extracts'}}}),
            "has no TextExtracts extension; use --wiki-text parse",
        ),
    ],
)
def test_what_the_user_must_mend_is_one_line(tmp_path, answer, message):
    data = prepared(tmp_path / "data", ("Q1", "Ann"))
    with serving(lambda _: answer) as server, pytest.raises(UserError, match=message) as error:
        static.describe(static_job(data, wiki=wiki_at(server.address)))
    assert "\n" not in str(error.value) and len(server.seen) == 1


@pytest.mark.parametrize(
    "body",
    [
        {"query": {"pages": [None, 7, {"title": None}]}},
        {"query": {"pages": {"1": {"title": "Ann", "extract": 7}}}},
        {"query": {"interwiki": [{"title": "Ann", "iw": "de"}]}},
    ],
)
def test_json_of_another_shape_is_no_page_and_no_crash(tmp_path, body):
    data = prepared(tmp_path / "data", ("Q1", "Ann"))
    with serving(lambda _: Reply(body)) as server:
        assert static.describe(static_job(data, wiki=wiki_at(server.address))).written == 0


def test_options_that_lead_nowhere_are_refused(tmp_path):
    data = prepared(tmp_path / "data", ("Q1", "Ann"))
    for options, message in (
        ({}, "name a file with --pages, or a wiki"),
        ({"wiki": wiki_at("http://x", contact=" ")}, "--wiki-contact"),
        ({"wiki": wiki_at("ftp://x")}, "--wiki-api 'ftp://x'"),
        ({"wiki": wiki_at("http://user:secret@x/api.php")}, "user name or password"),
        ({"pages": Path("nowhere.json")}, "no such file"),
    ):
        with pytest.raises(UserError, match=message) as error:
            static.describe(static_job(data, **options))
        assert "secret" not in str(error.value)


def test_a_dry_run_counts_requests_and_makes_none(tmp_path):
    data = prepared(tmp_path / "data", *people(45))
    with serving(wiki_of(45)) as server:
        plan = static.estimate(static_job(data, wiki=wiki_at(server.address)))
        assert (
            plan.requests == 3
            and not server.seen
            and [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["entities.parquet"]
        )


def test_killed_at_any_answer_it_asks_nothing_twice(tmp_path):
    data, wiki = prepared(tmp_path / "data", *people(75)), wiki_of(75)
    with serving(wiki) as server:
        job = static_job(data, wiki=wiki_at(server.address))
        command = [
            sys.executable,
            "-c",
            "import json, sys; from foundation import child; "
            "child.call('pipeline.enhance.static:describe', json.loads(sys.argv[1]))",
            json.dumps(to_json(job)),
        ]
        for _ in range(4):
            environment = {**os.environ, "PYTHONPATH": str(ROOT), "MEL_FAULT": "after-answer:1"}
            done = subprocess.run(command, env=environment, capture_output=True, check=False)
            assert done.returncode == -9, done.stderr.decode()
        store = next((tmp_path / "kept").glob("pages-*.jsonl"))
        store.write_bytes(
            store.read_bytes() + b'{"key": "Person 1", "val'
        )  # a line cut short, as a power cut leaves it
        assert static.describe(job).written == 75
        titles = [
            title for seen in server.seen if "excontinue" not in seen.query for title in seen.query["titles"].split("|")
        ]
        assert sorted(titles) == sorted(set(titles)) and len(titles) == 75
        assert all(json.loads(line) for line in store.read_text().splitlines())

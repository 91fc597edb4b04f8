"""A KB of listed entities from Wikidata's API: labels in a second round, nothing asked twice; what servers do wrong is
said in a line."""

from dataclasses import replace
from typing import Any

import pytest
from enhance_world import QUICK
from loopback import Reply, Seen, serving
from wikidata_world import ACME, ANN, COMMON, WORLD, by_id, statement, text

from foundation.errors import PassingError, UserError
from pipeline.kb.build import build_kb
from pipeline.kb.contracts import KBJob, Server


class Wikidata:
    """Answers `wbgetentities` as Wikidata does: 50 ids at most, unknown ones are missing, merged ones redirect."""

    def __init__(self, entities=WORLD, merged=None):
        self.entities, self.merged = {one["id"]: one for one in entities}, merged or {}

    def __call__(self, seen: Seen) -> Reply:
        query = seen.query
        assert query["action"] == "wbgetentities" and query["maxlag"] and query["format"] == "json"
        names, languages = query["ids"].split("|"), set(query["languages"].split("|"))
        assert len(names) <= 50
        wanted = {"type", "id", *query["props"].split("|")}
        answered: dict[str, Any] = {}
        for name in names:
            entity = self.entities.get(self.merged.get(name, name))
            if entity is None:
                answered[name] = {"id": name, "missing": ""}
                continue
            answered[name] = {key: value for key, value in entity.items() if key in wanted}
            for key in {"labels", "descriptions", "aliases"} & wanted:
                terms = entity[key] or {}
                answered[name][key] = {language: terms[language] for language in terms if language in languages}
            if name in self.merged:
                answered[name]["redirects"] = {"from": name, "to": entity["id"]}
        return Reply({"entities": answered, "success": 1})


def build(folder, server, ids="Q101\nQ102\n", **more):
    (folder / "ids.txt").write_text(ids)
    asked = Server(api=f"{server.address}/w/api.php", contact="a@b.org", rate=0, patience=more.pop("patience", QUICK))
    job = {"out": folder / "kb", "ids": folder / "ids.txt", "server": asked, "processes": 1, **more}
    return build_kb(KBJob(**job))


def asked(server):
    return [name for seen in server.seen for name in seen.query["ids"].split("|")]


def test_listed_entities_are_fetched_and_then_the_labels_of_their_values(tmp_path):
    with serving(Wikidata(merged={"Q999": "Q102"})) as server:
        report = build(tmp_path, server, "Q101\nhttps://www.wikidata.org/wiki/Q999\nQ404\n\nQ101\n")
    kept = by_id(tmp_path / "kb")
    assert set(kept) == {"Q101", "Q999"} and kept["Q999"]["name"] == "Acme"
    assert kept["Q101"]["attributes"] == {"Occupation": ["actor"], "Date of birth": ["1942-03-11"]}
    assert kept["Q101"]["type"] == "human"
    assert report.counts["left out: no label in these languages"] == 1
    assert "a@b.org" in server.seen[0].headers["User-Agent"]
    assert [seen.query["props"].startswith("labels|") for seen in server.seen] == [True, False]


def test_a_further_language_asks_again_and_the_same_request_nothing(tmp_path):
    with serving(Wikidata()) as server:
        first = build(tmp_path, server)
        count = len(server.seen)
        assert build(tmp_path, server) == first and len(server.seen) == count
        build(tmp_path, server, languages=("de",), out=tmp_path / "german")
    assert by_id(tmp_path / "german")["Q101"]["name"] == "Anna Lee"


@pytest.mark.parametrize(
    "trouble",
    [
        Reply({}, 429, {"Retry-After": "0"}),
        Reply({}, 503),
        Reply({"error": {"code": "maxlag", "info": "Waiting: 6 seconds lagged"}}, 200, {"Retry-After": "0"}),
        Reply(b"<html>Service unavailable</html>"),
        Reply({"entities": {}, "success": 1}, cut=True),
        Reply([]),
    ],
)
def test_what_passes_is_asked_again_and_nothing_twice(tmp_path, trouble):
    with serving(Wikidata()) as server:
        server.trouble = [trouble]
        build(tmp_path, server)
    assert len(server.seen) == 3 and set(by_id(tmp_path / "kb")) == {"Q101", "Q102"}


def test_a_server_that_stays_down_is_said_and_what_came_is_not_asked_again(tmp_path):
    ids = "".join(f"Q{number}\n" for number in range(101, 221))
    wikidata, state = Wikidata(), {"down": True}

    def answer(seen):
        return Reply({}, 503) if state["down"] and len(server.seen) > 1 else wikidata(seen)

    with serving(answer) as server:
        with pytest.raises(PassingError, match=r"answers 503.*the same command") as error:
            build(tmp_path, server, ids)
        assert len(str(error.value).splitlines()) == 1
        state["down"], first = False, asked(server)[:50]
        server.seen.clear()
        build(tmp_path, server, ids)
        assert not set(asked(server)) & set(first)
    assert set(by_id(tmp_path / "kb")) == {"Q101", "Q102"}


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (Reply({}, 302, {"Location": "http://a.org/"}), "redirects to http://a.org/; give the final address"),
        (Reply({}, 403), "answers 403; check the address"),
        (Reply({"error": {"code": "permissiondenied", "info": "no"}}), "refuses wbgetentities: permissiondenied: no"),
    ],
)
def test_what_its_user_must_mend_is_said_at_once(tmp_path, reply, message):
    with serving(lambda seen: reply) as server, pytest.raises(UserError, match=message):
        build(tmp_path, server)
    assert len(server.seen) == 1


def test_answers_that_are_too_large_are_asked_for_in_smaller_groups(tmp_path):
    filler = [statement("P1", text("x" * 120_000))]
    large = [{**one, "claims": {**one["claims"], "P1": filler}} for one in (ANN, ACME)]
    with serving(Wikidata([*COMMON, *large])) as server:
        build(tmp_path, server)
    assert asked(server)[:4] == ["Q101", "Q102", "Q101", "Q102"] and set(by_id(tmp_path / "kb")) == {"Q101", "Q102"}


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ("Q101\nAnn Lee\n", r"ids.txt:2: 'Ann Lee': expected a QID, like Q42"),
        ("\n", "holds no QID"),
    ],
)
def test_a_list_that_holds_something_else_is_said_before_anything_is_asked(tmp_path, ids, message):
    with serving(Wikidata()) as server, pytest.raises(UserError, match=message):
        build(tmp_path, server, ids)
    assert not server.seen


def test_without_a_contact_or_a_server_nothing_is_asked(tmp_path):
    (tmp_path / "ids.txt").write_text("Q101\n")
    job = KBJob(out=tmp_path / "kb", ids=tmp_path / "ids.txt")
    with pytest.raises(UserError, match="--ids: name the server"):
        build_kb(job)
    with serving(Wikidata()) as server:
        anonymous = Server(api=f"{server.address}/w/api.php", contact=" ")
        with pytest.raises(UserError, match="--wiki-contact"):
            build_kb(replace(job, server=anonymous))
    assert not server.seen

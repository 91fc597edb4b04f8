"""What a KB keeps of an entity of Wikidata, which entities it takes, and what becomes of hostile ones."""

import json
from collections import Counter

import pytest
from wikidata_world import ANN, COMMON, WORLD, amount, by_id, date, dump, entity, item, lines, statement, text, words

from foundation.errors import UserError
from pipeline.datasets.contracts import LayoutOptions
from pipeline.datasets.layouts import jsonl
from pipeline.kb import where
from pipeline.kb.build import build_kb
from pipeline.kb.contracts import KBJob
from pipeline.kb.values import value


def build(folder, entities, **more):
    path = dump(folder / "dump.json", entities)
    return build_kb(KBJob(**{"out": folder / "kb", "dump": path, "processes": 1, "languages": ("en", "de"), **more}))


def test_an_entity_has_its_names_description_type_attributes_pages_and_pictures(tmp_path):
    report = build(tmp_path, WORLD, where="P31=Q5", attributes=("P106", "P569=Born", "P2048"))
    assert by_id(tmp_path / "kb") == {
        "Q101": {
            "id": "Q101",
            "name": "Ann Lee",
            "attributes": {"Occupation": ["actor"], "Born": ["1942-03-11"], "Height": ["1.75 metre"]},
            "description": "American actor",
            "type": "human",
            "aliases": ["A. Lee", "Ann", "Anna Lee", "Anna"],
        }
    }
    pictures = [{"id": "Q101", "file": "Ann Lee 1970.jpg", "property": "P18"}]
    assert lines(tmp_path / "kb" / "pictures.jsonl") == pictures
    titles = {"enwiki": "Ann Lee", "dewiki": "Anna Lee"}
    assert lines(tmp_path / "kb" / "sitelinks.jsonl") == [{"id": "Q101", "popularity": 3, "sitelinks": titles}]
    assert report.counts["entities"] == 1 and report.counts["properties"] == 3
    assert "1 entities" in report.text and "left out by --where: 5" in report.text


def test_the_layout_jsonl_reads_the_kb(tmp_path):
    build(tmp_path, WORLD)
    raw = jsonl.load("mine", tmp_path / "kb", LayoutOptions())
    assert not raw.rejects and not raw.mentions
    assert {one.id: one.name for one in raw.entities}["Q101"] == "Ann Lee"
    (ann,) = (one for one in raw.entities if one.id == "Q101")
    assert ann.attributes == "Occupation: actor. Date of birth: 1942-03-11." and "Anna" in ann.aliases


def test_the_first_language_that_has_a_name_counts_and_then_the_one_of_all_languages(tmp_path):
    entities = [
        entity("Q1", {"de": "Eins", "mul": "One"}, descriptions={"de": "eine Zahl"}),
        entity("Q2", {"mul": "Two", "fr": "Deux"}),
        entity("Q3", {"fr": "Trois"}),
    ]
    report = build(tmp_path, entities)
    names = {name: line["name"] for name, line in by_id(tmp_path / "kb").items()}
    assert names == {"Q1": "Eins", "Q2": "Two"}
    assert by_id(tmp_path / "kb")["Q1"]["aliases"] == ["One"]
    assert report.counts["left out: no label in these languages"] == 1


def test_preferred_statements_count_before_others_and_deprecated_ones_never(tmp_path):
    ranks = {"deprecated": "Q201", "normal": "Q202", "preferred": "Q203"}
    kinds = [entity(qid, {"en": rank}) for rank, qid in ranks.items()]
    one = entity("Q1", {"en": "One"}, {"P106": [statement("P106", item(qid), rank) for rank, qid in ranks.items()]})
    two = entity("Q2", {"en": "Two"}, {"P106": [statement("P106", item("Q201"), "deprecated")]})
    build(tmp_path, [*kinds, one, two], where="P106", attributes=("P106=Job",))
    assert {name: line.get("attributes") for name, line in by_id(tmp_path / "kb").items()} == {
        "Q1": {"Job": ["preferred"]}
    }


@pytest.mark.parametrize(
    ("snak", "expected"),
    [
        (date("+1942-03-11T00:00:00Z", 11), "1942-03-11"),
        (date("+1942-03-00T00:00:00Z", 10), "1942-03"),
        (date("+1942-00-00T00:00:00Z", 9), "1942"),
        (date("+1942-00-00T00:00:00Z", 11), "1942"),
        (date("+1940-00-00T00:00:00Z", 8), "1940s"),
        (date("+1801-00-00T00:00:00Z", 7), "19th century"),
        (date("+1900-00-00T00:00:00Z", 7), "19th century"),
        (date("+0112-00-00T00:00:00Z", 7), "2nd century"),
        (date("+1001-00-00T00:00:00Z", 6), "2nd millennium"),
        (date("-0044-03-15T00:00:00Z", 11), "44 BCE"),
        (date("-13798000000-00-00T00:00:00Z", 3), "13798000000 BCE"),
        (date("soon", 11), None),
        (amount("+1.75", "http://www.wikidata.org/entity/Q11573"), ["1.75", "Q11573"]),
        (amount("-3"), "-3"),
        (amount("1e999"), None),
        (item("Q33999"), ["Q33999"]),
        (words("Hello", "en"), "Hello"),
        (words("Bonjour", "fr"), None),
        (text(" two\n\twords\x00 "), "two words"),
        (
            {"datavalue": {"type": "globecoordinate", "value": {"latitude": 52.5, "longitude": 13.4}}},
            "52.5000, 13.4000",
        ),
        ({"datavalue": {"type": "wikibase-entityid", "value": {"id": "Q99999999999999999999"}}}, None),
        ({"datavalue": {"type": "new", "value": {"odd": [1]}}}, None),
        ({"datavalue": [1]}, None),
    ],
)
def test_a_value_reads_as_far_as_it_is_known(snak, expected):
    assert value(snak["datavalue"], ("en", "de")) == expected


class Facts:
    links = 3

    def items(self, name):
        return {"P31": {"Q5"}, "P106": {"Q33999", "Q2"}}.get(name, set())

    def has(self, name):
        return name in ("P31", "P106", "P18")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", True),
        ("P31=Q5", True),
        ("P31=Q5 or P31=Q4830453", True),
        ("p31 = q4830453", False),
        ("P31=Q5 and P570", False),
        ("P31=Q5 and not P570", True),
        ("not (P31=Q5 or P18)", False),
        ("P570 or P31=Q5 and sitelinks>=3", True),
        ("(P570 or P31=Q5) and sitelinks>3", False),
        ("sitelinks=3 and sitelinks<=3 and sitelinks<4", True),
    ],
)
def test_a_condition_says_which_entities_are_taken(text, expected):
    assert where.condition(text).holds(Facts()) is expected


@pytest.mark.parametrize(
    "text", ["P31=", "=Q5", "P31=Q5 P18", "(P31=Q5", "P31=Q5)", "and", "not", "sitelinks", "P0", "(" * 60]
)
def test_a_condition_that_cannot_be_read_is_refused_with_its_place(text):
    with pytest.raises(UserError, match="--where") as error:
        where.condition(text)
    assert len(str(error.value).splitlines()) == 1


def test_a_line_without_the_item_is_passed_over_only_where_the_condition_cannot_hold():
    line = json.dumps(ANN).encode()
    may = {"P31=Q5": True, "P31=Q7": False, "not P31=Q7": True, "P31=Q7 or P18": True, "P18 and P31=Q7": False}
    assert {words: where.condition(words).may_hold(line) for words in may} == may


# Hostile input


def test_markup_in_names_stays_text_and_control_characters_go(tmp_path):
    build(tmp_path, [entity("Q1", {"en": "<script>alert(1)</script>\x00\u202e"}, aliases={"en": ["a\nb", "\t"]})])
    (line,) = by_id(tmp_path / "kb").values()
    assert line["name"].startswith("<script>alert(1)</script>") and "\x00" not in line["name"]
    assert line["aliases"] == ["a b"]


def test_a_million_aliases_and_endless_labels_are_cut_and_counted(tmp_path):
    entities = [
        entity("Q1", {"en": "Many"}, aliases={"en": [f"Name {n}" for n in range(1_000_000 // 20)] + ["x" * 501]}),
        entity("Q2", {"en": "x" * 100_000}),
        entity("Q3", {"en": "Three"}, {"P1": [text("y" * 100_000)]}, descriptions={"en": "z" * 100_000}),
    ]
    report = build(tmp_path, entities, attributes=("P1=Long",))
    kept = by_id(tmp_path / "kb")
    assert len(kept["Q1"]["aliases"]) == 1000 and "Q2" not in kept
    assert len(kept["Q3"]["attributes"]["Long"][0]) == len(kept["Q3"]["description"]) == 500
    assert report.counts["left out: label of more than 500 characters"] == 1
    assert sum(count for name, count in report.counts.items() if name.startswith("names left out")) == 49_001


def test_an_entity_that_stands_twice_is_taken_once(tmp_path):
    report = build(tmp_path, [entity("Q1", {"en": "One"}), entity("Q1", {"en": "Uno"})])
    assert by_id(tmp_path / "kb")["Q1"]["name"] == "One"
    assert report.counts["left out: the dump holds them twice"] == 1 == report.counts["entities"]


def test_what_is_neither_item_nor_property_is_left_out(tmp_path):
    odd = [{**entity("Q1", {"en": "x"}), "id": name} for name in ("L7", "Q0", "Q99999999999999", "../x", "")]
    report = build(tmp_path, [*odd, entity("Q7", {"en": "Seven"})])
    assert list(by_id(tmp_path / "kb")) == ["Q7"] and report.counts["left out: neither item nor property"] == 5


def test_a_value_whose_item_has_no_label_is_left_out_and_counted(tmp_path):
    one = entity("Q1", {"en": "One"}, {"P106": [item("Q33999"), item("Q404")], "P31": [item("Q404")]})
    report = build(tmp_path, [*COMMON, one], where="P106")
    (line,) = by_id(tmp_path / "kb").values()
    assert line["attributes"] == {"Occupation": ["actor"]} and "type" not in line
    assert Counter(report.counts)["values without a label"] == 2

"""The layout `ghmfc`: what is kept of a release, what must not be, and a one-line error for everything malformed."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from data_faults import ABSENT, change, refused
from release_folders import Ghmfc

from pipeline.datasets.contracts import LayoutOptions
from pipeline.datasets.layouts import load

WIKIMEL = Path(__file__).parents[2] / "shared" / "data" / "wikimel"


@pytest.fixture
def ghmfc(tmp_path):
    return Ghmfc(tmp_path)


def test_ghmfc_records_become_mentions_and_entities(ghmfc):
    ghmfc.splits["dev"]["10"] |= {"mentions": "Ann", "answer": "Q10", "imgPath": "KVQAimgs/1.png"}
    (ghmfc.folder / "images" / "1.jpg").write_bytes(b"x")
    ghmfc.files["qid2brief"] = {"Q10": "A woman."}
    dataset = ghmfc.load()
    first = dataset.mentions[2]
    assert (first.id, first.split, first.phrase, first.span, first.gold, first.image) == (
        "10",
        "dev",
        "Ann",
        (0, 3),
        "Q10",
        "1.jpg",
    )
    assert [m.id for m in dataset.mentions] == ["00", "01", "10", "11", "20", "21"]
    assert [e.id for e in dataset.entities] == ["Q10", "Q2", "Q3"]
    woman, man = dataset.entities[:2]
    assert (woman.name, woman.attributes, woman.description, woman.images) == (
        "Ann Lee",
        "Occupation: singer.",
        "A woman.",
        (),
    )
    assert (man.attributes, man.description) == ("", "")
    assert dataset.format == "ghmfc"


def test_ghmfc_candidates_belong_to_the_phrase(ghmfc):
    ghmfc.splits["test"]["20"]["mentions"] = "nobody"
    mentions = ghmfc.load().mentions
    assert mentions[0].given == ("Q3", "Q404", "Q2")
    assert mentions[4].given is None
    ghmfc.files["search_top16"] = {"Bob": ["Q2"]}
    assert ghmfc.load().mentions[0].given == ("Q3", "Q404", "Q2"), "the longest lists are read"
    for name in ("search_top16", "search_top100"):
        (ghmfc.folder / f"{name}.json").unlink()
        del ghmfc.files[name]
    assert {m.given for m in ghmfc.load().mentions} == {None}


def test_ghmfc_neither_the_golds_name_nor_its_description_is_kept(ghmfc):
    before = ghmfc.load()
    for records in ghmfc.splits.values():
        for record in records.values():
            record |= {"entities": "scrambled name", "brief": "scrambled text"}
    after = ghmfc.load()
    assert (after.mentions, after.entities) == (before.mentions, before.entities) and "scrambled" not in repr(after)


@pytest.mark.parametrize("answer", ["nil", "NIL", "", None])
def test_ghmfc_nil_and_golds_outside_the_kb(ghmfc, answer):
    ghmfc.splits["test"]["20"]["answer"] = answer
    ghmfc.splits["test"]["21"]["answer"] = "Q404"
    assert [m.gold for m in ghmfc.load().mentions[4:]] == [None, "Q404"]


def test_ghmfc_several_mentions_in_one_record(ghmfc):
    ghmfc.splits["train"]["00"] |= {"mentions": ["Ann", "Bob"], "entities": ["x", "y"], "answer": ["Q10", "nil"]}
    found = ghmfc.load().mentions
    assert [(m.id, m.phrase, m.gold, m.given) for m in found[:2]] == [
        ("00.0", "Ann", "Q10", ("Q10",)),
        ("00.1", "Bob", None, ("Q3", "Q404", "Q2")),
    ]


def test_ghmfc_percent_encoded_names_are_read(ghmfc):
    ghmfc.names["Q2"] = "Beyonc%C3%A9"
    ghmfc.files["search_top100"] = {"B%C3%B6b": ["Q2"]}
    ghmfc.splits["train"]["00"] |= {"sentence": "Böb sings.", "mentions": "B%C3%B6b"}
    dataset = ghmfc.load()
    assert dataset.entities[1].name == "Beyoncé"
    assert (dataset.mentions[0].phrase, dataset.mentions[0].span, dataset.mentions[0].given) == ("Böb", (0, 3), ("Q2",))


def test_ghmfc_aliases_are_read_and_checked(ghmfc):
    ghmfc.files["qid2aliases"] = {"Q10": ["Ms%20Lee", "A. Lee", "Ms Lee"], "Q2": None, "Q99": ["Nobody"]}
    assert [entity.aliases for entity in ghmfc.load().entities] == [("Ms Lee", "A. Lee"), (), ()]
    ghmfc.files["qid2aliases"] = {"Q10": [["Ms Lee"]]}
    assert "qid2aliases.json: 'Q10': item 1 of field 'names' holds list" in ghmfc.error()


def test_ghmfc_pictures_in_a_list_the_first_that_is_there(ghmfc):
    (ghmfc.folder / "images" / "b.jpg").write_bytes(b"x")
    ghmfc.splits["train"]["00"] |= {"img_list": ["a.svg", "b.png", "c.jpg"]}
    del ghmfc.splits["train"]["01"]["imgPath"]
    ghmfc.splits["train"]["01"] |= {"img_list": ["d.jpg", "e.jpg"]}
    assert [m.image for m in ghmfc.load().mentions[:3]] == ["b.jpg", "d.jpg", None]


def test_ghmfc_pictures_named_by_the_key_where_no_field_names_one(ghmfc):
    record = ghmfc.splits["train"].pop("00")
    del record["imgPath"]
    ghmfc.splits["train"] = {"Q5479": record, "Q7": dict(record), "Q8": record | {"imgPath": ""}, "../x": record}
    for name in ("Q5479.JPG", "Q8.jpg"):
        (ghmfc.folder / "images" / name).write_bytes(b"x")
    (ghmfc.folder / "x.jpg").write_bytes(b"x")
    assert [m.image for m in ghmfc.load().mentions[:4]] == ["Q5479.JPG", None, None, None]
    (ghmfc.folder / "images" / "Q7.png").symlink_to(ghmfc.folder / "x.jpg")
    assert "record 2 ('Q7')" in ghmfc.error(follow_links=False)
    assert ghmfc.load().mentions[1].image == "Q7.png"


def test_ghmfc_entity_pictures_are_named_by_qid(ghmfc):
    (ghmfc.folder / "kb_image").mkdir()
    for name in ("Q2_10.jpg", "Q2_9.jpg", "Q2.png", "Q10-0.JPEG", "Q77.jpg", "Q3.txt", "odd\\name.jpg"):
        (ghmfc.folder / "kb_image" / name).write_bytes(b"x")
    assert [e.images for e in ghmfc.load().entities] == [("Q10-0.JPEG",), ("Q2.png", "Q2_9.jpg", "Q2_10.jpg"), ()]
    (ghmfc.folder / "kb_image").rename(ghmfc.folder / "portraits")
    assert ghmfc.load().entities[1].images == () and len(ghmfc.load(entity_images="portraits").entities[1].images) == 3
    (ghmfc.folder / "portraits" / "Q3.jpg").symlink_to("/etc/passwd")
    assert "Q3.jpg" in ghmfc.error(entity_images="portraits", follow_links=False)


@pytest.mark.parametrize("path", ["../secret.jpg", "/etc/passwd", "a\\b.jpg", "a\0b.jpg", "link.jpg"])
@pytest.mark.parametrize("field", ["imgPath", "img_list"])
def test_ghmfc_pictures_that_leave_the_folder_are_refused(tmp_path, field, path):
    (tmp_path / "data").mkdir()
    (tmp_path / "secret.jpg").write_bytes(b"x")
    data = Ghmfc(tmp_path / "data")
    (data.folder / "images" / "link.jpg").symlink_to(tmp_path / "secret.jpg")
    data.splits["train"]["01"][field] = path if field == "imgPath" else [path]
    assert "train.json: record 2 ('01')" in data.error(follow_links=False)


def test_ghmfc_valid_is_dev_and_prefixes_are_allowed(ghmfc):
    ghmfc.write()
    for split, name in (("train", "WIKIMEL_train"), ("dev", "WIKIMEL_valid"), ("test", "WIKIMEL_test")):
        (ghmfc.folder / f"{split}.json").rename(ghmfc.folder / f"{name}.json")
    assert [m.split for m in load("toy", ghmfc.folder).mentions[::2]] == ["train", "dev", "test"]
    (ghmfc.folder / "WIKIMEL_valid.json").unlink()
    assert "*dev.json, found none" in refused(lambda: load("toy", ghmfc.folder))


def train(data):
    return data.splits["train"]["01"]


GHMFC_ERRORS = {
    "unknown field": (
        change(train, sentense="x"),
        ["train.json: record 2 ('01')", "did you mean 'sentence'", "--ignore-fields sentense"],
    ),
    "missing answer": (change(train, answer=ABSENT), ["train.json: record 2 ('01')", "'answer' is missing"]),
    "half a character": (change(train, sentence="a\ud800"), ["record 2 ('01')", "surrogate"]),
    "answers too few": (
        change(train, mentions=["a", "b"], answer=["Q1"]),
        ["record 2 ('01')", "2 mentions and 1 answers"],
    ),
    "pictures are no list": (change(train, img_list="a.jpg"), ["record 2 ('01')", "'img_list'", "list of file names"]),
    "record is a list": (
        lambda data: data.splits["dev"].update(x=[]),
        ["dev.json: record 3 ('x')", "list", "expected an object"],
    ),
    "split is a list": (lambda data: data.splits.update(dev=[1]), ["dev.json", "found list", "expected an object"]),
    "empty split": (lambda data: data.splits["dev"].clear(), ["dev.json", "an empty object"]),
    "empty key": (lambda data: data.splits["dev"].update({"": train(data)}), ["dev.json: record 3", "'key' is empty"]),
    "id in two splits": (
        lambda data: data.splits["dev"].update({"00": train(data)}),
        ["dev.json: record 3 ('00')", "already given at", "train.json"],
    ),
    "name is a number": (lambda data: data.names.update(Q2=7), ["qid2ne.json: record 2 ('Q2')", "'name' holds int 7"]),
    "empty name": (lambda data: data.names.update(Q2=""), ["qid2ne.json: record 2 ('Q2')", "'name' is empty"]),
    "empty qid": (lambda data: data.names.update({" ": "x"}), ["qid2ne.json: record 4", "'QID' is empty"]),
    "half a qid": (lambda data: data.names.update({"Q\ud800": "x"}), ["qid2ne.json: record 4", "surrogate"]),
    "no names": (lambda data: data.names.clear(), ["qid2ne.json", "an empty object"]),
    "properties are a list": (
        lambda data: data.files["qid2abs"].update(Q10=["x"]),
        ["qid2abs.json", "'Q10'", "list ['x']"],
    ),
    "candidates are text": (
        lambda data: data.files["search_top100"].update(Bob="Q3"),
        ["search_top100.json", "'Bob'", "expected a list of ids"],
    ),
    "candidate is a list": (
        lambda data: data.files["search_top100"].update(Bob=[["Q3"]]),
        ["search_top100.json", "'Bob'", "list ['Q3']"],
    ),
}


@pytest.mark.parametrize("fault", GHMFC_ERRORS)
def test_ghmfc_faults_name_file_record_and_remedy(ghmfc, fault):
    break_it, parts = GHMFC_ERRORS[fault]
    break_it(ghmfc)
    message = ghmfc.error()
    for part in [str(ghmfc.folder), *parts]:
        assert part in message


def test_ghmfc_a_key_given_twice_is_no_record_lost(ghmfc):
    path = ghmfc.write() / "train.json"
    path.write_text(path.read_text().replace('"01"', '"00"'))
    assert "malformed JSON (key '00' is given twice" in refused(lambda: load("toy", ghmfc.folder))


def test_wikimel_reads_the_same_in_this_layout_as_in_the_mimic_release(tmp_path):
    if not WIKIMEL.is_dir():
        pytest.skip("the real data under ../shared is not there")
    before = load("wikimel", WIKIMEL)
    kb = json.loads((WIKIMEL / "kb_entity.json").read_text())
    for name, field in (("qid2ne", "entity_name"), ("qid2abs", "attr")):
        (tmp_path / f"{name}.json").write_text(json.dumps({entity["qid"]: entity.get(field, "") for entity in kb}))
    for split in ("train", "dev", "test"):
        records = json.loads((WIKIMEL / f"WIKIMEL_{split}.json").read_text())
        (tmp_path / f"{split}.json").write_text(json.dumps({str(record["id"]): record for record in records}))
    after = load(
        "wikimel",
        tmp_path,
        "ghmfc",
        LayoutOptions(mention_images=str(WIKIMEL / "mention_image"), entity_images=str(WIKIMEL / "kb_image")),
    )
    assert after.mentions == before.mentions and len(after.mentions) == 25_846
    assert sorted(after.entities, key=lambda entity: entity.id) == sorted(
        (replace(e, type=None) for e in before.entities), key=lambda entity: entity.id
    )

"""The layouts `ghmfc` and `wikidiverse`: what is kept of the releases, what must not be, and a one-line error for everything malformed."""

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from data_faults import ABSENT, change, refused

from pipeline.datasets import LayoutOptions, layout, load
from pipeline.fingerprint import fingerprint

WIKIMEL = Path(__file__).parents[2] / "shared" / "data" / "wikimel"
WIKI = "https://en.wikipedia.org/wiki/"


class Ghmfc:
    """A release in a folder, changed file by file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.names = {"Q10": "Ann Lee", "Q2": "Robert Gold", "Q3": "Bob"}
        self.files = {
            "qid2abs": {"Q10": "Occupation: singer.", "Q99": "Nobody's."},
            "search_top100": {"Bob": ["Q3", "Q404", "Q2", "Q3"], "Ann": ["Q10"]},
        }
        self.splits = {}
        for place, split in enumerate(("train", "dev", "test")):
            record = {"id": "7", "sentence": "Ann met Bob.", "mentions": "Bob", "entities": "Robert Gold", "answer": "Q2", "imgPath": ""}
            self.splits[split] = {f"{place}{number}": dict(record) for number in range(2)}
        (folder / "images").mkdir(exist_ok=True)

    def write(self) -> Path:
        for name, content in {"qid2ne": self.names, **self.files, **self.splits}.items():
            (self.folder / f"{name}.json").write_text(json.dumps(content))
        return self.folder

    def load(self, **options):
        return load("toy", self.write(), options=LayoutOptions(**options))

    def error(self, **options) -> str:
        return refused(lambda: self.load(**options))


def digest(name: str) -> str:
    return hashlib.md5(name.encode()).hexdigest()


class Wikidiverse:
    """A release in a folder, changed file by file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.desc = {"Detroit Lions": "A team.", "Lion": "A cat.", "Green Bay Packers": "Another team.", "The Lion King": "A film."}
        self.types = {"Organization": ["Detroit_Lions", "Green Bay Packers"], "Works": ["The_Lion_King"], "Species": ["Lion"]}
        self.splits = {split: [self.mention(), self.mention()] for split in ("train", "valid", "test")}
        (folder / "wikinewsImgs").mkdir(exist_ok=True)

    @staticmethod
    def mention(**changes) -> list:
        record = {
            "sentence": "The Lions versus the Packers.", "image": "https://upload.wikimedia.org/a/Run.jpg", "mention": "Lions", "type": "Organization",
            "left": ["the"], "right": ["versus"], "entity": WIKI + "Detroit_Lions",
            "candidates": [WIKI + "Lion", WIKI + "Detroit_Lions", WIKI + "Elsewhere", WIKI + "Lion"], "topic": "sports", "start": 4, "end": 9,
        }
        assert set(changes) <= set(record)
        return list((record | changes).values())

    def write(self) -> Path:
        files = {"entity2desc": self.desc, "type2entity": self.types, **{f"{split}_w_10cands": records for split, records in self.splits.items()}}
        for name, content in files.items():
            if content is not None:
                (self.folder / f"{name}.json").write_text(json.dumps(content))
        return self.folder

    def first(self, **changes):
        """The first mention of a release whose first record is changed so."""
        self.splits["train"][0] = self.mention(**changes)
        return load("toy", self.write()).mentions[0]

    def load(self, **options):
        return load("toy", self.write(), options=LayoutOptions(**options))

    def error(self, **options) -> str:
        return refused(lambda: self.load(**options))


@pytest.fixture
def ghmfc(tmp_path):
    return Ghmfc(tmp_path)


@pytest.fixture
def diverse(tmp_path):
    return Wikidiverse(tmp_path)


# GHMFC


def test_ghmfc_records_become_mentions_and_entities(ghmfc):
    ghmfc.splits["dev"]["10"] |= {"mentions": "Ann", "answer": "Q10", "imgPath": "KVQAimgs/1.png"}
    (ghmfc.folder / "images" / "1.jpg").write_bytes(b"x")
    ghmfc.files["qid2brief"] = {"Q10": "A woman."}
    dataset = ghmfc.load()
    first = dataset.mentions[2]
    assert (first.id, first.split, first.phrase, first.span, first.gold, first.image) == ("10", "dev", "Ann", (0, 3), "Q10", "1.jpg")
    assert [m.id for m in dataset.mentions] == ["00", "01", "10", "11", "20", "21"]
    assert [e.id for e in dataset.entities] == ["Q10", "Q2", "Q3"]
    woman, man = dataset.entities[:2]
    assert (woman.name, woman.attributes, woman.description, woman.images) == ("Ann Lee", "Occupation: singer.", "A woman.", ())
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
    assert [(m.id, m.phrase, m.gold, m.given) for m in found[:2]] == [("00.0", "Ann", "Q10", ("Q10",)), ("00.1", "Bob", None, ("Q3", "Q404", "Q2"))]


def test_ghmfc_percent_encoded_names_are_read(ghmfc):
    ghmfc.names["Q2"] = "Beyonc%C3%A9"
    ghmfc.files["search_top100"] = {"B%C3%B6b": ["Q2"]}
    ghmfc.splits["train"]["00"] |= {"sentence": "Böb sings.", "mentions": "B%C3%B6b"}
    dataset = ghmfc.load()
    assert dataset.entities[1].name == "Beyoncé"
    assert (dataset.mentions[0].phrase, dataset.mentions[0].span, dataset.mentions[0].given) == ("Böb", (0, 3), ("Q2",))


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
    assert "record 2 ('Q7')" in ghmfc.error()


def test_ghmfc_entity_pictures_are_named_by_qid(ghmfc):
    (ghmfc.folder / "kb_image").mkdir()
    for name in ("Q2_10.jpg", "Q2_9.jpg", "Q2.png", "Q10-0.JPEG", "Q77.jpg", "Q3.txt", "odd\\name.jpg"):
        (ghmfc.folder / "kb_image" / name).write_bytes(b"x")
    assert [e.images for e in ghmfc.load().entities] == [("Q10-0.JPEG",), ("Q2.png", "Q2_9.jpg", "Q2_10.jpg"), ()]
    (ghmfc.folder / "kb_image").rename(ghmfc.folder / "portraits")
    assert ghmfc.load().entities[1].images == () and len(ghmfc.load(entity_images="portraits").entities[1].images) == 3
    (ghmfc.folder / "portraits" / "Q3.jpg").symlink_to("/etc/passwd")
    assert "Q3.jpg" in ghmfc.error(entity_images="portraits")


@pytest.mark.parametrize("path", ["../secret.jpg", "/etc/passwd", "a\\b.jpg", "a\0b.jpg", "link.jpg"])
@pytest.mark.parametrize("field", ["imgPath", "img_list"])
def test_ghmfc_pictures_that_leave_the_folder_are_refused(tmp_path, field, path):
    (tmp_path / "data").mkdir()
    (tmp_path / "secret.jpg").write_bytes(b"x")
    data = Ghmfc(tmp_path / "data")
    (data.folder / "images" / "link.jpg").symlink_to(tmp_path / "secret.jpg")
    data.splits["train"]["01"][field] = path if field == "imgPath" else [path]
    assert "train.json: record 2 ('01')" in data.error()


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
    "unknown field": (change(train, sentense="x"), ["train.json: record 2 ('01')", "did you mean 'sentence'", "--ignore-fields sentense"]),
    "missing answer": (change(train, answer=ABSENT), ["train.json: record 2 ('01')", "'answer' is missing"]),
    "empty phrase": (change(train, mentions=" "), ["record 2 ('01')", "'mentions' is empty"]),
    "half a character": (change(train, sentence="a\ud800"), ["record 2 ('01')", "surrogate"]),
    "answers too few": (change(train, mentions=["a", "b"], answer=["Q1"]), ["record 2 ('01')", "2 mentions and 1 answers"]),
    "pictures are no list": (change(train, img_list="a.jpg"), ["record 2 ('01')", "'img_list'", "list of file names"]),
    "record is a list": (lambda data: data.splits["dev"].update(x=[]), ["dev.json: record 3 ('x')", "list", "expected an object"]),
    "split is a list": (lambda data: data.splits.update(dev=[1]), ["dev.json", "found list", "expected an object"]),
    "empty split": (lambda data: data.splits["dev"].clear(), ["dev.json", "an empty object"]),
    "empty key": (lambda data: data.splits["dev"].update({"": train(data)}), ["dev.json: record 3", "'key' is empty"]),
    "id in two splits": (lambda data: data.splits["dev"].update({"00": train(data)}), ["dev.json: record 3 ('00')", "already given at", "train.json"]),
    "name is a number": (lambda data: data.names.update(Q2=7), ["qid2ne.json", "'Q2'", "int 7"]),
    "empty name": (lambda data: data.names.update(Q2=""), ["qid2ne.json", "'Q2' is empty"]),
    "empty qid": (lambda data: data.names.update({" ": "x"}), ["qid2ne.json: record 4", "'QID' is empty"]),
    "half a qid": (lambda data: data.names.update({"Q\ud800": "x"}), ["qid2ne.json: record 4", "surrogate"]),
    "no names": (lambda data: data.names.clear(), ["qid2ne.json", "an empty object"]),
    "properties are a list": (lambda data: data.files["qid2abs"].update(Q10=["x"]), ["qid2abs.json", "'Q10'", "list ['x']"]),
    "candidates are text": (lambda data: data.files["search_top100"].update(Bob="Q3"), ["search_top100.json", "'Bob'", "expected a list of ids"]),
    "candidate is a list": (lambda data: data.files["search_top100"].update(Bob=[["Q3"]]), ["search_top100.json", "'Bob'", "list ['Q3']"]),
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
    assert f"{path}: key '00' is given twice" in refused(lambda: load("toy", ghmfc.folder))


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
    after = load("wikimel", tmp_path, "ghmfc", LayoutOptions(mention_images=str(WIKIMEL / "mention_image"), entity_images=str(WIKIMEL / "kb_image")))
    assert after.mentions == before.mentions and len(after.mentions) == 25_846
    assert sorted(after.entities, key=lambda entity: entity.id) == sorted((replace(e, type=None) for e in before.entities), key=lambda entity: entity.id)


# WikiDiverse


def test_wikidiverse_records_become_mentions_and_entities(diverse):
    dataset = diverse.load()
    first = dataset.mentions[0]
    assert (first.id, first.split, first.phrase, first.span, first.gold) == ("train.0", "train", "Lions", (4, 9), "Detroit Lions")
    assert (first.type, first.group, first.given) == ("Organization", "sports", ("Lion", "Detroit Lions", "Elsewhere"))
    assert first.image == digest("Run.jpg") + ".jpg"
    assert [m.id for m in dataset.mentions] == ["train.0", "train.1", "dev.0", "dev.1", "test.0", "test.1"]
    assert [(e.id, e.name, e.description, e.type) for e in dataset.entities[:2]] == [
        ("Detroit Lions", "Detroit Lions", "A team.", "Organization"), ("Lion", "Lion", "A cat.", "Species"),
    ]


def test_wikidiverse_an_entitys_type_is_the_kbs_never_the_mentions(diverse):
    before = diverse.load().entities
    for records in diverse.splits.values():
        records[:] = [Wikidiverse.mention(type="Person") for _ in records]
    assert diverse.load().entities == before
    diverse.types = {"Organization": ["Lion"], "Species": ["lion"]}
    assert [e.type for e in diverse.load().entities] == [None, "Organization|Species", None, None]
    (diverse.folder / "type2entity.json").unlink()
    diverse.types = None
    assert {e.type for e in diverse.load().entities} == {None}


@pytest.mark.parametrize("entity", ["nil", "NIL", "", None])
def test_wikidiverse_nil(diverse, entity):
    assert diverse.first(entity=entity).gold is None


@pytest.mark.parametrize(
    ("written", "title"),
    [
        (WIKI + "Detroit_Lions", "Detroit Lions"),
        ("nhttps://en.wikipedia.org/wiki/Detroit_Lions", "Detroit Lions"),
        ("https://en.wikipedia.org//wiki/Detroit_Lions#History", "Detroit Lions"),
        ("Detroit Lions", "Detroit Lions"),
        (WIKI + "detroit_lions", "Detroit Lions"),
        (WIKI + "Catch-22", "Catch 22"),  # the description files write a blank for the hyphen
        (WIKI + "Beyonc%C3%A9", "Beyoncé"),
        (WIKI + "AC/DC", "AC/DC"),
        (WIKI + "Up-side", "Up-side"),  # two titles are as near: neither
        (WIKI + "Not_there", "Not there"),
    ],
)
def test_wikidiverse_titles_are_found_in_every_spelling(diverse, written, title):
    diverse.desc |= {"Catch 22": "A book.", "Beyoncé": "A singer.", "AC/DC": "A band.", "Up side": "", "up side": ""}
    mention = diverse.first(entity=written, candidates=[written])
    assert mention.gold == title and mention.given == (title,)


def test_wikidiverse_the_kb_is_what_the_description_files_name_first_description_first(diverse):
    diverse.write()
    (diverse.folder / "entities").mkdir()
    tsv = "entity@@@@description\nLion@@@@Another text.\nIron_Man@@@@A man\nin iron.\n\nMercury_(planet)@@@@A @@@@ planet.\n"
    (diverse.folder / "entities" / "wikipedia_entity2desc_filtered.tsv").write_text(tsv)
    (diverse.folder / "entities" / "entity2brief_train.json").write_text(json.dumps({"Iron_Man": "x", "Sun": "A star."}))
    found = {e.id: e.description for e in load("toy", diverse.folder).entities}
    added = {"Iron Man": "A man in iron.", "Mercury (planet)": "A @@@@ planet.", "Sun": "A star."}
    assert found == diverse.desc | added and list(found)[:1] == ["Detroit Lions"]


@pytest.mark.parametrize(
    ("url", "there", "expected"),
    [
        ("https://x/a/Run.jpg", None, digest("Run.jpg") + ".jpg"),
        ("https://x/a/Run.SVG", None, digest("Run.SVG") + ".png"),
        ("https://x/a/R%C3%BCn.PNG", None, digest("R%C3%BCn.PNG") + ".PNG"),
        ("https://x/a/Run.gif", digest("Run.gif") + ".png", digest("Run.gif") + ".png"),  # converted
        ("https://x/a/Run.jpg", digest("https://x/a/Run.jpg") + ".jpg", digest("https://x/a/Run.jpg") + ".jpg"),
        ("https://x/a/Run", None, digest("Run")),
        ("https://x/a/..", None, digest("..")),
        ("https://x/a/b\0c.jpg", None, digest("b\0c.jpg") + ".jpg"),
        (" ", None, None),
        (None, None, None),
    ],
)
def test_wikidiverse_a_picture_is_named_by_the_md5_of_its_urls_file_name(diverse, url, there, expected):
    if there:
        (diverse.folder / "wikinewsImgs" / there).write_bytes(b"x")
    assert diverse.first(image=url).image == expected


def test_wikidiverse_pictures_that_leave_the_folder_are_refused(diverse, tmp_path_factory):
    (diverse.folder / "wikinewsImgs" / (digest("Run.jpg") + ".jpg")).symlink_to(tmp_path_factory.mktemp("outside") / "b.jpg")
    assert "train_w_10cands.json: record 1 ('Lions')" in diverse.error()


def test_wikidiverse_entity_pictures_that_are_there_count(diverse):
    diverse.write()
    (diverse.folder / "images").mkdir()
    (diverse.folder / "wikipedia_entity2imgs.tsv").write_text("entity@@@@images\nLion@@@@https://x/1.jpg[AND]https://x/2.svg[AND]https://x/3.png\nGone@@@@https://x/1.jpg\n")
    for name in (digest("1.jpg") + ".jpg", digest("2.svg") + ".png"):
        (diverse.folder / "images" / name).write_bytes(b"x")
    images = {e.id: e.images for e in load("toy", diverse.folder).entities}
    assert images.pop("Lion") == (digest("1.jpg") + ".jpg", digest("2.svg") + ".png") and set(images.values()) == {()}


@pytest.mark.parametrize(
    ("changes", "span"),
    [
        ({}, (4, 9)),
        ({"mention": "lions"}, (4, 9)),
        ({"mention": "the", "start": 18, "end": 20}, (17, 20)),  # off by one: the nearest place
        ({"mention": "Lionz"}, (4, 9)),  # misspelt, as long as what the offsets cover
        ({"mention": "Bears", "start": 4, "end": 6}, None),
        ({"mention": "Bears", "start": 99, "end": 104}, None),
    ],
)
def test_wikidiverse_offsets_are_checked(diverse, changes, span):
    assert diverse.first(**changes).span == span


def test_wikidiverse_folders_of_the_release(diverse):
    diverse.write()
    for place in ("wikidiverse_w_cands", "candidates"):
        (diverse.folder / place).mkdir()
        for path in diverse.folder.rglob("*_w_10cands.json"):
            path.rename(diverse.folder / place / path.name)
        assert len(load("toy", diverse.folder).mentions) == 6 and layout(diverse.folder).__name__.endswith("wikidiverse")


WIKIDIVERSE_ERRORS = {
    "annotations without candidates": (
        lambda data: data.splits.update(test=[["The Lions.", "x.jpg", "sports", []]]), ["test_w_10cands.json: record 1", "a list of 4", "11 fields", "10 candidates"],
    ),
    "record is an object": (lambda data: data.splits["test"].append({}), ["test_w_10cands.json: record 3", "found dict"]),
    "split is an object": (lambda data: data.splits.update(test={"a": 1}), ["test_w_10cands.json", "dict", "list of mentions"]),
    "empty split": (lambda data: data.splits.update(test=[]), ["test_w_10cands.json", "an empty list"]),
    "empty phrase": (lambda data: data.splits.update(test=[data.mention(mention="")]), ["record 1 ('')", "'mention' is empty"]),
    "phrase is a number": (lambda data: data.splits.update(test=[data.mention(mention=7)]), ["record 1", "int 7"]),
    "half a character": (lambda data: data.splits.update(test=[data.mention(sentence="\ud800")]), ["record 1 ('Lions')", "surrogate"]),
    "offsets are text": (lambda data: data.splits.update(test=[data.mention(start="4")]), ["record 1 ('Lions')", "'4'", "two integers"]),
    "candidates are text": (lambda data: data.splits.update(test=[data.mention(candidates="x")]), ["record 1 ('Lions')", "'candidates'", "list of entity URLs"]),
    "candidate is a list": (lambda data: data.splits.update(test=[data.mention(candidates=[["x"]])]), ["record 1 ('Lions')", "'candidates'"]),
    "half a candidate": (lambda data: data.splits.update(test=[data.mention(candidates=["\ud800"])]), ["record 1 ('Lions')", "surrogate"]),
    "URL is a number": (lambda data: data.splits.update(test=[data.mention(entity=3)]), ["record 1 ('Lions')", "'entity URL'", "int 3"]),
    "half an image": (lambda data: data.splits.update(test=[data.mention(image="\ud800.jpg")]), ["record 1 ('Lions')", "surrogate"]),
    "description is a list": (lambda data: data.desc.update(Lion=["x"]), ["entity2desc.json", "'Lion'", "list ['x']"]),
    "entity without a name": (lambda data: data.desc.update({"_": "x"}), ["entity2desc.json", "without a name", "'x'"]),
    "half an entity": (lambda data: data.desc.update({"\ud800": "x"}), ["entity2desc.json", "surrogate"]),
    "type is text": (lambda data: data.types.update(Works="Lion"), ["type2entity.json", "'Works'", "list of entities"]),
    "half a type": (lambda data: data.types.update({"\ud800": ["Lion"]}), ["type2entity.json", "surrogate"]),
    "descriptions are a list": (lambda data: setattr(data, "desc", ["x"]), ["entity2desc.json", "found list"]),
}


@pytest.mark.parametrize("fault", WIKIDIVERSE_ERRORS)
def test_wikidiverse_faults_name_file_record_and_remedy(diverse, fault):
    break_it, parts = WIKIDIVERSE_ERRORS[fault]
    break_it(diverse)
    message = diverse.error()
    for part in [str(diverse.folder), *parts]:
        assert part in message


def test_wikidiverse_files_that_are_not_there_or_not_readable_are_named(diverse):
    path = diverse.write() / "valid_w_10cands.json"
    text = path.read_text()
    path.write_text("\n" + text[:-3])
    assert f"{path}:2:" in refused(lambda: load("toy", diverse.folder))
    path.unlink()
    assert "dev_w_10cands.json (valid for dev), found none" in refused(lambda: load("toy", diverse.folder))
    path.write_text(text)
    (diverse.folder / "entity2desc.json").unlink()
    assert "no file that describes the entities; add entity2desc.json" in refused(lambda: load("toy", diverse.folder))
    tsv = diverse.folder / "wikipedia_entity2desc_filtered.tsv"
    tsv.write_text("Lion\tA cat.\n")
    assert f"{tsv}: no line of the form entity@@@@text" in refused(lambda: load("toy", diverse.folder))
    tsv.write_bytes(b"Lion@@@@A cat.\n\xff\n")
    assert f"{tsv}: not UTF-8" in refused(lambda: load("toy", diverse.folder))
    tsv.write_bytes(b"\xef\xbb\xbfLion@@@@A cat.\n")
    assert [e.id for e in load("toy", diverse.folder).entities] == ["Lion"]


# Both


@pytest.mark.parametrize("kind", [Ghmfc, Wikidiverse])
def test_the_fingerprint_follows_every_text_and_picture(tmp_path, kind):
    root = tmp_path / "data"
    root.mkdir()
    kind(root).write()
    assert layout(root).__name__.endswith(kind.__name__.lower())
    first = fingerprint(root)
    (root / "notes.txt").write_text("irrelevant")
    assert fingerprint(root) == first
    for path in sorted(root.glob("*.json")):
        text = path.read_text()
        path.write_text(text + " ")
        assert fingerprint(root) != first, path.name
        path.write_text(text)
    assert fingerprint(root) == first
    picture = root / ("images" if kind is Ghmfc else "wikinewsImgs") / "a.jpg"
    picture.write_bytes(b"one")
    added = fingerprint(root)
    os.utime(picture, ns=(1, 1))
    assert len({first, added, fingerprint(root)}) == 3


def luigi(root: Path, *options: str) -> tuple[str, dict, Path]:
    """What BuildCandidates printed, its receipt's result, and its lists."""
    command = [sys.executable, "-m", "luigi", "--module", "tasks", "BuildCandidates", "--work-dir", str(root / "work"), "--dataset", "toy"]
    project = Path(__file__).resolve().parents[1]
    done = subprocess.run(
        [*command, "--data-dir", str(root / "data"), *options], cwd=project, env={**os.environ, "PYTHONPATH": str(project)}, capture_output=True, text=True,
        timeout=300, check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    receipt = json.loads(max(root.glob("work/receipts/BuildCandidates-*.json"), key=os.path.getmtime).read_text())
    return done.stdout, receipt["result"], root / "work" / receipt["result"]["file"]


def test_the_wikidiverse_protocol_end_to_end(tmp_path):
    (tmp_path / "data").mkdir()
    data = Wikidiverse(tmp_path / "data")
    data.desc["Lions Club"] = "A club."
    data.types["Organization"].append("Lions Club")
    data.splits["test"] = [data.mention(candidates=[WIKI + "Lion"], image=None), data.mention(entity="nil", image=None)]
    for split in ("train", "valid"):
        data.splits[split] = [data.mention(image=None)]
    data.write()
    said, result, path = luigi(tmp_path, "--sources", "given,name-of-type", "--merge", "append", "--candidates", "3")
    entities = list(data.desc)
    with np.load(path) as lists:
        listed = [[entities[row] for row in row_list if row >= 0] for row_list in lists["ids"].tolist()]
    filled = ["Lion", "Detroit Lions", "Lions Club"]  # two given, one left to fill; of the other types only what was given
    assert listed[0] == listed[1] == listed[3] == filled
    assert listed[2][0] == "Lion" and set(listed[2][1:]) == {"Lions Club", "Detroit Lions"}
    assert result["recall"]["given"]["test"] == {"n": 1, "1": 0.0, "3": 0.0}
    assert result["recall"]["merged"]["test"] == {"n": 1, "1": 0.0, "3": 1.0}
    for line in ("candidates that came with the data", "name-of-type:token_set_ratio", "layout wikidiverse"):
        assert line in said
    assert next((tmp_path / "work" / "datasets").glob("toy-*/given.parquet")).exists()


def test_ghmfc_lists_end_to_end(tmp_path):
    (tmp_path / "data").mkdir()
    data = Ghmfc(tmp_path / "data")
    data.write()
    said, result, path = luigi(tmp_path, "--sources", "given", "--candidates", "2")
    with np.load(path) as lists:
        assert lists["ids"].tolist() == [[2, 1]] * 6
    assert result["recall"]["given"]["test"] == {"n": 2, "1": 0.0, "2": 1.0} and "layout ghmfc" in said

"""Reading the two layouts: what is kept, what is dropped, and a one-line error with place and remedy for everything
malformed."""

import io
import json
import os
from pathlib import Path

import pytest
from data_faults import ABSENT, change, refused
from dataset_folders import Lines, Mimic

from foundation.contracts import from_json
from foundation.errors import UserError
from foundation.files import bounded_lines
from pipeline.datasets.contracts import LayoutOptions
from pipeline.datasets.fingerprint import fingerprint
from pipeline.datasets.layouts import formats, layout, load

WIKIMEL = Path(__file__).parents[2] / "shared" / "data" / "wikimel"


@pytest.fixture
def mimic(tmp_path):
    return Mimic(tmp_path)


@pytest.fixture
def lines(tmp_path):
    return Lines(tmp_path)


def test_mimic_records_become_mentions_and_entities(mimic):
    mimic.kb[3] |= {"image_list": ["Q4_0.jpg", "Q4_1.jpg"], "type": "person", "desc": "A man."}
    mimic.splits["dev"][0] |= {"mentions": "Ann", "answer": "Q4", "imgPath": "x.jpg"}
    dataset = mimic.load()
    first = dataset.mentions[2]
    assert (first.id, first.split, first.phrase, first.span, first.gold, first.image) == (
        "m10",
        "dev",
        "Ann",
        (0, 3),
        "Q4",
        "x.jpg",
    )
    assert [m.split for m in dataset.mentions] == ["train"] * 2 + ["dev"] * 2 + ["test"] * 2
    last = dataset.entities[3]
    assert (last.id, last.name, last.attributes, last.description, last.images, last.type) == (
        "Q4",
        "Name 3",
        "Sex: male.",
        "A man.",
        ("Q4_0.jpg", "Q4_1.jpg"),
        "person",
    )
    assert dataset.entities[0].type is None  # "entity" says nothing


def test_entities_stand_in_the_order_of_their_row_ids(mimic):
    mimic.kb.reverse()
    assert [e.id for e in mimic.load().entities] == ["Q1", "Q2", "Q3", "Q4"]


def test_the_golds_name_in_the_mention_record_changes_nothing(mimic):
    before = mimic.load()
    for records in mimic.splits.values():
        for number, record in enumerate(records):
            record["entities"] = f"scrambled {number}"
    after = mimic.load()
    assert after.mentions == before.mentions and after.entities == before.entities
    for records in mimic.splits.values():
        for record in records:
            del record["entities"]
    assert mimic.load().mentions == before.mentions
    assert not any("Robert Gold" in repr(m) for m in before.mentions)


@pytest.mark.parametrize("answer", ["nil", "NIL", "", None])
def test_nil_is_kept_as_no_gold(mimic, answer):
    mimic.splits["test"][0]["answer"] = answer
    mimic.rows = {e["qid"]: e["id"] for e in mimic.kb} | {"nil": -1}
    assert mimic.load().mentions[4].gold is None


def test_a_gold_outside_the_kb_is_kept(mimic):
    mimic.splits["test"][0]["answer"] = "Q999"
    assert mimic.load().mentions[4].gold == "Q999"


def test_percent_encoded_names_are_read(mimic):
    mimic.kb[0]["entity_name"] = "Beyonc%C3%A9"
    mimic.splits["train"][0] |= {"sentence": "Beyoncé sings 100%", "mentions": "Beyonc%C3%A9"}
    mimic.splits["train"][1]["mentions"] = "100%25 %ff"
    dataset = mimic.load()
    assert (
        dataset.entities[0].name == "Beyoncé"
        and dataset.mentions[0].phrase == "Beyoncé"
        and dataset.mentions[0].span == (0, 7)
    )
    assert dataset.mentions[1].phrase == "100%25 %ff"  # no UTF-8 behind it: left alone


def test_mimic_aliases_are_read(mimic):
    folder = mimic.write()
    qid = mimic.load().entities[0].id
    (folder / "qid2aliases.json").write_text(json.dumps({qid: ["Ms%20Lee"], "Q999999": ["Nobody"]}))
    dataset = mimic.load()
    assert [entity.aliases for entity in dataset.entities][:2] == [("Ms Lee",), ()]
    assert folder / "qid2aliases.json" in dataset.sources


def test_several_mentions_in_one_record(mimic):
    mimic.splits["train"][0] |= {"mentions": ["Ann", "Bob"], "answer": ["Q1", "nil"]}
    mimic.splits["train"][1] |= {"mentions": ["Bob"], "answer": "Q2"}
    found = mimic.load().mentions
    assert [(m.id, m.phrase, m.gold) for m in found[:3]] == [
        ("m0.0", "Ann", "Q1"),
        ("m0.1", "Bob", None),
        ("m1", "Bob", "Q2"),
    ]
    mimic.splits["train"][0]["answer"] = ["Q1"]
    assert "2 mentions and 1 answers" in mimic.error()


@pytest.mark.parametrize(
    ("listed", "there", "expected"),
    [
        ("a.jpg", "a.jpg", "a.jpg"),
        ("a.png", "a.jpg", "a.jpg"),  # converted by the release, the record not
        ("a.jpg", "a.JPG", "a.JPG"),
        ("a.jpg", "a.jpeg", "a.jpeg"),
        ("a.b.png", "a.b.jpg", "a.b.jpg"),
        ("a.svg.png", "a.jpg", "a.jpg"),
        ("https://upload.wikimedia.org/x/y/a%2Cb.jpg", "a,b.jpg", "a,b.jpg"),
        ("wikinews/a.jpg", "a.jpg", "a.jpg"),
        ("a.jpg", "b.jpg", "a.jpg"),  # missing: kept, and counted later
    ],
)
def test_a_listed_picture_is_found_under_the_name_the_release_gave_it(mimic, listed, there, expected):
    (mimic.folder / "mention_image" / there).write_bytes(b"x")
    mimic.splits["train"][0]["imgPath"] = listed
    assert mimic.load().mentions[0].image == expected


def test_image_folders_by_either_name_or_by_option(mimic):
    assert mimic.load().mention_images.name == "mention_image"
    (mimic.folder / "mention_image").rename(mimic.folder / "mention_images")
    assert mimic.load().mention_images.name == "mention_images"
    (mimic.folder / "photos").mkdir()
    (mimic.folder / "photos" / "a.JPG").write_bytes(b"x")
    mimic.splits["train"][0]["imgPath"] = "a.jpg"
    dataset = mimic.load(mention_images="photos", entity_images="portraits")
    assert (dataset.mention_images.name, dataset.entity_images.name, dataset.mentions[0].image) == (
        "photos",
        "portraits",
        "a.JPG",
    )


@pytest.mark.parametrize(
    "path", ["../secret.jpg", "/etc/passwd", "a/../../b.jpg", "a\\b.jpg", "a\0b.jpg", "link.jpg", "out/b.jpg", "sub/"]
)
@pytest.mark.parametrize("kind", ["mimic", "jsonl"])
def test_images_that_leave_the_folder_are_refused(tmp_path, kind, path):
    root = tmp_path / "data"
    root.mkdir()
    (tmp_path / "secret.jpg").write_bytes(b"x")
    data = Mimic(root) if kind == "mimic" else Lines(root)
    images = root / "mention_image" if kind == "mimic" else root
    (images / "link.jpg").symlink_to(tmp_path / "secret.jpg")
    (images / "out").symlink_to(tmp_path)
    if kind == "mimic":
        data.splits["train"][1]["imgPath"] = path
        assert "TOY_train.json: record 2 ('m1')" in data.error(follow_links=False)
    else:
        data.mentions[0]["image"] = path
        assert "mentions.jsonl:1" in data.error(follow_links=False)
    if path in ("link.jpg", "out/b.jpg"):
        assert path in [mention.image for mention in data.load().mentions]
    else:
        data.error()


def test_a_picture_under_another_extension_may_not_lead_out_either(mimic, tmp_path_factory):
    (mimic.folder / "mention_image" / "a.jpg").symlink_to(tmp_path_factory.mktemp("outside") / "b.jpg")
    mimic.splits["train"][0]["imgPath"] = "a.png"
    assert "record 1 ('m0')" in mimic.error(follow_links=False)
    assert mimic.load().mentions[0].image == "a.jpg"


def test_a_link_inside_the_folder_is_allowed(mimic):
    (mimic.folder / "mention_image" / "a.jpg").write_bytes(b"x")
    (mimic.folder / "mention_image" / "b.jpg").symlink_to("a.jpg")
    mimic.splits["train"][0]["imgPath"] = "b.jpg"
    assert mimic.load(follow_links=False).mentions[0].image == "b.jpg"


NAMES = {  # listed, on disk
    "composed and decomposed": ("Zo\u00eb.jpg", "Zoe\u0308.jpg"),
    "decomposed and composed": ("Zoe\u0308.jpg", "Zo\u00eb.jpg"),
    "case of the extension": ("Anna.jpg", "Anna.Jpg"),
    "case of the name": ("Anna.jpg", "ANNA.jpg"),
    "case and form": ("ZO\u00cb.JPG", "zoe\u0308.jpg"),
}


@pytest.mark.parametrize("names", NAMES)
@pytest.mark.parametrize("kind", ["mimic", "jsonl"])
def test_a_picture_is_found_though_its_name_differs_in_form_or_case(tmp_path, kind, names):
    listed, there = NAMES[names]
    data = Mimic(tmp_path) if kind == "mimic" else Lines(tmp_path)
    images = tmp_path / "mention_image" if kind == "mimic" else tmp_path / "photos"
    images.mkdir(exist_ok=True)
    (images / there).write_bytes(b"x")
    if kind == "mimic":
        data.splits["train"][0]["imgPath"] = listed
        assert data.load().mentions[0].image == there
    else:
        data.mentions[0]["image"] = f"Photos/{listed}"
        assert data.load().mentions[0].image == f"photos/{there}"


def test_of_two_pictures_that_are_as_near_none_is_taken(mimic):
    for name in ("anna.bmp", "Anna.tif"):
        (mimic.folder / "mention_image" / name).write_bytes(b"x")
    mimic.splits["train"][0]["imgPath"] = "ANNA.jpg"
    assert mimic.load().mentions[0].image == "ANNA.jpg"


@pytest.mark.parametrize("listed", ["J.K._Rowling.jpg", "J.png", "j.jpg"])
def test_a_picture_that_another_record_lists_is_never_taken(mimic, listed):
    (mimic.folder / "mention_image" / "J.jpg").write_bytes(b"x")
    mimic.splits["train"][0]["imgPath"], mimic.splits["train"][1]["imgPath"] = listed, "J.jpg"
    assert [m.image for m in mimic.load().mentions[:2]] == [listed, "J.jpg"]
    mimic.splits["train"][1]["imgPath"] = ""
    assert mimic.load().mentions[0].image == "J.jpg"


def test_files_that_a_mac_leaves_beside_the_splits_do_not_count(mimic):
    mimic.write()
    for name in ("._TOY_train.json", "._kb_entity.json", ".DS_Store"):
        (mimic.folder / name).write_bytes(b"\0\5\x16\7")
    assert len(mimic.load().mentions) == 6


@pytest.mark.parametrize("kind", ["mimic", "jsonl"])
def test_a_mention_may_have_no_phrase(tmp_path, kind):
    data = Mimic(tmp_path) if kind == "mimic" else Lines(tmp_path)
    if kind == "mimic":
        data.splits["train"][0]["mentions"] = "\n \n"
    else:
        data.mentions[0]["mention"] = "\n \n"
    mention = data.load().mentions[0]
    assert (mention.phrase, mention.span) == ("", None) and mention.sentence


@pytest.mark.parametrize("written", ["NIL", "None", "nan", "NULL", "N/A", ""])
@pytest.mark.parametrize("kind", ["mimic", "jsonl"])
def test_a_gold_that_a_program_wrote_for_nil_is_nil(tmp_path, kind, written):
    data = Mimic(tmp_path) if kind == "mimic" else Lines(tmp_path)
    if kind == "mimic":
        data.splits["train"][0]["answer"] = written
    else:
        data.mentions[0]["gold"] = written or "null"
    raw = data.load()
    assert raw.mentions[0].gold is None
    assert raw.spelled_nil == {written or ("" if kind == "mimic" else "null"): {raw.mentions[0].split: 1}}


def test_an_entity_named_like_nil_stays_a_gold(tmp_path):
    data = Lines(tmp_path)
    data.entities[0]["id"] = data.mentions[0]["gold"] = "None"
    assert data.load().mentions[0].gold == "None"


def test_a_few_broken_records_are_left_out_and_listed(tmp_path):
    data = Lines(tmp_path)
    good = dict(data.mentions[0])
    data.mentions += [dict(good, id=f"further {number}") for number in range(300)]
    data.mentions[7] = dict(good, id="broken", split="tests")
    data.mentions[9] = dict(good, id="leaves", image="../secret.jpg")
    raw = data.load()
    assert {mention.id for mention in raw.mentions}.isdisjoint({"broken", "leaves"})
    assert [("mentions.jsonl:8" in cause, "mentions.jsonl:10" in cause) for cause in raw.rejects] == [
        (True, False),
        (False, True),
    ]
    with pytest.raises(UserError, match=r"mentions\.jsonl:8.*; 2 of .* records are malformed.*--max-bad-records"):
        load("toy", tmp_path, max_bad_records=0.001)


def test_a_line_that_is_too_long_is_one_broken_record(tmp_path, monkeypatch):
    monkeypatch.setattr("foundation.files.MAX_LINE", 5_000)
    data = Lines(tmp_path)
    data.mentions += [dict(data.mentions[0], id=f"further {number}") for number in range(300)]
    data.mentions[3] = dict(data.mentions[0], id="long", sentence="Bob " * 10_000)
    data.mentions[4] = dict(data.mentions[0], id="almost", sentence="Bob " * 1_200)
    raw = data.load()
    assert len(raw.mentions) == len(data.mentions) - 1 and raw.mentions[3].id == "almost"
    (cause,) = raw.rejects
    assert cause.endswith("mentions.jsonl:4: longer than 5,000 bytes; shorten or remove the record")


def test_of_a_line_that_is_too_long_no_more_than_its_beginning_is_held():
    lines = b"\xef\xbb\xbfabc\n" + b"x" * 1000 + b"\nlast"
    assert list(bounded_lines(io.BytesIO(lines), 6)) == [(1, b"abc\n", 7), (2, b"x" * 7, 1008), (3, b"last", 1012)]


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("length", range(4, 12))
def test_a_first_line_is_as_long_as_it_is_behind_a_byte_order_mark(mark, length):
    line = b"x" * length + b"\n"
    (first, second) = bounded_lines(io.BytesIO(mark + line + b"next"), 6)
    assert first == (1, line[:7], len(mark + line)) and second == (2, b"next", len(mark + line) + 4)
    assert list(bounded_lines(io.BytesIO(mark + line[:-1]), 6)) == [(1, line[:-1][:7], len(mark + line) - 1)]


def test_a_text_that_is_too_long_is_one_broken_record_also_in_a_file_that_is_one_value(mimic, monkeypatch):
    monkeypatch.setattr("pipeline.datasets.fields.MAX_LINE", 500)
    mimic.splits["train"][0]["sentence"] = "x" * 501
    mimic.splits["train"][1]["sentence"] = "x" * 500
    raw = load("toy", mimic.write(), max_bad_records=0.5)
    (cause,) = raw.rejects
    assert "field 'sentence' holds 501 characters, at most 500 are read" in cause and len(raw.mentions) == 5


def test_a_line_that_is_no_text_is_one_broken_record(tmp_path):
    data = Lines(tmp_path)
    data.mentions += [dict(data.mentions[0], id=f"further {number}") for number in range(300)]
    data.write()
    path = tmp_path / "mentions.jsonl"
    path.write_bytes(b'{"id": "\xff"}\n{"id": \n' + path.read_bytes())
    raw = load("toy", tmp_path)
    assert len(raw.mentions) == len(data.mentions)
    assert ["not UTF-8" in raw.rejects[0], "malformed JSON" in raw.rejects[1]] == [True, True]


def test_ignored_fields_may_be_known_ones_but_not_those_that_must_be_there(tmp_path):
    data = Lines(tmp_path)
    data.mentions[0] |= {"start": 3, "end": 4}
    data.error()
    mention = data.load(ignore_fields="start,end,mention").mentions[0]
    assert mention.phrase and mention.span == data.load(ignore_fields="start,end").mentions[0].span


def train(data):
    return data.splits["train"][1]


def kb(data):
    return data.kb[2]


MIMIC_ERRORS = {
    "unknown field": (
        change(train, sentense="x"),
        ["TOY_train.json: record 2 ('m1')", "'sentense'", "did you mean 'sentence'", "--ignore-fields sentense"],
    ),
    "missing field": (change(train, sentence=ABSENT), ["TOY_train.json: record 2", "'sentence' is missing"]),
    "phrase is a number": (change(train, mentions=7), ["TOY_train.json: record 2", "int 7", "expected a string"]),
    "half a character": (change(train, sentence="a\ud800"), ["record 2", "surrogate"]),
    "duplicate mention": (change(train, id="m0"), ["record 2", "'m0' was already given at", "record 1"]),
    "duplicate entity": (change(kb, qid="Q1"), ["kb_entity.json: record 3 ('Q1')", "already given"]),
    "duplicate row id": (
        lambda data: (kb(data).update(id=1), data.__dict__.update(rows={"Q1": 0, "Q2": 1, "Q3": 1, "Q4": 3})),
        ["record 3", "entity id 1", "already given"],
    ),
    "row id is text": (change(kb, id="2"), ["record 3", "'2'", "integer row id"]),
    "empty name": (change(kb, entity_name=""), ["kb_entity.json: record 3", "'entity_name' is empty"]),
    "images are text": (change(kb, image_list="a.jpg"), ["record 3", "'image_list'", "list of file names"]),
    "images are false": (change(kb, image_list=False), ["record 3", "'image_list' holds bool False"]),
    "half a character in an image": (change(kb, image_list=["\ud800.jpg"]), ["record 3 ('Q3')", "surrogate"]),
    "field with a line break": (change(train, **{"a\nb": 1}), ["record 2 ('m1')", "--ignore-fields a\\nb"]),
    "other row in qid2id": (
        lambda data: setattr(data, "rows", {"Q1": 0, "Q2": 1, "Q3": 3, "Q4": 2}),
        ["record 3 ('Q3')", "has id 2 here and 3 in", "qid2id.json"],
    ),
    "text in qid2id": (
        lambda data: setattr(data, "rows", {"Q1": 0, "Q2": "1", "Q3": 2, "Q4": 3}),
        ["qid2id.json: 'Q2' holds str '1', expected the integer"],
    ),
    "missing in qid2id": (
        lambda data: setattr(data, "rows", {"Q1": 0, "Q2": 1, "Q4": 3}),
        ["record 3 ('Q3')", "none in", "qid2id.json"],
    ),
    "missing in the KB": (
        lambda data: data.kb.pop() and data.__dict__.update(rows={"Q1": 0, "Q2": 1, "Q3": 2, "Q4": 3}),
        ["qid2id.json: Q4 has id 3 here", "no record in"],
    ),
    "record is a list": (
        lambda data: data.splits["dev"].append([]),
        ["TOY_dev.json: record 3", "list", "expected an object"],
    ),
    "empty split": (lambda data: data.splits["dev"].clear(), ["TOY_dev.json", "empty list"]),
    "split is an object": (lambda data: data.splits.update(dev={"a": 1}), ["TOY_dev.json", "dict", "expected a list"]),
}


@pytest.mark.parametrize("fault", MIMIC_ERRORS)
def test_mimic_faults_name_file_record_and_remedy(mimic, fault):
    break_it, parts = MIMIC_ERRORS[fault]
    break_it(mimic)
    message = mimic.error()
    assert str(mimic.folder) in message
    for part in parts:
        assert part in message


@pytest.mark.parametrize("name", ["qid2id.json", "kb_entity.json", "TOY_dev.json"])
def test_mimic_missing_and_malformed_files_are_named_with_position(mimic, name):
    path = mimic.write() / name
    text = path.read_text()
    path.write_text("\n" + text[:-3])
    assert f"{path}:2:" in refused(lambda: load("toy", mimic.folder))
    path.write_bytes(text.encode()[:30] + b"\xff\xfe")
    assert f"{path}: not UTF-8 at byte 30" in refused(lambda: load("toy", mimic.folder))
    path.unlink()
    message = refused(lambda: load("toy", mimic.folder, "mimic"))
    assert "TOY_dev.json" not in name or "_dev.json" in message
    assert str(mimic.folder) in message


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("qid2id.json", '"Q2"', '"Q1"', ":1:11: malformed JSON (key 'Q1' is given twice in one object)"),
        (
            "kb_entity.json",
            '"qid": "Q1"',
            '"qid": "Q1", "\\u0071id": "Q9"',
            ":1:25: malformed JSON (key 'qid' is given twice in one object)",
        ),
        (
            "TOY_train.json",
            '"answer": "Q2"',
            '"answer": "Q2", "answer": "Q1"',
            "(key 'answer' is given twice in one object)",
        ),
        ("qid2id.json", '"Q2": 1', '"Q2": ' + "9" * 5000, ":1:17: malformed JSON (a number of more than 4,300 digits)"),
        ("TOY_dev.json", '"Q2"', "[" * 100_000, "malformed JSON (nested too deeply)"),
    ],
)
def test_what_a_parser_of_json_passes_over_or_stumbles_on_is_refused_with_its_place(mimic, name, old, new, message):
    path = mimic.write() / name
    path.write_text(path.read_text().replace(old, new, 1))
    assert f"{path}:1:" in (complaint := refused(lambda: load("toy", mimic.folder))) and message in complaint


def test_byte_order_marks_are_no_fault(mimic):
    before = mimic.load()
    for path in mimic.folder.glob("*.json"):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    after = load("toy", mimic.folder)
    assert after.mentions == before.mentions and after.entities == before.entities


def test_two_files_for_one_split_are_not_mixed(mimic):
    mimic.write()
    (mimic.folder / "OTHER_train.json").write_text("[]")
    assert "OTHER_train.json and TOY_train.json" in refused(lambda: load("toy", mimic.folder))


def test_repeated_ids_can_be_numbered_and_extra_fields_allowed(mimic):
    mimic.splits["train"][1] |= {"id": "m0", "caption": "x"}
    mimic.splits["dev"][0]["id"] = "m0"
    assert [m.id for m in mimic.load(repeated_ids="number", ignore_fields="caption, topics").mentions[:3]] == [
        "m0",
        "m0#2",
        "m0#3",
    ]
    assert "--repeated-ids" in refused(lambda: LayoutOptions(repeated_ids="maybe"))


def test_the_layout_is_recognised_from_the_files(tmp_path):
    for name in ("a", "b", "c", "d"):
        (tmp_path / name).mkdir()
    assert formats() == ["fissfuse", "ghmfc", "jsonl", "mimic", "wikidiverse"]
    assert load("x", Mimic(tmp_path / "a").write()).format == "mimic"
    assert load("x", Lines(tmp_path / "b").write()).format == "jsonl"
    Mimic(tmp_path / "c").write(), Lines(tmp_path / "c").write()
    both = refused(lambda: layout(tmp_path / "c"))
    assert "jsonl and mimic" in both and "--format" in both
    assert load("x", tmp_path / "c", "jsonl").format == "jsonl" and load("x", tmp_path / "c", "mimic").format == "mimic"
    none = refused(lambda: layout(tmp_path / "d"))
    assert "mentions.jsonl and entities.jsonl" in none and "kb_entity.json" in none
    assert "did you mean 'mimic'" in refused(lambda: layout(tmp_path / "a", "mimi"))
    assert "no such folder" in refused(lambda: layout(tmp_path / "nowhere"))
    assert "entities.jsonl: No such file" in refused(lambda: load("x", tmp_path / "a", "jsonl"))


def test_the_fingerprint_follows_texts_and_pictures_and_nothing_else(tmp_path):
    memo = tmp_path / "memo.json"
    for kind in ("mimic", "jsonl"):
        root = tmp_path / kind
        root.mkdir()
        data = Mimic(root) if kind == "mimic" else Lines(root)
        picture = root / ("mention_image/a.jpg" if kind == "mimic" else "a.jpg")
        picture.write_bytes(b"one")
        (data.splits["train"][0] if kind == "mimic" else data.mentions[0])[
            "imgPath" if kind == "mimic" else "image"
        ] = "a.jpg"
        data.write()
        first = fingerprint(root, memo=memo)
        (root / "notes.txt").write_text("irrelevant")
        assert fingerprint(root, memo=memo) == fingerprint(root) == first
        moved = root.rename(tmp_path / f"{kind}-moved")
        assert fingerprint(moved, memo=memo) == first
        root = moved.rename(root)

        stamp = picture.stat()
        picture.write_bytes(b"two")
        os.utime(picture, ns=(stamp.st_atime_ns, stamp.st_mtime_ns + 1))
        replaced = fingerprint(root, memo=memo)
        os.utime(picture, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
        assert replaced != first and fingerprint(root, memo=memo) == first
        picture.unlink()
        assert fingerprint(root, memo=memo) not in (first, replaced)
        picture.write_bytes(b"one")
        os.utime(picture, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))

        text = root / ("kb_entity.json" if kind == "mimic" else "entities.jsonl")
        text.write_text(text.read_text().replace("Name 0", "Name X").replace("Robert", "Rupert"))
        assert fingerprint(root, memo=memo) != first
    assert "did you mean 'mention_images'" in refused(lambda: from_json(LayoutOptions, {"mention_image": "x"}))


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (Lines, "597f0cff0956e567"),
        (Mimic, "6a3d48bf53dd32eb"),
    ],
)
def test_a_dataset_prepared_by_an_earlier_version_keeps_its_fingerprint(tmp_path, kind, expected):
    assert fingerprint(kind(tmp_path).write(), options=LayoutOptions(repeated_ids="refuse")).startswith(expected)


def test_the_fingerprint_trusts_size_and_mtime_of_a_text_until_rescan(lines, tmp_path):
    memo, path = tmp_path / "memo.json", lines.write() / "entities.jsonl"
    first, stamp = fingerprint(lines.folder, memo=memo), path.stat().st_mtime_ns
    path.write_text(path.read_text().replace("Robert", "Rupert"))
    os.utime(path, ns=(stamp, stamp))
    assert fingerprint(lines.folder, memo=memo) == first
    assert fingerprint(lines.folder, memo=memo, rescan=True) == fingerprint(lines.folder) != first


@pytest.fixture(scope="module")
def wikimel():
    if not WIKIMEL.is_dir():
        pytest.skip("the real data under ../shared is not there")
    return load("wikimel", WIKIMEL)


def test_wikimel_is_read_whole(wikimel):
    assert [sum(m.split == split for m in wikimel.mentions) for split in ("train", "dev", "test")] == [
        18_092,
        2_585,
        5_169,
    ]
    assert (len(wikimel.entities), wikimel.format) == (18_880, "mimic")
    assert sum(m.image is not None for m in wikimel.mentions) == 2_308
    assert len({m.id for m in wikimel.mentions}) == 25_846


def test_wikimel_phrases_that_do_not_stand_literally_are_found_all_but_six(wikimel):
    train = [m for m in wikimel.mentions if m.split == "train"]
    assert sum(m.phrase not in m.sentence for m in train) == 528
    assert sum(m.span is None for m in wikimel.mentions) == 6
    assert all(m.span is None or 0 <= m.span[0] < m.span[1] <= len(m.sentence) for m in wikimel.mentions)


def test_a_malformed_record_does_not_hide_that_row_ids_disagree(mimic):
    mimic.kb[0]["entity_name"] = 7
    mimic.rows = {e["qid"]: e["id"] for e in mimic.kb} | {"Q2": 9}
    mimic.write()
    with pytest.raises(UserError, match="Q2 has id 1 here and 9 in"):
        load("toy", mimic.folder, max_bad_records=0.5)
    mimic.rows = None
    mimic.write()
    assert len(load("toy", mimic.folder, max_bad_records=0.5).entities) == 3

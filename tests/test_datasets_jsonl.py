"""Reading the jsonl layout: what is kept, and a one-line error with line and remedy for everything malformed."""

import pytest
from data_faults import ABSENT, change, refused
from dataset_folders import Lines

from foundation.errors import UserError
from pipeline.datasets.layouts import layout, load


@pytest.fixture
def lines(tmp_path):
    return Lines(tmp_path)


def test_jsonl_records_as_documented(lines):
    lines.entities = [
        {
            "id": 7,
            "name": "Robert",
            "attributes": {"Sex": "male", "Occupation": ["actor", "singer"], "Born": 1950},
            "images": "pics/a.jpg",
            "type": "person",
        },
        {"id": "e1", "name": "Rob", "attributes": "Plays.", "description": "A man.", "images": ["b.jpg", "./c.jpg"]},
    ]
    lines.mentions = [
        {
            "id": 1,
            "sentence": "Bob met Bob.",
            "mention": "Bob",
            "start": 8,
            "end": 11,
            "image": "pics/m.png",
            "gold": 7,
            "split": "train",
            "type": "person",
            "group": "easy",
        },
        "",
        {
            "id": 2,
            "sentence": "Bob met Bob.",
            "mention": "Bob",
            "gold": None,
            "split": "test",
            "candidates": ["e1", 7, "x", "e1"],
        },
        {"id": 3, "sentence": "Nobody.", "mention": "Bob", "gold": "elsewhere", "split": "dev"},
    ]
    dataset = lines.load()
    first, nil, outside = dataset.mentions
    assert (first.id, first.span, first.image, first.gold, first.type, first.group) == (
        "1",
        (8, 11),
        "pics/m.png",
        "7",
        "person",
        "easy",
    )
    assert (nil.gold, nil.span, nil.image, nil.given) == (None, (0, 3), None, ("e1", "7", "x"))
    assert (outside.gold, outside.span, outside.given) == ("elsewhere", None, None)
    assert (dataset.entities[0].id, dataset.entities[0].attributes) == (
        "7",
        "Sex: male. Occupation: actor, singer. Born: 1950.",
    )
    assert (dataset.entities[0].images, dataset.entities[1].images) == (("pics/a.jpg",), ("b.jpg", "c.jpg"))


def test_a_byte_order_mark_is_no_fault(lines):
    lines.write()
    path = lines.folder / "mentions.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert load("toy", lines.folder).mentions[0].id == "m1"


def first(data):
    return data.mentions[0]


def only(data):
    return data.entities[0]


JSONL_ERRORS = {
    "unknown field": (change(first, imag="x"), ["mentions.jsonl:1", "'imag'", "did you mean 'image'"]),
    "unknown field of an entity": (change(only, atributes="x"), ["entities.jsonl:1", "did you mean 'attributes'"]),
    "unknown before missing": (change(first, gold=ABSENT, goldd="e1"), ["'goldd'", "did you mean 'gold'"]),
    "half a character in a name": (change(first, **{"\ud800": 1}), ["mentions.jsonl:1", "field's name", "surrogate"]),
    "start is text": (change(first, start="8", end=11), ["'start' holds str '8', expected an integer"]),
    "start is a fraction": (change(first, start=8.0, end=11), ["'start' holds float 8.0, expected an integer"]),
    "candidate in a list": (
        change(first, candidates=["e1", ["x"]]),
        ["item 2 of field 'candidates' holds list ['x'], expected a string"],
    ),
    "missing gold": (change(first, gold=ABSENT), ["mentions.jsonl:1", "'gold' is missing"]),
    "unknown split": (
        change(first, split="tests"),
        ["mentions.jsonl:1", "'tests'", "did you mean 'test'", "dev, test, train"],
    ),
    "null id": (change(first, id=None), ["mentions.jsonl:1", "'id'"]),
    "true id": (change(first, id=True), ["mentions.jsonl:1", "'id'", "bool"]),
    "duplicate id": (
        lambda data: data.mentions.append(dict(data.mentions[0])),
        ["mentions.jsonl:2", "'m1' was already given at", "mentions.jsonl:1"],
    ),
    "duplicate entity": (
        lambda data: data.entities.append(dict(data.entities[0])),
        ["entities.jsonl:2", "'e1' was already given"],
    ),
    "span outside": (change(first, start=8, end=13), ["mentions.jsonl:1", "8..13", "12 characters"]),
    "span backwards": (change(first, start=8, end=8), ["mentions.jsonl:1", "8..8"]),
    "span without end": (change(first, start=8), ["mentions.jsonl:1", "None", "two integers"]),
    "span elsewhere": (
        change(first, start=0, end=3),
        ["mentions.jsonl:1", "'Ann'", "'Bob'", "leave start and end out"],
    ),
    "images are numbers": (change(only, images=[1]), ["entities.jsonl:1", "'images'"]),
    "images are zero": (change(only, images=0), ["entities.jsonl:1", "'images' holds int 0"]),
    "images are an object": (change(only, images={}), ["entities.jsonl:1", "'images' holds dict {}"]),
    "half a character in an image": (change(only, images=["\ud800.jpg"]), ["entities.jsonl:1", "surrogate"]),
    "half a character alone": (change(only, images="\ud800.jpg"), ["entities.jsonl:1", "surrogate"]),
    "field with a line break": (change(first, **{"a\nb": 1}), ["mentions.jsonl:1", "--ignore-fields a\\nb"]),
    "attributes nested": (change(only, attributes={"a": {"b": 1}}), ["entities.jsonl:1", "'a'"]),
    "attributes number": (change(only, attributes=5), ["entities.jsonl:1", "'attributes'", "int 5"]),
    "candidates are text": (
        change(first, candidates="e1"),
        ["mentions.jsonl:1", "'candidates'", "expected a list of ids"],
    ),
    "candidate is null": (change(first, candidates=["e1", None]), ["mentions.jsonl:1", "'candidates' is null"]),
    "no object": (lambda data: data.mentions.insert(0, "[1]"), ["mentions.jsonl:1", "list", "expected an object"]),
    "malformed": (lambda data: data.mentions.append('{"id": "m2", oops}'), ["mentions.jsonl:2:14", "malformed JSON"]),
    "repeated key": (
        lambda data: data.mentions.append('{"id": "m2", "id": "m3"}'),
        ["mentions.jsonl:2:14", "key 'id' is given twice"],
    ),
    "number too long": (
        lambda data: data.mentions.append('{"id": ' + "9" * 5000 + "}"),
        ["mentions.jsonl:2:8", "more than 4,300 digits"],
    ),
    "nested deep": (lambda data: data.mentions.append("[" * 100_000), ["mentions.jsonl:2"]),
    "no mention": (lambda data: data.mentions.clear(), ["mentions.jsonl", "no record"]),
    "no entity": (lambda data: data.entities.clear(), ["entities.jsonl", "no record"]),
}


@pytest.mark.parametrize("fault", JSONL_ERRORS)
def test_jsonl_faults_name_line_and_remedy(lines, fault):
    break_it, parts = JSONL_ERRORS[fault]
    break_it(lines)
    message = lines.error()
    for part in parts:
        assert part in message


def test_jsonl_not_utf8(lines):
    lines.mentions = [{**lines.mentions[0], "id": number} for number in range(1, 60)]
    path = lines.write() / "mentions.jsonl"
    path.write_bytes(path.read_bytes().replace(b'{"id": 42,', b'{"id": "\xff",'))
    assert "mentions.jsonl:42: not UTF-8 at byte 8" in refused(lambda: load("toy", lines.folder))


def test_entities_alone_are_a_kb_without_mentions(lines):
    lines.write()
    (lines.folder / "mentions.jsonl").unlink()
    kb = load("toy", lines.folder)
    assert kb.kb_alone and not kb.mentions and len(kb.entities) == len(lines.entities)
    assert [path.name for path in layout(lines.folder).sources(lines.folder)] == ["entities.jsonl"]


@pytest.mark.parametrize("other", ["TOY_train.jsonl", "dev.jsonl", "mentions.jsonl"])
def test_entities_beside_other_or_empty_mentions_are_no_kb_alone(lines, other):
    lines.write()
    (lines.folder / "mentions.jsonl").unlink()
    (lines.folder / other).touch()
    with pytest.raises(UserError, match=r"holds no record|no dataset recognised|no file|expected"):
        load("toy", lines.folder)

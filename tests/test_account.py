"""Preparing a dataset: the tables, every count of the account, and the limit on bad pictures."""

import hashlib
import io
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from foundation.checksums import read_sealed
from foundation.errors import UserError
from pipeline.datasets.account import account_text
from pipeline.datasets.contracts import LayoutOptions, Limits, PrepareJob
from pipeline.datasets.images import image_key
from pipeline.datasets.prepare import prepare
from pipeline.datasets.text_statistics import bin_names, text_statistics

WIKIMEL = Path(__file__).parents[2] / "shared" / "data" / "wikimel"


def picture(seed: int) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (20, 30, 3), np.uint8)).save(sink, "JPEG")
    return sink.getvalue()


ENTITIES = [
    {"id": "e0", "name": "Ann Lee", "attributes": "Sex: female.", "images": ["gone.jpg", "a.jpg"], "type": "person"},
    {"id": "e1", "name": "ann lee", "images": ["cut.jpg", "gone.jpg"], "type": "person"},
    {"id": "e2", "name": "Bob", "images": ["b.jpg"], "type": "ship"},
    {"id": "e3", "name": "Cid"},
]
MENTIONS = [
    {
        "id": "m0",
        "sentence": "Ann Lee sings.",
        "mention": "Ann Lee",
        "gold": "e0",
        "split": "train",
        "image": "a.jpg",
        "group": "easy",
    },
    {
        "id": "m1",
        "sentence": "ANN LEE sings.",
        "mention": "Ann Lee",
        "gold": "e1",
        "split": "train",
        "image": "copy.jpg",
        "group": "hard",
    },
    {"id": "m2", "sentence": "Bob sank.", "mention": "Bob", "gold": None, "split": "train", "image": "a.jpg"},
    {"id": "m3", "sentence": "Bob sank.", "mention": "Bob", "gold": "e2", "split": "dev", "image": "cut.jpg"},
    {
        "id": "m4",
        "sentence": "Ann Lee sings.",
        "mention": "Ann Lee",
        "gold": "e0",
        "split": "test",
        "image": "text.jpg",
    },
    {"id": "m5", "sentence": "Who?", "mention": "Dan", "gold": "elsewhere", "split": "test", "image": "gone.jpg"},
    {"id": "m6", "sentence": "A cid.", "mention": "Cid", "gold": "e3", "split": "test", "image": "big.png"},
    {"id": "m7", "sentence": "Bob sank.", "mention": "Bob", "gold": "e2", "split": "test"},
]


@pytest.fixture
def job(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    for name, content in (
        ("a", picture(1)),
        ("copy", picture(1)),
        ("b", picture(2)),
        ("cut", picture(3)[:-200]),
        ("text", b"no picture"),
    ):
        (data / f"{name}.jpg").write_bytes(content)
    Image.new("1", (300, 200)).save(data / "big.png")
    for name, records in (("entities", ENTITIES), ("mentions", MENTIONS)):
        (data / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    limits = Limits(max_pixels=59_999, max_bytes=10_000_000)
    out, memo = tmp_path / "out", tmp_path / "memo"
    return PrepareJob(name="toy", data_dir=data, out=out, memo=memo, limits=limits, max_bad_images=0.8)


def columns(job: PrepareJob, name: str) -> dict[str, list]:
    return pq.read_table(job.out / f"{name}.parquet").to_pydict()


def test_mentions_table(job):
    prepare(job)
    found = columns(job, "mentions")
    assert found["id"] == [f"m{number}" for number in range(8)]
    assert found["gold"] == [0, 1, -1, 2, 0, -2, 3, 2]
    assert found["gold_id"] == ["e0", "e1", None, "e2", "e0", "elsewhere", "e3", "e2"]
    assert list(zip(found["start"], found["end"], strict=True)) == [
        (0, 7),
        (0, 7),
        (0, 3),
        (0, 3),
        (0, 7),
        (-1, -1),
        (2, 5),
        (0, 3),
    ]
    assert found["image"] == ["a.jpg", "copy.jpg", "a.jpg", "cut.jpg", "text.jpg", "gone.jpg", "big.png", None]
    assert found["image_status"] == ["ok", "ok", "ok", "broken", "broken", "missing", "too_large", "none"]
    assert found["image_cause"] == [
        None,
        None,
        None,
        "truncated",
        "not an image",
        "no such file",
        "too many pixels",
        None,
    ]
    assert found["image_key"][0] == found["image_key"][1] == image_key(picture(1))
    assert found["image_key"][4] == image_key(b"no picture") and found["image_key"][5] is found["image_key"][7] is None
    assert found["phrase_is_name"] == [True, True, False, True, True, False, True, True]
    assert found["gold_in_train"] == [True, True, False, False, True, False, False, False]
    assert found["sentence_in_train"] == [True, True, True, True, True, False, False, True]
    assert found["ambiguous"] == [True, True, True, True, True, False, False, True]
    assert found["group"][:3] == ["easy", "hard", None]


def test_entities_table_takes_the_first_usable_picture(job):
    prepare(job)
    found = columns(job, "entities")
    assert found["id"] == ["e0", "e1", "e2", "e3"]
    assert found["images"] == [["gone.jpg", "a.jpg"], ["cut.jpg", "gone.jpg"], ["b.jpg"], []]
    assert found["image"] == ["a.jpg", None, "b.jpg", None]
    assert found["image_status"] == ["ok", "broken", "ok", "none"]
    assert found["image_key"] == [image_key(picture(1)), None, image_key(picture(2)), None]
    assert found["train_count"] == [1, 1, 0, 0]


def test_account_counts(job):
    dataset = prepare(job)
    account = dataset.account
    assert read_sealed(job.out / "account.json") == account
    assert (dataset.name, dataset.folder, len(dataset.content)) == ("toy", job.out, 64)
    assert dataset.mention_images == dataset.entity_images == job.data_dir
    assert sorted(dataset.files) == sorted(job.out.iterdir())
    test, everything, kb = account["splits"]["test"], account["splits"]["all"], account["entities"]
    expected = {
        "mentions": 4,
        "nil": 0,
        "outside_kb": 1,
        "golds": 3,
        "gold_unseen": 2,
        "sentences": 4,
        "sentence_in_train": 2,
        "phrase_is_name": 3,
        "ambiguous": 2,
        "span_literal": 2,
        "span_loose": 1,
        "span_missing": 1,
    }
    assert {name: test[name] for name in expected} == expected
    assert test["images"] == {
        "listed": 3,
        "ok": 0,
        "missing": 1,
        "broken": 1,
        "too_large": 1,
        "reused": 0,
        "broken_by_cause": {"not an image": 1},
        "too_large_by_cause": {"too many pixels": 1},
    }
    assert account["splits"]["train"]["images"]["reused"] == 2
    assert (everything["mentions"], everything["nil"], everything["images"]["listed"]) == (8, 1, 7)
    assert everything["sentence_in_train"] == 3  # of dev and test
    assert (kb["entities"], kb["sharing_a_name"], kb["without_attributes"], kb["with_usable_image"], kb["types"]) == (
        4,
        2,
        3,
        2,
        {"none": 1, "person": 2, "ship": 1},
    )
    assert (
        kb["images"]["listed"] == 5
        and kb["images"]["missing"] == 2
        and kb["images"]["broken_by_cause"] == {"truncated": 1}
    )
    assert account["groups"] == {"easy": 1, "hard": 1}


def test_aliases_are_kept_and_counted(job):
    prepare(job)
    before, without = (job.out / "account.txt").read_text(), columns(job, "entities")
    assert "aliases" not in without and "aliases" not in before
    aliases = {"e0": ["Ms Lee", "Ann of Leeds", "Ms Lee"], "e2": ["BÓB", "Lee Ann"], "e3": ["ms. lee"]}
    records = [{**record, "aliases": aliases.get(record["id"])} for record in ENTITIES]
    (job.data_dir / "entities.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    account = prepare(job).account["entities"]
    assert columns(job, "entities")["aliases"] == [["Ms Lee", "Ann of Leeds"], [], ["BÓB", "Lee Ann"], ["ms. lee"]]
    assert {name: columns(job, "entities")[name] for name in without} == without
    assert (account["with_aliases"], account["aliases"], account["shared_aliases"]) == (3, 5, 2)
    assert re.search(r"aliases +5\n.*also a name of another entity +2\n", (job.out / "account.txt").read_text())


@pytest.mark.parametrize(
    ("aliases", "message"),
    [
        ("Ms Lee", "field 'aliases' holds str 'Ms Lee', expected a list of names"),
        ([7], "item 1 of field 'aliases' holds int 7, expected a string"),
        (["A", " "], "item 2 of field 'aliases' is empty"),
        (["x" * 501], "item 1 of field 'aliases' holds a name of 501 characters, at most 500 are allowed"),
        ([str(number) for number in range(1001)], "field 'aliases' holds 1001 names, at most 1000 are allowed"),
    ],
)
def test_aliases_that_cannot_be_meant_are_refused(job, aliases, message):
    with (job.data_dir / "entities.jsonl").open("a") as file:
        file.write(json.dumps({"id": "e9", "name": "Zed", "aliases": aliases}) + "\n")
    with pytest.raises(UserError, match=re.escape(message)):
        prepare(job)


def test_printed_account_is_aligned_and_names_every_count(job):
    account = prepare(job).account
    text = (job.out / "account.txt").read_text()
    assert text == account_text(account)
    first = text.split("\n\n")[1].splitlines()
    assert len({len(line) for line in first}) == 1
    for wanted in (
        "sentence also in training",
        "gold unseen in training",
        "gold outside the KB",
        "truncated",
        "not an image",
        "reused",
        "phrase ambiguous",
        "phrase not found",
    ):
        assert wanted in text


def test_the_same_data_gives_the_same_bytes(job, tmp_path):
    def digests(out: Path) -> dict[str, str]:
        return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(out.iterdir())}

    prepare(job)
    prepare(replace(job, out=tmp_path / "again", memo=None, workers=1))
    assert digests(tmp_path / "out") == digests(tmp_path / "again")
    assert len(digests(tmp_path / "out")) == 4


def test_too_many_bad_pictures_stop_with_counts_and_the_option_and_nothing_written(job):
    with pytest.raises(UserError) as caught:
        prepare(replace(job, max_bad_images=0.2))
    message = str(caught.value)
    assert "\n" not in message
    for part in (
        "58.3% of the listed images",
        "at most 20.0%",
        "4 of 7 mention images",
        "3 of 5 entity images",
        "2 broken",
        "1 too large",
        "--max-bad-images",
        "--mention-images",
    ):
        assert part in message
    assert not job.out.exists()


def test_exactly_the_limit_is_allowed(job):
    prepare(replace(job, max_bad_images=7 / 12))
    with pytest.raises(UserError):
        prepare(replace(job, max_bad_images=6.9 / 12))


def test_a_missing_image_folder_is_named(job):
    with pytest.raises(UserError, match=r"nowhere.*does not exist"):
        prepare(replace(job, options=LayoutOptions(mention_images="nowhere"), max_bad_images=0.2))


def test_a_replaced_picture_changes_its_key(job):
    prepare(job)
    (job.data_dir / "b.jpg").write_bytes(picture(9))
    prepare(job)
    assert columns(job, "entities")["image_key"][2] == image_key(picture(9))


@pytest.fixture(scope="module")
def wikimel(tmp_path_factory):
    if not WIKIMEL.is_dir():
        pytest.skip("the real data under ../shared is not there")
    out = tmp_path_factory.mktemp("wikimel")
    return prepare(PrepareJob(name="wikimel", data_dir=WIKIMEL, out=out)).account


def test_wikimel_account(wikimel):
    test, everything = wikimel["splits"]["test"], wikimel["splits"]["all"]
    assert test["mentions"] == 5_169 and test["sentence_in_train"] == 1_061
    assert [wikimel["splits"][split]["images"]["ok"] for split in ("train", "dev", "test")] == [1_617, 234, 457]
    assert everything["images"]["listed"] == 2_308 and everything["nil"] == everything["outside_kb"] == 0
    assert wikimel["entities"]["entities"] == 18_880 and wikimel["entities"]["with_usable_image"] == 1_748


def test_candidates_that_came_with_mentions_are_kept_as_rows_and_counted(job, tmp_path):
    lines = [dict(record) for record in MENTIONS]
    lines[3]["candidates"], lines[4]["candidates"], lines[5]["candidates"] = (
        ["e3", "nobody", "e2", "e3"],
        [],
        ["elsewhere"],
    )
    assert "given" not in prepare(job).account and not (job.out / "given.parquet").exists()
    (job.data_dir / "mentions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    account = prepare(job).account
    assert columns(job, "given")["given"] == [None, None, None, [3, 2], [], [], None, None]
    counts = ("mentions", "gold", "candidates", "outside_kb")
    assert [account["given"]["dev"][name] for name in counts] == [1, 1, 3, 1]
    assert [account["given"]["test"][name] for name in counts] == [2, 0, 1, 1]
    assert [account["given"]["all"][name] for name in counts] == [3, 1, 4, 2]
    assert "candidates that came with the data" in account_text(account)
    assert re.search(r"candidates per mention, mean +– +3\.0 +0\.5 +1\.3\n", account_text(account)), (
        "3 / 1, 1 / 2, 4 / 3"
    )


def test_statistics_of_texts_are_those_counted_by_hand(job):
    account = prepare(job).account
    found = read_sealed(job.out / "account.json")["texts"]
    assert account["texts"] == found and list(found["splits"]) == ["train", "dev", "test", "all"]
    train, everything = found["splits"]["train"], found["splits"]["all"]
    # m0 and m1 have their own pictures, m2 too; words: 3, 3, 2
    assert train["samples"] == 3 and train["mean"] == 2.667 and train["median"] == 3 and train["longest"] == 3
    # m2, m3 and m7 have one sentence with three pictures (none is one)
    assert everything["samples"] == 8 and everything["mentions_per_sample"] == 1.0
    assert everything["lengths"][:2] == [8, 0] and len(everything["lengths"]) == 13 == len(bin_names())
    assert train["phrase_mean"] == 1.667 and found["entities"] == {"attributes": 2.0, "description": None}
    text = (job.out / "account.txt").read_text()
    assert re.search(r"words in a sample's sentence, mean +2\.7 +2\.0 +2\.0 +2\.2\n", text) and "60+ " in text


def test_mentions_of_one_sentence_and_picture_are_one_sample_and_long_sentences_fall_into_the_last_bin():
    mentions = {
        "split": ["train"] * 3,
        "sentence": ["one two"] * 2 + ["w " * 99],
        "image": ["a", "a", None],
        "phrase": ["one", "two", "w w"],
    }
    found = text_statistics(mentions, {"attributes": ["a b c", " "], "description": [None, "a"]})
    train = found["splits"]["train"]
    assert (train["samples"], train["mentions_per_sample"], train["mean"]) == (2, 1.5, 50.5)
    assert train["lengths"] == [1, *[0] * 11, 1] and found["entities"] == {"attributes": 3.0, "description": 1.0}

"""The layout `fissfuse`: lines, golds and pictures inside one HDF5 file; what is absent or unknown is said."""

import json
import re
import shutil

import h5py
import numpy as np
import pyarrow.parquet as pq
import pytest
import small_world
from fissfuse_folder import Fissfuse, picture

import mel_cache
from cache.foreign import keys_there, read_bytes
from foundation.errors import UserError
from pipeline.datasets.account import account_text
from pipeline.datasets.contracts import LayoutOptions, PrepareJob
from pipeline.datasets.fingerprint import fingerprint
from pipeline.datasets.images import image_key
from pipeline.datasets.layouts import layout, load
from pipeline.datasets.prepare import prepare
from report.thumbnails import Thumbnails


@pytest.fixture
def release(tmp_path):
    return Fissfuse(tmp_path / "fissfuse")


def prepared(release, **changes):
    job = PrepareJob(
        name="toy", data_dir=release.write(), out=release.folder.with_name("out"), max_bad_images=1, **changes
    )
    account = prepare(job).account
    tables = {side: pq.read_table(job.out / f"{side}.parquet").to_pydict() for side in ("mentions", "entities")}
    return account, tables


def test_records_and_pictures_are_read(release):
    assert layout(release.write()).__name__.endswith(".fissfuse")
    raw = load("toy", release.folder)
    assert (raw.format, len(raw.mentions), len(raw.entities)) == ("fissfuse", 6, 4)
    first, entity = raw.mentions[0], raw.entities[0]
    assert (first.id, first.phrase, first.split, first.gold, first.span) == ("train0", "Name", "train", "Q0", (0, 4))
    assert (first.image, first.given) == ("mention_image/p0", ("Q0", "Q3", "Q2"))
    assert (entity.id, entity.name, entity.attributes, entity.images) == (
        *("Q0", "Name 0", "Desc 0."),
        ("entity_image/Q0",),
    )
    assert raw.entities[3].images == (), "no array, no picture"
    _, tables = prepared(release)
    assert tables["mentions"]["image_status"] == ["ok"] * 6
    assert tables["mentions"]["image_key"][:2] == [image_key(picture(0)), image_key(picture(1))]
    assert tables["entities"]["image_status"] == ["ok"] * 3 + ["none"]
    assert tables["entities"]["image_key"][2] == image_key(picture(12))


@pytest.mark.parametrize("name", ["WIKIMEL_image.h5", "image.h5py", "image.h5", "WIKIDIVERSE_image.hdf5"])
def test_the_file_of_pictures_has_one_of_several_names(release, name):
    release.write(name)
    assert load("toy", release.folder).mention_images == release.folder / name


def test_two_files_of_pictures_are_told_apart_by_an_option(release, tmp_path):
    release.write("WIKIMEL_image.h5")
    shutil.copy(release.folder / "WIKIMEL_image.h5", tmp_path / "away.h5")
    shutil.copy(release.folder / "WIKIMEL_image.h5", release.folder / "OTHER_image.h5")
    with pytest.raises(
        UserError, match=r"pictures in OTHER_image\.h5 and WIKIMEL_image\.h5; name one with --mention-i"
    ):
        load("toy", release.folder)
    options = LayoutOptions(mention_images="OTHER_image.h5", entity_images=str(tmp_path / "away.h5"))
    raw = load("toy", release.folder, options=options)
    assert (raw.mention_images.name, raw.entity_images) == ("OTHER_image.h5", tmp_path / "away.h5")


@pytest.mark.parametrize(
    ("path", "key"),
    [
        ("a/b/p1.jpg", "p1"),
        ("p1.2.jpg", "p1"),
        ("https://upload.example.org/x/p1.JPG", "p1"),
        ("C:\\pictures\\p1.jpg", "p1"),
        ("p1", "p1"),
        ("", None),
        (None, None),
        (".jpg", None),
        ("../../etc/passwd", "passwd"),
    ],
)
def test_a_pictures_key_is_the_base_name_up_to_the_first_dot(release, path, key):
    release.splits["train"][0]["imgPath"] = path
    assert release.load().mentions[0].image == (None if key is None else f"mention_image/{key}")


def test_an_array_that_is_not_there_is_a_missing_picture(release):
    del release.pictures["mention_image"]["p1"]
    release.pictures["entity_image"]["Q1"] = b"no picture"
    account, tables = prepared(release)
    assert tables["mentions"]["image_status"] == ["ok", "missing"] * 3
    assert tables["entities"]["image_status"] == ["ok", "broken", "ok", "none"]
    assert account["splits"]["all"]["images"]["missing"] == 3


def test_without_the_file_every_picture_is_missing_and_the_remedy_is_named(release):
    release.write()
    (release.folder / "WIKIMEL_image.h5").unlink()
    with pytest.raises(UserError, match=r"image\.h5 \(6 missing, .*does not exist.*--mention-images"):
        prepare(PrepareJob(name="toy", data_dir=release.folder, out=release.folder / "out"))


def test_the_answer_is_the_gold_where_there_is_one(release):
    release.splits["train"][0]["answer"] = "Q2"
    release.splits["train"][1]["answer"] = "nil"
    raw = release.load()
    assert [mention.gold for mention in raw.mentions] == ["Q2", None, "Q0", "Q1", "Q0", "Q1"]
    assert "4 mentions have no answer: the first candidate is their gold" in raw.notes


def test_absent_and_further_fields_are_said_and_not_fatal(release):
    release.splits["train"] = [
        {"mentions": ["Name"], "answer": "Q1", "generated": [{"question": "Who?", "answer": "A"}]}
    ]
    release.splits["test"][0]["colour"] = "red"
    release.splits["test"][1]["colour"] = "blue"
    release.entities[1] = {"qid": "Q1", "rank": 3}
    account, tables = prepared(release)
    assert tables["mentions"]["id"][0] == "train.0" and tables["mentions"]["sentence"][0] == ""
    assert tables["entities"]["name"][1] == "Q1" and tables["entities"]["attributes"][1] == ""
    for note in (
        "1 mentions have no mention_id: split and number stand for it",
        "1 mentions have no sentence",
        "1 mentions have no imgPath",
        "1 mentions have questions and answers (`generated`), which are not read",
        "2 mentions have a field 'colour', which is not read",
        "1 entities have a field 'rank', which is not read",
        "1 entities have no name: their QID stands for it",
        "1 entities have no desc",
    ):
        assert note in account["notes"] and note in account_text(account)


def test_a_mention_without_a_gold_is_left_out_and_named(release):
    del release.splits["test"][1]["candidates"]
    release.write()
    raw = load("toy", release.folder, max_bad_records=0.5)
    assert len(raw.mentions) == 5
    (cause,) = raw.rejects
    assert re.search(r"WIKIMEL_test\.jsonl:2: neither answer nor candidates, so the gold is unknown", cause)


def test_the_golds_place_is_counted(release):
    account, _ = prepared(release)
    counts = account["given"]["all"]
    assert [counts[name] for name in ("mentions", "golds", "gold", "gold_first")] == [6] * 4
    assert re.search(r"at place 1 +2 +2 +2 +6\n", account_text(account))


def test_the_fingerprint_follows_the_file_of_pictures(release):
    before = fingerprint(release.write())
    with h5py.File(release.folder / "WIKIMEL_image.h5", "a") as file:
        file["mention_image/more"] = np.zeros(5, np.uint8)
    assert fingerprint(release.folder) != before


def test_a_file_of_pictures_behind_a_link_is_read_unless_links_are_refused(release, tmp_path):
    release.write()
    (release.folder / "WIKIMEL_image.h5").rename(tmp_path / "away.h5")
    (release.folder / "WIKIMEL_image.h5").symlink_to(tmp_path / "away.h5")
    assert load("toy", release.folder).entities[0].images
    with pytest.raises(UserError, match="through a symbolic link"):
        load("toy", release.folder, options=LayoutOptions(follow_links=False))


def test_a_page_shows_pictures_of_the_file(release):
    raw, thumbnails = release.load(), Thumbnails()
    assert thumbnails.add(raw.mention_images / "mention_image/p0", image_key(picture(0)), 32)
    assert thumbnails.add(raw.mention_images / "mention_image/p0", image_key(picture(1)), 32) is None, "another picture"


def as_fissfuse(data, folder):
    """The small world's records and pictures in the layout `fissfuse`."""
    release = Fissfuse(folder)
    lines = {name: [json.loads(line) for line in (data / f"{name}.jsonl").open()] for name in ("mentions", "entities")}
    release.entities = [
        {"qid": line["id"], "id": row, "name": line["name"], "desc": line["attributes"]}
        for row, line in enumerate(lines["entities"])
    ]
    release.splits = {split: [] for split in ("train", "valid", "test")}
    for line in lines["mentions"]:
        release.splits["valid" if line["split"] == "dev" else line["split"]].append(
            {
                "mention_id": line["id"],
                "mentions": line["mention"],
                "sentence": line["sentence"],
                "imgPath": line.get("image", ""),
                "answer": line["gold"],
            }
        )
    release.pictures = {
        "mention_image": {
            line["id"]: (data / line["image"]).read_bytes() for line in lines["mentions"] if "image" in line
        },
        "entity_image": {
            line["id"]: (data / line["images"][0]).read_bytes() for line in lines["entities"] if "images" in line
        },
    }
    return release.write()


def test_a_picture_of_another_layout_is_not_encoded_again(tmp_path):
    data, profile = small_world.write(tmp_path / "data"), small_world.profile(tmp_path)
    extracted = {}
    for name, folder in (("lines", data), ("fissfuse", as_fissfuse(data, tmp_path / "fissfuse"))):
        job = mel_cache.DatasetJob(name=name, data_dir=folder, work_dir=tmp_path / "work", profile=str(profile))
        features = mel_cache.extract(
            mel_cache.FeaturesJob(dataset=mel_cache.prepare(job), features=("image_pooled", "text_tokens"))
        )
        extracted[name] = dict(features.extraction.features)
    for feature, rows in extracted["fissfuse"].items():
        assert rows.extracted == 0 and rows.rows == extracted["lines"][feature].rows > 0, feature
        assert rows.identity == extracted["lines"][feature].identity and extracted["lines"][feature].extracted


def test_pictures_are_encoded_out_of_the_file(tmp_path):
    folder = as_fissfuse(small_world.write(tmp_path / "data"), tmp_path / "fissfuse")
    profile = small_world.profile(tmp_path)
    job = mel_cache.DatasetJob(name="f", data_dir=folder, work_dir=tmp_path / "work", profile=str(profile))
    features = mel_cache.extract(mel_cache.FeaturesJob(dataset=mel_cache.prepare(job), features=("image_pooled",)))
    (rows,) = features.extraction.features.values()
    assert rows.extracted == rows.rows and rows.verdicts == {"ok": rows.rows} and rows.rows > 20


# Cases whose right value is counted by hand (docs/data.md lists them)


def test_one_picture_under_two_names_is_one_key_and_counted_as_reused(release):
    release.pictures["mention_image"]["p1"] = release.pictures["entity_image"]["Q2"] = picture(0)
    account, tables = prepared(release)
    assert {*tables["mentions"]["image_key"], tables["entities"]["image_key"][2]} == {image_key(picture(0))}
    assert account["splits"]["all"]["images"]["reused"] == 5, "six listings of one picture"


def test_an_empty_array_is_an_empty_file(release):
    release.pictures["mention_image"]["p0"] = b""
    account, tables = prepared(release)
    assert tables["mentions"]["image_cause"][0] == "empty file" and tables["mentions"]["image_status"][0] == "broken"
    assert account["splits"]["all"]["images"]["broken_by_cause"] == {"empty file": 3}


def test_a_mention_id_of_two_splits_is_left_out_or_numbered(release):
    for split in ("train", "valid"):
        release.splits[split][0]["mention_id"] = 7
    release.write()
    with pytest.raises(UserError, match=r"WIKIMEL_valid\.jsonl:1: mention id '7' was already given at .*train"):
        load("toy", release.folder)
    ids = [mention.id for mention in release.load(repeated_ids="number").mentions]
    assert ids == ["7", "train1", "7#2", "valid1", "test0", "test1"]


def test_a_candidate_that_is_given_twice_or_unknown_counts_once_or_outside_the_kb(release):
    release.splits["train"][0]["candidates"] = ["Q0", "Q9", "Q0", "Q3", "Q9"]
    account, _ = prepared(release)
    given = pq.read_table(release.folder.with_name("out") / "given.parquet")["given"].to_pylist()
    assert given[0] == [0, 3] and given[1] == [1, 3, 2]
    assert (account["given"]["train"]["candidates"], account["given"]["train"]["outside_kb"]) == (6, 1)


def test_a_gold_first_in_its_list_and_outside_the_kb_is_kept_and_not_counted(release):
    release.splits["test"][0]["candidates"] = ["Q77", "Q1"]
    account, tables = prepared(release)
    assert tables["mentions"]["gold"][4] == -2 and tables["mentions"]["gold_id"][4] == "Q77"
    counts = account["given"]["test"]
    assert [counts[name] for name in ("mentions", "golds", "gold_first", "outside_kb")] == [2, 1, 1, 1]


def test_lines_of_a_jsonl_dataset_are_not_taken_for_this_layout(release):
    release.write()
    (release.folder / "mentions.jsonl").write_text(
        '{"id": 1, "sentence": "A", "mention": "A", "gold": null, "split": "test"}\n'
    )
    assert layout(release.folder).__name__.endswith(".jsonl")


@pytest.mark.parametrize("version", ["earliest", "latest"])
def test_files_of_old_and_new_versions_of_hdf5_are_read(tmp_path, version):
    with h5py.File(tmp_path / "many.h5", "w", libver=version, track_order=version == "latest") as file:
        for number in range(300):
            file[f"entity_image/Q{number}"] = np.frombuffer(b"%d" % number, np.uint8)
    assert keys_there(tmp_path / "many.h5", "entity_image", [f"Q{n}" for n in range(400)]) == {
        f"Q{n}" for n in range(300)
    }
    assert read_bytes(tmp_path / "many.h5", "entity_image", "Q123", 100) == b"123"

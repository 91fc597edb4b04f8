"""The cases behind the page: what they say of mentions, pictures, detections and methods."""

import numpy as np
import pytest
import report_world
from PIL import Image

from pipeline.datasets.images import Limits
from pipeline.extraction.feature_texts import pack
from pipeline.extraction.parents import Parent
from report.cases import CaseData, Cases, Method
from report.page.write import choose
from report.runs import read_predictions
from report.thumbnails import Thumbnails, thumbnail


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    return report_world.job(tmp_path_factory.mktemp("world"))


def rows(mentions: int, row: int, classes: dict, **outputs) -> Parent:
    """A feature's rows: these outputs for the mention in `row`, nothing for the others."""
    place = np.full(mentions, -1)
    place[row] = 0
    return Parent(
        np.zeros((mentions, 16), np.uint8),
        None,
        classes,
        [{name: np.asarray(values) for name, values in outputs.items()}],
        [b""],
        place,
    )


def make(job, explanations=None, **detections):
    source = CaseData.read(job.cases.prepared, job.cases.images, ())
    source = CaseData(source.mentions, source.entities, source.images, detections)
    methods = [
        Method(run.name, read_predictions(run.folder), (explanations or {}).get(run.name, {}), "rerank")
        for run in job.tables.runs
    ]
    return source, Cases(source, methods, Thumbnails())


def test_a_case_has_the_phrase_apart_and_ranks_and_scores_of_the_predictions(job):
    source, cases = make(job)
    right = {True: 0, False: 0}
    for row in [row for row, split in enumerate(source.mentions["split"]) if split == "test"]:
        case = cases.case(row)
        assert "".join(case["text"]) == source.mentions["sentence"][row] and case["text"][1] == case["phrase"]
        for method in cases.methods:
            predicted, answer = method.predictions[case["id"]], case["methods"][method.name]
            assert [one["id"] for one in answer["top"]] == predicted.top[:5] and answer["top"][0]["score"] == 9
            assert answer["rank"] == predicted.ranks["rerank"]
            if not case["gold_known"]:
                assert answer["right"] is None and "gold" not in answer
                continue
            right[answer["right"]] += 1
            assert answer["right"] == (predicted.top[0] == case["gold"])
            assert ("gold" in answer) == (case["gold"] not in predicted.top[:5])
            if "gold" in answer:
                assert answer["gold"]["id"] == case["gold"] and answer["gold"]["score"] == 10 - answer["rank"]
    assert min(right.values()) > 10
    assert {case["gold"] for case in (cases.case(2), cases.case(5))} == {None, "Q-elsewhere"}


def test_units_are_scores_and_an_expert_is_called_by_its_name(job):
    _, cases = make(job)
    answers = cases.case(8)["methods"]
    assert (
        answers["mimic"]["top"][1]["units"] == {"tglu": 8, "vdlu": 8, "cmfu": 8}
        and "units" not in answers["drin"]["top"][0]
    )
    experts = next(answer for name, answer in answers.items() if name.startswith("dsmip"))["top"]
    assert {one["expert"] for one in experts} <= {"text", "multimodal"} and set(experts[0]["units"]) == {
        "text",
        "multimodal",
    }


def test_boxes_labels_faces_and_attention_stand_in_pixels_of_the_picture(job):
    row = 11
    detected = {
        "objects": {"boxes": [[1, 2, 30, 38], [0, 0, 5, 5]], "confidences": [0.9, 0.5], "labels": [1, 0]},
        "faces": {"boxes": [[3, 4, 20, 21], [30, 4, 40, 21]], "confidences": [0.8, 0.7]},
        "face_attributes": {"gender": [[0.2, 0.8]], "age": [41.7], "box": [1]},
        "identity": {
            "names": np.stack([[pack(name) for name in ("Ada", "Ben", "", "", "")]] * 2),
            "scores": [[0.9, 0.6, 0, 0, 0], [0.5, 0.1, 0, 0, 0]],
            "box": [0, 1],
        },
    }
    labels = {"objects": {"labels": ["cat", "person"]}, "face_attributes": {"gender": ["Man", "Woman"]}}
    parents = {name: rows(60, row, labels.get(name, {}), **outputs) for name, outputs in detected.items()}
    explanations = {
        "mimic": {
            "m00011": {
                "attention": {
                    "objects": {"weights": [0.2, 0.8], "boxes": [1, -1]},
                    "faces": {"weights": [1.0]},
                    "identities": {"weights": [0.6, 0.4]},
                }
            }
        }
    }
    _, cases = make(job, explanations=explanations, **parents)
    case = cases.case(row)
    assert (case["image"]["width"], case["image"]["height"]) == (48, 40)
    assert [(one["label"], one["box"], one["score"]) for one in case["objects"]] == [
        ("person", [1, 2, 30, 38], 0.9),
        ("cat", [0, 0, 5, 5], 0.5),
    ]
    assert [(one["attributes"], one["names"]) for one in case["faces"]] == [
        ("", [["Ada", 0.9], ["Ben", 0.6]]),
        ("gender: female, age: 42", []),
    ]
    assert case["methods"]["mimic"]["attention"] == {
        "objects": [["cat", 0.2, 1], ["whole picture", 0.8, -1]],
        "faces": [["gender: female, age: 42", 1.0, 1]],
        "identities": [["Ada, score: 0.90", 0.6, -1], ["Ben, score: 0.60", 0.4, -1]],
    }
    assert cases.case(row + 3)["objects"] == [] and "attention" not in cases.case(row + 3)["methods"]["mimic"]


def test_what_heads_tell_stands_with_the_candidate_it_is_about(job):
    _, cases = make(job, explanations={"drin": report_world.explanations("drin", ["m00011"])})
    answers = cases.case(11)["methods"]
    assert all(
        one["edges"]["ii"] == [0.5, 1.125] and one["pairs"] == {"text_cls": 0.5} for one in answers["drin"]["top"]
    )
    assert not any("edges" in one for one in answers["mimic"]["top"])


def test_pictures_are_shared_small_without_metadata_and_bounded(job, tmp_path):
    source, cases = make(job)
    for row in range(60):
        cases.case(row)
    pictures = cases.thumbnails.by_name
    assert len(pictures) == len(set(filter(None, (entity["picture"] for entity in cases.entities.values())))) + len(
        {
            key
            for key, status in zip(source.mentions["image_key"], source.mentions["image_status"], strict=True)
            if status == "ok"
        }
    )
    assert all(one.size == (48, 40) and one.uri.startswith("data:image/") for one in pictures.values())
    photo = Image.effect_noise((900, 400), 90).convert("RGB")
    exif = photo.getexif()
    exif[0x010E], exif[0x0112] = "where it was taken", 6
    photo.save(tmp_path / "photo.jpg", exif=exif)
    small = thumbnail((tmp_path / "photo.jpg").read_bytes(), 96, Limits())
    assert small.size == (400, 900) and b"where it was taken" not in small.data and len(small.data) < 6000
    for bounded in (Thumbnails(most=2), Thumbnails(budget=1000)):
        cases = Cases(source, [], bounded)
        shown = [cases.case(row)["image"]["picture"] for row in range(60)]
        assert (
            0 < len(bounded.by_name) <= 2
            and bounded.left_out > 0
            and set(filter(None, shown)) <= set(bounded.by_name)
            and None in shown
        )


def test_a_picture_that_is_gone_changed_or_outside_is_left_out(job, tmp_path):
    source, _ = make(job)
    row = source.mentions["image_status"].index("ok")
    for broken in ("gone", "changed", "outside"):
        table = {name: list(values) for name, values in source.mentions.items()}
        if broken == "gone":
            table["image"][row] = "nowhere.png"
        elif broken == "changed":
            table["image_key"][row] = bytes(16)
        else:
            table["image"][row] = "../mentions.jsonl"
        cases = Cases(CaseData(table, source.entities, source.images), [], Thumbnails())
        assert cases.case(row)["image"]["picture"] is None and cases.case(row)["image"]["status"] == "ok", broken


def test_a_phrase_that_is_not_in_the_sentence_and_a_very_long_sentence(job):
    source, _ = make(job)
    table = {name: list(values) for name, values in source.mentions.items()}
    table["start"][0] = table["end"][0] = -1
    long = "a " * 5000 + "Gus" + " b" * 5000
    table["sentence"][1], table["phrase"][1], table["start"][1], table["end"][1] = long, "Gus", 10000, 10003
    cases = Cases(CaseData(table, source.entities, source.images), [], Thumbnails())
    assert not cases.case(0)["phrase_found"] and cases.case(0)["text"][0] == table["sentence"][0]
    before, phrase, after = cases.case(1)["text"]
    assert phrase == "Gus" and len(before) < 1300 and len(after) < 1300


def test_cases_are_all_there_are_or_half_of_them_disputed_ones_always_the_same():
    mentions = {"id": [f"m{number}" for number in range(400)], "split": ["test", "dev"] * 200}
    right = {f"m{number}": np.array([number % 10 == 0, False]) for number in range(400)}
    assert choose(mentions, "test", right, 200) == list(range(0, 400, 2))
    chosen = choose(mentions, "test", right, 50)
    assert len(chosen) == 50 and chosen == sorted(set(chosen)) and chosen == choose(mentions, "test", right, 50)
    disputed = [row for row in chosen if row % 10 == 0]
    assert 25 <= len(disputed) < 40 and all(row % 2 == 0 for row in chosen)
    assert choose(mentions, "test", right, 0) == []

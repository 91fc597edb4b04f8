"""Contracts of extraction: their JSON is that of commands and receipts, of earlier versions too."""

import json
from dataclasses import replace

import pytest

from cache.inputs import FROM_FEATURES, PICTURES, SIDES, Want
from foundation.contracts import from_json, to_json
from foundation.errors import UserError
from foundation.paths import Paths
from pipeline.extraction import views, wants
from pipeline.extraction.contracts import Account, Crops, CutTexts, Extraction, ExtractionJob, FeatureRows, Plan
from pipeline.profiles import profile

TEXT = Want(side="mention", feature="clip_text", view="sentence")
PICTURE = Want(side="entity", feature="clip_image", view="image")


def rows(extracted: int = 0, **verdicts: int) -> FeatureRows:
    return FeatureRows(
        identity="ab" * 32, store="x-abab", rows=sum(verdicts.values()), extracted=extracted, verdicts=verdicts
    )


def test_a_plan_s_json_is_that_of_earlier_versions():
    plan = Plan(wants=(TEXT,), after=(Plan(wants=(PICTURE,)),))
    text = (
        '{"wants": [{"side": "mention", "feature": "clip_text", "view": "sentence"}], "after": '
        '[{"wants": [{"side": "entity", "feature": "clip_image", "view": "image"}], "after": []}]}'
    )
    assert json.dumps(to_json(plan)) == text
    assert from_json(Plan, json.loads(text)) == plan


def test_a_receipt_of_an_earlier_version_is_read_and_written_as_it_was():
    result = {
        "profile": "demo",
        "demo": "demo/encoders-1",
        "features": {
            "object_clip": {
                "crops": {"boxes": 3, "lost": 1},
                "identity": "ab" * 32,
                "store": "object_clip-ab",
                "rows": 2,
                "extracted": 2,
                "verdicts": {"ok": 2},
            },
            "clip_text": {"identity": "cd" * 32, "store": "clip_text-cd", "rows": 1, "extracted": 0, "verdicts": {}},
        },
        "columns": {TEXT.column: "datasets/a/columns/b.npz"},
        "cut": {TEXT.column: 1},
        "without": {},
    }
    extraction = Extraction.of_receipt(result)
    assert extraction.features["object_clip"].crops == Crops(boxes=3, lost=1)
    assert extraction.to_receipt() == result


def test_a_result_without_profile_or_crops_has_neither_in_its_receipt():
    receipt = Extraction(features={"clip_text": rows(ok=1)}).to_receipt()
    assert set(receipt) == {"features", "columns", "cut", "without"}
    assert "crops" not in receipt["features"]["clip_text"]
    assert Account(rows={"clip_text": 0}).to_receipt() == {"rows": {"clip_text": 0}, "model_loads": []}


def test_a_field_that_a_contract_does_not_know_is_refused_with_the_nearest():
    with pytest.raises(UserError, match="job: unknown key 'upsteam'; did you mean 'upstream'"):
        from_json(ExtractionJob, {"upsteam": []}, "job")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"side": "mention", "feature": "a"', "--wants, column 36: malformed JSON"),
        ('[{"side": "mentoin", "feature": "a", "view": "b"}]', r"--wants: 0\.side = 'mentoin'.*mention"),
        ('[{"side": "mention", "feature": "a"}]', r"--wants: `0\.view` is missing"),
        ('[{"side": "mention", "feature": "a", "view": "b", "rol": "c"}]', "--wants: unknown key 'rol'"),
        ('{"side": "mention"}', "--wants.*expected a list"),
    ],
)
def test_wants_of_a_command_that_are_none_end_in_one_line(text, message):
    with pytest.raises(UserError, match=message) as error:
        wants.listed(profile.load("demo"), "", text, lambda profile: [])
    assert "\n" not in str(error.value)


def test_results_of_two_groups_are_one_and_rows_of_a_shared_feature_add_up():
    one = Extraction(features={"clip_text": rows(1, ok=2, broken=1)}, columns={TEXT.column: "a"}, cut={TEXT.column: 4})
    other = Extraction(features={"clip_text": rows(2, ok=3), "clip_image": rows(ok=5)}, columns={PICTURE.column: "b"})
    merged = wants.merged([one, other])
    assert merged.features["clip_text"] == rows(3, ok=5, broken=1)
    assert merged.columns == {TEXT.column: "a", PICTURE.column: "b"} and merged.cut == {TEXT.column: 4}


def test_a_part_of_a_wider_extraction_holds_its_wants_alone_and_extracted_nothing():
    wider = Extraction(
        features={"clip_text": rows(3, ok=3), "clip_image": rows(5, ok=5)},
        columns={TEXT.column: "a", PICTURE.column: "b"},
        cut={TEXT.column: 1, PICTURE.column: 0},
    )
    part = wants.part_of(wider, [TEXT])
    assert part == Extraction(
        features={"clip_text": rows(ok=3)}, columns={TEXT.column: "a"}, cut={TEXT.column: 1}, without={}
    )
    assert wants.same_rows(part, wider) and not wants.same_rows(wider, part)


def test_the_account_of_cut_texts_says_tokens_lost_per_view():
    name = TEXT.column
    whole = Extraction(
        features={"clip_text": rows(ok=1)},
        columns={name: "a", PICTURE.column: "b"},
        cut={name: 5, PICTURE.column: 0},
        texts={name: CutTexts(texts=8, cut=5, tokens=1000, lost=250, limit=40)},
    )
    line = (
        "5 of 8 texts of mention.clip_text.sentence (62.5%) were cut to 40 tokens: 250 of 1,000 tokens (25.0%) are lost"
    )
    assert line in wants.describe(whole).splitlines()
    assert Extraction.of_receipt(json.loads(json.dumps(whole.to_receipt()))) == whole
    assert wants.merged([wants.part_of(whole, [TEXT])]).texts == whole.texts
    earlier = Extraction(features={"clip_text": rows(ok=1)}, cut={name: 5})
    assert f"5 texts of {name} were cut to fit" in wants.describe(earlier).splitlines()


def test_only_a_feature_that_found_nothing_at_all_is_said_to_have_found_nothing():
    some, none = replace(rows(ok=5, broken=1), empty=3), replace(rows(ok=5, broken=1), empty=5)
    lines = wants.describe(Extraction(features={"faces": some, "objects": none, "clip_image": rows(ok=5)})).splitlines()
    assert [line for line in lines if "found nothing" in line] == ["objects found nothing in any of 5 pictures"]
    added = wants.merged([Extraction(features={"faces": some}), Extraction(features={"faces": none})])
    assert added.features["faces"].empty == 8


def test_inputs_say_where_rows_lie_in_the_work_folder(tmp_path):
    extraction = Extraction(features={"clip_text": rows(ok=1)}, columns={TEXT.column: "datasets/a.npz"})
    (read,) = extraction.inputs([TEXT], Paths(tmp_path))
    assert (read.store, read.keys) == (tmp_path / "cache" / "x-abab", tmp_path / "datasets" / "a.npz")
    assert read.column == "mention.clip_text.sentence"


def test_what_is_cut_is_a_text_whoever_wrote_it():
    texts = {(side, view) for side in SIDES for view in views.known(side)} | {
        ("mention", view) for view in FROM_FEATURES
    }
    everything = texts | {(side, view) for side in SIDES for view in PICTURES}
    assert {pair for pair in everything if wants.is_text(Want(side=pair[0], feature="mine", view=pair[1]))} == texts

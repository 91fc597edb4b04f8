"""Ablations of every method: they are valid, change what they name, and read no picture where they say so."""

import json
from pathlib import Path

import pytest

from experiments import variants
from experiments.jobs import FOUR, head_spec
from foundation.errors import UserError
from heads.config import config_class, load_config, methods
from heads.config.base import TEXT_ONLY
from pipeline.profiles.profile import Feature, Profile

FEATURES = (
    "clip_text",
    "clip_image",
    "text_tokens",
    "image_pooled",
    "image_patches",
    "objects",
    "object_clip",
    "object_resnet",
    "face_attributes",
    "identity",
    "image_vgg",
    "clip_layers_text",
    "clip_layers_image",
)
SEEN = {"image", "images", "face_attributes", "identities"}


def profile(*features, heads=None):
    made = {name: Feature(name, name, {}, {}, True) for name in features}
    return Profile(Path("made.yaml"), made, heads or {}, {}, {})


def ablated(method, given):
    found, skipped = variants.ablations(method, "{}", given, sensitivity=True)
    assert not skipped
    return found


@pytest.mark.parametrize("method", methods())
def test_every_ablation_is_a_configuration_that_is_not_the_full_one(method):
    given = profile(*FEATURES)
    full = load_config(method, head_spec(method, "{}", given).config)
    for name, variant in ablated(method, given).items():
        changed = load_config(method, json.loads(variant.params))
        assert changed != full or variant.train_fraction, name


@pytest.mark.parametrize("method", [name for name in methods() if name not in ("fused", "ranker", "bert", "clip_text")])
def test_text_only_reads_nothing_of_a_picture(method):
    given = profile(*FEATURES)
    chosen = head_spec(method, variants.text_only(method, "{}", given), given)
    assert {want.view for want in head_spec(method, "{}", given).wants} & SEEN
    assert (
        chosen.wants
        and not chosen.runs.keys() & {"visual", "multimodal"}
        and not {want.view for want in chosen.wants} & SEEN
    )
    assert not {"clip_ti", "clip_it", "object_relation", "face_match"} & set(chosen.pairs)


def test_fused_text_only_takes_its_heads_without_pictures_too():
    given = profile(*FEATURES)
    chosen = head_spec("fused", variants.text_only("fused", "{}", given), given)
    assert chosen.pairs == ["name_similarity", "retrieval", "text_cls"] and set(chosen.runs) == set(
        head_spec("fused", "{}", given).runs
    )
    for method, params in chosen.runs.values():
        assert json.dumps(params) == variants.text_only(method, "{}", given)


def test_a_ranker_of_text_alone_reads_no_pair_feature_of_a_picture():
    given = profile(*FEATURES, "face_embedding")
    assert {"face_match", "clip_ti"} <= set(head_spec("ranker", "{}", given).pairs)
    chosen = head_spec("ranker", variants.text_only("ranker", "{}", given), given)
    assert chosen.pairs == ["name_similarity", "retrieval", "text_cls", "text_length", "word_overlap", "years"]
    assert variants.text_only("ranker", "{}", profile("text_tokens")) is None


@pytest.mark.parametrize("method", FOUR)
def test_where_a_profile_has_no_pictures_there_is_nothing_to_take_away(method):
    assert variants.text_only(method, "{}", profile("clip_text", "text_tokens")) is None


def test_the_four_methods_have_the_ablations_of_their_papers():
    names = {method: set(ablated(method, profile(*FEATURES))) for method in FOUR}
    edges = {f"without {one}-to-{other} edges" for one in ("text", "image") for other in ("text", "image")}
    assert names["drin"] == edges | {"static edges", "L = 1", "L = 3", "L = 4", "L = 5", TEXT_ONLY}
    of_units = {f"without {what}" for what in ("TGLU + L_T", "VDLU + L_V", "CMFU + L_C", "L_T", "L_V", "L_C")}
    assert names["mimic"] >= of_units | {TEXT_ONLY, "10% of train", "20% of train", "d_t = 32", "batch_size = 64"}
    assert "d_t = 96" not in names["mimic"]
    assert names["dwe"] >= {
        "without face",
        "without face, identity",
        TEXT_ONLY,
        "mention alone",
        "whole picture instead of objects",
        "without L_coarse",
        "without L_fine",
        "in_batch_negatives = 4",
        "beta = 1.0",
    }
    assert names["dsmip"] >= {
        TEXT_ONLY,
        "visual expert alone",
        "multimodal expert alone",
        "without prompts",
        "10% of train",
    }


def test_an_ablation_keeps_the_other_parameters_and_takes_its_share_of_train():
    given = profile("clip_text", "clip_image", heads={"mimic": {"d_t": 8}})
    found, _ = variants.ablations("mimic", '{"lr": 0.5, "units": ["tglu", "vdlu"]}', given)
    assert json.loads(found["without VDLU + L_V"].params) == {
        "lr": 0.5,
        "units": ["tglu"],
        "unit_losses": ["tglu", "cmfu"],
    }
    assert "without CMFU + L_C" not in found and found["without L_T"].train_fraction is None
    assert found["20% of train"] == variants.Variant('{"lr": 0.5, "units": ["tglu", "vdlu"]}', 0.2)


def test_patterns_choose_ablations_and_one_that_fits_nothing_is_refused():
    given = profile("clip_text", "clip_image")
    found, _ = variants.ablations("mimic", "{}", given, only="without L_*, text only")
    assert list(found) == ["without L_T", "without L_V", "without L_C", TEXT_ONLY]
    with pytest.raises(UserError, match=r"--only 'text onyl'.*did you mean 'text only'"):
        variants.ablations("mimic", "{}", given, only="text onyl")


def test_settings_name_what_is_not_the_methods_default():
    given = profile("clip_text", "clip_image", heads={"mimic": {"d_t": 8, "lr": 0.001, "units": ["tglu"]}})
    assert (
        variants.settings("mimic", '{"image_feature": null}', given)
        == "image_feature none (auto), d_t 8 (96), units tglu (tglu+vdlu+cmfu)"
    )


def test_methods_without_their_features_are_left_out_by_name_and_wrong_ones_refused():
    found, skipped = variants.possible("mimic,clip-text,drin", '{"mimic": {"lr": 0.5}}', profile("clip_text"))
    assert found == {"mimic": '{"lr": 0.5}', "clip_text": "{}"} and set(skipped) == {"drin"}
    for methods_named, params, message in (
        ("mimic,mimc", "{}", "did you mean 'mimic'"),
        ("mimic,mimic", "{}", "each once"),
        ("", "{}", "one or more methods"),
        ("mimic", '{"dwe": {}}', "not among --methods"),
        ("mimic", '{"mimic": 3}', "expected a JSON object"),
        ("mimic", '{"mimic": {"lrr": 1}}', "unknown key"),
        ("drin", "{}", "serves none"),
    ):
        with pytest.raises(UserError, match=message):
            variants.possible(methods_named, params, profile("clip_text"))


def test_every_value_of_a_sensitivity_list_is_valid():
    for method in methods():
        for option, values in config_class(method).sensitivity.items():
            for value in values:
                load_config(method, {option: value})

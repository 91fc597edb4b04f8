"""Configurations of heads: found by name, checked, free of torch."""

import json
import subprocess
import sys

import pytest

from foundation.errors import UserError
from heads.config import config_class, load_config, methods, naming_options, options, stored_config, to_json
from heads.config.base import ENTITY_TEXTS
from heads.config.space import check_space, plain_space


def test_methods_and_configurations_need_no_torch():
    code = (
        "import sys; from heads.config import load_config, methods; [load_config(m, {}) for m in methods()]; "
        "print('torch' in sys.modules, *methods())"
    )
    loaded, *names = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert loaded == "False"
    assert names == methods() and "mimic" in names and "base" not in names


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"learning_rate": 0.1}, "unknown key 'learning_rate'"),
        ({"bach_size": 8}, "did you mean 'batch_size'?"),
        ({"lr": "fast"}, "lr = 'fast' (str): expected a number"),
        ({"lr": True}, "expected a number"),
        ({"lr": float("nan")}, "expected a finite number"),
        ({"lr": 0}, "lr = 0: expected more than 0"),
        ({"epochs": 10**400}, "expected at most"),
        ({"weight_decay": -1}, "weight_decay = -1: expected at least 0"),
        ({"batch_size": 12.5}, "batch_size = 12.5 (float): expected a whole number"),
        ({"release": 1}, "release = 1 (int): expected true or false"),
        ({"units": "tglu"}, "units = 'tglu' (str): expected a list"),
        ({"units": ["tglu", "vldu"]}, "expected one of 'tglu', 'vdlu', 'cmfu'; did you mean 'vdlu'?"),
        ({"units": []}, "expected at least one of"),
        ({"missing_image": "none"}, "expected one of 'null', 'zero'"),
        ({"text_feature": None}, "expected a text"),
    ],
)
def test_wrong_options_are_refused_by_name(params, message):
    with pytest.raises(UserError) as error:
        load_config("mimic", params)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_an_unknown_method_names_those_there_are():
    with pytest.raises(UserError, match=r"'mimc': no such method; did you mean 'mimic'\? Known: .*mimic"):
        load_config("mimc", {})


@pytest.mark.parametrize("params", [{}, {"release": True, "lr": 1, "units": ["tglu"], "image_feature": None}])
def test_a_configuration_survives_json(params):
    config = load_config("mimic", params)
    assert load_config("mimic", json.loads(json.dumps(to_json(config)))) == config


def test_mimic_asks_for_what_its_units_read_and_no_more():
    def wanted(available, **params):
        wants = load_config("mimic", params).wants(available)
        return {(want.side, want.role): (want.feature, want.view, *want.outputs) for want in wants}

    everything = ["clip_image", "clip_text", "image_patches", "text_tokens"]
    assert wanted(everything) == {
        ("mention", "text"): ("clip_text", "mention_sep_sentence", "tokens", "pooled"),
        ("entity", "text"): ("clip_text", "name_sep_attributes", "tokens", "pooled"),
        ("mention", "image"): ("clip_image", "image", "tokens", "pooled"),
        ("entity", "image"): ("clip_image", "image", "tokens", "pooled"),
    }
    assert wanted(everything, text_feature="text_tokens")["entity", "text"][0] == "text_tokens"
    assert (
        {role for _, role in wanted(["text_tokens"])}
        == {role for _, role in wanted(everything, image_feature=None)}
        == {"text"}
    )
    assert wanted(everything, units=["cmfu"])["mention", "text"][2:] == ("pooled",)
    assert {role for _, role in wanted(everything, units=["vdlu"])} == {"image"}
    assert wanted(everything, image_global="class_row")["mention", "image"][2:] == ("tokens",)


@pytest.mark.parametrize("method", ["bert", "clip", "clip_text", "dzmned", "ghmfc", "jmel", "melhi", "dwe"])
def test_methods_of_dwes_tables_read_the_entitys_text_that_is_asked_for(method):
    available = ["clip_image", "clip_text", "image_patches", "image_pooled", "text_tokens"]
    for kind, view in ENTITY_TEXTS.items():
        wants = load_config(method, {"entity_text": kind}).wants(available)
        views = {want.view for want in wants if want.side == "entity" and want.role in ("text", "entity")}
        assert views == {view}
        others = {want.view for want in wants if want.role not in ("text", "entity")}
        assert not others & {"name_sep_static", "name_sep_dynamic"}
    default = load_config(method, {}).wants(available)
    assert load_config(method, {"entity_text": "properties"}).wants(available) == default


def test_padding_states_are_read_where_they_are_not_masked_and_the_feature_has_them():
    def read(written, **params):
        wants = load_config("mimic", params).wants(["clip_text", "clip_image"])
        return {want.role: want.read_of(written) for want in wants}

    assert read(["tokens", "pooled", "padded"], release=True)["text"] == ("tokens", "pooled", "padded")
    assert read(["tokens", "pooled"], release=True)["text"] == ("tokens", "pooled")
    assert read(["tokens", "pooled", "padded"])["text"] == ("tokens", "pooled")
    assert read(["pooled", "padded"], release=True, units=["cmfu"])["text"] == ("pooled",)


@pytest.mark.parametrize(
    ("params", "available", "message"),
    [
        ({"text_feature": "clip_txt"}, ["clip_text"], "did you mean 'clip_text'?"),
        ({}, ["clip_image"], "mimic reads a text feature"),
        ({"units": ["vdlu"]}, ["clip_text"], "need image features"),
        ({"image_feature": "clip_image"}, ["clip_text"], "the profile has no such feature"),
    ],
)
def test_features_that_are_not_there_are_named(params, available, message):
    with pytest.raises(UserError) as error:
        load_config("mimic", params).wants(available)
    assert message in str(error.value)


@pytest.mark.parametrize("method", methods())
def test_every_option_says_what_it_takes_and_means(method):
    listed = options(method)
    assert {option.name: option.default for option in listed} == to_json(load_config(method, {}))
    assert all(option.kind and option.meaning for option in listed)


def test_options_have_the_bounds_that_are_held():
    by_name = {option.name: option for option in options("dwe")}
    assert (by_name["lr"].kind, by_name["lr"].default, by_name["lr"].bounds) == ("number", 5e-5, "more than 0")
    assert by_name["dropout"].bounds == "at least 0, less than 1"
    assert by_name["picture_dropout"].bounds == "at least 0, at most 1"
    assert by_name["units"].kind == "list of 'face' or 'identity' or 'image' or 'text'"
    assert by_name["image_feature"].kind == "text or null"
    load_config("dwe", {"dropout": 0, "lr": 1e-9})
    for refused in ({"dropout": 1}, {"lr": 0}, {"epochs": -1}):
        with pytest.raises(UserError, match="expected"):
            load_config("dwe", refused)


@pytest.mark.parametrize("method", methods())
def test_every_methods_own_space_is_whole(method):
    kind = config_class(method)
    for name, entry in plain_space(check_space(kind, kind.space, method)).items():
        assert set(entry) in ({"choices"}, {"kind", "low", "high", "log", "step"}), name


def test_an_option_that_came_later_renames_no_run_and_changes_none_that_is_stored(monkeypatch):
    kind = config_class("drin")
    named = naming_options("drin", to_json(load_config("drin", {})))
    before = {name: value for name, value in named.items() if name != "margin"}
    assert named != before
    monkeypatch.setattr(kind, "later", (*kind.later, "margin"))
    assert naming_options("drin", to_json(load_config("drin", {}))) == before
    assert naming_options("drin", to_json(load_config("drin", {"margin": 0.5}))) == {**before, "margin": 0.5}
    monkeypatch.setattr(kind, "presets", {"release": {"margin": 0.5}})
    assert load_config("drin", {"release": True}).margin == 0.5
    stored = {**before, "release": True}
    assert stored_config("drin", stored).margin == 0.25, "a run of before was made without it"
    assert naming_options("drin", to_json(stored_config("drin", stored))) == stored
    with pytest.raises(UserError, match="unknown key 'leyers'; did you mean 'layers'"):
        stored_config("drin", {"leyers": 2})

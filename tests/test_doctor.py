"""Doctor: what lacks is named with its remedy, and the exit code follows from whether the profile needs it."""

import os
import re

import commands
import pytest
import small_world
import yaml

from foundation import extras, machine
from foundation.errors import UserError
from pipeline.extraction import checkup


@pytest.fixture
def world(tmp_path):
    small_world.write(tmp_path / "data")
    small_world.profile(tmp_path)
    return tmp_path


def doctor(world, *options):
    """Exit code of Doctor over the small world, and its table with lines joined that were wrapped."""
    named = ["--dataset", "small", "--data-dir", str(world / "data"), "--profile", str(world / "small.yaml")]
    code, output = commands.run("Doctor", *named, "--work-dir", str(world / "work"), *options)
    return code, " ".join(output.split())


def test_where_nothing_lacks_it_exits_with_0_and_names_models_devices_and_disk(world):
    code, output = doctor(world)
    assert code == 0 and "PROBLEM" not in output, output
    for feature in yaml.safe_load((world / "small.yaml").read_text())["features"].values():
        assert str(world / feature["model"]) in output
    assert " cpu " in output and "can be written and mapped" in output and "known after PrepareDataset" in output
    named = ["--dataset", "small", "--data-dir", str(world / "data"), "--work-dir", str(world / "work")]
    assert commands.run("PrepareDataset", *named, "--profile", str(world / "small.yaml"))[0] == 0
    assert re.search(r"ExtractFeatures will write at least 0\.[1-9] MB", doctor(world)[1])
    assert not list((world / "work").glob(".doctor*"))


def test_a_model_and_a_device_that_are_not_there_are_problems(world):
    profile = yaml.safe_load((world / "small.yaml").read_text())
    profile["features"]["text_tokens"]["model"] = "nowhere/bert"
    (world / "small.yaml").write_text(yaml.safe_dump(profile))
    code, output = doctor(world, "--device", "cuda:7")
    assert code == 30 and output.count("PROBLEM") == 2 and "error: 2 problem(s), named above" in output
    assert "PROBLEM: model 'nowhere/bert' is not on this machine" in output
    assert "cuda:7 PROBLEM: not on this machine, or not seen by torch" in output


def test_an_extra_that_lacks_is_a_problem_where_a_model_of_the_profile_needs_it(world, monkeypatch):
    plain = extras.lacking
    monkeypatch.setattr(extras, "lacking", lambda extra: ["optuna"] if extra == "search" else plain(extra))
    code, output = doctor(world)
    assert code == 0 and "lacks optuna: pip install 'mel-cache[search]' (for SearchHead)" in output
    monkeypatch.setattr(extras, "lacking", lambda extra: ["open_clip"] if extra == "extract" else [])
    code, output = doctor(world)
    assert code == 30 and "PROBLEM: lacks open_clip: pip install 'mel-cache[extract]' (for ExtractFeatures" in output


def test_the_demos_encoders_are_no_problem_before_they_are_made(tmp_path):
    found = checkup.examine(checkup.CheckupJob(profile="demo", demo=tmp_path / "encoders"))
    assert {model.place for model in found.models} == {None} and not any(model.problem for model in found.models)
    assert any("demo:clip" in model.reference and len(model.features) > 1 for model in found.models)
    (tmp_path / "encoders").mkdir()
    found = checkup.examine(checkup.CheckupJob(profile="demo", demo=tmp_path / "encoders"))
    assert all(model.problem for model in found.models)


def test_a_folder_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="choose another --work-dir"):
        machine.check_folder(tmp_path / "file")
    machine.check_folder(tmp_path / "new")
    assert os.listdir(tmp_path / "new") == []

    def refuses(*arguments, **options):
        raise OSError(19, "No such device")

    monkeypatch.setattr(machine.mmap, "mmap", refuses)
    with pytest.raises(UserError, match="cannot be written or mapped"):
        machine.check_folder(tmp_path / "new")
    assert os.listdir(tmp_path / "new") == []

"""Odd names of work folders, odd terminals and files that never end: each is right, or refused in one line."""

import os
import sys
from pathlib import Path

import commands
import pytest
import small_world
import yaml

from experiments import spaces
from foundation import logs
from foundation.errors import UserError
from foundation.files import make_folder
from foundation.paths import Paths
from linking import checks
from linking.contracts import LinkJob
from pipeline.datasets import layouts
from pipeline.profiles import profile


@pytest.fixture
def loop(tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    return tmp_path / "loop"


@pytest.mark.parametrize(
    "name, words", [("d" * 300, "too long"), ("loop", "symbolic links"), (os.fsdecode(b"caf\xe9"), "is not UTF-8")]
)
def test_a_work_folder_whose_name_no_folder_can_have_is_refused(loop, name, words):
    with pytest.raises(UserError, match=words) as caught:
        Paths.below(loop.with_name(name) / "work")
    assert str(caught.value).endswith("choose another --work-dir") and str(caught.value).isprintable()


LONG = "x" * 3000


@pytest.mark.parametrize(
    ("field", "option"), [("input", "--input"), ("images", "--images-dir"), ("output", "--output")]
)
def test_lines_to_link_at_a_place_of_too_long_a_name_are_refused(tmp_path, field, option):
    (tmp_path / "in.jsonl").write_text("")
    places = {"input": tmp_path / "in.jsonl", "output": tmp_path / "out.jsonl", field: tmp_path / LONG}
    with pytest.raises(UserError) as caught:
        checks.check(LinkJob(run=tmp_path, **places))
    assert option in str(caught.value) and "\n" not in str(caught.value)


def test_a_run_and_a_dataset_of_too_long_a_name_are_not_there(tmp_path):
    with pytest.raises(UserError, match="no such run"):
        Paths(tmp_path).find_run(LONG)
    with pytest.raises(UserError, match="no such folder"):
        layouts.layout(tmp_path / LONG)


@pytest.mark.parametrize("name", ["a b", "100%s {x} 'é\" #?", "名前/" * 20])
def test_a_dataset_is_prepared_below_an_odd_name(tmp_path, name):
    data = small_world.write(tmp_path / "data", mentions=8)
    code, output = commands.run(
        "PrepareDataset", "--dataset", "small", "--data-dir", str(data), "--work-dir", str(tmp_path / name)
    )
    assert code == 0 and list((tmp_path / name / "datasets").glob("small-*/mentions.parquet")), output


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="a system without /proc")
def test_a_place_where_no_folder_can_be_made_is_told():
    with pytest.raises(UserError, match="no folder can be made there; choose another --work-dir"):
        make_folder(Path("/proc/nothing/here"))


def test_yaml_is_read_from_files_alone(tmp_path):
    os.mkfifo(tmp_path / "pipe.yaml")
    for read in (lambda path: profile.load(str(path)), spaces._read):
        with pytest.raises(UserError, match="regular file") as caught:
            read(tmp_path / "pipe.yaml")
        assert "\n" not in str(caught.value)
    (tmp_path / "file.yaml").write_text("a: 1")
    assert profile.yaml_file(tmp_path / "file.yaml") == yaml.safe_load("a: 1")


def test_a_result_is_printed_also_where_stdout_knows_no_letters(capfdbinary, monkeypatch):
    with open(1, "w", encoding="ascii", closefd=False) as narrow:
        monkeypatch.setattr(sys, "stdout", narrow)
        logs.say("0–4 Müller")
    assert capfdbinary.readouterr().out == b"0\\u20134 M\\xfcller\n"

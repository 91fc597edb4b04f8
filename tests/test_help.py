"""`--help`: every option of a command once, with what it is for and its default; nothing private, nothing heavy."""

import os
import re
import subprocess
import sys

import commands
import luigi
import pytest
from documents import ROOT

import tasks
from heads.config import options
from mel_cache.commands import catalogue
from mel_cache.commands.shell import help

COMMANDS = {name: getattr(tasks, name) for name in tasks.__all__}


@pytest.mark.parametrize("name", tasks.__all__)
def test_a_commands_help_says_what_it_is_for_and_each_option_once(name):
    code, text = commands.run(name, "--help")
    assert code == 0 and " ".join(COMMANDS[name].__doc__.split())[:100] in " ".join(text.split())
    listed = re.findall(r"^  --([\w-]+)", text, re.M)
    assert sorted(listed) == sorted(help.flag(*found).removeprefix("--") for found in COMMANDS[name].get_params())
    assert all(parameter.description for _, parameter in COMMANDS[name].get_params())
    assert max(map(len, text.splitlines())) <= 120
    headings = re.findall(r"^options.*:$", text, re.M)
    assert len(headings) == len(set(headings)) and headings[-1] == "options of every command:"


def test_without_a_command_all_are_listed_under_headings_and_inner_tasks_are_not():
    code, text = commands.run("--help")
    assert code == 0 and re.findall(r"^  (\w+) +\w", text, re.M) == [
        name for group in catalogue.COMMANDS.values() for name in group
    ]
    assert set(tasks.__all__) == {name for group in catalogue.COMMANDS.values() for name in group}
    assert "ExtractGroup" not in text and "PromptedFeatures" not in text and "Exit codes: 0 done, 2 " in text


def test_methods_and_the_hyper_parameters_of_one_are_listed_with_defaults_and_bounds(monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    _, text = commands.run("TrainHead", "--help")
    assert "methods:\n" in text and all(f"{method}," in text for method in ("drin", "dsmip", "dwe", "mimic"))
    code, text = commands.run("TrainHead", "--method", "dwe", "--help")
    assert code == 0 and "hyper-parameters of dwe, as in --params" in text
    for option in options("dwe"):
        assert re.search(rf"^  {option.name}( |$)", text, re.M)
    assert "  margin                  of the triplet loss, on cosines; number, at least 0 (0.5)" in text
    code, text = commands.run("TrainHead", "--method", "dwee", "--help")
    assert code == 2 and "no such method; did you mean 'dwe'?" in text


def test_lines_are_as_wide_as_the_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "70")
    narrow = help.command(tasks.TrainHead).splitlines()
    assert max(map(len, narrow)) <= 70
    monkeypatch.setenv("COLUMNS", "300")
    assert 70 < max(map(len, help.command(tasks.TrainHead).splitlines())) <= 120


def test_defaults_come_from_the_environment_but_never_a_private_one():
    code = (
        "import sys, tasks\nfrom mel_cache.commands.shell import help\nprint(help.command(tasks.SearchHead))\n"
        "assert not {'torch', 'transformers', 'optuna'} & set(sys.modules)"
    )
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "MEL_STORAGE": "postgresql://user:secret@host/db",
        "MEL_DATASET": "mydata",
    }
    text = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=True
    ).stdout
    assert "(mydata)" in text and "secret" not in text and "(required)" in help.command(tasks.BuildPairs)


def test_the_command_line_prints_it_and_luigis_own_help_is_still_there():
    for option, wanted in (("--help", "options of every command:"), ("--help-all", "--local-scheduler")):
        command = [sys.executable, "-m", "luigi", "--module", "tasks", "TrainHead", option]
        done = subprocess.run(
            command,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
        assert wanted in done.stdout and not done.stderr


@pytest.mark.parametrize("options", ["--help", "--dry-run --work-dir nowhere"])
def test_a_reader_that_has_read_enough_is_no_error(options, tmp_path):
    options = options.replace("nowhere", str(tmp_path / "work"))
    command = f"{sys.executable} -m luigi --module tasks TrainHead {options} | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0 and not done.stderr, done.stderr


def test_a_command_with_an_option_of_each_kind():
    class Kinds(luigi.Task):
        """Shows what there is."""

        task_namespace = "help_test"
        count = luigi.IntParameter(default=3, description="a number")
        share = luigi.FloatParameter(default=0.5, description="a share")
        quick = luigi.BoolParameter(default=False, description="a switch")
        prune = luigi.BoolParameter(default=True, parsing=luigi.BoolParameter.EXPLICIT_PARSING, description="a choice")
        a_long_name_of_a_file = luigi.Parameter(description="a file")

    lines = help.command(Kinds).splitlines()
    for line in (
        "  --count N               a number (3)",
        "  --share X               a share (0.5)",
        "  --quick                 a switch",
        "  --prune true|false      a choice (True)",
    ):
        assert line in lines
    assert lines[lines.index("  --a-long-name-of-a-file FILE") + 1] == " " * 26 + "a file (required)"

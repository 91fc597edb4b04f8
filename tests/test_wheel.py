"""The wheel, built from a copy of the sources and installed elsewhere: every command runs from an empty folder."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import small_world
from documents import NOT_SEEN, ROOT

import tasks

EACH = """
import contextlib, io, json, sys
import foundation, mel_cache.commands.catalogue, tasks
from luigi.retcodes import run_with_retcodes
found = {"files": [module.__file__ for module in (foundation, mel_cache, tasks)]}
for name in tasks.__all__:
    text, code = io.StringIO(), 0
    with contextlib.redirect_stdout(text):
        try:
            run_with_retcodes(["--module", "tasks", name, "--help"])
        except SystemExit as ended:
            code = ended.code
    found[name] = [code or 0, text.getvalue()]
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The folder that the wheel is installed in, beside this environment's packages."""
    root = tmp_path_factory.mktemp("wheel")
    sources = root / "sources"
    shutil.copytree(ROOT, sources, ignore=shutil.ignore_patterns(*NOT_SEEN, "*.egg-info", "__pycache__", ".*_cache"))
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    build = ["wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", str(root), str(sources)]
    subprocess.run([*pip, *build], check=True, capture_output=True, timeout=300)
    (wheel,) = root.glob("mel_cache-*.whl")
    target = root / "installed"
    install = ["install", "--no-deps", "--no-index", "--target", str(target), str(wheel)]
    subprocess.run([*pip, *install], check=True, capture_output=True, timeout=300)
    shutil.rmtree(sources)
    return target


@pytest.fixture
def run(installed, tmp_path):
    """Runs Python in an empty folder where the wheel is installed."""
    (tmp_path / "empty").mkdir()

    def python(*arguments):
        return subprocess.run(
            [sys.executable, "-P", *arguments],
            cwd=tmp_path / "empty",
            env={**os.environ, "PYTHONPATH": str(installed)},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    return python


def test_every_command_answers_help_from_the_wheel(run, installed):
    ran = run("-c", EACH)
    assert ran.returncode == 0, ran.stderr
    answers = json.loads(ran.stdout)
    assert all(file.startswith(str(installed)) for file in answers.pop("files"))
    assert set(answers) == set(tasks.__all__)
    for name, (code, text) in answers.items():
        assert code == 0 and f"luigi --module tasks {name} " in text and "options of every command:" in text, name


def test_what_is_no_python_file_is_packaged(installed):
    for folder in ("pipeline/profiles", "report/page", "report/explore/pages", "mel_cache"):
        listed = {path.name for path in (ROOT / folder).iterdir() if path.is_file() and path.suffix != ".py"}
        assert listed and listed <= {path.name for path in (installed / folder).iterdir()}
    assert not any((installed / name).exists() for name in ("tests", "docs", "benchmarks"))


def test_from_an_empty_folder_commands_do_their_work_or_fail_with_the_documented_code(run, tmp_path):
    small_world.write(tmp_path / "data")
    small_world.profile(tmp_path)
    on = ["--dataset", "small", "--data-dir", str(tmp_path / "data"), "--profile", str(tmp_path / "small.yaml")]
    for way in (["-m", "luigi", "--module", "tasks"], ["-m", "mel_cache"]):
        done = run(*way, "ExtractFeatures", "--features", "text_tokens", *on)
        assert done.returncode == 0 and "text_tokens" in done.stdout, done.stderr
        refused = run(*way, "TrainHead", "--profile", "nowhere.yaml")
        assert refused.returncode == 2 and refused.stderr.startswith("error: nowhere.yaml: no such profile file")
        files = "--input", "a.jsonl", "--output", "b.jsonl"
        refused = run(*way, "LinkMentions", "--run", "small/mimic/a", *files)
        assert refused.returncode == 2 and refused.stderr.startswith("error: small/mimic/a: no such run")
        refused = run(*way, "LinkMentions", "--run", ".", *files)
        assert refused.returncode == 2 and "a.jsonl: no such file" in refused.stderr
        (tmp_path / "a.jsonl").write_text('{"sentence": "Ann sings.", "mention": "Ann"}\n')
        there = "--input", str(tmp_path / "a.jsonl"), "--output", "b.jsonl"
        failed = run(*way, "LinkMentions", "--run", ".", *there)
        assert failed.returncode == 30 and failed.stderr.startswith("error: ") and failed.stderr.count("\n") == 1
    assert [path.name for path in (tmp_path / "empty").iterdir()] == ["artifacts"]
    assert run("-m", "mel_cache", "Status", "--methods", "ranker", "--profile", "paper").returncode == 0

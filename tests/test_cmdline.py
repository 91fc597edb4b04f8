"""The command line: one line for a mistake, the documented exit codes, the same from any folder by every way in."""

import os
import subprocess
import sys

import commands
import pytest
from documents import ROOT

from mel_cache.commands.shell import settings

LUIGI = ["-m", "luigi", "--module", "tasks"]
WAYS = {"luigi": LUIGI, "mel_cache": ["-m", "mel_cache"], "tasks.py": [str(ROOT / "tasks.py")]}
"""Arguments of Python before the command's name."""
TASK_OF_MY_OWN = "import luigi\n\nclass Mine(luigi.Task):\n    pass\n"


def python(*arguments, cwd, **environment):
    """A finished process of Python. As the script `luigi` does, `-m luigi` does not look into the current folder."""
    return subprocess.run(
        [sys.executable, *(["-P"] if "luigi" in arguments else []), *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["TrainHed"], "no command 'TrainHed'; did you mean 'TrainHead'? Known: Ablate, "),
        ([], "no command given; known: Ablate, "),
        (["TrainHead", "--methods", "dwe"], "TrainHead has no option --methods; nearest: --method"),
        (["SearchHead", "--trials=5"], "SearchHead has no option --trials; nearest: --n-trials"),
        (
            ["TrainHead", "--lr", "0.1"],
            "TrainHead has no option --lr: a hyper-parameter of mimic, --params '{\"lr\": 0.1}'",
        ),
        (["TrainHead", "--method", "drin", "--patience"], "of drin, --params '{\"patience\": 5}'"),
        (["TrainHead", "--seed=1", "mimic"], "TrainHead takes no 'mimic': a value stands behind its option"),
        (["TrainHead", "--method"], "--method: expected one argument"),
        (["TrainHead", "--see", "1"], "TrainHead has no option --see; nearest: --seed, --seeds"),
        (["CompareRuns", "--run-folder", "a"], "CompareRuns needs --against; CompareRuns --help says what for"),
        (["LinkMentions", "--top-k", "3"], "LinkMentions needs --run, --input and --output; LinkMentions --help says"),
        (["TrainHead", "--seed", "x"], "--seed x: expected a whole number, at least 0"),
        (["TrainHead", "--method", "mimmic"], "no such method; did you mean 'mimic'?"),
        (["ExtractFeatures", "--profile", "nowhere.yaml"], "nowhere.yaml: no such profile file"),
        (["CompareHeads", "--dataset", "mine", "--data-dir", "nowhere"], "nowhere"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_nearest_and_exits_with_2(words, line):
    code, output = commands.run(*words)
    assert code == settings.REFUSED == 2 and output.startswith("error: ") and line in output
    assert output.count("\n") == output.count("error:") == 1


@pytest.mark.parametrize("way", WAYS)
def test_from_an_empty_folder_every_way_in_does_the_same(way, tmp_path):
    ran = python(*WAYS[way], "TrainHead", "--dry-run", cwd=tmp_path)
    assert ran.returncode == 0 and ran.stdout.endswith("would run TrainHead mimic, seed 0\n") and not ran.stderr
    refused = python(*WAYS[way], "TrainHead", "--lrr", "0.1", cwd=tmp_path)
    assert refused.returncode == 2 and refused.stderr.startswith("error: TrainHead has no option --lrr; nearest: ")
    assert refused.stderr.count("\n") == 1 and not refused.stdout
    files = "--input", "b", "--output", "c"
    refused = python(*WAYS[way], "LinkMentions", "--run", "a", *files, cwd=tmp_path)
    assert refused.returncode == settings.REFUSED == 2 and refused.stderr.startswith("error: a: no such run")
    refused = python(*WAYS[way], "LinkMentions", "--run", ".", *files, cwd=tmp_path)
    assert refused.returncode == 2 and "b: no such file" in refused.stderr
    (tmp_path / "b").write_text('{"sentence": "Ann sings.", "mention": "Ann"}\n')
    failed = python(*WAYS[way], "LinkMentions", "--run", ".", *files, cwd=tmp_path)
    assert failed.returncode == settings.FAILED == 30 and "no trained head there" in failed.stderr
    assert failed.stderr.count("\n") == failed.stderr.count("error:") == 1 and list(tmp_path.iterdir()) == [
        tmp_path / "b"
    ]


def test_beside_modules_of_the_users_own_names_the_commands_are_found(tmp_path):
    for name in ("tasks", "report", "foundation", "cache"):
        (tmp_path / f"{name}.py").write_text(TASK_OF_MY_OWN)
    ran = python("-m", "mel_cache", "Status", "--methods", "ranker", cwd=tmp_path)
    assert ran.returncode == 0 and "TrainHead --method ranker: would run" in ran.stdout, ran.stderr


def test_a_module_of_the_users_own_that_imports_the_commands_keeps_luigis_ways(tmp_path):
    (tmp_path / "mine.py").write_text("import tasks\n" + TASK_OF_MY_OWN)
    luigi = [*LUIGI[:3], "mine", "Mine", "--local-scheduler"]
    ran = python(*luigi, cwd=tmp_path, PYTHONPATH=f"{ROOT}{os.pathsep}{tmp_path}")
    assert ran.returncode == 0 and "This progress looks :)" in ran.stderr, "Luigi's own log level"
    wrong = python(*luigi, "--nothing", cwd=tmp_path, PYTHONPATH=f"{ROOT}{os.pathsep}{tmp_path}")
    assert wrong.returncode == 2 and wrong.stderr.startswith("usage:")


def test_importing_the_commands_changes_nothing_but_luigis_parser():
    code = (
        "import os, sys, signal, luigi\n"
        "config = luigi.configuration.get_config()\n"
        "def state():\n"
        "    settings = {section: dict(config.items(section)) for section in config.sections()}\n"
        "    handler = signal.getsignal(signal.SIGINT)\n"
        "    return dict(os.environ), sys.excepthook, sys.argv[:], sys.path[:], handler, settings\n"
        "before = state()\nimport tasks\nassert state() == before\n"
        "heavy = {'torch', 'transformers', 'optuna', 'matplotlib', 'fastapi', 'scipy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    ran = python("-c", code, "TrainHed", "--help", cwd=ROOT)
    assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("[core]\nworkers = 3\n", ("3", "true", "30")),
        ("[core]\nscheduler_url = http://127.0.0.1:1\n[retcode]\ntask_failed = 9\n", ("2", "false", "9")),
    ],
)
def test_a_configuration_of_the_users_own_comes_first(content, expected, tmp_path):
    (tmp_path / "luigi.cfg").write_text(content)
    code = (
        "import luigi\nfrom mel_cache.commands.shell import settings\nsettings.apply()\n"
        "get = luigi.configuration.get_config().get\n"
        "print(get('core', 'workers'), get('core', 'local_scheduler'), get('retcode', 'task_failed'))"
    )
    assert python("-c", code, cwd=tmp_path).stdout.split() == list(expected)


def test_no_colour_and_no_traceback_where_none_is_wanted(tmp_path):
    ran = python("-m", "mel_cache", "Status", cwd=tmp_path, NO_COLOR="1", FORCE_COLOR="1")
    assert ran.returncode == 0 and "\x1b" not in ran.stdout + ran.stderr


def test_the_options_of_all_commands_are_gathered_once_for_a_command(tmp_path):
    code = (
        "import argparse, tasks\n"
        "from luigi.cmdline import luigi_run\n"
        "made, add = [], argparse.ArgumentParser.add_argument\n"
        "def counted(self, *names, **options):\n"
        "    made.append((self, names))\n"
        "    return add(self, *names, **options)\n"
        "argparse.ArgumentParser.add_argument = counted\n"
        "try:\n"
        "    luigi_run(['Status', '--work-dir', 'w', '--local-scheduler'])\n"
        "finally:\n"
        "    print('parsers', len({id(parser) for parser, names in made if '--work-dir' in names}))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.stdout.rstrip().endswith(("parsers 1", "parsers 2")), done.stdout + done.stderr

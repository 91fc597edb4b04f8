"""`--dry-run`, on every command: it says what would run, and nothing is written, whether nothing, something or
everything is there."""

import json
import os
import subprocess
import sys

import pytest
import small_world
from test_tasks import ROOT, World

import tasks

PLAN = json.dumps({"wants": [{"side": "entity", "feature": "clip_image", "view": "image"}], "after": []})
NEEDED = {
    "BuildKB": ["--dump", "{data}/../dump.json", "--out", "{data}/../kb"],
    "BuildPairs": ["--pair", "name_similarity"],
    "CompareRuns": ["--run-folder", "small/mimic/a", "--against", "small/mimic/b"],
    "EnhanceEntities": ["--mode", "static", "--pages", "{data}/entities.jsonl"],
    "ImportFeatures": ["--from", "theirs.npz", "--feature", "theirs"],
    "ExportFeatures": ["--feature", "text_tokens", "--to", "tokens.npz"],
    "EvaluationManifest": ["--run", "small/mimic/a", "--to", "manifest.json"],
    "ExportTower": ["--run", "small/mimic/a", "--to", "tuned"],
    "ExtractGroup": ["--plan", PLAN],
    "ExtractPart": ["--part", "1/2"],
    "FetchImages": ["--list", "{data}/../pictures.tsv"],
    "LinkMentions": ["--run", "small/mimic/a", "--input", "new.jsonl", "--output", "linked.jsonl"],
    "LinkText": ["--run", "small/mimic/a", "--input", "texts.jsonl", "--output", "linked.jsonl", "--ner", "names"],
    "MergeCache": ["--from", "{data}/../theirs"],
    "PromptedFeatures": ["--method", "dsmip", "--profile", "demo"],
    "Report": ["--methods", "mimic"],
    "Serve": ["--run", "small/mimic/a"],
}
"""Options without which a command is refused; another command needs a line here."""
STATES = ("nothing", "something")
LOOK = """
import json, os, sys
from luigi.retcodes import run_with_retcodes

def files(*roots):
    listed = [(folder, name) for root in roots for folder, _, names in os.walk(root) for name in (*names, ".")]
    return {path: os.lstat(path).st_mtime_ns for path in (os.path.join(*place) for place in listed)}

for name, arguments in json.load(sys.stdin).items():
    before = files(*sys.argv[1:])
    code = 0
    try:
        run_with_retcodes(["--module", "tasks", name, "--dry-run", *arguments])
    except SystemExit as stopped:
        code = stopped.code
    after = files(*sys.argv[1:])
    changed = sorted(path for path in {*before, *after} if before.get(path) != after.get(path))
    print("\\n" + json.dumps({"name": name, "code": code, "changed": changed}), flush=True)
"""


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """By state of the work folder and command: its exit code, what it changed, what it said. One process per state:
    luigi and tasks are loaded once."""
    world = World(tmp_path_factory.mktemp("world"))
    small_world.write(world.data)
    small_world.profile(world.root)
    (world.root / "dump.json").write_text("[\n]\n")
    (world.root / "pictures.tsv").write_text("id\taddress\nQ1\thttps://example.org/1.jpg\n")
    (world.root / "theirs" / "cache").mkdir(parents=True)
    found = {}
    for state in STATES:
        if state == "something":
            world.luigi("ExtractFeatures", "--features", "text_tokens")
        commands = {}
        for name in tasks.__all__:
            parameters = dict(getattr(tasks, name).get_params())
            named = {
                "dataset": "small",
                "data-dir": str(world.data),
                "profile": str(world.root / "small.yaml"),
                "work-dir": str(world.work),
            }
            given = [
                part
                for option, value in named.items()
                if option.replace("-", "_") in parameters
                for part in (f"--{option}", value)
            ]
            commands[name] = [*given, *(part.replace("{data}", str(world.data)) for part in NEEDED.get(name, []))]
        done = subprocess.run(
            [sys.executable, "-c", LOOK, str(world.root), str(ROOT / "pipeline")],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
            input=json.dumps(commands),
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        said: list[str] = []
        for line in done.stdout.splitlines():
            if line.startswith('{"name"'):
                answer = json.loads(line)
                found[state, answer["name"]] = {**answer, "said": "\n".join(said)}
                said = []
            else:
                said.append(line)
        assert len(found) == len(tasks.__all__) * (1 + STATES.index(state)), done.stdout + done.stderr
    return found


@pytest.mark.parametrize("name", tasks.__all__)
@pytest.mark.parametrize("state", STATES)
def test_a_dry_run_says_what_would_run_and_writes_nothing(answers, state, name):
    answer = answers[state, name]
    assert answer["code"] == 0 and not answer["changed"], answer
    steps = [line for line in answer["said"].splitlines() if line.startswith("would run ")]
    done = state == "something" and name == "PrepareDataset"
    if done:
        assert "everything is done already" in answer["said"] and not steps
    else:
        assert steps[-1].startswith(f"would run {name}"), answer["said"]


def test_what_is_there_is_not_run_again(answers):
    def steps(state, name):
        return [
            line.removeprefix("would run ")
            for line in answers[state, name]["said"].splitlines()
            if line.startswith("would run ")
        ]

    before, after = steps("nothing", "TrainHead"), steps("something", "TrainHead")
    assert before[0].startswith("PrepareDataset") and not any(step.startswith("PrepareDataset") for step in after)
    assert set(after) <= set(before) and after[-1] == "TrainHead mimic, seed 0"
    assert steps("something", "SearchHead")[-1] == "SearchHead mimic, 50 trials" and len(
        steps("something", "SearchHead")
    ) == len(after)

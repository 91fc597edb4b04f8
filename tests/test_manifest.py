"""`EvaluationManifest`: what a run was evaluated on as one JSON, and whether another run was evaluated on the same."""

import hashlib
import json
import shutil
from dataclasses import replace

import commands
import pytest
import small_world

from foundation.checksums import sealed
from foundation.errors import UserError
from report import manifest
from report.contracts import ManifestJob


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A small world with two trained heads."""
    root = tmp_path_factory.mktemp("manifest")
    small_world.write(root / "data")
    small_world.profile(root)
    named = ["--dataset", "small", "--data-dir", str(root / "data"), "--profile", str(root / "small.yaml")]
    for seed in ("0", "1"):
        given = ["--method", "bert", "--params", '{"epochs": 1}', "--seed", seed, "--work-dir", str(root / "work")]
        code, said = commands.run("TrainHead", *given, *named)
        assert code == 0, said
    return root


def runs(world):
    return sorted((world / "work" / "runs" / "small" / "bert").iterdir())


def call(world, run, *options):
    return commands.run("EvaluationManifest", "--work-dir", str(world / "work"), "--run", str(run), *options)


def test_runs_of_two_seeds_were_evaluated_on_the_same_thing(world):
    first, second = runs(world)
    file = world / "manifest.json"
    code, said = call(world, first, "--to", str(file))
    assert code == 0 and "10 mentions of test" in said
    code, said = call(world, second, "--check", str(file))
    assert code == 0 and "was evaluated on the same thing" in said and "its predictions are others" in said
    code, said = call(world, first, "--check", str(file))
    assert code == 0 and "its predictions are the same" in said


def test_it_holds_ids_and_no_text_of_the_dataset(world):
    made = manifest.manifest(runs(world)[0])
    text = json.dumps(manifest.to_json(made))
    assert made.splits["test"].mentions == tuple(f"m{n}" for n in range(3, 40, 4))
    assert made.splits["test"].golds == tuple(f"Q{n % 12}" for n in range(3, 40, 4))
    assert made.entities == 12 and made.figures["test"]["full-kb"]["n"] == 10
    assert not any(word in text for word in ("Powers", "Harrison", "green", ".png", str(world)))


def test_the_hash_of_the_kb_is_that_of_its_ids_a_line_each(world):
    lines = "".join(f'"Q{n}"\n' for n in range(12))
    assert manifest.manifest(runs(world)[0]).kb == hashlib.sha256(lines.encode()).hexdigest()


CHANGES = {
    "KB: 12 entities here, 11 there": lambda it: replace(it, kb="0", entities=11),
    "ties: 1e-05 here, 0 there": lambda it: replace(it, tie_tolerance=0.0),
    "dataset: other texts": lambda it: replace(it, content="0"),
    "protocols: ": lambda it: replace(it, protocols=("full-kb",)),
    "lists that always hold the gold: none here, test there": lambda it: replace(it, forced=("test",)),
    "dev: only here": lambda it: replace(it, splits={"test": it.splits["test"]}),
}
OF_TEST = {
    "test: 1 golds differ, the first is that of 'm3'": lambda it: replace(it, golds=(None, *it.golds[1:])),
    "test: other candidate lists": lambda it: replace(it, candidates="0"),
    "test: the mentions are in another order": lambda it: replace(it, mentions=it.mentions[::-1]),
    "test: 2 mentions are in one alone": lambda it: replace(it, mentions=("x", *it.mentions[1:])),
}


@pytest.mark.parametrize("line", [*CHANGES, *OF_TEST])
def test_what_differs_is_said_in_a_line_and_the_command_fails(world, tmp_path, line):
    own = manifest.manifest(runs(world)[0])
    if line in CHANGES:
        other = CHANGES[line](own)
    else:
        other = replace(own, splits={**own.splits, "test": OF_TEST[line](own.splits["test"])})
    result = manifest.compared(own, other, "other.json")
    assert len(result.differences) == 1 and result.differences[0].startswith(line)
    file = tmp_path / "other.json"
    file.write_text(json.dumps(sealed(manifest.to_json(other))))
    code, said = call(world, runs(world)[0], "--check", str(file))
    assert code and line in said and "was not evaluated on the same thing" in said


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"layout": 2}', '{"layout": 1, "kb": 3}'])
def test_another_file_is_refused_in_a_line(tmp_path, text):
    (tmp_path / "it.json").write_text(text)
    with pytest.raises(UserError) as caught:
        manifest.read(tmp_path / "it.json")
    assert "\n" not in str(caught.value)


def test_a_changed_manifest_is_refused(world, tmp_path):
    manifest.make(ManifestJob(run=runs(world)[0], to=tmp_path / "it.json"))
    text = (tmp_path / "it.json").read_text()
    (tmp_path / "it.json").write_text(text.replace('"Q3"', '"Q4"', 1))
    with pytest.raises(UserError, match="checksum"):
        manifest.read(tmp_path / "it.json")


def test_one_of_two_options_is_needed_and_the_dataset_must_be_there(world, tmp_path):
    code, said = call(world, runs(world)[0])
    assert code and "expected either --to FILE or --check FILE" in said
    shutil.copytree(world / "work", tmp_path / "work")
    shutil.rmtree(tmp_path / "work" / "datasets")
    with pytest.raises(UserError, match="the run's dataset is not there"):
        manifest.manifest(tmp_path / "work" / "runs" / "small" / "bert" / runs(world)[0].name)

"""Damaged files of a work folder: noticed, never taken for whole, and mended by what the message says.

Every kind of file that a dataset or a run leaves meets some kinds of damage here; benchmarks/flips.py meets all.
"""

import json
import os
import re
import shlex
import shutil
from pathlib import Path

import commands
import pytest
import small_world
from luigi.task_register import Register

from foundation import remedies
from foundation.checksums import read_sealed, write_sealed
from foundation.errors import NotAsWritten
from mel_cache.commands.search import SearchHead
from mel_cache.commands.shell import cmdline
from mel_cache.contracts import VerifyJob
from mel_cache.verification import verify

PARAMS = json.dumps({"pair_features": ["name_similarity", "text_cls"], "epochs": 2})


class World:
    """A small dataset with one head trained on it."""

    def __init__(self, root: Path) -> None:
        self.root, self.work = root, root / "work"

    @property
    def options(self) -> list[str]:
        data = ["--dataset", "small", "--data-dir", str(self.root / "data")]
        return [*data, "--profile", str(self.root / "small.yaml"), "--work-dir", str(self.work)]

    def train(self) -> tuple[int, str]:
        return commands.run("TrainHead", "--method", "ranker", "--params", PARAMS, "--candidates", "6", *self.options)

    def file(self, pattern: str) -> Path:
        return sorted(self.work.glob(pattern))[0]

    def bad(self) -> dict[str, str]:
        """What VerifyCache lists: file and problem."""
        return {one.path: one.problem for one in verify(VerifyJob(work=self.work)).bad}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    world = World(tmp_path_factory.mktemp("damage"))
    small_world.write(world.root / "data")
    small_world.profile(world.root)
    code, said = world.train()
    assert code == 0, said
    assert world.bad() == {}
    return world


@pytest.fixture
def world(base, tmp_path):
    """A copy of the base whose work folder a test may damage; what its receipts name by path lies at the old place."""
    shutil.copytree(base.work, tmp_path / "work")
    copy = World(base.root)
    copy.work = tmp_path / "work"
    return copy


def truncated(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def deleted(path: Path) -> None:
    path.unlink()


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def link(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.parent / "nowhere")


FILES = [
    ("datasets/*/mentions.parquet", truncated),
    ("datasets/*/entities.parquet", link),
    ("datasets/*/account.json", empty),
    ("datasets/*/account.txt", deleted),
    ("datasets/*/candidates-*.npz", folder),
    ("datasets/*/pairs-text_cls-*.npz", flipped),
    ("datasets/*/columns-*/mention.*.npz", deleted),
    ("runs/small/ranker/*/model.safetensors", flipped),
    ("runs/small/ranker/*/predictions.parquet", flipped),
    ("runs/small/ranker/*/metrics.json", link),
    ("runs/small/ranker/*/config.json", empty),
    ("runs/small/ranker/*/run.json", truncated),
    ("receipts/PrepareDataset-*.json", flipped),
    ("receipts/ExtractGroup-*.json", link),
    ("receipts/BuildCandidates-*.json", folder),
]


@pytest.mark.parametrize(("pattern", "damage"), FILES)
def test_the_command_that_meets_a_damaged_file_says_so_and_makes_it_again(world, pattern, damage):
    path = world.file(pattern)
    before = path.read_bytes()
    damage(path)
    name = path.relative_to(world.work).as_posix()
    assert damage is deleted or name in world.bad(), "VerifyCache names it"
    code, said = world.train()
    assert "Traceback" not in said and bool(code) == (damage is folder), said
    if code:
        errors = [line for line in said.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1 and str(path) in errors[0], said
        assert "remove it and run the same command again" in errors[0], errors
        path.rmdir()
        code, said = world.train()
        assert code == 0, said
    else:
        assert str(path) in said and "makes it again" in said, said
    assert world.bad() == {}
    if path.name != "run.json" and path.parent.name != "receipts":  # these say how long it took
        assert path.read_bytes() == before
    assert "makes it again" not in world.train()[1], "once is enough"


@pytest.mark.parametrize(
    ("name", "damage", "expected"),
    [
        ("predictions.parquet", flipped, 30),
        ("metrics.json", truncated, 30),
        ("run.json", folder, 30),
        ("model.safetensors", flipped, 0),
        ("config.json", truncated, 2),
    ],
)
def test_commands_that_read_a_run_name_what_is_damaged_and_the_very_command_that_mends_it(
    world, name, damage, expected
):
    path = world.file(f"runs/small/ranker/*/{name}")
    reading = ["CompareRuns", "--run-folder", str(path.parent), "--against", str(path.parent)]
    reading += ["--work-dir", str(world.work)]
    if name in ("model.safetensors", "config.json"):
        reading = ["Explain", "--run-folder", str(path.parent), "--candidates", "6", *world.options]
    damage(path)
    code, said = commands.run(*reading)
    assert code == expected and "Traceback" not in said, said
    if code:
        errors = [line for line in said.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1 and str(path) in errors[0], said
        follow(errors[0], path)
        assert commands.run(*reading)[0] == 0
    else:
        assert "makes it again" in said, said
    assert world.bad() == {}


def follow(message: str, path: Path) -> None:
    """Do what a message says: delete the file it names, run the command it names."""
    command = re.search(r"delete it and run `([^`]+)`", message)
    assert command, message
    path.rmdir() if path.is_dir() else path.unlink()
    words = shlex.split(command[1])
    assert words[:3] == ["luigi", "--module", "tasks"], command[1]
    code, said = commands.run(*words[3:])
    assert code == 0, said


def test_a_run_that_was_cut_short_is_never_taken_for_whole_by_the_command_that_trained_it(world):
    path = world.file("runs/small/ranker/*/model.safetensors")
    whole = path.read_bytes()
    os.truncate(path, 200)
    code, said = world.train()
    assert code == 0 and f"{path} has 200 bytes, {len(whole):,} were written; TrainHead makes it again" in said
    assert path.read_bytes() == whole


def test_a_lost_key_column_is_made_again_by_the_command_that_reads_it(world):
    columns = {path: path.read_bytes() for path in world.work.glob("datasets/*/columns-*/*.npz")}
    for path in (*columns, *world.work.glob("runs/*/*/*/model.safetensors")):
        path.unlink()
    code, said = world.train()
    assert code == 0 and "is gone" in said, said
    assert columns and {path: path.read_bytes() for path in columns if path.exists()} == columns


@pytest.mark.parametrize("place", ["datasets", "cache"])
def test_a_file_in_a_folders_place_is_named_with_what_to_do(world, place):
    shutil.rmtree(world.work / place)
    (world.work / place).write_text("x")
    code, said = world.train()
    errors = {line for line in said.splitlines() if line.startswith("error: ")}
    assert code and "Traceback" not in said and len(errors) == 1, said
    assert f"{world.work / place} stands where a folder is expected; remove it and run the same command again" in said
    (world.work / place).unlink()
    code, said = world.train()
    assert code == 0, said


def test_what_cannot_be_read_for_lack_of_permission_is_one_line(world, monkeypatch):
    path, opened = world.file("datasets/*/mentions.parquet"), open
    path.touch()  # its content is not remembered

    def refusing(file, *args, **more):
        if Path(str(file)) == path:
            raise PermissionError(13, "Permission denied", str(file))
        return opened(file, *args, **more)

    monkeypatch.setattr("builtins.open", refusing)
    assert world.bad()[path.relative_to(world.work).as_posix()] == "cannot be read (permission denied)"


def test_repair_removes_what_is_bad_and_the_commands_it_names_make_it_again(world):
    damaged = [world.file(pattern) for pattern in ("datasets/*/candidates-*.npz", "runs/*/*/*/metrics.json")]
    for path in damaged:
        flipped(path)
    code, said = commands.run("VerifyCache", "--work-dir", str(world.work))
    assert code and all(f"bad: {path.relative_to(world.work)}: has other bytes" in said for path in damaged)
    code, said = commands.run("VerifyCache", "--repair", "--work-dir", str(world.work))
    assert code == 0 and "removed 2 bad file(s)" in said and not any(path.exists() for path in damaged)
    made = re.findall(r"`([^`]+)` makes them again", said)
    assert len(made) == 1
    assert commands.run(*shlex.split(made[0])[3:])[0] == 0
    assert world.bad() == {} and all(path.exists() for path in damaged)


def test_a_seal_whose_own_name_has_changed_is_noticed(tmp_path):
    path = tmp_path / "study.json"
    write_sealed(path, {"best": 0.5})
    path.write_text(path.read_text().replace('"seal"', '"sEal"'))
    with pytest.raises(NotAsWritten, match="has other bytes"):
        read_sealed(path)
    path.write_text('{"best": 0.5, "of": "before seals"}')
    assert read_sealed(path) == {"best": 0.5, "of": "before seals"}


def test_shards_can_be_left_out_of_the_check(world):
    flipped(world.file("cache/*/*.h5"))
    code, said = commands.run("VerifyCache", "--skip-shards", "--work-dir", str(world.work))
    assert code == 0 and "shards of features were left out" in said
    assert commands.run("VerifyCache", "--work-dir", str(world.work))[0]


def test_a_probe_that_changed_is_found(world):
    path = world.file("cache/*/spec.json")
    content = json.loads(path.read_text())
    content["probe"] = {name: [0.0] * len(values) for name, values in content["probe"].items()}
    path.write_text(json.dumps(content))
    assert "has other bytes" in world.bad()[path.relative_to(world.work).as_posix()]


def test_receipts_of_before_checksums_are_taken_as_they_are(world):
    for path in world.work.glob("receipts/*.json"):
        receipt = json.loads(path.read_text())
        del receipt["seal"]
        for one in receipt["files"]:
            one.pop("sha256", None)
        path.write_text(json.dumps(receipt))
    code, said = world.train()
    assert code == 0 and "makes it again" not in said
    code, said = commands.run("VerifyCache", "--work-dir", str(world.work))
    assert code == 0 and "files of an earlier version have their size, and no checksum" in said


def test_clean_lists_no_feature_for_removal_where_receipts_are_gone(world):
    for path in world.work.glob("receipts/ExtractGroup-*.json"):
        path.unlink()
    code, said = commands.run("CleanCache", "--remove", "--work-dir", str(world.work))
    assert code == 0 and "no receipt says which profile it was extracted with" in said
    assert list(world.work.glob("cache/*/*.h5"))


def test_a_receipt_holds_the_command_that_made_it_without_the_work_folder(world):
    command = read_sealed(world.file("receipts/TrainHead-*.json"))["run"]["command"]
    given = ["--dataset", "small", "--data-dir", str(world.root / "data"), "--profile", str(world.root / "small.yaml")]
    given += ["--candidates", "6", "--method", "ranker", "--params", PARAMS]
    assert command[0] == "TrainHead" and sorted(command[1:]) == sorted(given)


def test_the_password_of_a_searchs_database_is_in_no_receipt():
    words = cmdline._again(
        SearchHead, {name: None for name, _ in SearchHead.get_params()} | {"storage": "x://u:secret@h/d", "seed": "3"}
    )
    assert words == ["SearchHead", "--seed", "3"]


def test_the_remedy_of_a_relative_path_is_that_of_the_file(world, monkeypatch):
    """As in `--params @artifacts/sweeps/…/best.json`, given from the folder above."""
    place = next(world.work.glob("runs/*/*/*/run.json"))
    monkeypatch.chdir(world.work.parent)
    relative = place.relative_to(world.work.parent)
    assert remedies.remedy(relative) == remedies.remedy(place) and "TrainHead" in remedies.remedy(relative)


def test_a_remedy_reads_no_receipt_older_than_the_one_that_lists_the_file(tmp_path, monkeypatch):
    receipts = tmp_path / "receipts"
    receipts.mkdir()
    for number, files in enumerate([["a"], ["a", "b"], ["b"], ["c"]]):
        content = {"run": {"command": ["Task", str(number)]}, "files": [{"path": path} for path in files]}
        path = receipts / f"Task-{number}.json"
        path.write_text(json.dumps(content))
        os.utime(path, (number, number))
    read = []
    plain = remedies._json
    monkeypatch.setattr(remedies, "_json", lambda file: read.append(file.stem) or plain(file))
    assert f"Task 2 --work-dir {tmp_path}" in remedies.remedy(tmp_path / "b")
    assert read == ["Task-3", "Task-2"]


def test_the_command_of_a_lost_receipt_is_one_that_there_is(tmp_path):
    (tmp_path / "receipts").mkdir()
    for task in ("TunedFeatures", "PromptedFeatures", "MaskedPictures", "ExtractGroup", "TrainHead"):
        command = remedies.maker(tmp_path / "receipts" / f"{task}-0.json").split("`")[1]
        named = command.removeprefix(f"{remedies.COMMAND} ").split()[0]
        assert named in ("TrainHead", "CompareHeads", "ExtractFeatures") and named in Register.task_names()

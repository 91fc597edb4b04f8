"""The commands as a user types them, and what each change makes run again, read from the receipts."""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import checkpoints
import commands
import h5py
import pytest
import small_world
import yaml
from PIL import Image

from pipeline.datasets import scan

ROOT = Path(__file__).resolve().parents[1]


class World:
    """A dataset, a profile, and a work folder with everything extracted and one head trained."""

    def __init__(self, root: Path) -> None:
        self.root, self.data, self.work = root, root / "data", root / "work"

    def arguments(self, task: str, profile: bool = True) -> list[str]:
        named = (
            ["--dataset", "small", "--data-dir", str(self.data), "--profile", str(self.root / "small.yaml")]
            if profile
            else []
        )
        return [task, "--work-dir", str(self.work), *named]

    def command(self, task: str, profile: bool = True) -> list[str]:
        return [sys.executable, "-m", "luigi", "--module", "tasks", *self.arguments(task, profile)]

    def here(self, task: str, *options: str, profile: bool = True) -> str:
        """Output of a command that is run within this process (see `commands`) and succeeds."""
        code, output = commands.run(*self.arguments(task, profile), *options)
        assert code == 0, output
        return output

    def luigi(self, task: str, *options: str, profile: bool = True, code: int | None = 0) -> str:
        """Output of a command on this world; `code` is the exit status it must have (None: any but 0)."""
        command = [*self.command(task, profile), *options]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False
        )
        output = done.stdout + done.stderr
        assert (done.returncode != 0) if code is None else done.returncode == code, output
        return output

    def receipts(self, task: str) -> dict[str, dict]:
        return {path.name: json.loads(path.read_text()) for path in self.work.glob(f"receipts/{task}-*.json")}

    def extracted(self, task: str, *options: str) -> dict[str, int]:
        """Rows that a command added to each feature, by the receipts it wrote."""
        before = self.receipts("ExtractGroup")
        self.here(task, *options)
        rows: dict[str, int] = {}
        for name, receipt in self.receipts("ExtractGroup").items():
            if receipt != before.get(name):
                assert set(receipt["run"]["model_loads"]) == {
                    feature for feature, count in receipt["run"]["rows"].items() if count
                }
                rows.update({feature: count for feature, count in receipt["run"]["rows"].items() if count})
        return rows

    def shards(self) -> dict[str, bytes]:
        return {
            path.relative_to(self.work).as_posix(): path.read_bytes() for path in sorted(self.work.glob("cache/*/*.h5"))
        }


def processes_of(session: int) -> list[int]:
    """The living processes of a session."""
    fields = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields[int(path.parent.name)] = path.read_text().rpartition(")")[2].split()
    return [process for process, (state, _, _, of, *_) in fields.items() if int(of) == session and state != "Z"]


def until(true: Callable[[], bool], seconds: float = 60) -> None:
    """Wait until it is."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    world = World(tmp_path_factory.mktemp("world"))
    small_world.write(world.data)
    small_world.profile(world.root)
    world.said = world.luigi("ExtractFeatures")
    world.trained = world.luigi("TrainHead", "--method", "mimic")
    return world


@pytest.fixture
def world(base, tmp_path):
    """A copy of `base` that a test may change; nothing in a work folder depends on where it lies."""
    shutil.copytree(base.root, tmp_path / "copy")
    return World(tmp_path / "copy")


def test_a_work_folder_and_its_data_may_be_moved(world):
    before = {path: path.stat().st_mtime_ns for path in world.work.rglob("*") if path.is_file()}
    assert "MRR" in world.luigi("TrainHead", "--method", "mimic")
    assert {
        path: path.stat().st_mtime_ns for path in world.work.rglob("*") if path.is_file() and path.parent.name != "memo"
    }.items() <= before.items()


def test_extraction_says_what_lies_where_and_training_ends_with_its_table(base):
    for feature in ("text_tokens", "clip_text", "clip_image", "image_pooled"):
        assert feature in base.said
    assert str(base.work / "cache") in base.said
    assert (
        "full-kb" in base.trained
        and "MRR" in base.trained
        and str(base.work / "runs" / "small" / "mimic") in base.trained
    )
    run = next(base.work.glob("runs/small/mimic/*"))
    assert {"config.json", "metrics.json", "model.safetensors", "predictions.parquet", "history.json"} <= {
        path.name for path in run.iterdir()
    }


def test_a_finished_command_does_nothing_and_prints_its_table_again(base):
    before = {path: path.stat().st_mtime_ns for path in base.work.rglob("*") if path.is_file()}
    again = base.luigi("TrainHead", "--method", "mimic")
    assert (
        "MRR" in again and {path: path.stat().st_mtime_ns for path in base.work.rglob("*") if path.is_file()} == before
    )


def test_a_heads_parameter_runs_the_head_alone(world):
    extraction, runs = world.receipts("ExtractGroup"), len(list(world.work.glob("runs/small/mimic/*")))
    world.here("TrainHead", "--method", "mimic", "--params", '{"lr": 0.002}')
    assert world.receipts("ExtractGroup") == extraction
    assert len(list(world.work.glob("runs/small/mimic/*"))) == runs + 1


def test_a_head_finds_what_a_wider_extraction_has_left_without_a_process(base):
    found = base.receipts("ExtractGroup").values()
    wide, narrow = (
        [receipt for receipt in found if ("device" in receipt["run"]) == worked] for worked in (True, False)
    )
    assert wide and narrow
    for receipt in narrow:
        (of,) = [other for other in wide if receipt["result"]["columns"].items() <= other["result"]["columns"].items()]
        assert all(entry in of["files"] for entry in receipt["files"]) and len(receipt["files"]) > len(
            receipt["result"]["columns"]
        )
        assert receipt["run"]["rows"] == dict.fromkeys(receipt["result"]["features"], 0)


def test_new_entities_are_extracted_alone(world):
    small_world.write(world.data, entities=14)
    added = [small_world.entity(number) for number in (12, 13)]
    images = sum("images" in entity for entity in added)
    texts = 2 * 2  # under the views of MIMIC and of DSMIP
    assert world.extracted("ExtractFeatures") == {
        "clip_text": texts,
        "text_tokens": 2,
        "clip_image": images,
        "image_pooled": images,
    }


def test_other_weights_re_extract_that_feature_alone(world):
    checkpoints.resnet(world.root / "resnet", seed=7)
    rows = world.extracted("ExtractFeatures")
    assert set(rows) == {"image_pooled"} and rows["image_pooled"] > 0


def test_a_shard_that_was_deleted_is_redone_alone_and_byte_for_byte(world):
    before = world.shards()
    victim = next(name for name in before if "clip_image" in name)
    (world.work / victim).unlink()
    assert set(world.extracted("ExtractFeatures")) == {"clip_image"}
    assert world.shards() == before


def test_a_feature_that_was_deleted_is_redone_alone(world):
    before = world.shards()
    shutil.rmtree(next(world.work.glob("cache/text_tokens-*")))
    assert set(world.extracted("ExtractFeatures")) == {"text_tokens"}
    assert world.shards() == before


def test_a_receipt_that_was_deleted_is_written_again_without_loading_a_model(world):
    for path in world.work.glob("receipts/ExtractGroup-*.json"):
        path.unlink()
    assert world.extracted("ExtractFeatures") == {}
    assert all(not receipt["run"]["model_loads"] for receipt in world.receipts("ExtractGroup").values())


def test_files_that_were_touched_are_read_again_and_nothing_else_is_done(world):
    before = {path: path.stat().st_mtime_ns for path in world.work.rglob("*.*") if "memo" not in path.parts}
    for path in world.data.rglob("*.*"):
        os.utime(path, (1, 1))
    assert "MRR" in world.here("TrainHead", "--method", "mimic")
    made = {path: path.stat().st_mtime_ns for path in world.work.rglob("*.*") if "memo" not in path.parts}
    assert {path.name.partition("-")[0] for path in made.keys() - before.keys()} == {"PrepareDataset"}
    again = {path.name for path, time in before.items() if made[path] != time}
    assert again == {"mentions.parquet", "entities.parquet", "account.json", "account.txt"}, (
        "the same bytes under the same names"
    )


def test_a_picture_replaced_under_its_old_name_is_extracted_again_alone(world):
    small_world.picture(world.data / "mentions" / "m0.png", seed=999)
    assert world.extracted("ExtractFeatures") == {"clip_image": 1, "image_pooled": 1}


def test_rescan_finds_a_picture_that_changed_under_its_size_and_time(world):
    path, before = world.data / "mentions" / "m0.png", world.shards()
    old = path.stat()
    Image.new("RGB", (48, 40), "red").save(path)
    path.write_bytes(path.read_bytes().ljust(old.st_size, b"\0"))
    os.utime(path, ns=(old.st_atime_ns, old.st_mtime_ns))
    assert world.extracted("ExtractFeatures") == {}
    shutil.rmtree(next(world.work.glob("cache/clip_image-*")))
    assert "the file changed since the dataset was prepared: add --rescan" in world.luigi("ExtractFeatures", code=30)
    assert "would run PrepareDataset, every picture again" in world.here("ExtractFeatures", "--rescan", "--dry-run")
    world.luigi("ExtractFeatures", "--rescan")
    assert world.extracted("ExtractFeatures", "--rescan") == {}, "nothing has changed since"
    added = world.shards().keys() - before.keys()
    assert [name.split("/")[1].partition("-")[0] for name in added if "clip_image" not in name] == ["image_pooled"]


def test_every_picture_is_read_once_in_a_command_that_rescans(world, monkeypatch):
    examined, plain = [], scan.examine
    monkeypatch.setattr(scan, "examine", lambda path, limits: examined.append(path) or plain(path, limits))
    world.here("TrainHead")
    assert not examined
    for times in (1, 2):
        world.here("TrainHead", "--rescan")
        assert examined and set(map(examined.count, examined)) == {times}


def test_a_command_killed_before_its_receipt_goes_on_without_redoing_a_row(base, tmp_path, monkeypatch):
    for name in ("copy", "undisturbed"):
        shutil.copytree(base.root, tmp_path / name, ignore=shutil.ignore_patterns("work"))
    fresh, undisturbed = World(tmp_path / "copy"), World(tmp_path / "undisturbed")
    undisturbed.here("ExtractFeatures", "--features", "clip_text")
    fresh.here("PrepareDataset")
    monkeypatch.setenv("MEL_FAULT", "before-receipt")
    fresh.luigi("ExtractFeatures", "--features", "clip_text", code=30)  # the worker was killed
    monkeypatch.delenv("MEL_FAULT")
    before = fresh.shards()
    assert before and not fresh.receipts("ExtractGroup")
    assert fresh.extracted("ExtractFeatures", "--features", "clip_text") == {}
    assert fresh.shards() == before == undisturbed.shards()


def test_workers_that_are_spawned_as_on_macos_do_the_same(base, tmp_path):
    fresh = World(base.root)
    fresh.work = tmp_path / "work"
    code = (
        "import multiprocessing; multiprocessing.set_start_method('spawn'); "
        "from luigi.cmdline import luigi_run; luigi_run()"
    )
    command = [sys.executable, "-c", code, "--module", "tasks", *fresh.arguments("PrepareDataset"), "--workers", "2"]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0 and f"dataset small prepared in {fresh.work}" in done.stdout, done.stdout + done.stderr
    again = fresh.here("PrepareDataset")
    assert done.stdout.count("mentions by split") == again.count("mentions by split") == 1, (
        "the account, whether it was done already or not"
    )


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
def test_a_killed_command_leaves_no_process_behind(world):
    command, environment = world.command("TrainHead"), {**os.environ, "PYTHONPATH": str(ROOT)}
    options = ["--params", '{"epochs": 100000, "patience": 100000}', "--workers", "2"]
    running = subprocess.Popen(
        [*command, *options], cwd=ROOT, env=environment, start_new_session=True, stderr=subprocess.DEVNULL
    )
    until(lambda: len(processes_of(running.pid)) == 3)  # Luigi, its worker, and the child that trains
    running.kill()
    running.wait()
    until(lambda: not processes_of(running.pid), 10)


def test_a_flipped_byte_is_found_by_name_and_repair_refills_exactly_that_shard(world):
    before = world.shards()
    victim = next(name for name in before if "clip_text" in name)
    path = world.work / victim
    with h5py.File(path) as file:
        place = file["pooled"].id.get_offset() + 5
    data = bytearray(before[victim])
    data[place] ^= 0xFF
    path.write_bytes(bytes(data))
    said = world.luigi("VerifyCache", profile=False, code=30)
    assert (
        Path(victim).name in said and sum(Path(name).name in said for name in before) == 1 and "Traceback" not in said
    )
    world.here("VerifyCache", "--repair", profile=False)
    assert not path.exists()
    assert set(world.extracted("ExtractFeatures")) == {"clip_text"}
    assert world.shards() == before
    assert "holds" in world.here("VerifyCache", profile=False)


def test_a_spec_that_is_damaged_or_gone_is_named_and_made_again(world):
    before = world.shards()
    spec = next(world.work.glob("cache/image_pooled-*/spec.json"))
    spec.write_bytes(b"?" + spec.read_bytes()[1:])
    assert "removed 1 bad file" in world.here("VerifyCache", "--repair", profile=False) and not spec.exists()
    said = world.here("VerifyCache", "--repair", profile=False)
    assert (
        f"bad: {spec.relative_to(world.work)}: is gone" in said
        and "removed 0" in said
        and re.search(r"`luigi --module tasks (ExtractFeatures|TrainHead) [^`]*` makes them again", said)
    )
    assert f"left as it is: {spec} is gone" in world.here("CleanCache", profile=False)
    line = next(line for line in world.here("EstimateCache").splitlines() if line.startswith("image_pooled"))
    assert line.split()[2] == "0"
    world.here("BuildCandidates", "--sources", "name,dense:image_pooled")
    assert spec.exists() and world.shards() == before
    assert "holds" in world.here("VerifyCache", profile=False)


def test_estimate_counts_what_is_to_come_and_extracts_nothing(world):
    said = world.here("EstimateCache")
    assert all(line.split()[2] == "0" for line in said.splitlines() if line.startswith(("clip_", "text_", "image_")))
    shutil.rmtree(next(world.work.glob("cache/image_pooled-*")))
    before = world.shards()
    line = next(line for line in world.here("EstimateCache").splitlines() if line.startswith("image_pooled")).split()
    rows, megabytes = int(line[2]), float(line[3])
    assert rows == int(line[1]) > 0 and world.shards() == before
    assert megabytes == pytest.approx(rows * (512 * 2 + 18) / 1e6, abs=0.1)


def test_clean_lists_what_no_profile_asks_for_and_removes_it_on_request(world):
    shutil.rmtree(world.work / "receipts")  # they name the profile that this one was copied from
    world.here("ExtractFeatures")
    world.here("ExtractFeatures", "--features", "text_tokens@1")
    assert "every feature in the cache is asked for" in world.here("CleanCache", profile=False)
    old = next(world.work.glob("cache/image_pooled-*"))
    checkpoints.resnet(world.root / "resnet", seed=7)
    world.here("ExtractFeatures")
    said = world.here("CleanCache", profile=False)
    assert old.name in said and said.count("image_pooled-") == 1 and old.exists()
    world.here("CleanCache", "--remove", profile=False)
    assert not old.exists() and len(list(world.work.glob("cache/image_pooled-*"))) == 1


def test_clean_refuses_a_profile_that_does_not_exist_and_names_one_that_is_gone(world):
    shutil.rmtree(world.work / "receipts")
    world.here("ExtractFeatures")
    profile, before = world.root / "small.yaml", world.shards()
    moved = profile.rename(world.root / "moved.yaml")
    code, said = commands.run(*world.arguments("CleanCache", profile=False), "--profiles", str(profile), "--remove")
    assert code == 30 and f"error: {profile}: no such profile file" in said and world.shards() == before
    said = world.here("CleanCache", profile=False)
    assert f"the profile {profile}, which features were extracted with, is gone" in said and "clip_text-" in said
    assert "every feature in the cache is asked for" in world.here(
        "CleanCache", "--profiles", str(moved), "--remove", profile=False
    )
    assert world.shards() == before


def test_two_runs_of_one_command_at_once_both_succeed(base, tmp_path):
    shutil.copytree(base.root, tmp_path / "copy", ignore=shutil.ignore_patterns("work"))
    fresh = World(tmp_path / "copy")
    with ThreadPoolExecutor(2) as pool:
        for said in pool.map(lambda _: fresh.luigi("ExtractFeatures", "--features", "image_pooled"), range(2)):
            assert "image_pooled" in said
    assert fresh.luigi("VerifyCache", profile=False).count("holds") == 1
    rows = [receipt["run"]["rows"]["image_pooled"] for receipt in fresh.receipts("ExtractGroup").values()]
    assert len(rows) == 1 and len(list(fresh.work.glob("cache/image_pooled-*/*.h5"))) == 1


def test_a_dry_run_says_what_would_run_and_writes_nothing(base, tmp_path):
    fresh = World(base.root)
    fresh.work = tmp_path / "none"
    said = fresh.luigi("TrainHead", "--dry-run")
    order = [said.index(f"would run {name}") for name in ("PrepareDataset", "ExtractGroup", "TrainHead")]
    assert order == sorted(order) and not fresh.work.exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["TrainHead", "--method", "mimmic"], "mimic"),
        (["TrainHead", "--params", '{"learning_rate": 1}'], "'learning_rate'"),
        (["TrainHead", "--params", '{"lr": "high"}'], "lr"),
        (["TrainHead", "--params", "{lr: 1}"], "--params, column 2: malformed JSON"),
        (["ExtractFeatures", "--features", "clip_txt"], "did you mean 'clip_text'?"),
        (["EstimateCache", "--features", "clip_txt"], "did you mean 'clip_text'?"),
        (["ExtractFeatures", "--device", "bogus"], "--device 'bogus': unknown"),
        (["TrainHead", "--precision", "bogus"], "--precision 'bogus': unknown"),
        (["ExtractFeatures", "--profile", "nowhere.yaml"], "nowhere.yaml: no such profile file"),
        (["PrepareDataset", "--data-dir", "nowhere"], "nowhere"),
        (["PrepareDataset", "--dataset", "../x"], "the label names a folder"),
        (["PrepareDataset", "--format", "mimik"], "mimic"),
    ],
)
def test_a_mistyped_option_ends_in_one_line_and_not_zero(base, options, message):
    said = base.luigi(*options, code=None)
    assert message in said and "Traceback" not in said, said


def test_a_gpu_that_is_not_there_is_one_line_and_nothing_is_written(base, tmp_path):
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    fresh = World(base.root)
    fresh.work = tmp_path / "work"
    said = fresh.luigi("ExtractFeatures", "--device", "cuda", code=30)
    assert said.count("--device cuda") == 1 and "Traceback" not in said, "once, not once for each group"
    assert not list(fresh.work.glob("cache/*"))
    before = sorted(base.work.glob("runs/small/mimic/*"))
    code, said = commands.run(*base.arguments("TrainHead"), "--seed", "77", "--device", "cuda")
    assert code == 30 and "error: --device cuda" in said and sorted(base.work.glob("runs/small/mimic/*")) == before


def test_models_that_are_missing_are_named_a_line_each_before_anything_is_extracted(world):
    profile = world.root / "small.yaml"
    said = yaml.safe_load(profile.read_text())
    for feature in ("text_tokens", "image_pooled"):
        said["features"][feature]["model"] = f"nowhere/{feature}"
    profile.write_text(yaml.safe_dump(said))
    shutil.rmtree(world.work / "cache")
    lines = world.luigi("ExtractFeatures", code=30).splitlines()
    assert sorted(line.partition(" is not on this machine")[0] for line in lines) == [
        f"error: model 'nowhere/{feature}'" for feature in ("image_pooled", "text_tokens")
    ]
    assert all(f"`hf download {line.split(chr(39))[1]} " in line for line in lines)
    assert not (world.work / "cache").exists()


def test_a_wrong_key_among_a_profiles_heads_is_refused_by_every_command_that_runs_models(world):
    profile = world.root / "small.yaml"
    profile.write_text(profile.read_text().replace("epochs: 2", "epoch: 2"))
    for command in ("ExtractFeatures", "TrainHead"):
        code, said = commands.run(*world.arguments(command))
        assert f"{profile}: heads.mimic: unknown key 'epoch'; did you mean 'epochs'?" in str(code) + said


def test_help_is_there_for_every_command(base):
    for name in ("ExtractFeatures", "TrainHead"):
        assert "--data-dir" in base.luigi(name, "--help", profile=False)

"""Killed, starved of space, crowded: extraction afterwards holds the same rows, byte for byte."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import extraction_world
import numpy as np
import pytest
import small_world
from extraction_world import shards

from cache.shard import Shard
from cache.store import Store
from foundation import waiting
from foundation.checksums import read_sealed
from foundation.contracts import to_json
from foundation.errors import PassingError, UserError
from foundation.paths import Paths
from pipeline.datasets.contracts import PrepareJob
from pipeline.datasets.prepare import prepare
from pipeline.extraction import stage
from pipeline.extraction.contracts import ExtractionJob

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = """
import json, sys
from foundation.contracts import from_json, to_json
from pipeline.extraction import stage
from pipeline.extraction.contracts import ExtractionJob, Runtime
print(json.dumps(to_json(stage.extract(from_json(ExtractionJob, json.loads(sys.argv[1]))).account)))
"""
FAULTS = ["before-write", "mid-write", "before-link", "after-link", "mid-write:3", "after-link:4"]


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """An extraction job over four features in many small shards."""
    root = tmp_path_factory.mktemp("faults")
    extraction_world.prepared(root)
    made = extraction_world.job(root, extraction_world.texts("clip_text"), batch_size=4, shard_rows=8)
    return at(root, made)


def at(work: Path, job: ExtractionJob, **runtime: Any) -> ExtractionJob:
    """The job in another work folder."""
    return replace(job, work=work, columns=work / "columns", runtime=replace(job.runtime, **runtime))


def images(job: ExtractionJob) -> ExtractionJob:
    return replace(job, wants=tuple(extraction_world.pictures("clip_image", "image_pooled")))


def leftovers(work: Path) -> list[str]:
    return [
        path.name
        for path in Paths(work).cache.rglob("*")
        if path.is_file() and path.suffix != ".h5" and path.name not in ("spec.json", ".lock")
    ]


@pytest.mark.parametrize("kind", ["texts", "pictures"])
def test_an_extraction_killed_at_every_point_and_at_50_random_moments_ends_with_the_same_bytes(job, tmp_path, kind):
    work = tmp_path / "work"
    job = at(work, job if kind == "texts" else images(job))
    options = {"job": to_json(job), "faults": FAULTS, "kills": 25}
    command = [sys.executable, str(ROOT / "tests" / "kill_loop.py"), json.dumps(options)]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads(done.stdout.splitlines()[-1])
    assert all(report["stopped"].values()), report
    assert report["killed"] == 25, report
    calm = shards(tmp_path / "work-calm")
    assert len(calm) > 4
    assert shards(work) == calm
    for fault in FAULTS:
        assert shards(tmp_path / f"work-{fault.partition(':')[0]}") == calm, fault
    assert [name for name in leftovers(work) if not name.endswith(".claim")] == []


def test_two_processes_extract_one_feature_at_once_and_divide_the_work(job, tmp_path):
    job = at(tmp_path / "shared", images(job), shard_rows=2, batch_size=2)
    jobs = [replace(job, columns=job.work / f"columns{number}") for number in range(2)]
    commands = [[sys.executable, "-c", SCRIPT, json.dumps(to_json(one))] for one in jobs]
    running = [
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for command in commands
    ]
    accounts = []
    for process in running:
        out, error = process.communicate(timeout=200)
        assert process.returncode == 0, error[-2000:]
        accounts.append(json.loads(out.splitlines()[-1]))
    alone = at(tmp_path / "alone", job)
    rows = stage.extract(alone).account.rows
    assert {name: sum(account["rows"][name] for account in accounts) for name in rows} == rows, (
        "no row was done twice, none left out"
    )
    assert shards(job.work) == shards(alone.work)


def test_a_full_disk_is_refused_before_the_first_row(job, tmp_path, monkeypatch):
    monkeypatch.setattr(stage, "free_bytes", lambda path: 1000)
    with pytest.raises(UserError, match=r"no space for the features.*MB to come and 67 MB to be kept free, 0 MB free"):
        stage.extract(at(tmp_path, job))
    assert not list(tmp_path.rglob("*.h5"))


@pytest.fixture
def tiny_disk(tmp_path):
    """A file system of 2 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("a small file system cannot be mounted here (needs root)")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_disk_that_fills_up_on_the_way_ends_in_one_line_and_leaves_no_half_file(
    job, tmp_path, tiny_disk, monkeypatch
):
    monkeypatch.setattr(stage, "MARGIN", -(1 << 40))
    work = at(tiny_disk, images(job))
    (tiny_disk / "filler").write_bytes(b"x" * (shutil.disk_usage(tiny_disk).free - 160_000))
    with pytest.raises(UserError, match="no space left") as error:
        stage.extract(work)
    assert "\n" not in str(error.value)
    for path in tiny_disk.rglob("*.h5"):
        assert len(Shard(path).keys), "what has a final name is whole"
    for path in tiny_disk.glob("filler*"):
        path.unlink()
    stage.extract(work)
    calm = at(tmp_path / "calm", work)
    stage.extract(calm)
    assert shards(tiny_disk) == shards(calm.work)


def test_a_preparation_on_a_full_disk_leaves_all_tables_or_none(tmp_path, tiny_disk):
    data = small_world.write(tmp_path / "data")
    work = PrepareJob(name="small", data_dir=data, out=tiny_disk / "out", memo=tmp_path / "memo")
    page, failures, filler = 4096, 0, tiny_disk / "filler"
    while True:
        filler.write_bytes(b"")
        filler.write_bytes(b"x" * (shutil.disk_usage(tiny_disk).free - failures * page))
        try:
            prepare(work)
            break
        except UserError as error:
            assert "no space left" in str(error) and "\n" not in str(error)
            assert not (tiny_disk / "out").exists(), f"{failures} pages free"
            failures += 1
    whole = {path.name: path.read_bytes() for path in (tiny_disk / "out").iterdir()}
    assert failures > 4 and set(whole) == {"mentions.parquet", "entities.parquet", "account.txt", "account.json"}
    filler.write_bytes(b"x" * (filler.stat().st_size + shutil.disk_usage(tiny_disk).free))
    with pytest.raises(UserError, match="no space left"):
        prepare(work)
    assert {path.name: path.read_bytes() for path in (tiny_disk / "out").iterdir()} == whole, (
        "tables that were there stay"
    )


def test_a_read_only_place_ends_in_one_line(job, tmp_path):
    place = tmp_path / "disk"
    place.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "ro,size=400k", "tmpfs", str(place)], capture_output=True, check=False
    ).returncode:
        pytest.skip("a read-only file system cannot be mounted here (needs root)")
    try:
        with pytest.raises(UserError, match="read-only"):
            stage.extract(at(place, job))
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def test_broken_pictures_are_verdicts_in_the_store_and_are_not_read_again(job, tmp_path):
    data = small_world.write(tmp_path / "data")
    whole = (data / "mentions" / "m0.png").read_bytes()
    (data / "mentions" / "m0.png").write_bytes(whole[: len(whole) // 2])
    (data / "mentions" / "m1.png").write_text("not a picture")
    (data / "mentions" / "m2.png").unlink()
    prepare(PrepareJob(name="small", data_dir=data, out=tmp_path / "prepared"))
    work = replace(at(tmp_path, images(job)), dataset=tmp_path / "prepared", images={"mention": data, "entity": data})
    first = stage.extract(work).extraction.features["clip_image"]
    assert first.verdicts["broken"] == 2 and first.verdicts["ok"] == first.rows - 2
    again = stage.extract(work)
    assert again.account.model_loads == () and again.extraction.features["clip_image"].verdicts == first.verdicts


def test_a_picture_that_cannot_be_read_now_leaves_the_task_undone_and_is_done_later(job, tmp_path, monkeypatch):
    from pipeline.extraction import shard_rows

    plain = shard_rows.decoding
    calls = []

    def flaky(data, limits):
        calls.append(1)
        if len(calls) == 3:
            raise OSError(5, "Input/output error")
        return plain(data, limits)

    monkeypatch.setattr(shard_rows, "decoding", flaky)
    work = at(tmp_path, images(job))
    with pytest.raises(PassingError, match=r"1 pictures could not be read and stay undone.*run the same command again"):
        stage.extract(work)
    assert stage.extract(work).account.rows == {"clip_image": 1, "image_pooled": 1}


def test_a_model_that_gives_other_numbers_than_its_cache_is_refused(job, tmp_path):
    work = at(tmp_path, job)
    stage.extract(work)
    store = Store.open(next(Paths(tmp_path).cache.glob("clip_text-*")))
    store.set_probe({name: [0.5] * len(values) for name, values in store.probe.items()})
    for path in store.folder.glob("*.h5"):
        path.unlink()
    remedy = f"delete the folder {store.folder} and run the same command again"
    with pytest.raises(UserError, match=f"no longer gives the numbers in its cache.*{remedy}"):
        stage.extract(work)
    shutil.rmtree(store.folder)
    assert stage.extract(work).account.rows["clip_text"] > 0


@pytest.mark.parametrize("kind", ["texts", "pictures"])
def test_a_model_that_is_refused_leaves_no_empty_store(job, tmp_path, monkeypatch, kind):
    work = at(tmp_path, job if kind == "texts" else images(job))
    for name in ("pipeline.extractors.clip_text.ClipText.load", "pipeline.extractors.clip_image.ClipImage.load"):
        monkeypatch.setattr(name, refused)
    with pytest.raises(UserError, match="refused"):
        stage.extract(work)
    assert [path.name.partition("-")[0] for path in (tmp_path / "cache").iterdir()] == []


def refused(self, device):
    raise UserError("refused")


def test_a_spec_that_was_lost_is_made_again_and_no_row_with_it(job, tmp_path):
    work = at(tmp_path, job)
    files = stage.extract(work).files
    (lost,) = [tmp_path / file for file in files if file.endswith("spec.json")]
    content = read_sealed(lost)
    lost.unlink()
    assert stage.estimate(work).features[0].rows == 0 and not lost.exists()
    again = stage.extract(work)
    assert again.account.rows == {"clip_text": 0} and again.account.model_loads == () and again.files == files
    assert read_sealed(lost) == {**content, "probe": None}


def test_pictures_are_decoded_while_the_model_is_loaded_and_across_shards(job, tmp_path, monkeypatch):
    from pipeline.extraction import shard_rows
    from pipeline.extractors.clip_image import ClipImage

    plain_decode, plain_load, decoded = shard_rows.decoding, ClipImage.load, threading.Semaphore(0)

    def decode(data, limits):
        decoded.release()
        return plain_decode(data, limits)

    def load(self, device):
        for _ in range(2 * 3):  # three shards of two rows, and a batch has one
            assert decoded.acquire(timeout=60)
        plain_load(self, device)

    monkeypatch.setattr(shard_rows, "decoding", decode)
    monkeypatch.setattr(ClipImage, "load", load)
    account = stage.extract(at(tmp_path, images(job), batch_size=1, shard_rows=2)).account
    assert set(account.model_loads) == {"clip_image", "image_pooled"} and len(shards(tmp_path)) > 6


def test_memory_that_runs_out_halves_the_batch(job, tmp_path, monkeypatch):
    from pipeline.extractors.clip_image import ClipImage

    plain, sizes = ClipImage.__call__, []

    def hungry(self, batch):
        sizes.append(len(batch))
        if len(batch) > 2:
            raise MemoryError
        return plain(self, batch)

    monkeypatch.setattr(ClipImage, "__call__", hungry)
    work = at(tmp_path / "hungry", images(job), batch_size=8)
    rows = stage.extract(work).extraction.features["clip_image"]
    assert max(sizes) == 8 and rows.verdicts == {"ok": rows.rows}
    calm = at(tmp_path / "calm", work, batch_size=2)
    monkeypatch.undo()
    stage.extract(calm)
    for halved, plain_shard in zip(
        sorted(Paths(work.work).cache.glob("clip_image-*/*.h5")),
        sorted(Paths(calm.work).cache.glob("clip_image-*/*.h5")),
        strict=True,
    ):
        np.testing.assert_allclose(
            np.asarray(Shard(halved).fixed("pooled")), np.asarray(Shard(plain_shard).fixed("pooled")), atol=2e-3
        )


def test_a_stale_claim_of_a_killed_process_does_not_hold_the_next_one(job, tmp_path):
    work = at(tmp_path, job)
    subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(to_json(work))],
        cwd=ROOT,
        env={**os.environ, "MEL_FAULT": "mid-write"},
        capture_output=True,
        check=False,
    )
    assert list(tmp_path.rglob("*.claim")), "the killed process left its claim"
    started = time.monotonic()
    stage.extract(work)
    assert time.monotonic() - started < 60, "a claim of a dead process is not waited out"


def test_a_shard_that_another_machine_extracts_is_waited_for_said_and_done_once_its_claim_is_deleted(
    job, tmp_path, monkeypatch
):
    work, lines = at(tmp_path, job), []
    stage.extract(work)
    calm = shards(tmp_path)
    lost = next(Paths(tmp_path).cache.glob("clip_text-*/*.h5"))
    lost.unlink()
    claim = lost.parent / "claims" / f"{lost.name}.claim"
    claim.write_text(json.dumps({"host": "0123abcd", "pid": 7, "started": "", "machine": "far", "since": time.time()}))

    def say(text):
        lines.append(text)
        claim.unlink()  # the remedy

    monkeypatch.setattr(waiting, "PATIENCE", 0.0)
    monkeypatch.setattr(waiting, "say", say)
    stage.extract(work)
    assert len(lines) == 1 and "1 shards of clip_text" in lines[0] and "process 7 on far since 20" in lines[0]
    assert f"{claim}: " in lines[0] and shards(tmp_path) == calm

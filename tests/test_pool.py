"""A pool of processes: the bytes of one process, a killed process costs its chunk alone, an error ends all of them."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import extraction_world
import pytest
from extraction_world import shards

from foundation import child, device, logs
from foundation.contracts import to_json
from foundation.errors import UserError
from pipeline.extraction import pool, stage
from pipeline.extraction.contracts import Account, ExtractionJob

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = """
import json, sys
from foundation.contracts import from_json
from pipeline.extraction import stage
from pipeline.extraction.contracts import ExtractionJob
stage.extract(from_json(ExtractionJob, json.loads(sys.argv[1])))
"""


@pytest.fixture(autouse=True)
def threads(monkeypatch):
    """Processes on one thread each, as the one of the tests."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """Pictures for two features, in shards of two rows."""
    root = tmp_path_factory.mktemp("pool")
    extraction_world.prepared(root)
    return extraction_world.job(
        root, extraction_world.pictures("clip_image", "image_pooled"), batch_size=2, shard_rows=2
    )


@pytest.fixture(scope="module")
def calm(job):
    """The shards of one process, and their rows."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        rows = stage.extract(job).account.rows
    finally:
        torch.set_num_threads(before)
    return shards(job.work), rows


def at(work: Path, job: ExtractionJob, **runtime: Any) -> ExtractionJob:
    return replace(job, work=work, columns=work / "columns", runtime=replace(job.runtime, **runtime))


def refused(*_: Any) -> None:
    raise AssertionError("a model was loaded in the process that started the pool")


def test_two_processes_give_the_bytes_of_one_and_this_one_loads_no_model(job, calm, tmp_path, monkeypatch):
    for name in ("clip_image.ClipImage", "image_pooled.ImagePooled"):
        monkeypatch.setattr(f"pipeline.extractors.{name}.load", refused)
    account = stage.extract(at(tmp_path, job, devices=("cpu", "cpu"))).account
    assert shards(tmp_path) == calm[0] and account.rows == calm[1], "each row once"
    assert account.device == "cpu" and set(account.model_loads) == set(account.rows)
    assert not list(tmp_path.rglob("*.claim")) and not list(tmp_path.rglob("chunks.parquet"))


def test_processes_that_are_killed_again_and_again_lose_no_row(job, calm, tmp_path, monkeypatch):
    lines: list[str] = []
    monkeypatch.setattr(logs, "notice", lambda line, *_: lines.append(line))
    monkeypatch.setenv("MEL_FAULT", "before-link:10")  # each process dies with its tenth shard written and not named
    account = stage.extract(at(tmp_path, job, devices=("cpu", "cpu"))).account
    assert shards(tmp_path) == calm[0]
    assert lines and set(lines) == {"the process on cpu was killed; it is started again"}
    assert all(account.rows[name] <= rows for name, rows in calm[1].items())
    assert not list(tmp_path.rglob("*.tmp"))


def test_where_every_process_is_killed_at_once_the_command_says_so(job, tmp_path, monkeypatch):
    monkeypatch.setenv("MEL_FAULT", "before-write")
    monkeypatch.setattr(pool, "RESTARTS", 0)
    with pytest.raises(child.Killed, match=r"was killed \(signal 9\).* Run the same command again to continue"):
        stage.extract(at(tmp_path, job, devices=("cpu", "cpu")))
    assert not shards(tmp_path)


def test_a_device_that_is_not_there_ends_the_others_too(job, tmp_path):
    with pytest.raises(UserError, match="--device cuda:99"):
        stage.extract(at(tmp_path, job, devices=("cuda:99", "cpu")))


def test_when_the_first_process_is_killed_its_workers_end_and_the_same_command_goes_on(job, calm, tmp_path):
    work = at(tmp_path, job, devices=("cpu", "cpu"))
    driver = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, json.dumps(to_json(work))], cwd=ROOT, start_new_session=True
    )
    try:
        until(lambda: shards(tmp_path))
        os.kill(driver.pid, signal.SIGKILL)
        driver.wait()
        until(lambda: not alive(driver.pid))
    finally:
        if alive(driver.pid):
            os.killpg(driver.pid, signal.SIGKILL)
    assert set(shards(tmp_path).items()) <= set(calm[0].items())
    stage.extract(work)
    assert shards(tmp_path) == calm[0]


def until(condition) -> None:
    end = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def alive(session: int) -> bool:
    """Whether a process of the session runs."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            return True
    return False


def test_accounts_of_several_processes_are_added_up():
    one = Account(rows={"a": 1, "b": 2}, model_loads=("a",), device="cpu", stages={"model": 1.5})
    other = Account(rows={"b": 3}, device="cuda:0", stages={"model": 1.0, "read": 0.5})
    assert pool.summed([one, other]) == Account(
        rows={"a": 1, "b": 5}, model_loads=("a",), device="cpu, cuda:0", stages={"model": 2.5, "read": 0.5}
    )


@pytest.mark.parametrize(
    ("text", "named"),
    [("", ()), ("cpu:2", ("cpu", "cpu")), ("cuda:0, cuda:1", ("cuda:0", "cuda:1")), ("cuda,cpu:1", ("cuda", "cpu"))],
)
def test_devices_as_they_are_typed(text, named):
    assert device.several(text) == named


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cpu:0", "expected cpu:N with N from 1 to 256"),
        ("cpu:x", "expected cpu:N"),
        ("gpu:0", "unknown; expected one of"),
        ("cuda:0,cuda:0", "cuda:0 is named twice"),
    ],
)
def test_devices_that_cannot_be_meant_are_refused(text, message):
    with pytest.raises(UserError, match=f"--devices .*{message}"):
        device.several(text)

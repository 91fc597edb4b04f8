"""Extraction on a Ray cluster of two nodes: the bytes of one process, a lost node or worker costs its chunks alone."""

import contextlib
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import extraction_world
import pytest
import ray_cluster
from extraction_world import shards
from test_layers import state

from foundation import layers, logs
from pipeline.extraction import stage
from pipeline.extraction.contracts import ExtractionJob, PartJob


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """Pictures for two features, in shards of two rows."""
    root = tmp_path_factory.mktemp("ray")
    extraction_world.prepared(root)
    return extraction_world.job(
        root, extraction_world.pictures("clip_image", "image_pooled"), batch_size=2, shard_rows=2
    )


@pytest.fixture(scope="module")
def calm(job):
    """The shards of one process on one thread, and their rows."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        rows = stage.extract(job).account.rows
    finally:
        torch.set_num_threads(before)
    return shards(job.work), rows


@pytest.fixture(scope="module")
def cluster():
    with ray_cluster.two_nodes() as made:
        yield made


def at(work: Path, job: ExtractionJob, **runtime: Any) -> ExtractionJob:
    return replace(job, work=work, columns=work / "columns", runtime=replace(job.runtime, ray="auto", **runtime))


def actors() -> list[int]:
    """The processes of the cluster's actors."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if path.read_bytes().startswith(b"ray::Remote"):
                found.append(int(path.parent.name))
    return found


def refused(*_: Any) -> None:
    raise AssertionError("a model was loaded in the driver")


def test_two_nodes_give_the_bytes_of_one_process_and_the_driver_loads_no_model(
    job, calm, cluster, tmp_path, monkeypatch
):
    for name in ("clip_image.ClipImage", "image_pooled.ImagePooled"):
        monkeypatch.setattr(f"pipeline.extractors.{name}.load", refused)
    account = stage.extract(at(tmp_path, job)).account
    assert shards(tmp_path) == calm[0] and account.rows == calm[1], "each row once"
    assert account.device == "cpu" and not list(tmp_path.rglob("*.claim")) and not list(tmp_path.rglob("*.tmp"))
    for store in (tmp_path / "cache").iterdir():
        there = job.work / "cache" / store.name / "spec.json"
        assert (store / "spec.json").read_bytes() == there.read_bytes(), "with the probe"


def test_a_node_that_is_lost_and_a_worker_that_is_killed_cost_no_row(job, calm, cluster, tmp_path, monkeypatch):
    lines: list[str] = []
    monkeypatch.setattr(logs, "notice", lambda line, *_: lines.append(line))
    third = cluster.add_node(num_cpus=1)
    from cache import union

    plain, puts = union.put, []

    def put(*shard: Any) -> None:
        plain(*shard)
        puts.append(shard)
        if len(puts) == 2:
            cluster.remove_node(third, allow_graceful=False)
        if len(puts) == 6:
            os.kill(actors()[0], signal.SIGKILL)

    monkeypatch.setattr(union, "put", put)
    account = stage.extract(at(tmp_path, job)).account
    assert shards(tmp_path) == calm[0] and account.rows == calm[1]
    assert len(lines) >= 2 and all("is lost" in line and "done again" in line for line in lines), lines


def test_a_driver_that_breaks_off_leaves_whole_shards_and_the_same_command_goes_on(
    job, calm, cluster, tmp_path, monkeypatch
):
    from cache import union

    plain = union.put

    def put(*shard: Any) -> None:
        plain(*shard)
        raise KeyboardInterrupt

    monkeypatch.setattr(union, "put", put)
    with pytest.raises(KeyboardInterrupt):
        stage.extract(at(tmp_path, job))
    monkeypatch.undo()
    assert 0 < len(shards(tmp_path)) < len(calm[0]) and not list(tmp_path.rglob("*.claim"))
    stage.extract(at(tmp_path, job))
    assert shards(tmp_path) == calm[0]


def test_what_a_layer_has_is_not_computed_on_the_cluster_and_nothing_is_written_there(job, calm, cluster, tmp_path):
    theirs, own = tmp_path / "theirs", tmp_path / "own"
    stage.extract_part(PartJob(extraction=replace(job, work=theirs, columns=theirs / "columns"), part=1, parts=2))
    before = state(theirs)
    layers.use(own / "cache", f":{theirs / 'cache'}")
    account = stage.extract(at(own, job)).account
    assert shards(own) and not shards(own).keys() & shards(theirs).keys()
    assert shards(own) | shards(theirs) == calm[0] and state(theirs) == before
    assert all(0 < account.rows[name] < rows for name, rows in calm[1].items())

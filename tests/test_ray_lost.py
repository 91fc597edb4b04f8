"""Trainings and searches on a Ray cluster that loses a node or the command: what they were at alone is done again."""

import contextlib
import json
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import ray_cluster
from heads_world import build_job
from test_ray_training import MADE, ONE, training_in, with_a_trial
from test_search import rows, search_job, states

from experiments import on_ray, trainers
from experiments.contracts import RemoteSearch, RemoteTraining
from foundation import logs
from foundation.contracts import to_json

SEARCH = """
import json, sys
from pathlib import Path
from experiments import on_ray
from experiments.contracts import RemoteSearch
from foundation.contracts import from_json
on_ray.search(from_json(RemoteSearch, json.loads(Path(sys.argv[1]).read_text())))
"""


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """A training over texts alone."""
    return replace(build_job(tmp_path_factory.mktemp("world"), images=False), compute=ONE)


@pytest.fixture
def lines(monkeypatch):
    """What commands say beside their results."""
    said: list[str] = []
    monkeypatch.setattr(logs, "notice", lambda line, *_: said.append(line))
    return said


@contextlib.contextmanager
def losing(cluster, find):
    """Inside, the node of the process that `find()` gives is lost as soon as it gives one; yields those that are."""
    ended, lost = threading.Event(), []

    def watch():
        while not ended.wait(0.02):
            if (pid := find()) is None:
                continue
            parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
            for node in list(cluster.worker_nodes):
                if parent in {raylet.process.pid for raylet in node.all_processes["raylet"]}:
                    cluster.remove_node(node, allow_graceful=False)
                    lost.append(node)
                    return

    thread = threading.Thread(target=watch)
    thread.start()
    yield lost
    ended.set()
    thread.join()


def test_a_training_whose_node_is_lost_goes_on_on_another_one(job, tmp_path, lines):
    trainers.train(replace(job, out=tmp_path / "calm"))
    out = tmp_path / "lost"
    out.mkdir()
    with (
        ray_cluster.two_nodes(head_computes=False) as cluster,
        losing(cluster, lambda: training_in(out)) as lost,
    ):
        on_ray.train(RemoteTraining(training=replace(job, out=out), address="auto", threads=1))
    assert len(lost) == 1 and "is lost" in lines[0]
    for name in MADE:
        assert (out / name).read_bytes() == (tmp_path / "calm" / name).read_bytes(), name


def test_a_search_that_loses_a_node_does_its_trial_again_and_no_other(job, tmp_path):
    wanted = search_job(job, tmp_path, config={"epochs": 12, "patience": 0}, trials=4, prune=False)
    with (
        ray_cluster.two_nodes(head_computes=False) as cluster,
        losing(cluster, lambda: with_a_trial(wanted)) as lost,
    ):
        on_ray.search(RemoteSearch(search=wanted, address="auto", threads=1))
    assert len(lost) == 1
    assert states(tmp_path) == {"complete": 4, "fail": 1}
    failed = [row["trial"] for row in rows(tmp_path) if row["state"] == "fail"]
    assert [row["again"] for row in rows(tmp_path) if row["again"]] == failed


def test_a_search_whose_command_is_killed_goes_on_when_it_is_given_again(job, tmp_path):
    wanted = search_job(job, tmp_path / "out", config={"epochs": 12, "patience": 0}, trials=4, prune=False)
    wanted.out.mkdir(exist_ok=True)
    with ray_cluster.two_nodes() as cluster:
        given = tmp_path / "job.json"
        given.write_text(json.dumps(to_json(RemoteSearch(search=wanted, address=cluster.address, threads=1))))
        command = subprocess.Popen([sys.executable, "-c", SEARCH, str(given)])
        while command.poll() is None and with_a_trial(wanted) is None:
            time.sleep(0.02)
        assert command.poll() is None, "it is killed amid a trial"
        command.kill()
        command.wait()
        on_ray.search(RemoteSearch(search=wanted, address="auto", threads=1))
    assert states(tmp_path / "out")["complete"] == 4

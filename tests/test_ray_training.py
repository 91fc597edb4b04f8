"""Trainings and searches on a Ray cluster of two nodes: runs of one process, a killed process costs what it was at."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import ray_cluster
from heads_world import build_job
from optuna.trial import TrialState
from test_search import rows, search_job, states

from experiments import on_ray, search, studies, trainers
from experiments.contracts import RemoteSearch, RemoteTraining
from foundation import child, logs
from foundation.errors import UserError
from heads.contracts import Compute
from mel_cache.commands.compare import CompareHeads, MaskedPictures
from mel_cache.commands.heads import TrainHead, TunedFeatures
from mel_cache.commands.search import SearchHead

ROOT = Path(__file__).resolve().parents[1]
ONE = Compute(device="cpu", threads=1)
MADE = ("model.safetensors", "metrics.json", "predictions.parquet")


@pytest.fixture(scope="module")
def cluster():
    with ray_cluster.two_nodes() as made:
        yield made


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """A training over texts alone, and its run by one process in `calm`."""
    job = replace(build_job(tmp_path_factory.mktemp("world"), images=False), compute=ONE)
    trainers.train(replace(job, out=job.dataset / "calm"))
    return job


@pytest.fixture
def lines(monkeypatch):
    """What commands say beside their results."""
    said: list[str] = []
    monkeypatch.setattr(logs, "notice", lambda line, *_: said.append(line))
    return said


@contextlib.contextmanager
def killer(find):
    """Inside, the process that `find()` gives is killed as soon as it gives one."""
    ended = threading.Event()

    def watch():
        while not ended.wait(0.02):
            if (pid := find()) is not None:
                os.kill(pid, signal.SIGKILL)
                return

    thread = threading.Thread(target=watch)
    thread.start()
    yield
    ended.set()
    thread.join()


def training_in(folder):
    """The process of the cluster that has begun to write to the folder."""
    if any(folder.iterdir()):
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                if path.read_bytes().startswith(b"ray::remote"):
                    return int(path.parent.name)
    return None


def with_a_trial(job):
    """A process that has drawn the values of a trial."""
    if not (job.out / studies.JOURNAL).exists():
        return None
    for trial in studies.open_study(job).get_trials(states=(TrialState.RUNNING,)):
        if studies.DRAWN in trial.user_attrs:
            return studies.process_of(trial.user_attrs[studies.WORKER]).pid
    return None


def test_a_training_on_a_node_leaves_the_files_of_one_here(job, cluster, tmp_path):
    result = on_ray.train(RemoteTraining(training=replace(job, out=tmp_path), address="auto", threads=1))
    for name in MADE:
        assert (tmp_path / name).read_bytes() == (job.dataset / "calm" / name).read_bytes(), name
    assert result.table == trainers.train(replace(job, out=job.dataset / "calm")).table
    before = (tmp_path / "run.json").stat().st_mtime_ns
    assert trainers.train(replace(job, out=tmp_path)).table == result.table, "and the run is complete"
    assert (tmp_path / "run.json").stat().st_mtime_ns == before


def test_a_training_whose_process_is_killed_goes_on_and_ends_with_the_same_bytes(job, cluster, tmp_path, lines):
    with killer(lambda: training_in(tmp_path)):
        on_ray.train(RemoteTraining(training=replace(job, out=tmp_path), address="auto", threads=1))
    assert len(lines) == 1 and "is lost" in lines[0] and "goes on" in lines[0]
    for name in MADE:
        assert (tmp_path / name).read_bytes() == (job.dataset / "calm" / name).read_bytes(), name


def test_processes_that_are_lost_again_and_again_end_the_command(job, cluster, tmp_path, lines, monkeypatch):
    monkeypatch.setattr(on_ray, "RESTARTS", 0)
    with killer(lambda: training_in(tmp_path)), pytest.raises(UserError, match="1 processes were lost"):
        on_ray.train(RemoteTraining(training=replace(job, out=tmp_path), address="auto", threads=1))


def test_a_search_on_two_nodes_is_one_study_and_the_trial_of_a_killed_process_is_queued_again(
    job, cluster, tmp_path, lines
):
    wanted = search_job(job, tmp_path, config={"epochs": 12, "patience": 0}, trials=6, prune=False)
    with killer(lambda: with_a_trial(wanted)):
        found = on_ray.search(RemoteSearch(search=wanted, address="auto", threads=1))
    assert states(tmp_path) == {"complete": 6, "fail": 1}
    again = [row for row in rows(tmp_path) if row["again"]]
    lost = [row for row in rows(tmp_path) if row["state"] == "fail"]
    assert [row["again"] for row in again] == [row["trial"] for row in lost]
    assert [again[0][name] for name in ("lr", "d_t", "batch_size")] == [
        lost[0][name] for name in ("lr", "d_t", "batch_size")
    ]
    assert any("is lost" in line for line in lines)
    kept = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.suffix in (".json", ".csv")}
    here = search.search(wanted)
    assert here.run["trials"] == 0 and (here.best, here.value, here.counts) == (found.best, found.value, found.counts)
    assert kept == {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.name in kept}


def test_a_search_that_cannot_train_says_why_as_here(job, cluster, tmp_path):
    wanted = search_job(job, tmp_path, {"lr": {"choices": [1e30]}}, trials=2)
    with pytest.raises(UserError, match="none of 2 trials could be trained to the end"):
        on_ray.search(RemoteSearch(search=wanted, address="auto", threads=1))


@pytest.mark.parametrize(
    ("expected", "versions", "message"),
    [
        ([1, 2], None, "must lie under the same path on a disk that all nodes share"),
        (None, {"torch": "1.0"}, "another version of numpy, python, torch"),
    ],
)
def test_a_node_that_sees_no_such_file_or_has_other_libraries_refuses(job, tmp_path, expected, versions, message):
    seen = job.dataset / "entities.parquet"
    answered = on_ray.remote(
        "experiments.trainers:train",
        {},
        str(seen),
        on_ray._seen(seen) if expected is None else expected,
        on_ray._versions() if versions is None else versions,
    )
    with pytest.raises(UserError, match=message) as raised:
        child.result_of(answered, dict, "train")
    assert socket.gethostname() in str(raised.value)


def test_commands_give_trainings_and_searches_to_the_cluster_and_keep_the_rest(job, tmp_path, monkeypatch):
    given = []
    monkeypatch.setattr(child, "run", lambda target, job, *_: given.append((target, job)))
    common = {"work_dir": str(tmp_path), "ray": "auto"}
    head = TrainHead(**common)
    head.run_child("experiments.trainers:train", job, object)
    head.run_child("report.averages:average", "averages", object)
    TunedFeatures(**common).run_child("experiments.learned:extract", job, object)
    MaskedPictures(**common).run_child("experiments.scores:masked", job, object)
    wanted = search_job(job, tmp_path)
    SearchHead(**common).run_child("experiments.search:search", wanted, object)
    assert given == [
        ("experiments.on_ray:train", RemoteTraining(training=job, address="auto", threads=1)),
        ("report.averages:average", "averages"),
        ("experiments.learned:extract", job),
        ("experiments.scores:masked", job),
        ("experiments.on_ray:search", RemoteSearch(search=wanted, address="auto", threads=1)),
    ]
    compared = CompareHeads(**common, methods="mimic,dwe", seeds=2)
    assert all(head.on_cluster and head.ray == "auto" for head in compared.experiments().values())
    assert head.digest() == TrainHead(work_dir=str(tmp_path)).digest(), "where it is trained names nothing"


def test_a_command_on_a_cluster_has_eight_tasks_side_by_side_unless_told_otherwise(tmp_path):
    asked = (
        "import sys, luigi.configuration\nfrom mel_cache.commands.shell import settings\n"
        "settings.apply(cluster=sys.argv[1] == 'cluster')\n"
        "print(luigi.configuration.get_config().get('core', 'workers'))"
    )

    def workers(where):
        words = [sys.executable, "-c", asked, where]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        return subprocess.run(words, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True).stdout

    assert (workers("cluster"), workers("here")) == ("8\n", "2\n")
    (tmp_path / "luigi.cfg").write_text("[core]\nworkers = 3\n")
    assert workers("cluster") == "3\n"

"""Searches: heads as training makes them, nothing of the test split, killed and joined studies, valid spaces."""

import csv
import json
import os
import pwd
import resource
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import MappingProxyType

import numpy as np
import optuna
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from heads_world import build_job, job_for
from optuna.trial import TrialState

from experiments import jobs, search, spaces, studies, sweep_report, towers
from experiments.contracts import SearchJob, Study
from foundation import waiting
from foundation.contracts import to_json
from foundation.errors import UserError
from heads import training
from heads.config import config_class, load_config, methods
from heads.config import to_json as config_json
from heads.config.space import Choices, check_space
from heads.contracts import TrainingJob
from heads.data import Bundle
from pipeline.profiles import profile as profiles

ROOT = Path(__file__).resolve().parents[1]
SPACE = {
    "lr": {"low": 1e-4, "high": 3e-2, "log": True},
    "d_t": {"choices": [4, 8]},
    "batch_size": {"low": 16, "high": 48, "step": 16},
}


def search_job(job, out, space=SPACE, config=MappingProxyType({}), **study):
    """A search over MIMIC into `out`. config: options beside the job's. study: of `Study`, 4 trials by default."""
    config = {**config_json(load_config("mimic", job.config)), **config}
    return SearchJob(
        training=replace(job, config=config, out=out),
        space=check_space(config_class("mimic"), space, "space"),
        given={"epochs": config["epochs"]},
        study=Study(**{"trials": 4, **study}),
        name="study",
        depends={},
    )


def rows(out):
    """Trials as the table has them, without what depends on the clock."""
    with (Path(out) / "trials.csv").open() as file:
        return [{name: value for name, value in row.items() if name != "seconds"} for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A training job over texts alone, and a search over it that nothing disturbed."""
    folder = tmp_path_factory.mktemp("world")
    job = build_job(folder, images=False)
    return job, search.search(search_job(job, folder / "sweep")), rows(folder / "sweep")


def test_the_first_trial_has_the_values_the_search_starts_from_and_the_best_trains_to_its_figure(world, tmp_path):
    job, found, told = world
    assert (float(told[0]["lr"]), int(told[0]["d_t"]), int(told[0]["batch_size"])) == (0.003, 8, 32)
    sweep = job.dataset / "sweep"
    best = json.loads((sweep / "best.json").read_text())
    assert best == found.best and set(best) == {"epochs", *SPACE}
    training.train(replace(job, config={**job.config, **best}, out=tmp_path))
    history = json.loads((tmp_path / "history.json").read_text())
    assert max(row["dev MRR"] for row in history["epochs"]) == found.value == max(float(row["dev MRR"]) for row in told)
    assert all(
        (sweep / name).read_bytes().startswith(b"\x89PNG") for name in ("history.png", "importance.png", "parallel.png")
    )
    assert json.loads((sweep / "study.json").read_text())["trials"] == {"complete": 4}


def test_tensors_are_loaded_once_for_all_trials(world, tmp_path, monkeypatch):
    loads, load = [], Bundle.load.__func__
    monkeypatch.setattr(Bundle, "load", classmethod(lambda cls, *args: loads.append(1) or load(cls, *args)))
    search.search(search_job(world[0], tmp_path))
    assert len(loads) == 1 and rows(tmp_path) == world[2], "and the same search draws the same trials"


def changed(job, folder, split):
    """The job with other golds, lists and features for the mentions of one split."""
    folder.mkdir()
    random = np.random.default_rng(1)
    table = pq.read_table(job.dataset / "mentions.parquet")
    here = table["split"].to_numpy(zero_copy_only=False) == split
    gold = np.where(here, random.integers(0, 40, len(here)), table["gold"].to_numpy()).astype(np.int32)
    names = [
        f"Q{row}" if mine else name for row, mine, name in zip(gold, here, table["gold_id"].to_pylist(), strict=True)
    ]
    columns = {**{name: table[name] for name in table.column_names}, "gold": gold, "gold_id": names}
    pq.write_table(pa.table(columns), folder / "mentions.parquet")
    shutil.copy(job.dataset / "entities.parquet", folder)
    ids = np.load(job.candidates)["ids"].copy()
    ids[here] = random.integers(0, 40, ids[here].shape)
    np.savez(folder / "candidates.npz", ids=ids)
    inputs = []
    for one in job.inputs:
        if one.side == "mention":
            with np.load(one.keys) as saved:
                columns = dict(saved)
            columns["keys"][here] = columns["keys"][here][random.permutation(int(here.sum()))]
            np.savez(folder / "keys.npz", **columns)
            one = replace(one, keys=folder / "keys.npz")
        inputs.append(one)
    return replace(job, dataset=folder, candidates=folder / "candidates.npz", inputs=tuple(inputs))


LISTS = tuple(json.dumps(units) for units in (["tglu", "vdlu", "cmfu"], ["tglu"], ["vdlu", "cmfu"]))
KINDS = (
    optuna.distributions.FloatDistribution(1e-5, 3e-2, log=True),
    optuna.distributions.CategoricalDistribution(LISTS),
    optuna.distributions.CategoricalDistribution((32, 64, 96, 128)),
    optuna.distributions.FloatDistribution(0.0, 0.5),
)


def _place(axes, axis, label):
    """Where the tick of a label is, in pixels, its other coordinate in the middle of the axes."""
    middle = (axes.bbox.x0 + axes.bbox.x1) / 2, (axes.bbox.y0 + axes.bbox.y1) / 2
    place = axes.transData.transform(label.get_position())
    return (place[0], middle[1]) if axis is axes.xaxis else (middle[0], place[1])


@pytest.mark.parametrize("options", [2, 4, 12])
def test_no_label_of_a_searchs_pictures_covers_another(options):
    from matplotlib import pyplot

    random = np.random.default_rng(0)
    study = optuna.create_study(direction="maximize")
    kinds = {f"hyper_parameter_{number}": KINDS[number % len(KINDS)] for number in range(options)}
    for _ in range(12):
        drawn = {
            name: kind.choices[random.integers(len(kind.choices))]
            if isinstance(kind, optuna.distributions.CategoricalDistribution)
            else float(random.uniform(kind.low, kind.high))
            for name, kind in kinds.items()
        }
        study.add_trial(optuna.trial.create_trial(params=drawn, distributions=kinds, value=random.random()))
    for name, figure in sweep_report.figures(study, sweep_report.importances(study)):
        figure.canvas.draw()
        shown = [
            (label.get_text(), label.get_window_extent())
            for axes in figure.axes
            for axis in (axes.xaxis, axes.yaxis)
            if axis.get_visible()
            for label in axis.get_ticklabels()
            if label.get_visible() and label.get_text()
            if axes.bbox.padded(1).contains(*_place(axes, axis, label))  # ticks beyond the ends are not drawn
        ]
        assert len(shown) >= (options if name != "history.png" else 4)
        # names of options below parallel axes lean: the corners of their boxes are empty and may meet
        leaning = [box for text, box in shown if name == "parallel.png" and text in ("dev MRR", *kinds)]
        upright = [(text, box) for text, box in shown if not any(box is other for other in leaning)]
        for place, (text, box) in enumerate(upright):
            assert not [other for other, one in upright[place + 1 :] if box.padded(-1).overlaps(one)], (name, text)
            assert not any(box.padded(-1).overlaps(one) for one in leaning), (name, text)
        assert min(np.diff(sorted(box.x0 for box in leaning)), default=99) > 20, (
            "a line's height between those that lean"
        )
        pyplot.close(figure)


def test_the_test_split_is_not_looked_at(world, tmp_path):
    search.search(search_job(changed(world[0], tmp_path / "test", "test"), tmp_path / "a"))
    assert rows(tmp_path / "a") == world[2]
    search.search(search_job(changed(world[0], tmp_path / "dev", "dev"), tmp_path / "b"))
    assert [row["dev MRR"] for row in rows(tmp_path / "b")] != [row["dev MRR"] for row in world[2]], "the dev split is"


def test_trials_that_do_worse_than_half_of_the_others_are_stopped(world, tmp_path):
    space, config = {"lr": {"choices": [0.003, 5.0]}}, {"epochs": 8, "patience": 0}
    search.search(search_job(world[0], tmp_path / "with", space, config, trials=16))
    told = rows(tmp_path / "with")
    pruned = [row for row in told if row["state"] == "pruned"]
    assert pruned and all(studies.WARMUP <= int(row["epochs"]) < 8 and float(row["lr"]) == 5.0 for row in pruned)
    assert max(float(row["dev MRR"]) for row in told if row["state"] == "complete") > max(
        float(row["dev MRR"]) for row in pruned
    )
    search.search(search_job(world[0], tmp_path / "without", space, config, trials=12, prune=False))
    assert {(row["state"], row["epochs"]) for row in rows(tmp_path / "without")} == {("complete", "8")}


def test_values_that_cannot_be_trained_are_told_and_passed_over(world, tmp_path):
    space = {"lr": {"choices": [0.003, 1e30]}}
    found = search.search(search_job(world[0], tmp_path, space))
    refused = [row for row in rows(tmp_path) if row["refused"]]
    assert refused and all(float(row["lr"]) == 1e30 and "lower learning rate" in row["refused"] for row in refused)
    assert found.best["lr"] == 0.003 and f"{len(refused)} could not be trained" in found.text
    with pytest.raises(UserError, match="none of 2 trials could be trained to the end"):
        search.search(search_job(world[0], tmp_path / "none", {"lr": {"choices": [1e30]}}, trials=2))


RUN = """
import json, sys
from experiments import search
from experiments.contracts import SearchJob
from foundation.contracts import from_json
print(json.dumps(search.search(from_json(SearchJob, json.loads(sys.argv[1]))).best))
"""


def start(job, **environment):
    return subprocess.Popen(
        [sys.executable, "-c", RUN, json.dumps(to_json(job))],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        stdout=subprocess.PIPE,
        text=True,
    )


def states(out):
    counts = {}
    for row in rows(out):
        counts[row["state"]] = counts.get(row["state"], 0) + 1
    return counts


def test_a_search_killed_and_started_again_loses_the_running_trial_alone(world, tmp_path):
    job = search_job(world[0], tmp_path, prune=False)
    assert start(job, MEL_FAULT="trial-epoch:8").wait(300) == -9
    journal = tmp_path / "study.journal"
    with journal.open("ab") as file:
        file.write(b'{"op_code": 4, "half a li')  # what a writer leaves that is killed in mid-write
    found = search.search(job)
    told = rows(tmp_path)
    assert [row["state"] for row in told] == ["complete", "complete", "fail", "complete", "complete"]
    assert told[3]["again"] == "2" and [told[3][name] for name in SPACE] == [told[2][name] for name in SPACE]
    assert told[:2] == world[2][:2] and found.run["trials"] == 2, "what was done is not done again"
    assert finished(tmp_path) == finished(job.training.dataset / "sweep") and found.best == world[1].best
    assert search.search(job).run["trials"] == 0
    assert not list((tmp_path / "workers").glob("*.claim")), "that of the killed process is gone too"
    assert search.search(replace(job, study=Study(trials=5, prune=False))).run["trials"] == 1, (
        "more trials go on from those"
    )


def test_two_searches_on_one_study_divide_the_trials(world, tmp_path):
    job = search_job(world[0], tmp_path, trials=9, prune=False)
    both = [start(job) for _ in range(2)]
    answers = [process.communicate(timeout=300)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0] and answers[0] == answers[1]
    assert states(tmp_path)["complete"] == 9
    study = studies.open_study(job)
    workers = {trial.user_attrs[studies.WORKER] for trial in study.get_trials(states=(TrialState.COMPLETE,))}
    assert len(workers) == 2, "both had a part in it"


def test_trials_of_dead_processes_are_queued_again_and_those_of_live_ones_left_alone(world, tmp_path):
    job = search_job(world[0], tmp_path)
    study = studies.open_study(job)
    here, elsewhere = studies.worker_name(), "0123abcd-1-x-{}"
    gone = subprocess.Popen(["true"])
    gone.wait()
    host = here.split("-")[0]
    workers = {
        "mine": here,
        "ended": f"{host}-{gone.pid}-x-00",
        "elsewhere": elsewhere.format("00"),
        "elsewhere, silent": elsewhere.format("11"),
    }
    for worker in workers.values():
        trial = study.ask()
        search.draw(trial, job.space)
        trial.set_user_attr(studies.WORKER, worker)
    with studies.at_work(tmp_path, workers["elsewhere"]):
        claim = tmp_path / "workers" / f"{workers['elsewhere']}.claim"
        claim.write_text(json.dumps({**json.loads(claim.read_text()), "host": "0123abcd"}))
        assert studies.requeue_dead(study, job) == [1, 3]
    assert [trial.state.name for trial in study.trials] == ["RUNNING", "FAIL", "RUNNING", "FAIL", "WAITING", "WAITING"]
    assert [trial.user_attrs["again"] for trial in study.trials[4:]] == [1, 3]


def test_a_trial_that_another_machine_runs_is_waited_for_said_and_taken_over_once_its_sign_is_deleted(
    world, tmp_path, monkeypatch
):
    job, lines = search_job(world[0], tmp_path), []
    study = studies.open_study(job)
    trial = study.ask()
    search.draw(trial, job.space)
    trial.set_user_attr(studies.WORKER, "0123abcd-1-x-00")
    sign = studies.sign_of_life(tmp_path, "0123abcd-1-x-00")
    sign.parent.mkdir()
    sign.write_text(json.dumps({"host": "0123abcd", "pid": 1, "started": "", "machine": "far", "since": time.time()}))

    def say(text):
        lines.append(text)
        sign.unlink()  # the remedy

    monkeypatch.setattr(waiting, "PATIENCE", 0.0)
    monkeypatch.setattr(waiting, "say", say)
    search.search(job)
    assert len(lines) == 1 and "process 1 on far since 20" in lines[0] and f"{sign}: " in lines[0]
    assert states(tmp_path) == {"complete": 4, "fail": 1}


def test_a_search_that_was_stopped_for_long_goes_on_when_its_trial_was_taken_over(world, tmp_path, monkeypatch):
    job, lost, plain = search_job(world[0], tmp_path, prune=False), [], search.Trainer.train

    def train(self, after):
        if not lost:
            other = studies.open_study(job)
            lost.append(other.trials[-1].number)
            other.tell(lost[0], state=TrialState.FAIL)
            studies.queue_again(other, other.trials[lost[0]])
        plain(self, after)

    monkeypatch.setattr(search.Trainer, "train", train)
    search.search(job)
    assert states(tmp_path) == {"complete": 4, "fail": 1}
    assert rows(tmp_path)[1]["again"] == "0"


def test_a_trial_of_a_stopped_process_is_queued_again_once_its_sign_of_life_is_old(world, tmp_path):
    job = search_job(world[0], tmp_path)
    study = studies.open_study(job)
    stopped = subprocess.Popen(["sleep", "600"])
    try:
        os.kill(stopped.pid, signal.SIGSTOP)
        os.waitpid(stopped.pid, os.WUNTRACED)
        host = studies.worker_name().split("-")[0]
        trial = study.ask()
        trial.set_user_attr(studies.WORKER, f"{host}-{stopped.pid}-x-00")
        sign = studies.sign_of_life(tmp_path, f"{host}-{stopped.pid}-x-00")
        sign.parent.mkdir()
        sign.write_text(json.dumps({"host": host, "pid": stopped.pid, "started": ""}))
        assert studies.requeue_dead(study, job) == []
        os.utime(sign, (time.time() - 60, time.time() - 60))
        assert studies.requeue_dead(study, job) == [0]
    finally:
        stopped.kill()
        stopped.wait()


def test_a_trial_whose_process_never_signed_it_is_queued_again_also_where_its_clock_was_ahead(world, tmp_path):
    job = search_job(world[0], tmp_path)
    study = studies.open_study(job)
    study.add_trial(optuna.trial.create_trial(state=TrialState.RUNNING))
    assert studies.requeue_dead(study, job) == []
    ahead = study.get_trials()[0]
    ahead.datetime_start += timedelta(days=1)
    assert studies._dead(ahead, set())


def test_trials_of_dead_processes_in_a_database_are_queued_again_by_those_who_wait(world, tmp_path):
    url = f"sqlite:///{tmp_path}/study.db"
    job = search_job(world[0], tmp_path, storage=url)
    study = studies.open_study(job)
    trial = study.ask()
    search.draw(trial, job.space)
    trial.set_user_attr(studies.WORKER, "0123abcd-1-x-00")
    study._storage.record_heartbeat(trial._trial_id)
    studies.requeue_dead(study, job)
    assert study.trials[0].state == TrialState.RUNNING
    with sqlite3.connect(tmp_path / "study.db") as database:
        database.execute("UPDATE trial_heartbeats SET heartbeat = datetime('now', '-1 hour')")
    studies.requeue_dead(study, job)
    assert [trial.state for trial in study.trials] == [TrialState.FAIL, TrialState.WAITING]


def test_a_disk_that_fills_in_the_middle_of_a_search_is_one_line_and_the_next_goes_on_as_it_would_have(world, tmp_path):
    job = search_job(world[0], tmp_path, prune=False)
    limit, plain, size = resource.getrlimit(resource.RLIMIT_FSIZE), search.Trainer.train, []

    def train(self, after):
        size.append((tmp_path / "study.journal").stat().st_size)
        if len(size) == 2:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size[-1] + 50, limit[1]))
        plain(self, after)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(UserError, match=r"study\.journal: .*allows no") as error:
        patch.setattr(search.Trainer, "train", train)
        try:
            search.search(job)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert "\n" not in str(error.value)
    as_of_a_dead_process(tmp_path / "study.journal")
    search.search(job)
    assert finished(tmp_path) == finished(job.training.dataset / "sweep")


def as_of_a_dead_process(journal, lines=None):
    """The journal, or its first lines, as written by a process of another machine that gives no sign of life."""
    records = [json.loads(line) for line in journal.read_text().splitlines()[:lines]]
    for record in records:
        record.pop("crc32")
        if studies.WORKER in record.get("user_attr", {}):
            record["user_attr"][studies.WORKER] = "0123abcd-1-x-00"
    journal.write_text("".join(json.dumps(record) + "\n" for record in records))


def finished(out):
    """The finished trials, without their numbers."""
    return [{**row, "trial": "", "again": ""} for row in rows(out) if row["state"] == "complete"]


@pytest.mark.parametrize("trial", [0, 2])
def test_a_search_killed_while_values_are_drawn_draws_the_same_again(world, tmp_path, trial):
    sweep = world[0].dataset / "sweep"
    shutil.copy(sweep / "study.journal", tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "study.journal").read_text().splitlines()]
    drawn = [place for place, line in enumerate(lines) if line["op_code"] == 5 and line["trial_id"] == trial]
    as_of_a_dead_process(tmp_path / "study.journal", drawn[0] + 1)
    search.search(search_job(world[0], tmp_path))
    assert finished(tmp_path) == finished(sweep) and states(tmp_path) == {"complete": 4, "fail": 1}


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_database_that_fills_in_the_middle_of_a_search_is_one_line(world, tmp_path, monkeypatch):
    job = search_job(world[0], tmp_path / "out", storage=f"sqlite:///{tmp_path}/study.db", trials=1)
    limit, plain = resource.getrlimit(resource.RLIMIT_FSIZE), search.Trainer.train

    def train(self, after):
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limit[1]))
        plain(self, after)

    monkeypatch.setattr(search.Trainer, "train", train)
    with pytest.raises(UserError, match=r"--storage sqlite:.*run the same command again when") as error:
        try:
            search.search(job)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert "\n" not in str(error.value)
    assert [trial.state for trial in studies.open_study(job).trials] == [TrialState.RUNNING], (
        "its process gives no sign"
    )


@pytest.fixture(scope="module")
def postgres(tmp_path_factory):
    """The URL of an empty database of a server started here."""
    pytest.importorskip("psycopg", reason="no driver: pip install 'psycopg[binary]'")
    tools = [
        shutil.which(name) or next(iter(sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))), None)
        for name in ("initdb", "postgres")
    ]
    if not all(tools):
        pytest.skip("no PostgreSQL server (initdb, postgres) on this machine")
    user = (
        next((entry.pw_name for entry in pwd.getpwall() if entry.pw_name in ("postgres", "nobody")), None)
        if os.getuid() == 0
        else None
    )
    if os.getuid() == 0 and user is None:
        pytest.skip("PostgreSQL refuses to run as root, and there is no other user to run it as")
    folder = Path("/tmp") / f"mel-postgres-{os.getpid()}"  # its socket's path must be short
    folder.mkdir()
    if user:
        shutil.chown(folder, user)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    identity = {"user": user} if user else {}
    subprocess.run(
        [str(tools[0]), "-D", str(folder / "data"), "-A", "trust", "-U", "mel"],
        check=True,
        capture_output=True,
        cwd=folder,
        **identity,
    )
    server = subprocess.Popen(
        [str(tools[1]), "-D", str(folder / "data"), "-p", str(port), "-h", "127.0.0.1", "-k", str(folder)],
        cwd=folder,
        stderr=subprocess.DEVNULL,
        **identity,
    )
    try:
        import psycopg

        for _ in range(300):
            try:
                psycopg.connect(f"postgresql://mel@127.0.0.1:{port}/postgres").close()
                break
            except psycopg.OperationalError:
                assert server.poll() is None
                time.sleep(0.1)
        yield f"postgresql+psycopg://mel@127.0.0.1:{port}/postgres"
    finally:
        server.terminate()
        server.wait(30)
        shutil.rmtree(folder, ignore_errors=True)


def test_a_study_in_a_real_postgresql_is_killed_joined_and_finished(world, tmp_path, postgres):
    job = search_job(world[0], tmp_path / "a", trials=6, storage=postgres, prune=False)
    assert start(job, MEL_FAULT="trial-epoch:4").wait(300) == -9
    both = [start(replace(job, training=replace(job.training, out=tmp_path / name))) for name in ("a", "b")]
    answers = [process.communicate(timeout=300)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0] and answers[0] == answers[1]
    assert states(tmp_path / "a")["complete"] == 6 and states(tmp_path / "a")["fail"] >= 1
    assert rows(tmp_path / "a") == rows(tmp_path / "b") and not (tmp_path / "a" / "study.journal").exists()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("study.db", "expected a URL like"),
        ("postgresql+psycopg://mel:secret@127.0.0.1:9/x", "--storage postgresql"),
        ("nosuch://x/y", "--storage"),
        ("sqlite:////nowhere/at/all.db", "unable to open database file"),
    ],
)
def test_a_database_that_cannot_be_used_is_one_line_without_the_password(tmp_path, url, message):
    with pytest.raises(UserError) as error:
        studies.open_storage(url, tmp_path)
    assert message in str(error.value) and "\n" not in str(error.value) and "secret" not in str(error.value)


@pytest.mark.parametrize("method", methods())
def test_every_methods_own_space_is_one_that_it_can_be_searched_in(method):
    profile = profiles.load("demo")
    try:
        asked = spaces.plan(method, "{}", "", profile)
    except UserError as error:
        assert "profile" in str(error) and "space" not in str(error), error  # this profile lacks what the method reads
        return
    assert "lr" in asked.space
    assert asked.head.runs == jobs.head_spec(method, "{}", profile).runs, (
        "runs that it reads are those of the plain method"
    )
    assert set(spaces.drawn(asked.space, load_config(method, asked.head.config))) == set(asked.space), (
        "the first trial has what TrainHead would take"
    )
    for values in ("low", "high"):
        drawn = {
            name: getattr(one, values, None)
            if not isinstance(one, Choices)
            else one.choices[0 if values == "low" else -1]
            for name, one in asked.space.items()
        }
        config = load_config(method, {**asked.head.config, **drawn})
        wants = config.inputs(list(profile.features))
        assert towers.wanted(config, wants, towers.kinds(profile)) == asked.head.wanted


@pytest.mark.parametrize(
    ("method", "text", "message"),
    [
        ("mimic", "learning_rate: {low: 1, high: 2}", "there is no such option"),
        ("mimic", "lrr: {low: 1, high: 2}", "did you mean 'lr'?"),
        ("mimic", "lr: {low: 0.1, hihg: 0.2}", "unknown key 'hihg'; did you mean 'high'?"),
        ("mimic", "lr: {low: 1e-4, high: 0.01}", "write 1e-3 as 0.001 or 1.0e-3"),
        ("mimic", "lr: {low: 0.1}", "`high` is missing"),
        ("mimic", "lr: {low: 0.1, high: 0.01}", "low is above high"),
        ("mimic", "lr: {low: 0.0, high: 0.01, log: true}", "with log, low must be more than 0"),
        ("mimic", "lr: {low: 0.0, high: 0.01}", "lr = 0.0: expected more than 0"),
        ("mimic", "lr: {low: .nan, high: 0.01}", "low = nan: expected a finite number"),
        ("mimic", "d_t: {low: 1.5, high: 4}", "expected a whole number"),
        ("mimic", "image_global: {low: 1, high: 4}", "it is no number"),
        ("mimic", "image_global: {choices: [projektet, class_row]}", "did you mean 'projected'?"),
        ("mimic", "d_t: {choices: [8, 8]}", "expected each once"),
        ("mimic", "d_t: {choices: []}", "choices = []: expected at least 1 item"),
        ("mimic", "d_t: 8", "expected {low, high}"),
        ("mimic", "release: {choices: [true, false]}", "stands for several others at once"),
        ("mimic", "text_feature: {choices: [clip_text, text_tokens]}", "changes the features that are read"),
        ("mimic", "units: {choices: [[tglu], [tglu, vdlu]]}", "changes the features that are read"),
        ("dsmip", "d_t: {choices: [32, 64]}", "changes the runs that are read"),
        ("mimic", "- lr", "expected options with their bounds"),
        ("mimic", "lr: {low: 1", "malformed YAML"),
        (
            "mimic",
            "d_t: {choices: [8]}\nd_t: {choices: [4]}",
            "space.yaml:2:1: malformed YAML (the key 'd_t' is given twice",
        ),
        ("mimic", "lr: !!python/object/apply:os.system ['true']", "malformed YAML"),
    ],
)
def test_a_space_that_will_not_do_is_refused_in_one_line(tmp_path, method, text, message):
    (tmp_path / "space.yaml").write_text(text)
    with pytest.raises(UserError) as error:
        spaces.plan(method, "{}", str(tmp_path / "space.yaml"), profiles.load("demo"))
    assert message in str(error.value) and "space.yaml" in str(error.value) and "\n" not in str(error.value)


def test_a_space_file_that_is_not_there_or_too_long_is_refused(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        spaces.plan("mimic", "{}", str(tmp_path / "none.yaml"), profiles.load("demo"))
    (tmp_path / "long.yaml").write_text("# " + "x" * spaces.LARGEST)
    with pytest.raises(UserError, match="a space is a few lines"):
        spaces.plan("mimic", "{}", str(tmp_path / "long.yaml"), profiles.load("demo"))


def test_a_study_is_named_by_all_that_its_trials_depend_on_but_what_is_drawn(tmp_path):
    from foundation.paths import Paths

    profile = profiles.load("demo")

    def study(params, **depends):
        asked = spaces.plan("mimic", params, "", profile)
        job = TrainingJob(
            method="mimic",
            config=asked.head.config,
            inputs=(),
            dataset=tmp_path,
            candidates=tmp_path,
            out=tmp_path,
            depends={"config": asked.head.config, "features": "a", **depends},
        )
        return spaces.search_job(asked, job, "demo", Paths(tmp_path), Study(trials=3)).name

    assert study("{}") == study('{"lr": 0.005}') != study('{"epochs": 3}')
    assert study("{}") != study("{}", features="b")
    assert optuna.__version__ >= "5"


def test_a_head_trained_on_other_features_is_refused_with_both_identities_named(world, tmp_path):

    from cache.store import Store
    from heads.runs import list_scores

    job = replace(world[0], out=tmp_path / "run")
    training.train(replace(job, config={**job.config, "epochs": 1}))
    assert np.isfinite(list_scores(job, ("dev",))).any()
    other = build_job(tmp_path / "other", images=False, seed=3)
    one = next(one for one in other.inputs if one.side == "entity")
    spec = json.loads((one.store / "spec.json").read_text())["spec"]
    store = Store.create(tmp_path / "other" / "cache", "text_tokens", {**spec, "made by": "other weights"})
    inputs = (replace(row, store=store.folder) if row.side == "entity" else row for row in job.inputs)
    changed = replace(job, inputs=tuple(inputs))
    with pytest.raises(UserError) as error:
        list_scores(changed, ("dev",))
    assert all(
        text in str(error.value)
        for text in (str(tmp_path / "run"), store.identity[:16], Store.open(one.store).identity[:16])
    )


def test_a_search_over_the_fusion_reads_its_heads_scores_of_dev_alone(world, tmp_path):
    job = replace(world[0], out=tmp_path / "run", config={**world[0].config, "epochs": 1})
    training.train(job)
    fused = job_for(
        job, "fused", {"heads": ["mimic"], "pair_features": ["name_similarity"], "epochs": 4}, tmp_path / "sweep"
    )
    fused = replace(fused, heads={"mimic": job}, config=config_json(load_config("fused", fused.config)))
    space = check_space(
        config_class("fused"), {"hidden": {"choices": [0, 4]}, "lr": {"low": 0.003, "high": 0.1, "log": True}}, "space"
    )
    search.search(replace(search_job(job, tmp_path / "sweep", trials=3), training=fused, space=space))
    split = pq.read_table(job.dataset / "mentions.parquet")["split"].to_numpy(zero_copy_only=False)
    scores = np.load(tmp_path / "sweep" / "parts" / "mimic.npz")["values"]
    assert np.isfinite(scores[split == "dev"]).any() and np.isnan(scores[split == "test"]).all()
    assert sum(row["state"] == "complete" for row in rows(tmp_path / "sweep")) == 3


def test_a_search_over_the_gate_starts_each_trial_from_the_trained_experts(tmp_path):
    job = build_job(tmp_path)
    common = {
        "text_feature": "text_tokens",
        "image_feature": "image_patches",
        "experts": ["text", "visual"],
        "epochs": 1,
        "batch_size": 32,
        "d_t": 8,
        "d_v": 8,
    }
    experts = {}
    for expert in ("text", "visual"):
        experts[expert] = job_for(job, "dsmip", {**common, "stage": expert}, tmp_path / expert)
        training.train(experts[expert])
    before = {expert: (tmp_path / expert / "model.safetensors").read_bytes() for expert in experts}
    gate = job_for(job, "dsmip", {**common, "gate_width": 16}, tmp_path / "sweep")
    gate = replace(gate, heads=experts, config=config_json(load_config("dsmip", gate.config)))
    space = check_space(
        config_class("dsmip"),
        {"lr": {"low": 1e-9, "high": 1e-8, "log": True}, "gate_dropout": {"low": 0.0, "high": 0.1}},
        "space",
    )
    found = search.search(replace(search_job(job, tmp_path / "sweep", trials=2), training=gate, space=space))
    lone = {
        expert: json.loads((tmp_path / expert / "history.json").read_text())["epochs"][-1]["dev MRR"]
        for expert in experts
    }
    assert found.value >= min(lone.values()) > 1 / 10, "hardly trained, the gate already has what its experts learned"
    assert {expert: (tmp_path / expert / "model.safetensors").read_bytes() for expert in experts} == before

"""What a user sees of work under way: bars on a terminal, lines of JSON on request, Luigi's own page, and Status."""

import contextlib
import json
import os
import pty
import socket
import subprocess
import sys
import termios
import time
import urllib.parse
import urllib.request

import pytest
import small_world
from test_tasks import ROOT, World

from foundation import child, progress
from heads.config import settings_text

WORK = """
import sys, time
from foundation.progress import Bar
def work(job: dict):
    print("a line of a library", file=sys.stderr, flush=True)
    with Bar(40, "counting", "sheep") as bar:
        for step in range(40):
            time.sleep(0.05)
            bar.update()
    return {"done": bar.done}
"""


@pytest.fixture
def counting(tmp_path, monkeypatch):
    """A module whose function counts for two seconds."""
    (tmp_path / "counting.py").write_text(WORK)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return "counting:work"


def test_whoever_starts_a_child_learns_how_far_it_is(counting, capfd):
    states = []
    with child.watched(states.append):
        assert child.run(counting, {}, dict) == {"done": 40}
    assert len(states) >= 2 and states[-1]["done"] == states[-1]["total"] == 40 and states[-1]["left_s"] == 0
    assert [state["done"] for state in states] == sorted({state["done"] for state in states}) and all(
        state["rate"] > 0 for state in states
    )
    assert progress.text(states[-1]).startswith("counting: 40 of 40 sheeps, ")
    assert "counting:" not in capfd.readouterr().err, "no bar where stderr is no terminal"


def test_a_terminal_shows_a_bar_with_rate_and_time_left(counting):
    leader, follower = pty.openpty()
    termios.tcsetwinsize(follower, (24, 100))
    code = f"from foundation import child; child.run({counting!r}, {{}}, dict)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ["PYTHONPATH"]])}
    done = subprocess.Popen([sys.executable, "-c", code], stderr=follower, env=environment)
    os.close(follower)
    shown = b""
    with contextlib.suppress(OSError):  # the other end is closed when the child ends
        while part := os.read(leader, 4096):
            shown += part
    assert done.wait(60) == 0
    assert b"counting:" in shown and b"/40" in shown and b"sheep/s" in shown


def test_lines_of_json_hold_also_what_a_child_prints(counting, monkeypatch, capfd):
    monkeypatch.setenv("MEL_JSON_LOG", "1")
    child.run(counting, {}, dict)
    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    assert [(line["event"], line.get("message"), line.get("source")) for line in lines] == [
        ("output", "a line of a library", counting)
    ]


def test_hashing_a_models_weights_and_drawing_for_the_bootstrap_tell_how_far_they_are(tmp_path, monkeypatch):
    import numpy as np

    from cache.identity import weights_hash
    from report.significance import paired_bootstrap

    monkeypatch.setenv(progress.FILE, str(tmp_path / "progress.json"))
    (tmp_path / "weights.bin").write_bytes(bytes(9 << 20))
    weights_hash([tmp_path / "weights.bin"], None)
    note = progress.read(tmp_path / "progress.json")
    assert (note["what"], note["unit"], note["done"], note["total"]) == (
        "hashing weights.bin",
        "byte",
        9 << 20,
        9 << 20,
    )
    paired_bootstrap(np.ones((2, 50)), np.zeros((2, 50)), resamples=300)
    note = progress.read(tmp_path / "progress.json")
    assert (note["what"], note["done"], note["total"]) == ("bootstrap", 300, 300)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    world = World(tmp_path_factory.mktemp("world"))
    small_world.write(world.data)
    small_world.profile(world.root)
    return world


def lines(world, task, *options, code=0, **environment):
    """Lines of JSON that a command wrote on stderr, and its stdout."""
    command = [
        sys.executable,
        "-m",
        "luigi",
        "--module",
        "tasks",
        task,
        "--work-dir",
        str(world.work),
        "--dataset",
        "small",
        "--data-dir",
        str(world.data),
        *options,
    ]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return [json.loads(line) for line in done.stderr.splitlines()], done.stdout


def test_every_line_on_stderr_is_json_when_asked_for_and_results_stay_on_stdout(world):
    log, output = lines(world, "PrepareDataset", "--json-log")
    assert [(line["event"], line["task"]) for line in log if "task" in line and line["event"] != "progress"] == [
        ("start", "PrepareDataset"),
        ("done", "PrepareDataset"),
    ]
    assert all({"time", "level"} <= set(line) for line in log) and "dataset small prepared" in output
    log, _ = lines(world, "ExtractFeatures", "--profile", "nowhere.yaml", code=2, MEL_JSON_LOG="1")
    assert log[-1]["event"] == "error" and "nowhere.yaml: no such profile file" in log[-1]["message"]
    (world.root / "broken").mkdir()
    (world.root / "broken" / "mentions.jsonl").write_text("{\n")
    (world.root / "broken" / "entities.jsonl").write_text("{}\n")
    log, _ = lines(world, "PrepareDataset", "--data-dir", str(world.root / "broken"), "--json-log", code=30)
    assert [line["event"] for line in log if line["level"] == "error"][:1] == ["failed"] and "jsonl:1" in json.dumps(
        log
    )


@pytest.fixture
def luigid(tmp_path):
    """The address of a scheduler of Luigi's, with its page, on this machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable,
        "-c",
        "from luigi.cmdline import luigid; luigid()",
        "--address",
        "127.0.0.1",
        "--port",
        str(port),
        "--state-path",
        str(tmp_path / "state"),
    ]
    server = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(f"{url}/static/visualiser/index.html", timeout=5).close()
                break
            except OSError:
                assert server.poll() is None
                time.sleep(0.1)
        yield url
    finally:
        server.terminate()
        server.wait(30)


def ask(url, call, **data):
    with urllib.request.urlopen(f"{url}/api/{call}?data={urllib.parse.quote(json.dumps(data))}", timeout=30) as answer:
        return json.loads(answer.read())["response"]


def test_luigis_page_shows_progress_and_messages(world, luigid, tmp_path, monkeypatch):
    monkeypatch.setenv("LUIGI_CONFIG_PATH", "luigid.cfg")
    fresh = World(world.root)
    fresh.work = tmp_path / "work"
    fresh.luigi("PrepareDataset", "--scheduler-url", luigid)
    found = {
        name: row
        for name, row in ask(luigid, "task_list", status="", upstream_status="").items()
        if name.startswith("PrepareDataset")
    }
    assert len(found) == 1
    (name,) = found
    assert ask(luigid, "get_task_status_message", task_id=name)["statusMessage"].startswith("done in ")
    assert ask(luigid, "get_task_progress_percentage", task_id=name)["progressPercentage"] == 100


def test_two_commands_behind_one_scheduler_divide_the_work_as_with_one_each(world, luigid, tmp_path):
    fresh = World(world.root)
    fresh.work = tmp_path / "work"
    fresh.here("PrepareDataset")
    command = [*fresh.command("ExtractFeatures"), "--features", "text_tokens", "--shard-rows", "2"]
    running = [
        subprocess.Popen(
            [*command, "--scheduler-url", luigid],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for _ in range(2)
    ]
    outputs = [process.communicate(timeout=300)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0], outputs
    assert all("text_tokens" in output and "error" not in output for output in outputs), outputs
    tasks = ask(luigid, "task_list", status="DONE", upstream_status="")
    groups = [row for name, row in tasks.items() if name.startswith("ExtractGroup")]
    assert len(groups) == 2 and len({next(iter(row["resources"])) for row in groups}) == 2, groups
    assert len({path.read_bytes() for path in fresh.work.glob("cache/*/*.h5")}) == len(
        list(fresh.work.glob("cache/*/*.h5"))
    )


def test_status_says_what_there_is_and_what_commands_would_do(world, tmp_path):
    nothing = World(world.root)
    nothing.work = tmp_path / "none"
    assert "nothing there yet" in nothing.here("Status", "--methods", "mimic")
    world.here("ExtractFeatures", "--features", "text_tokens")
    output = world.here("Status", "--methods", "mimic,drin,mimmic")
    shard = next(world.work.glob("cache/text_tokens-*"))
    row = next(line for line in output.splitlines() if line.startswith("text_tokens"))
    assert row.split()[1] == shard.name.rpartition("-")[2] and int(row.split()[2]) > 0
    assert (
        "trained: nothing" in output
        and "searched: nothing" in output
        and str(world.work) in output
        and "free:" in output
    )
    todo = next(line for line in output.splitlines() if "TrainHead --method mimic" in line)
    assert (
        "would run" in todo and "ExtractGroup clip_text" in todo and todo.rstrip().endswith("TrainHead mimic, seed 0")
    )
    assert "no such method; did you mean 'mimic'?" in output
    world.here("TrainHead", "--method", "mimic")
    output = world.here("Status", "--methods", "mimic")
    run = next(world.work.glob("runs/small/mimic/*"))
    row = next(line for line in output.splitlines() if line.startswith("small/mimic")).split()
    figures = json.loads((run / "metrics.json").read_text())["test"]["full-kb"]["all"]
    assert row[1:4] == [run.name, "0", "full-kb"] and row[4:6] == [
        f"{100 * figures[name]:.2f}" for name in ("H@1", "MRR")
    ]
    config = json.loads((run / "config.json").read_text())["config"]
    changed = settings_text("mimic", config)
    listed = output.partition("\ntrained ")[2].partition("\n\n")[0]
    assert f"d_t {config['d_t']} (96)" in changed and set(changed.split()) <= set(listed.split()), "wrapped to fit"
    assert "TrainHead --method mimic: done" in output
    (run / "run.json").write_text("{")
    assert run.name in world.here("Status", "--methods", "mimic"), "one broken file does not end the account"

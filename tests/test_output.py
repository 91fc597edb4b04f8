"""Files that a user names for a command to write: what cannot be written is refused before any work, and left alone."""

import contextlib
import fcntl
import os
import resource
import socket
import stat
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from foundation import child
from foundation.errors import UserError
from foundation.files import explained, write_atomic
from foundation.output import check_output, writing
from foundation.processes import temporary_name

ROOT = Path(__file__).resolve().parents[1]


def write(path, text="new\n"):
    with writing([check_output(path, "--output")], "--output") as (file,):
        file.write(text)


def folder(place):
    place.mkdir()


def pipe(place):
    os.mkfifo(place)


def a_socket(place):
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(place))


def link_to_device(place):
    place.symlink_to("/dev/null")


def link_to_folder(place):
    place.symlink_to(place.parent)


def kept(place):
    """What stays of a place that is read: all but the time of reading."""
    found = os.lstat(place)
    return (
        found.st_ino,
        found.st_mode,
        found.st_nlink,
        found.st_uid,
        found.st_size,
        found.st_mtime_ns,
        found.st_ctime_ns,
    )


@pytest.mark.parametrize(
    "made, kind",
    [(folder, "a folder"), (pipe, "a pipe"), (a_socket, "a socket"), (link_to_device, "a device"),
     (link_to_folder, "a folder")],
)  # fmt: skip
def test_what_is_no_file_is_refused_and_stays(tmp_path, made, kind):
    place = tmp_path / "out"
    made(place)
    before = kept(place)
    with pytest.raises(UserError, match=f"--output .* is {kind}; name a file") as error:
        write(place)
    assert "\n" not in str(error.value) and kept(place) == before and list(tmp_path.iterdir()) == [place]


def test_a_device_is_no_output():
    with pytest.raises(UserError, match="/dev/null is a device"):
        write(Path("/dev/null"))
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


@pytest.mark.parametrize(
    "name, words",
    [("away/out", "there is no folder"), ("file/out", "is a file"), ("n" * 252, "the name is too long"),
     ("n" * 300, "name")],
)  # fmt: skip
def test_a_place_that_cannot_be_written_is_refused(tmp_path, name, words):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=words):
        write(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_files_beside_the_output_are_looked_at_too(tmp_path):
    (tmp_path / "out.rejects").mkdir()
    with pytest.raises(UserError, match=r"out\.rejects is a folder"):
        check_output(tmp_path / "out", "--output", (".rejects",))


def test_a_link_is_followed_as_a_shell_does(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "out").symlink_to("there/real")
    for text in ("first\n", "second\n"):
        write(tmp_path / "out", text)
        assert (tmp_path / "there" / "real").read_text() == text and (tmp_path / "out").is_symlink()


def test_a_link_at_the_temporary_name_is_not_written_through(tmp_path):
    (tmp_path / "precious").write_text("keep")
    (tmp_path / ".out.part").symlink_to("precious")
    with pytest.raises(UserError, match=r"\.out\.part: stands where a temporary file is written; remove it"):
        write(tmp_path / "out")
    assert (tmp_path / "precious").read_text() == "keep"
    (tmp_path / ".out.part").unlink()  # the remedy
    write(tmp_path / "out")


def test_what_a_killed_command_left_is_replaced(tmp_path):
    script = (
        "import os, signal, sys; from pathlib import Path; from foundation.output import writing\n"
        "with writing([Path(sys.argv[1])], '--output') as (file,):\n"
        "    file.write('half'); file.flush(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "out")]
    killed = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False, cwd=ROOT)
    assert killed.returncode == -9 and (tmp_path / ".out.part").read_text() == "half"
    write(tmp_path / "out")
    assert (tmp_path / "out").read_text() == "new\n" and not (tmp_path / ".out.part").exists()


def test_of_two_commands_on_one_output_the_second_is_refused_and_the_first_ends_well(tmp_path):
    with writing([tmp_path / "out"], "--output") as (file,):
        file.write("first")
        with pytest.raises(UserError, match="another command is writing it"):
            write(tmp_path / "out")
        assert (tmp_path / ".out.part").exists(), "the first one's file"
    assert (tmp_path / "out").read_text() == "first"


def test_of_many_at_once_one_writes_at_a_time(tmp_path):
    inside, most, done = [0], [0], []
    lock = threading.Lock()

    def one(number):
        try:
            with writing([tmp_path / "out"], "--output") as (file,):
                with lock:
                    inside[0] += 1
                    most[0] = max(most[0], inside[0])
                file.write(f"{number}\n" * 1000)
                with lock:
                    inside[0] -= 1
            done.append(number)
        except UserError:
            pass

    threads = [threading.Thread(target=one, args=(number,)) for number in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most[0] == 1 and done and (tmp_path / "out").read_text().split("\n")[:-1] in [[str(n)] * 1000 for n in done]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_file_system_without_locks_says_what_to_remove(tmp_path, monkeypatch):
    def none(*arguments):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    write(tmp_path / "out")
    (tmp_path / ".out.part").write_text("left")
    with pytest.raises(UserError, match=r"\.out\.part.*wait for it, or remove the file"):
        write(tmp_path / "out")


def test_an_error_leaves_what_was_there_and_nothing_else(tmp_path):
    write(tmp_path / "out")
    with pytest.raises(ZeroDivisionError), writing([tmp_path / "out", tmp_path / "more"], "--output"):
        raise ZeroDivisionError
    assert (tmp_path / "out").read_text() == "new\n" and [path.name for path in tmp_path.iterdir()] == ["out"]


@contextlib.contextmanager
def full(size=50):
    """Inside, no file has room for more bytes."""
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limit[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)


@pytest.mark.parametrize("size", [100, 1_000_000], ids=["at the end", "on the way"])
def test_a_disk_that_fills_is_one_line_and_leaves_what_was_there(tmp_path, size):
    write(tmp_path / "out", "old\n")
    words = r"cannot write .*out: .*choose another --output"
    with full(), pytest.raises(UserError, match=words) as error:
        write(tmp_path / "out", "x" * size)
    assert "\n" not in str(error.value)
    assert (tmp_path / "out").read_text() == "old\n" and [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_empty_file_beside_the_output_is_not_left_nor_an_older_one(tmp_path):
    (tmp_path / "more").write_text("older")
    with writing([tmp_path / "out", tmp_path / "more"], "--output"):
        pass
    assert (tmp_path / "out").read_text() == "" and [path.name for path in tmp_path.iterdir()] == ["out"]


def test_files_of_the_tool_in_whose_place_a_folder_stands_end_in_one_line(tmp_path):
    (tmp_path / "x.json").mkdir()
    with pytest.raises(UserError, match="a folder of that name is in the way"):
        write_atomic(tmp_path / "x.json", "{}")
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]


def test_a_full_disk_under_what_a_library_writes_is_one_line(tmp_path):
    import numpy as np
    from safetensors.numpy import save_file

    words = r"cannot write .*allows no file of that size; choose another --work-dir"
    with full(), pytest.raises(UserError, match=words), explained(tmp_path):
        save_file({"x": np.zeros(1000)}, tmp_path / "x.safetensors")


LARGE = """
def answer(job: dict) -> dict:
    return {"x": "x" * job["size"]}
"""


@pytest.mark.parametrize("job", [{"size": 9, "more": "x" * 9000}, {"size": 9000}], ids=["job", "answer"])
def test_a_full_folder_of_temporary_files_is_one_line(tmp_path, monkeypatch, job):
    (tmp_path / "large_answer.py").write_text(LARGE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with full(5000), pytest.raises(UserError, match=r"cannot write .*json: .*TMPDIR") as error:
        child.run("large_answer:answer", job, dict)
    assert "\n" not in str(error.value)
    assert child.run("large_answer:answer", job, dict) == {"x": "x" * job["size"]}, "with room it goes on"


def test_a_full_disk_under_stdout_is_said_and_ends_nothing():
    script = "from foundation import logs; logs.say('a'); logs.say('b'); print('on')"
    with open("/dev/full", "w") as out:
        done = subprocess.run(
            [sys.executable, "-c", script], stdout=out, stderr=subprocess.PIPE, text=True, check=False, cwd=ROOT
        )
    assert done.returncode == 0
    assert done.stderr == "error: cannot write to stdout: No space left on device; the command goes on without it\n"


@pytest.mark.parametrize("json_log", ["", "1"])
@pytest.mark.parametrize("stderr", ["2>/dev/full", "2>&-"])
def test_a_stderr_that_cannot_be_written_ends_nothing(stderr, json_log):
    script = (
        "import io; from foundation import logs; logs.notice('a'); logs.emit('b'); "
        "logs.relay(io.StringIO('{\"time\": 1}\\nc\\n'), 'd'); logs.say('on')"
    )
    command = ["bash", "-c", f'exec "$@" {stderr}', "bash", sys.executable, "-c", script]
    env = {**os.environ, "MEL_JSON_LOG": json_log}
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env=env)
    assert done.stdout == "on\n" and done.stderr == "" and done.returncode == 0


def test_what_a_writer_left_that_was_killed_is_removed_by_the_next_and_a_live_ones_file_is_not(tmp_path):
    script = (
        "import os, signal, sys; from pathlib import Path; from foundation import files\n"
        "files.os.replace = lambda *names: os.kill(os.getpid(), signal.SIGKILL)\n"
        "files.write_atomic(Path(sys.argv[1]), 'half')"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "x.json")]
    killed = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False, cwd=ROOT)
    assert killed.returncode == -9 and len(list(tmp_path.iterdir())) == 1
    mine = temporary_name(tmp_path / "x.json")
    mine.write_text("")
    write_atomic(tmp_path / "x.json", "whole")
    assert sorted(tmp_path.iterdir()) == [mine, tmp_path / "x.json"]

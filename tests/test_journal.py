"""A study's journal: whole lines or none, damage is said with a remedy that mends, and no stale lock is waited for."""

import json
import resource
import subprocess

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from experiments.journal import Journal
from foundation import locks
from foundation.errors import UserError


def record(number):
    return {"op_code": 2, "worker_id": "w", "study_id": 0, "user_attr": {f"é{number}": [number, 1.5, float("nan")]}}


def study_in(backend):
    return optuna.create_study(storage=JournalStorage(backend), study_name="s", load_if_exists=True)


def objective(trial):
    return trial.suggest_float("x", 0, 1) + trial.suggest_categorical("y", [1, 2])


def test_two_that_write_see_each_others_records(tmp_path):
    one, other = Journal(tmp_path / "j"), Journal(tmp_path / "j")
    one.append_logs([record(0), record(1)])
    other.append_logs([record(2)])
    for journal in (one, other):
        for first in (0, 2, 1, 3):
            assert str(list(journal.read_logs(first))) == str([record(number) for number in range(first, 3)])


def test_plain_optuna_reads_the_journal_and_the_journal_that_of_plain_optuna(tmp_path):
    study_in(Journal(tmp_path / "j")).optimize(objective, n_trials=3)
    plain = study_in(JournalFileBackend(str(tmp_path / "j")))
    plain.optimize(objective, n_trials=2)
    assert [trial.params for trial in study_in(Journal(tmp_path / "j")).trials] == [
        trial.params for trial in plain.trials
    ]


def test_what_a_killed_writer_left_unfinished_is_cut_off_while_others_go_on(tmp_path):
    journal, other = Journal(tmp_path / "j"), Journal(tmp_path / "j")
    journal.append_logs([record(0)])
    with (tmp_path / "j").open("ab") as file:
        file.write(b'{"op_code": 4, "half a li' + b"x" * 100_000)
    assert len(list(journal.read_logs(0))) == 1
    other.append_logs([record(1)])
    assert str(list(journal.read_logs(0))) == str([record(0), record(1)])


def test_a_disk_that_fills_in_the_middle_of_a_record_leaves_none_of_it(tmp_path):
    journal = Journal(tmp_path / "j")
    journal.append_logs([record(0)])
    before, limit = (tmp_path / "j").read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 20, limit[1]))
    try:
        with pytest.raises(OSError):
            journal.append_logs([record(1)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert (tmp_path / "j").read_bytes() == before
    journal.append_logs([record(1)])
    assert len(list(journal.read_logs(0))) == 2


def test_flipped_bytes_are_found_and_the_remedy_given_keeps_all_that_is_whole(tmp_path):
    path = tmp_path / "a study's" / "j"
    path.parent.mkdir()
    study_in(Journal(path)).optimize(objective, n_trials=2)
    whole = path.read_bytes()
    kept = list(Journal(path).read_logs(0))
    for place in range(0, len(whole) - 1, 7):
        for bit in (1, 32):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ bit]) + whole[place + 1 :])
            try:
                found = list(Journal(path).read_logs(0))
            except UserError:
                continue
            known = [{key: record.get(key) for key in before} for record, before in zip(found, kept, strict=True)]
            assert known == kept, "only the name of the checksum was hit"
    path.write_bytes(whole[: len(whole) // 2] + b"\0" + whole[len(whole) // 2 + 1 :])
    with pytest.raises(UserError, match=r"j:\d+: damaged; keep the lines before it") as error:
        study_in(Journal(path))
    said = str(error.value)
    good = int(said.partition("j:")[2].partition(":")[0]) - 1
    subprocess.run(["sh", "-c", said[said.index("(") + 1 : said.index(")")]], check=True)
    assert good > 1 and path.read_bytes() == b"".join(whole.splitlines(keepends=True)[:good])
    study_in(Journal(path)).optimize(objective, n_trials=1)


@pytest.mark.parametrize("kind", ["dangling link", "link", "folder", "file"])
def test_what_stands_at_the_name_of_optunas_lock_is_not_waited_for(tmp_path, kind):
    place = tmp_path / "j.lock"
    if kind.endswith("link"):
        place.symlink_to(tmp_path / ("j" if kind == "link" else "moved/j"))
    elif kind == "folder":
        place.mkdir()
    else:
        place.write_text("mine")
    journal = Journal(tmp_path / "j")
    journal.append_logs([record(0)])
    assert len(list(journal.read_logs(0))) == 1 and (kind != "file" or place.read_text() == "mine")


def test_on_a_file_system_without_locks_one_writes_at_a_time(tmp_path, monkeypatch):
    def none(*arguments):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(locks.fcntl, "flock", none)
    journal = Journal(tmp_path / "j")
    with journal._alone():
        assert json.loads((tmp_path / "j.claim").read_text())["pid"]
    journal.append_logs([record(0)])
    assert not (tmp_path / "j.claim").exists()


def test_a_journal_that_may_only_be_read_is_read(tmp_path, monkeypatch):
    Journal(tmp_path / "study.journal").append_logs([{"op_code": 0}])
    monkeypatch.setattr(Journal, "_open", lambda self: (_ for _ in ()).throw(PermissionError("read-only")))
    assert len(list(Journal(tmp_path / "study.journal").read_logs(0))) == 1

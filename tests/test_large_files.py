"""Files of a finished task that are too large to be compared each time: compared once in a command."""

import os

from foundation import checksums
from tasks import DemoWorld


def in_a_fork(act) -> None:
    """As a task of one of Luigi's workers."""
    child = os.fork()
    if not child:
        act()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0


def test_a_file_is_hashed_once_for_all_tasks_of_a_command(tmp_path, monkeypatch):
    hashed, file = tmp_path / "hashed", tmp_path / "file"
    plain = checksums.file_sha256

    def counted(path):
        with hashed.open("a") as log:
            log.write(f"{path.name}\n")
        return plain(path)

    monkeypatch.setattr(checksums, "file_sha256", counted)
    file.write_bytes(b"one")
    DemoWorld(work_dir=str(tmp_path))  # a task of the command
    listed = checksums.entry(tmp_path, file)

    def compare() -> None:
        assert checksums.problem(tmp_path, listed) is None

    def finds_other_bytes() -> None:
        assert checksums.problem(tmp_path, listed) == checksums.OTHER_BYTES

    checksums._content.cache_clear()
    for _ in range(3):
        in_a_fork(compare)
    assert hashed.read_text() == "file\n"
    file.write_bytes(b"two")
    for _ in range(3):
        in_a_fork(finds_other_bytes)
    assert hashed.read_text() == "file\n" * 2

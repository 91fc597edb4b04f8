"""The threads that a child process computes on."""

import pytest

from foundation import child, machine


@pytest.fixture
def threads_of(tmp_path, monkeypatch):
    """A target that says how many threads its environment names for OpenMP and for MKL."""
    (tmp_path / "asking.py").write_text(
        "import os\ndef ask(given: dict) -> dict:\n"
        "    return {name: os.environ[name] for name in ('OMP_NUM_THREADS', 'MKL_NUM_THREADS')}\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return lambda threads: set(child.run("asking:ask", {}, dict, threads=threads).values())


def test_a_users_number_of_threads_holds_for_mkl_too(threads_of, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    assert threads_of(0) == {"3"}
    assert threads_of(2) == {"3"}


def test_without_one_it_is_the_profiles_or_one_per_core(threads_of, monkeypatch):
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    assert threads_of(2) == {"2"}
    assert threads_of(0) == {str(machine.cores())}

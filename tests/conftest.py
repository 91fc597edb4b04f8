"""What all tests share: quiet libraries, nothing fetched, the demo, run once, and what several workers do with it all."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# Those that take longest, longest first: where they begin last, one worker is left alone with them.
LONG = (
    "test_demo_run", "test_demo_encoders", "test_tasks", "test_compare_tasks", "test_faults", "test_dsmip_run", "test_enhance_tasks", "test_search_tasks",
    "test_search", "test_progress", "test_crops", "test_faces_run", "test_real", "test_detectors", "test_heads_training", "test_enhance_static",
)  # fmt: skip
ONE = {"test_demo_run": "demo", "test_demo_encoders": "demo"}  # files that share a fixture of the session stay together


def pytest_configure(config: pytest.Config) -> None:
    """Threads of the libraries: two; one where pytest-xdist's workers share the cores."""
    os.environ.setdefault("OMP_NUM_THREADS", "1" if config.getoption("numprocesses", None) else "2")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """For workers, the long files first."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: LONG.index(item.path.stem) if item.path.stem in LONG else len(LONG))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Whole files go to a worker, in the order above: their fixtures are made once."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            stem = Path(nodeid.partition("::")[0]).stem
            return ONE.get(stem, stem)

    config.option.loadscopereorder = False
    return ByFile(config, log)


@pytest.fixture(scope="session")
def demo_work(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The work folder of the demo's first command, and what it printed."""
    root = Path(__file__).resolve().parents[1]
    work = tmp_path_factory.mktemp("demo") / "artifacts"
    command = [sys.executable, "-m", "luigi", "--module", "tasks", "TrainHead", "--method", "mimic", "--work-dir", str(work)]
    done = subprocess.run(command, cwd=root, env={**os.environ, "PYTHONPATH": str(root)}, capture_output=True, text=True, timeout=1500, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return work, done.stdout


@pytest.fixture(scope="session")
def demo_encoders(demo_work: tuple[Path, str]) -> Path:
    """The folder of the encoders that the demo trained."""
    return next(demo_work[0].glob("demo/encoders-*"))

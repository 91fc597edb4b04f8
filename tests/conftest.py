"""What all tests share: quiet libraries, nothing fetched, the demo, run once, and how files are shared out to several processes."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that wait leave the cores to the other processes
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# Files that use the demo's work folder, and change it: they stay together in one process.
DEMO = ("test_demo_encoders", "test_demo_run", "test_docs_commands")
# Those that take longest come first: where one of them begins last, the other processes wait for it.
FIRST = (
    *DEMO, "test_tasks", "test_compare_tasks", "test_faults", "test_dry_run", "test_linking", "test_explore", "test_dsmip_run", "test_enhance_tasks",
    "test_progress", "test_search_tasks", "test_search", "test_heads_training", "test_heads_contract", "test_heads_baselines", "test_crops",
    "test_extractors", "test_faces_run", "test_real", "test_face_crops", "test_enhance_dynamic", "test_enhance_static", "test_detectors",
)  # fmt: skip


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The long files first, where several processes share the work. Raises `UsageError` for a file that should stand in `DEMO`."""
    for item in items:
        if "demo_work" in getattr(item, "fixturenames", ()) and item.path.stem not in DEMO:
            raise pytest.UsageError(f"{item.path.name} uses the demo's work folder; name it in DEMO in tests/conftest.py, so that it is not made twice")
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: FIRST.index(item.path.stem) if item.path.stem in FIRST else len(FIRST))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """A process gets whole files, in that order, so that what a file's tests share is made once."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            stem = Path(nodeid.partition("::")[0]).stem
            return "demo" if stem in DEMO else stem

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


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Callable[[Path], Path]], Path]:
    """The place of a checkpoint made by one of `checkpoints`, made once per kind."""
    root = tmp_path_factory.mktemp("checkpoints")
    made: dict[Callable[[Path], Path], Path] = {}

    def place(make: Callable[[Path], Path]) -> Path:
        if make not in made:
            made[make] = make(root / make.__name__)
        return made[make]

    return place

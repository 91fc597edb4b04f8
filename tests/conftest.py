"""What all tests share: quiet libraries, nothing fetched, the demo, run once, and how files are shared out to several
processes."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # the models are small, and several processes share the cores
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that wait leave the cores to the other processes
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# Those that take longest come first: where one of them begins last, the other processes wait for it. The first makes
# the demo, which others then find.
FIRST = (
    "test_demo_encoders",
    "test_tasks",
    "test_faults",
    "test_linking",
    "test_python_api",
    "test_docs_python",
    "test_compare_tasks",
    "test_search",
    "test_towers",
    "test_damage",
    "test_heads_folds",
    "test_fuzz",
    "test_dry_run",
    "test_explore",
    "test_docs_commands",
    "test_demo_run",
    "test_docs_figures",
    "test_dsmip_run",
    "test_enhance_tasks",
    "test_progress",
    "test_search_tasks",
    "test_real",
    "test_heads_training",
    "test_heads_contract",
    "test_heads_baselines",
    "test_crops",
    "test_extractors",
    "test_faces_run",
    "test_face_crops",
    "test_enhance_dynamic",
    "test_enhance_static",
    "test_detectors",
)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The long files first, where several processes share the work."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: FIRST.index(item.path.stem) if item.path.stem in FIRST else len(FIRST))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """A process gets whole files, in that order, so that what a file's tests share is made once."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return Path(nodeid.partition("::")[0]).stem

    config.option.loadscopereorder = False
    return ByFile(config, log)


@pytest.fixture(scope="session")
def demo_work(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The work folder of the demo's first two commands, and what they printed. Made once for all processes; tests that
    would change it copy it.

    MEL_DEMO_WORK names a work folder to begin with, so that what stands there (the demo's encoders take minutes) is not
    made again.
    """
    root = Path(__file__).resolve().parents[1]
    shared = tmp_path_factory.getbasetemp()
    shared = shared.parent if "PYTEST_XDIST_WORKER" in os.environ else shared
    work, said = shared / "demo" / "artifacts", shared / "demo" / "said.txt"
    with FileLock(shared / "demo.lock"):
        if not said.exists():
            printed = ""
            if begin := os.environ.get("MEL_DEMO_WORK"):
                shutil.copytree(begin, work)
            for command in (["ExtractFeatures"], ["TrainHead", "--method", "mimic"]):
                done = subprocess.run(
                    [sys.executable, "-m", "luigi", "--module", "tasks", *command, "--work-dir", str(work)],
                    cwd=root,
                    env={**os.environ, "PYTHONPATH": str(root)},
                    capture_output=True,
                    text=True,
                    timeout=1500,
                    check=False,
                )
                assert done.returncode == 0, done.stdout + done.stderr
                printed += done.stdout
            said.write_text(printed)
    return work, said.read_text()


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

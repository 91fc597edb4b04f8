"""What all tests share: quiet libraries, nothing fetched, and the demo, run once."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


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

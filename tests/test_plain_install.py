"""A plain install, without extras: heads train over an existing cache; what lacks a package says what to install."""

import os
import shutil
import subprocess

import plain_install
import pytest
from documents import ROOT

HEAVY = {"transformers", "open-clip-torch", "torchvision", "deepface", "ultralytics", "onnxruntime", "facenet-pytorch"}
HEAVY |= {"openai", "optuna", "matplotlib", "fastapi", "tensorboard", "opencv-python", "scikit-learn", "pandas"}


@pytest.fixture(scope="module")
def run(demo_work, tmp_path_factory):
    """Runs a command of a plain install on a copy of the demo's work folder."""
    folder = tmp_path_factory.mktemp("plain")
    python = plain_install.make(folder / "environment")
    shutil.copytree(demo_work[0], folder / "artifacts")
    (folder / "other.yaml").write_text("features: {text_tokens: {model: 'demo:bert', max_tokens: 32}}\n")

    def command(*words):
        return subprocess.run(
            [python, "-m", "mel_cache", *words],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )

    return command


def test_a_plain_install_has_none_of_the_heavy_packages():
    wanted = plain_install.wanted()
    assert not HEAVY & wanted and "torch" in wanted
    assert len({name for name in wanted if not name.startswith(("nvidia-", "cuda-"))}) <= 46


@pytest.mark.parametrize("method", ["mimic", "drin", "dwe"])
def test_a_head_trains_and_is_evaluated_over_an_existing_cache(run, method):
    done = run("TrainHead", "--method", method, "--params", '{"epochs": 1}')
    assert done.returncode == 0 and "MRR" in done.stdout and not done.stderr, done.stderr


@pytest.mark.parametrize(
    ("words", "module", "extra"),
    [
        (["SearchHead", "--n-trials", "1"], "optuna", "search"),
        (["ExtractFeatures", "--profile", "other.yaml", "--features", "text_tokens"], "transformers", "extract"),
        (["Explore", "--port", "0"], "uvicorn", "serve"),
        (
            ["EnhanceEntities", "--mode", "static", "--wiki-api", "http://127.0.0.1:9/", "--wiki-contact", "a@b.org"],
            "httpx",
            "text",
        ),
    ],
)
def test_a_command_that_lacks_a_package_says_in_one_line_what_to_install(run, words, module, extra):
    done = run(*words)
    line = f"error: the package {module} is not installed: pip install 'mel-cache[{extra}]'\n"
    assert done.returncode == 30 and done.stderr.endswith(line) and "Traceback" not in done.stderr, done.stderr

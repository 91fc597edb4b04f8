"""Extractors from outside the package: from a file, from an installed package's entry point."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import small_world

from cache.inputs import Want
from cache.store import Store
from foundation import plugins
from foundation.errors import UserError
from pipeline import extractors
from pipeline.extraction import wants
from pipeline.profiles import profile

ROOT = Path(__file__).resolve().parents[1]
EXTRACTOR = '''
"""`text_length`: the number of characters and of words."""

import numpy as np

from cache.identity import Output
from foundation.contracts import contract
from pipeline.extraction import base


@contract
class Options(base.Options):
    model: str = ""


class TextLength(base.TextExtractor):
    VERSION = 1
    options: Options
    limit = 1000

    def possible(self):
        return {"length": Output("length", (2,), "float32")}

    def count(self, strings):
        return [len(string.split()) for string in strings]

    def load(self, device):
        self.device = device

    def __call__(self, batch):
        return {"length": np.array([[len(string), len(string.split())] for string in batch], np.float32)}


extractor = TextLength
'''


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.setenv(plugins.VARIABLE, "")
    path = tmp_path / "text_length.py"
    path.write_text(EXTRACTOR)
    return path


def command(root: Path, *files: Path) -> str:
    """Output of ExtractFeatures with these plugins."""
    arguments = ["--features", "text_length", "--work-dir", str(root / "work"), "--dataset", "small"]
    arguments += ["--data-dir", str(root / "data"), "--profile", str(root / "mine.yaml")]
    arguments += [part for file in files for part in ("--plugin", str(file))]
    done = subprocess.run(
        [sys.executable, "-m", "luigi", "--module", "tasks", "ExtractFeatures", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_an_extractor_from_a_file_is_extracted_in_a_child_and_its_content_is_part_of_the_identity(file, tmp_path):
    small_world.write(tmp_path / "data")
    (tmp_path / "mine.yaml").write_text("features:\n  text_length: {views: {mention: [sentence]}}\n")
    command(tmp_path, file)
    (first,) = (tmp_path / "work" / "cache").iterdir()
    (shard,) = first.glob("*.h5")
    assert "plugin" in Store.open(first).spec and shard.stat().st_size > 0
    file.write_text(EXTRACTOR + "\n# changed\n")
    command(tmp_path, file)
    identities = {Store.open(folder).identity for folder in (tmp_path / "work" / "cache").iterdir()}
    assert len(identities) == 2
    receipts = [json.loads(path.read_text()) for path in (tmp_path / "work" / "receipts").glob("ExtractGroup-*.json")]
    versions = {
        json.dumps(receipt["request"]["features"]["features"]["text_length"]["version"]) for receipt in receipts
    }
    assert len(receipts) == len(versions) == 2


def test_a_changed_file_changes_the_request(file, tmp_path):
    (tmp_path / "mine.yaml").write_text("features: {text_length: {}}\n")
    mine, listed = profile.load(str(tmp_path / "mine.yaml")), [Want(side="entity", feature="text_length", view="name")]
    plugins.register([file])
    before = wants.request(mine, listed, None)
    assert wants.request(mine, listed, None) == before
    file.write_text(EXTRACTOR + "\n# changed\n")
    assert wants.request(mine, listed, None) != before


def test_the_package_s_own_extractors_have_no_plugin_in_their_version():
    listed = [Want(side="entity", feature="clip_text", view="name")]
    request = wants.request(profile.load("demo"), listed, None)
    assert len(request["features"]["clip_text"]["version"]) == 2


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("broken.py", "x = 1\nimport no_such_module\n", "broken.py, line 2: ModuleNotFoundError: No module named"),
        ("broken.py", "def :\n", "broken.py: SyntaxError"),
        ("broken.py", "raise SystemExit(3)\n", "broken.py, line 1: SystemExit: 3"),
        ("my-own.py", "", "expected a Python file whose name is one word"),
        ("clip_text.py", "extractor = None", "the package's own extractor 'clip_text' has this name; choose another"),
        ("number.py", "extractor = 3", "number.py: `extractor` is 3, expected a subclass"),
        ("gone.py", None, "gone.py: No such file or directory; name a Python file"),
    ],
)
def test_a_plugin_that_cannot_be_used_is_refused_in_one_line_that_names_the_file(
    file, tmp_path, name, content, message
):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(UserError) as error:
        plugins.register([tmp_path / name])
        extractors.extractor_class(Path(name).stem if name != "clip_text.py" else "other")
    assert message in str(error.value) and "\n" not in str(error.value)


def test_two_plugins_of_one_name_are_refused(file, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "text_length.py").write_text(EXTRACTOR)
    plugins.register([file, tmp_path / "other" / "text_length.py"])
    with pytest.raises(
        UserError, match=r"other/text_length.py: .*text_length.py has the extractor name 'text_length' too"
    ):
        extractors.extractor_class("text_length")


def test_an_extractor_of_an_installed_package_is_found_by_its_entry_point(file, tmp_path, monkeypatch):
    site = tmp_path / "site"
    (site / "lengths").mkdir(parents=True)
    (site / "lengths" / "__init__.py").write_text(EXTRACTOR)
    information = site / "lengths-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: lengths\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text("[mel_cache.extractors]\nlengths = lengths:TextLength\n")
    script = (
        "from pipeline import extractors; from foundation import plugins; kind = extractors.extractor_class('lengths');"
        "print(kind.__name__, len(plugins.digest_of(kind)))"
    )
    path = os.pathsep.join([str(site), str(ROOT)])
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == ["TextLength", "64"], done.stderr

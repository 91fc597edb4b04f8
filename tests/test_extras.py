"""Extras: setup.cfg and foundation/extras.py agree, and where a package lacks the command says what to install."""

import configparser
import importlib.metadata
import importlib.util
import re

import commands
import pytest
from documents import ROOT

from foundation import child, extras
from foundation.errors import UserError

MODULE_OF = {
    "facenet-pytorch": "facenet_pytorch",
    "open_clip_torch": "open_clip",
    "Jinja2": "jinja2",
    "fastapi-offline": "fastapi_offline",
    "prometheus-client": "prometheus_client",
    "python-multipart": "python_multipart",
}
"""The module of a distribution that is named otherwise."""
WITH_OTHERS = {"cv2"}
"""Modules that come along with other packages of their extra."""


def declared():
    """The modules of each extra, by setup.cfg."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    found = {}
    for name, lines in setup["options.extras_require"].items():
        names = [
            re.split(r"[\[<>=]", line)[0].strip() for line in lines.split("\n") if line and "mel-cache[" not in line
        ]
        found[name] = {MODULE_OF.get(distribution, distribution) for distribution in names}
    return found


@pytest.mark.parametrize("extra", extras.EXTRAS)
def test_an_extra_has_the_packages_of_setup_cfg(extra):
    assert set(extras.EXTRAS[extra].modules) - WITH_OTHERS == declared()[extra]


def test_what_is_installed_lacks_nothing_and_the_version_is_that_of_setup_cfg():
    assert not any(extras.lacking(extra) for extra in extras.EXTRAS)
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    assert extras.version() == importlib.metadata.version("mel-cache") == setup["metadata"]["version"]


def test_a_package_that_lacks_is_named_with_the_command_that_installs_it(monkeypatch):
    plain = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "ultralytics" else plain(name))
    assert extras.lacking("yolo") == ["ultralytics"]
    with (
        pytest.raises(UserError, match=r"the package ultralytics is not installed: pip install 'mel-cache\[yolo\]'"),
        extras.explained(),
    ):
        raise ModuleNotFoundError("No module named", name="ultralytics")


def test_a_child_that_lacks_a_package_ends_with_that_line_and_another_error_stays_what_it_is(tmp_path, monkeypatch):
    lacks = {"faces": "deepface.modules", "extract": "open_clip", "": "nowhere"}
    for extra, module in lacks.items():
        source = f"def act(job: dict):\n    raise ModuleNotFoundError('No module named', name={module!r})\n"
        (tmp_path / f"lacks_{extra}.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    for extra in ("faces", "extract"):
        with pytest.raises(UserError, match=rf"pip install 'mel-cache\[{extra}\]'"):
            child.call(f"lacks_{extra}:act", {})
    with pytest.raises(ModuleNotFoundError, match="No module named"):
        child.call("lacks_:act", {})


@pytest.mark.parametrize(
    ("module", "words"),
    [
        ("matplotlib", ["CompareHeads", "--methods", "mimic", "--drop-pictures", "0.5"]),
        ("matplotlib", ["Ablate", "--cuts", "0,1"]),
        ("jinja2", ["Report", "--methods", "mimic"]),
    ],
)
def test_a_command_that_could_not_draw_what_it_writes_is_refused_before_it_trains(tmp_path, monkeypatch, module, words):
    plain = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == module else plain(name))
    code, said = commands.run(*words, "--work-dir", str(tmp_path / "work"))
    assert code and f"the package {module} is not installed: pip install 'mel-cache[" in said, said
    assert not list(tmp_path.rglob("*.h5"))

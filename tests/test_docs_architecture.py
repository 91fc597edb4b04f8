"""The page on the architecture names files and functions that exist, and follows each of its five ways through more
than one room."""

import ast
import re

import pytest
from documents import ROOT

PAGE = (ROOT / "docs" / "architecture.md").read_text()
WAYS = ("The method's name", "A picture", "A candidate list", "A feature's identity", "A new mention")


def steps(way: str) -> list[tuple[str, list[str]]]:
    """(file, names in it) of each step of a way."""
    section = PAGE.split(f"\n### {way}\n")[1].split("\n### ")[0].split("\n## ")[0]
    cells = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    return [(names[0], names[1:]) for names in (re.findall(r"`([^`]+)`", cell) for cell in cells)]


def defined(path: str) -> set[str]:
    """Functions, classes, `Class.method`s and constants of a Python file."""
    names: set[str] = set()
    for node in ast.parse((ROOT / path).read_text()).body:
        if isinstance(node, ast.ClassDef):
            names |= {f"{node.name}.{inner.name}" for inner in node.body if isinstance(inner, ast.FunctionDef)}
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            names.add(node.name)
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return names


@pytest.mark.parametrize("way", WAYS)
def test_every_file_and_name_of_a_way_exists(way):
    for path, names in steps(way):
        assert (ROOT / path).is_file(), path
        assert names and set(names) <= defined(path), (path, set(names) - defined(path))


@pytest.mark.parametrize("way", WAYS)
def test_a_way_passes_several_rooms(way):
    rooms = {path.split("/")[0] for path, _ in steps(way)}
    assert len(steps(way)) >= 5 and len(rooms) >= 3


def test_every_python_file_that_the_page_names_exists():
    named = re.findall(r"`([\w/]+/[\w/]+\.py)`", PAGE)
    assert named and not [path for path in named if not (ROOT / path).is_file()]


def test_the_table_of_rooms_has_every_room():
    table = PAGE.partition("| room |")[2].partition("\n\n")[0]
    code = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert {name.strip("/") for name in re.findall(r"^\| `(\w+/)`", table, re.M)} == code - {"tests", "benchmarks"}

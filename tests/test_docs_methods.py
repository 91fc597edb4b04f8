"""The page of methods maps every numbered equation of the four papers, to functions that are there."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "methods.md").read_text()
EQUATIONS = {"MIMIC": 25, "DRIN": 17, "DWE+": 15, "DSMIP": 20}


def rows(method):
    """(first cell, second cell) of the method's table."""
    section = PAGE.split(f"## {method}\n")[1].split("\n## ")[0].split("| equation | function |")[1]
    return [
        tuple(line.strip("|").split("|", 1)) for line in section.split("\n\n")[0].splitlines() if line.startswith("| ")
    ]


def numbers(cell):
    """The equations a first cell names: `2, 3: …`, `12 to 14: …`, several of them apart by `·`."""
    found = set()
    for part in cell.split("·"):
        for entry in re.match(r"[\d, to]*", part.strip())[0].split(","):
            ends = [int(number) for number in entry.split("to") if number.strip()]
            found |= set(range(ends[0], ends[-1] + 1)) if ends else set()
    return found


@pytest.mark.parametrize("method", EQUATIONS)
def test_every_numbered_equation_is_mapped(method):
    named = [number for cell, _ in rows(method) for number in numbers(cell)]
    assert set(named) == set(range(1, EQUATIONS[method] + 1))


@pytest.mark.parametrize("method", EQUATIONS)
def test_every_function_that_is_named_is_there(method):
    known, files = set(), set()
    for path in (*ROOT.glob("heads/**/*.py"), *ROOT.glob("pipeline/**/*.py")):
        files.add(str(path.relative_to(ROOT)))
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                known |= {
                    node.name,
                    *(f"{node.name}.{inner.name}" for inner in node.body if isinstance(inner, ast.FunctionDef)),
                }
                known |= {
                    f"{node.name}.{inner.attr}"
                    for inner in ast.walk(node)
                    if isinstance(inner, ast.Attribute) and ast.unparse(inner.value) == "self"
                }
            elif isinstance(node, ast.FunctionDef):
                known.add(node.name)
    named = [name for _, cell in rows(method) for name in re.findall(r"`([^`]+)`", cell)]
    functions = [name for name in named if re.fullmatch(r"[A-Z]\w+(\.\w+)?|\w+_\w+", name) and name not in features()]
    assert len(functions) > 5
    assert not [name for name in functions if name not in known]
    assert not [name for name in named if name.endswith(".py") and name not in files]


def features():
    """Names of features, views, pair features and options that stand in the page as well."""
    from cache import inputs
    from heads.config import config_class
    from pipeline.extraction import views
    from pipeline.pairs import registry

    options = {
        name for method in ("mimic", "drin", "dwe", "dsmip") for name in config_class(method).__dataclass_fields__
    }
    return {path.stem for path in ROOT.glob("pipeline/extractors/*.py")} | {
        *views.MENTION_TEXTS,
        *views.ENTITY_TEXTS,
        *inputs.FROM_FEATURES,
        *registry.FUNCTIONS,
        *options,
        "ln_pre",
    }

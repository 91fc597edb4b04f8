"""Imports run one way, and so do strings that name a function; what only plans work loads no heavy library."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ORDER = {
    "foundation": set(),
    "cache": {"foundation"},
    "pipeline": {"cache", "foundation"},
    "heads": {"cache", "foundation"},
    "experiments": {"pipeline", "heads", "cache", "foundation"},
    "linking": {"experiments", "pipeline", "heads", "cache", "foundation"},
    "report": {"linking", "experiments", "pipeline", "heads", "cache", "foundation"},
    "mel_cache": {"report", "linking", "experiments", "pipeline", "heads", "cache", "foundation"},
}
"""Each room and those that it may know: the order of DESIGN.md."""
TARGET = re.compile(rf"\b(?:{'|'.join(ORDER)})(?:\.\w+)+(?::\w+)?")
HEAVY = (
    "torch",
    "transformers",
    "open_clip",
    "torchvision",
    "ultralytics",
    "deepface",
    "onnxruntime",
    "optuna",
    "luigi",
)
LIGHT = [
    *(
        f"{path.parent.relative_to(ROOT).as_posix().replace('/', '.')}.contracts"
        for path in ROOT.glob("*/**/contracts.py")
    ),
    "heads.config",
    "experiments.jobs",
    "experiments.spaces",
    "experiments.variants",
    "linking.finished",
    "mel_cache",
]
COMMANDS = [
    "tasks",
    *(f"mel_cache.commands.{path.stem}" for path in (ROOT / "mel_cache" / "commands").glob("[!_]*.py")),
]


def files():
    return [path for room in ORDER for path in sorted((ROOT / room).rglob("*.py"))]


def edges(tree, room):
    """(line, module) of every import and every string that names a module or a module's function."""
    docstrings = {
        id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"line {node.lineno}: a relative import"
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and _is_import(node.func) and node.args:
            yield node.lineno, _prefix(node.args[0], room)
        elif isinstance(node, ast.Constant) and id(node) not in docstrings and _is_target(node.value):
            yield node.lineno, node.value.partition(":")[0]


def _is_import(function):
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    return name in ("import_module", "__import__")


def _prefix(argument, room):
    """The module that `import_module` is given, or its constant beginning; another name counts as the room's own."""
    if isinstance(argument, ast.Constant):
        return str(argument.value)
    first = argument.values[0] if isinstance(argument, ast.JoinedStr) and argument.values else None
    return str(first.value) if isinstance(first, ast.Constant) else room


def _is_target(value):
    """Whether a constant is the name of a module, or of a function in one as `module:function`."""
    if not isinstance(value, str) or not TARGET.fullmatch(value):
        return False
    path = ROOT / value.replace(".", "/")
    return ":" in value or path.with_suffix(".py").exists() or path.is_dir()


@pytest.mark.parametrize("room", ORDER)
def test_a_room_imports_and_names_only_those_below_it(room):
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {module}"
        for path in sorted((ROOT / room).rglob("*.py"))
        for line, module in edges(ast.parse(path.read_text()), room)
        if module.split(".")[0] in {*ORDER, "tasks"} - ORDER[room] - {room}
    ]
    assert not wrong, "\n".join(wrong)


def test_the_order_of_this_test_is_the_designs_and_pipeline_and_heads_do_not_know_each_other():
    assert set(ORDER) == {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests", "benchmarks"}
    assert "heads" not in ORDER["pipeline"] and "pipeline" not in ORDER["heads"]
    for room, below in ORDER.items():
        assert room not in below and all(room not in ORDER[other] for other in below), f"{room} goes both ways"


def test_every_string_that_names_a_function_names_one_that_is_there():
    """`package.module:function`, as children are started by: the module's file defines the function."""
    missing = []
    for path in [*files(), ROOT / "tasks.py"]:
        for node in ast.walk(ast.parse(path.read_text())):
            text = node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""
            if not (TARGET.fullmatch(text) and ":" in text):
                continue
            module, _, function = text.partition(":")
            file = ROOT / f"{module.replace('.', '/')}.py"
            defined = {one.name for one in ast.parse(file.read_text()).body if isinstance(one, ast.FunctionDef)}
            if function not in defined:
                missing.append(f"{path.relative_to(ROOT)}:{node.lineno}: {text}")
    assert not missing, "\n".join(missing)


def loaded(module):
    code = f"import json, sys, {module}; print(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout))


def test_contracts_configurations_and_the_python_interface_load_no_heavy_library():
    """All in one process; where it fails, each alone says which it is."""
    if loaded(", ".join(LIGHT)):
        assert {module: found for module in LIGHT if (found := loaded(module))} == {}


def test_commands_load_luigi_and_no_other_heavy_library():
    if loaded(", ".join(COMMANDS)) != {"luigi"}:
        assert {module: found for module in COMMANDS if (found := loaded(module) - {"luigi"})} == {}


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_is_unpickled(path):
    """A pickle runs code of whoever wrote it. multiprocessing pickles what a process that we start is given."""
    named = {module.split(".")[0] for _, module in edges(ast.parse(path.read_text()), path.relative_to(ROOT).parts[0])}
    assert not named & {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}

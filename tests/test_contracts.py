"""What rooms hand each other has a type: contracts go through JSON and back, and no function takes a loose dict."""

import ast
import dataclasses
import importlib
import inspect
import types
import typing
from collections.abc import Mapping
from pathlib import Path

import pytest

from foundation.contracts import from_json, to_json
from foundation.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("foundation", "cache", "pipeline", "heads", "experiments", "linking", "report", "mel_cache")
MOST = 5
"""Parameters that a function may have; what belongs together is one object."""
LOOSE = ("job", "entry", "want")
"""Names of parameters that are contracts wherever they stand."""


def sources():
    return [ROOT / "tasks.py", *(path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py")))]


def contracts():
    found = {}
    for path in sources():
        if "@contract" not in path.read_text() or path == ROOT / "foundation" / "contracts.py":
            continue
        module = importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
        for name, kind in vars(module).items():
            if isinstance(kind, type) and "__pydantic_config__" in vars(kind) and kind.__module__ == module.__name__:
                found[f"{module.__name__}.{name}"] = kind
    return found


CONTRACTS = contracts()


def sample(hint, depth=0):
    """A value of a type, contracts inside it with all their fields."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return sample(arguments[0], depth)
    if origin in (typing.Union, types.UnionType):
        return sample(next(one for one in arguments if one is not type(None)), depth)
    if origin is typing.Literal:
        return arguments[0]
    if origin is tuple:
        if len(arguments) == 2 and arguments[1] is ...:
            return (sample(arguments[0], depth + 1),) if depth < 4 else ()
        values = [sample(one, depth) for one in arguments]  # numbers ascend: some pairs are a place and a count
        return tuple(value + at if type(value) is int else value for at, value in enumerate(values))
    if origin in (Mapping, dict):
        return {sample(arguments[0], depth): sample(arguments[1], depth + 1)} if depth < 4 else {}
    if dataclasses.is_dataclass(hint):
        return made(hint, depth + 1)
    plain = {str: "a", int: 64, float: 0.5, bool: True, Path: Path("a/b"), typing.Any: {"a": [1, None, "b"]}}
    return plain[hint]


def made(kind, depth=0):
    """A contract with a value in every field; fields that refuse theirs, or do not go together, keep their default."""
    hints = typing.get_type_hints(kind, include_extras=True)
    fields = sorted(dataclasses.fields(kind), key=lambda field: not _required(field))
    values, result = {}, None
    for field in fields:
        value = sample(hints[field.name], depth)
        try:
            result = kind(**values, **{field.name: value})
        except (UserError, ValueError):
            if not _required(field):
                continue
        except TypeError:  # more fields are required
            pass
        values[field.name] = value
    return result or kind(**values)


def _required(field):
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


@pytest.mark.parametrize("name", CONTRACTS)
def test_a_contract_comes_back_from_json_as_it_was_and_refuses_a_field_it_does_not_know(name):
    kind = CONTRACTS[name]
    value = made(kind)
    data = to_json(value)
    assert from_json(kind, data) == value
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(value, dataclasses.fields(kind)[0].name, None)
    first = dataclasses.fields(kind)[0].name
    with pytest.raises(UserError, match=f"unknown key '{first}x'; did you mean '{first}'"):
        from_json(kind, {**data, f"{first}x": 1})


def test_there_are_contracts_of_every_room_that_hands_work_over():
    rooms = {name.split(".")[0] for name in CONTRACTS}
    assert rooms == {"foundation", "cache", "pipeline", "heads", "experiments", "linking", "report", "mel_cache"}


def functions():
    """(place, function, whether it is the constructor of a dataclass or of a class of Luigi's)."""
    for path in sources():
        tree = ast.parse(path.read_text())
        owner = {id(one): node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) for one in node.body}
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
                name = getattr(node, "name", "lambda")
                kind = owner.get(id(node))
                luigis = name == "__init__" and kind is not None and _of_luigi(path, kind.name)
                yield f"{path.relative_to(ROOT)}:{node.lineno}: {name}", node, luigis


def _of_luigi(path, name):
    """Whether a class of this file derives from one of Luigi's."""
    if path.parent.name != "commands":
        return False
    kind = getattr(importlib.import_module(f"mel_cache.commands.{path.stem}"), name)
    return any(base.__module__.startswith("luigi") for base in inspect.getmro(kind))


def parameters(function):
    listed = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
    return [one for one in listed if one.arg not in ("self", "cls")]


def test_no_function_has_more_than_five_parameters():
    many = [
        f"{place}: {len(parameters(function))}"
        for place, function, exempt in functions()
        if not exempt and len(parameters(function)) > MOST
    ]
    assert not many, f"{len(many)} functions\n" + "\n".join(many)


def test_jobs_entries_and_wants_are_contracts_wherever_a_function_takes_one():
    loose = []
    for place, function, _ in functions():
        for one in parameters(function):
            if one.arg not in LOOSE or isinstance(function, ast.Lambda):
                continue
            hint = ast.unparse(one.annotation) if one.annotation else "nothing"
            if hint == "nothing" or hint.split("[")[0].rpartition(".")[2] in ("dict", "Mapping", "MutableMapping"):
                loose.append(f"{place}: {one.arg}: {hint}")
    assert not loose, "\n".join(loose)


def test_no_job_entry_or_want_is_read_by_a_string():
    """`job["x"]` hides a field's name from the type checker, and from whoever renames it."""
    read = []
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name) and node.value.id in LOOSE:
                key = node.slice.value if isinstance(node.slice, ast.Constant) else None
                read += [f"{path.relative_to(ROOT)}:{node.lineno}: {ast.unparse(node)}"] * isinstance(key, str)
    assert not read, f"{len(read)} places\n" + "\n".join(read)

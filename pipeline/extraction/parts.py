"""The parts of an extractor: classes and modules besides its own class whose code decides its numbers.

A part declares `VERSION`, raised by hand when the same weights and options give other numbers. Nothing lists an
extractor's parts: they are found in the extractor itself.
"""

import sys
from collections.abc import Iterable, Iterator, Mapping
from types import ModuleType
from typing import Any

FIRST = 1
"""A part of this version is not named in an identity, so that declaring a part moves no identity."""
RAISED_BEFORE = {"decoder": 2}
"""Parts whose version had been raised before identities named any, with that version."""


def versions(extractor: Any) -> dict[str, int]:
    """Part → version of the parts inside an extractor, its own class (`own_class`) left out.

    A class is a part where the extractor, or an object that it holds, is an instance of it. A module is a part where
    the module of such a class imports it, or something of it. What an extractor holds must be there after `__init__`.
    """
    kinds = list(dict.fromkeys(base for held in _held(extractor) for base in type(held).__mro__))
    found = {_name(kind): vars(kind)["VERSION"] for kind in kinds if "VERSION" in vars(kind)}
    found.pop(_name(own_class(type(extractor))), None)
    return found | _of_modules(kind.__module__ for kind in kinds if _ours(kind.__module__) or kind is type(extractor))


def raised(parts: Mapping[str, int]) -> dict[str, int]:
    """The parts whose version was ever raised, sorted by name."""
    return {name: parts[name] for name in sorted(parts) if parts[name] > RAISED_BEFORE.get(name, FIRST)}


def possible(kind: type) -> dict[str, int]:
    """Part → version of all parts that an extractor of this class may have, whatever its options: everything that its
    module imports, directly or not."""
    found: dict[str, int] = {}
    seen: set[str] = set()
    todo = [base.__module__ for base in kind.__mro__]
    while todo:
        name = todo.pop()
        if name in seen or not (_ours(name) or name == kind.__module__) or name not in sys.modules:
            continue
        seen.add(name)
        for value in vars(sys.modules[name]).values():
            if isinstance(value, type) and _ours(value.__module__) and "VERSION" in vars(value):
                found[_name(value)] = vars(value)["VERSION"]
        todo += _imported(sys.modules[name])
    found.pop(_name(own_class(kind)), None)
    return found | _of_modules(seen)


def own_class(kind: type) -> type:
    """The class among `kind` and its bases whose `VERSION` counts as the extractor's own."""
    return next((base for base in kind.__mro__ if "VERSION" in vars(base)), kind)


def _name(kind: type) -> str:
    return f"{_short(kind.__module__)}.{kind.__name__}"


def _short(module: str) -> str:
    return module.rpartition(".")[2]


def _ours(module: str) -> bool:
    return module.startswith("pipeline.")


def _held(extractor: Any) -> Iterator[Any]:
    """The extractor and the objects of our own classes that it holds, directly or in collections."""
    seen: set[int] = set()
    todo = [extractor]
    while todo:
        item = todo.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, Mapping):
            todo += item.values()
        elif isinstance(item, list | tuple | set):
            todo += item
        elif item is extractor or _ours(type(item).__module__):
            yield item
            todo += getattr(item, "__dict__", {}).values()


def _imported(module: ModuleType) -> Iterator[str]:
    """Names of our modules that a module imports, or imports something of."""
    for value in vars(module).values():
        name = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
        if isinstance(name, str) and _ours(name) and name != module.__name__:
            yield name


def _of_modules(names: Iterable[str]) -> dict[str, int]:
    """Part → version of the modules that declare one, among these, what they import, and what such parts import."""
    found: dict[str, int] = {}
    todo = [
        imported for name in set(names) if name in sys.modules for imported in (name, *_imported(sys.modules[name]))
    ]
    while todo:
        name = todo.pop()
        version = vars(sys.modules[name]).get("VERSION")
        if isinstance(version, int) and _short(name) not in found:
            found[_short(name)] = version
            todo += _imported(sys.modules[name])
    return found

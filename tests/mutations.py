"""What `make mutants` changes: one place in the body of a function, by cosmic-ray's operators.

Another operator or number, a condition turned round, a loop that does not run, an exception that is not caught …
"""

import collections
import contextlib
import gc
import random
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any, NamedTuple

from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.operators.provider import OperatorProvider

CHANGED = (
    "cache/*.py",
    *(f"heads/{name}.py" for name in ("evaluation", "layers", "losses", "metrics", "scoring")),
    *(f"heads/methods/{name}.py" for name in ("_drin_graph", "_mimic_units", "_one_encoder")),
    *(f"heads/methods/{name}.py" for name in ("drin", "dsmip", "dwe", "mimic")),
)
BLOCKS = ("suite", "file_input", "if_stmt", "while_stmt", "for_stmt", "with_stmt", "try_stmt", "funcdef", "classdef")
OPTIMIZED = 1  # flag of a function's code, which a class's code does not have


class Mutant(NamedTuple):
    """A file's text with one place changed, in a statement of the lines `first` to `last`."""

    file: str
    text: str
    first: int
    last: int


def sample(number: int, seed: int) -> list[Mutant]:
    """Up to `number` mutants, each of another place in the functions' bodies, all places as likely."""
    catalogue, every = OperatorProvider(), collections.defaultdict(list)
    operators = {name: catalogue[name] for name in catalogue if not catalogue[name].arguments()}
    for file in sorted(str(path) for pattern in CHANGED for path in Path().glob(pattern)):
        count, text = collections.Counter[str](), Path(file).read_text()
        for node in ast_nodes(get_ast(text)):
            for name, operator in operators.items():
                for begin, _ in operator().mutation_positions(node):
                    every[file, begin, operator.__module__].append((operator, count[name], text, node))
                    count[name] += 1
    chance, mutants = random.Random(seed), list[Mutant]()
    for key in chance.sample(sorted(every), len(every)):
        operator, occurrence, text, node = chance.choice(every[key])
        lines = lines_of(node)
        if lines and len(mutants) < number:
            changed = mutate_code(text, operator(), occurrence)
            with contextlib.suppress(SyntaxError):  # cosmic-ray's rare faults
                if list(functions(changed)) != list(functions(text)):  # annotations leave no trace
                    mutants.append(Mutant(key[0], changed, *lines))
    return mutants


def lines_of(node: Any) -> tuple[int, int] | None:
    """First and last line of the statement of a place; None outside of functions' bodies."""
    while node.parent and node.parent.type not in BLOCKS:
        node = node.parent
    lines = node.start_pos[0], node.end_pos[0]
    while node.parent and not (node.parent.type == "funcdef" and node is node.parent.children[-1]):
        node = node.parent
    return lines if node.parent else None


def replace_code(path: Path, before: str, after: str) -> None:
    """Give the functions of a loaded file the code of its text `after`."""
    codes = {place(old): new for old, new in zip(functions(before), functions(after), strict=True)}
    for function in (thing for thing in gc.get_objects() if type(thing) is FunctionType):
        if function.__code__.co_filename == str(path.resolve()) and place(function.__code__) in codes:
            function.__code__ = codes[place(function.__code__)]


def place(code: CodeType) -> tuple[str, int]:
    return code.co_qualname, code.co_firstlineno


def functions(source: str | CodeType) -> Iterator[CodeType]:
    """The code of the functions of a module and of its classes."""
    code = compile(source, "", "exec") if isinstance(source, str) else source
    for inner in (const for const in code.co_consts if isinstance(const, CodeType)):
        yield from [inner] if inner.co_flags & OPTIMIZED else functions(inner)

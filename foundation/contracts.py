"""Contracts: the frozen dataclasses that one room hands another, and their way through JSON. No torch."""

import dataclasses
import functools
import json
import re
import typing
from typing import Any, TypeVar, cast, dataclass_transform

from pydantic import ConfigDict, TypeAdapter, ValidationError

from foundation.errors import UserError, did_you_mean, nearest

T = TypeVar("T")
_CONFIG = ConfigDict(extra="forbid", strict=True)


@dataclass_transform(kw_only_default=True, frozen_default=True)
def contract(kind: type[T]) -> type[T]:
    """Class decorator: a frozen dataclass with keyword-only fields that JSON holds and that refuses a field it does not
    know.

    Its fields are plain values, paths, tuples, mappings with text keys, and other contracts.
    """
    made = dataclasses.dataclass(frozen=True, kw_only=True)(kind)
    made.__pydantic_config__ = _CONFIG  # type: ignore[attr-defined]  # read by pydantic
    return made


@functools.cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def to_json(value: Any) -> Any:
    """A contract as plain JSON values: paths become texts, tuples lists."""
    return json.loads(json.dumps(_adapter(cast(Any, type(value))).dump_python(value), default=str))


def from_json(kind: type[T], value: Any, where: str = "") -> T:
    """The contract of type `kind` that `to_json` gave `value` for.

    where: what an error names as the place, a file or an option. Raises `UserError` for a field that is unknown (with
    the nearest right one), missing or of the wrong type.
    """
    try:
        return cast(T, _adapter(cast(Any, kind)).validate_json(json.dumps(value, default=str)))
    except ValidationError as error:
        raise UserError(message(error, where or kind.__name__, kind)) from None


def message(error: ValidationError, where: str, kind: Any = None) -> str:
    """The first of pydantic's complaints as one line: the place, what was found, what was expected.

    A key that is unknown comes before one that is missing: it may be that one, mistyped.
    """
    complaints = error.errors(include_url=False)
    first = next((one for one in complaints if one["type"] in _UNKNOWN), complaints[0])
    path = ".".join(str(step) for step in first["loc"] if step != "[key]")
    if first["type"] in _UNKNOWN:
        known = _names(kind, first["loc"][:-1])
        return f"{where}: unknown key {str(first['loc'][-1])!r}{nearest(str(first['loc'][-1]), known)}"
    if first["type"] in ("missing", "missing_argument", "missing_keyword_only_argument"):
        if isinstance(first["loc"][-1], int):
            return f"{where}: {path.rpartition('.')[0]} = {first['input']!r:.60}: expected more items"
        return f"{where}: `{path}` is missing"
    if first["type"] == "value_error":  # of a dataclass's own check, which names the field
        return f"{where}: {first['msg'].removeprefix('Value error, ')}"
    found = f"{first['input']!r:.60}"
    if isinstance(first["input"], bool | int | float | str) and first["type"].endswith(("_type", "_from_float")):
        found += f" ({type(first['input']).__name__})"
    if first["type"] == "literal_error":
        known = re.findall(r"'([^']*)'", first["ctx"]["expected"])
        expected = f"expected one of {', '.join(map(repr, known))}{did_you_mean(first['input'], known)}"
        return f"{where}: {path} = {found}: {expected}"
    return f"{where}: {path} = {found}: {_expected(first['msg'])}"


_UNKNOWN = ("unexpected_keyword_argument", "extra_forbidden")
_WORDS = (
    (re.compile(r"^Input should be "), "expected "),
    (re.compile(r"greater than or equal to"), "at least"),
    (re.compile(r"less than or equal to"), "at most"),
    (re.compile(r"greater than"), "more than"),
    (re.compile(r"a valid integer.*"), "a whole number"),
    (re.compile(r"a valid (array|tuple|list)"), "a list"),
    (re.compile(r"a valid number"), "a number"),
    (re.compile(r"a valid string"), "a text"),
    (re.compile(r"^\w+ should have (at (least|most) \d+ \w+).*"), r"expected \1"),
    (re.compile(r"a valid boolean"), "true or false"),
    (re.compile(r"a (valid )?(dictionary|mapping).*"), "a mapping of names to values"),
)


def _expected(text: str) -> str:
    """pydantic's message in the project's words: `Input should be a valid boolean` becomes `expected true or false`."""
    for pattern, words in _WORDS:
        text = pattern.sub(words, text)
    return text[:1].lower() + text[1:]


def _names(kind: Any, path: tuple[int | str, ...]) -> list[str]:
    """The fields of the dataclass that `path` leads to from `kind`; none where it leads into a mapping or a union."""
    for step in path:
        if dataclasses.is_dataclass(kind) and isinstance(step, str):
            kind = typing.get_type_hints(kind).get(step)
        elif hasattr(kind, "model_fields") and isinstance(step, str):
            kind = kind.model_fields[step].annotation if step in kind.model_fields else None
        elif typing.get_origin(kind) in (tuple, list) and isinstance(step, int):
            kind = typing.get_args(kind)[0]
        elif typing.get_args(kind) and isinstance(step, str):
            kind = typing.get_args(kind)[-1]
    if hasattr(kind, "model_fields"):
        return list(kind.model_fields)
    return [field.name for field in dataclasses.fields(kind)] if dataclasses.is_dataclass(kind) else []

"""Checked reading of records: every complaint names the file, the record, the field, what was found and what to do."""

import contextlib
import json
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Annotated, Any, Self, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

from foundation.errors import UserError, nearest
from foundation.files import MAX_LINE, parse_json, read_lines

MOST_ALIASES, LONGEST_ALIAS = 1000, 500
"""Names of one entity, and characters of one of them: a field of titles or texts is no list of names."""


def _whole(value: str) -> str:
    if len(value) > MAX_LINE:
        long = "holds {length} characters, at most {limit} are read; shorten it or remove the record"
        raise PydanticCustomError("field", long, {"length": len(value), "limit": MAX_LINE})
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            half = "holds half of a surrogate pair at character {place}; write the character whole"
            raise PydanticCustomError("field", half, {"place": error.start}) from None
    return value


def _filled(value: str) -> str:
    if not value.strip():
        raise PydanticCustomError("field", "is empty; fill it in or remove the record")
    return _whole(value)


def _number_as_text(value: Any) -> Any:
    return str(value) if type(value) is int else value


def _null_as_blank(value: Any) -> Any:
    return "" if value is None else value


def _null_as_none(value: Any) -> Any:
    return [] if value is None or value == "" else value


def as_list(value: Any) -> Any:
    return value if isinstance(value, list) else [value]


def _short(value: str) -> str:
    if len(value) > LONGEST_ALIAS:
        long = "holds a name of {length} characters, at most {limit} are allowed; shorten or remove it"
        raise PydanticCustomError("field", long, {"length": len(value), "limit": LONGEST_ALIAS})
    return value


def _few(names: list[str]) -> list[str]:
    names = list(dict.fromkeys(names))
    if len(names) > MOST_ALIASES:
        many = "holds {count} names, at most {limit} are allowed; keep those that texts use"
        raise PydanticCustomError("field", many, {"count": len(names), "limit": MOST_ALIASES})
    return names


def _file_as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) and value else _null_as_none(value)


def _named(paths: list[str]) -> list[str]:
    return [path for path in paths if path]


Text = Annotated[str, AfterValidator(_whole)]
TextOrBlank = Annotated[Text, BeforeValidator(_null_as_blank)]
"""Null is read as an empty text."""
FilledText = Annotated[str, AfterValidator(_filled)]
Phrase = Annotated[TextOrBlank, AfterValidator(lambda phrase: phrase if phrase.strip() else "")]
"""The words of a mention; empty where the dataset gives none, or blanks alone."""
Label = Annotated[FilledText, BeforeValidator(_number_as_text)]
"""An id: a text that is not blank, or an integer, which is read as text."""
Aliases = Annotated[
    list[Annotated[FilledText, AfterValidator(_short)]],
    BeforeValidator(_null_as_none),
    AfterValidator(_few),
    Field(description="a list of names"),
]
"""Further names of an entity, each once. Null and an empty text are none."""
FileNames = Annotated[
    list[Text], BeforeValidator(_null_as_none), AfterValidator(_named), Field(description="a list of file names")
]
"""Null, an empty text and empty names are no file."""
FileOrFiles = Annotated[FileNames, BeforeValidator(_file_as_list), Field(description="a path or a list of file names")]


class Record(BaseModel):
    """A record of a dataset's file. Fields are strict: nothing is converted, no unknown field is read past."""

    model_config = ConfigDict(extra="forbid", strict=True)

    @classmethod
    def read(cls, value: Any, where: str, ignored: Collection[str] = ()) -> Self:
        """The record in `value`, as JSON was parsed. where: file and record, for messages. ignored: fields that are
        read past, unless they must be there.

        Raises `UserError`.
        """
        if ignored and isinstance(value, dict):
            required = {name for name, field in cls.field_names().items() if field.is_required()}
            value = {name: item for name, item in value.items() if name not in ignored or name in required}
        try:
            return cls.model_validate(value)
        except ValidationError as error:
            raise UserError(f"{where}: {cls._complaint(error, value)}") from None

    @classmethod
    def field_names(cls) -> dict[str, Any]:
        """The fields by their names in the file."""
        return {field.alias or name: field for name, field in cls.model_fields.items()}

    @classmethod
    def _complaint(cls, error: ValidationError, value: Any) -> str:
        """The most telling of pydantic's complaints: an unknown field before a missing one before a malformed one."""
        order = ("extra_forbidden", "missing")
        errors = error.errors(include_url=False, include_context=True)
        first = min(errors, key=lambda found: order.index(found["type"]) if found["type"] in order else len(order))
        field, *within = first["loc"] or ("",)
        if within and isinstance(within[0], int) and (len(within) > 1 or first["type"] == "model_type"):
            inner = ": ".join(repr(part) for part in within[1:])  # of an object in a list
            return f"item {within[0] + 1} of field {field!r}: {inner or 'it'}: {first['msg'].lower()}"
        if first["type"] == "model_type":
            required = [name for name, field in cls.field_names().items() if field.is_required()]
            return f"found {type(value).__name__}, expected an object with the fields {', '.join(required)}"
        if not first["loc"]:
            return "a field's name holds half of a surrogate pair; write the character whole"
        name = str(first["loc"][0])
        if first["type"] == "extra_forbidden":
            return f"unknown field {name!r}{nearest(name, cls.field_names())}; --ignore-fields {name} reads past it"
        if first["type"] == "missing":
            return f"field {name!r} is missing; add it"
        return cls._malformed(first, name, value[name])

    @classmethod
    def _malformed(cls, error: ErrorDetails, name: str, value: Any) -> str:
        field, item = cls.field_names()[name], error["input"]
        if error["type"] == "literal_error":
            return f"unknown {name} {item!r:.60}{nearest(str(item), map(str, get_args(field.annotation)))}"
        number = error["loc"][1] if len(error["loc"]) > 1 and isinstance(value, list) else None
        place = f"field {name!r}" if not isinstance(number, int) else f"item {number + 1} of field {name!r}"
        if error["type"] == "field":
            return f"{place} {error['msg']}"
        expected = field.description if number is None else None
        if item is None:
            return f"{place} is null, expected {expected or 'text'}; fill it in or remove the record"
        if error["type"] in ("too_long", "string_too_long"):
            expected = f"at most {error['ctx']['max_length']:,} {'characters' if isinstance(item, str) else 'items'}"
        expected = expected or _EXPECTED.get(error["type"]) or error["msg"].lower()
        return f"{place} holds {type(item).__name__} {item!r:.60}, expected {expected}"


_EXPECTED = {"string_type": "a string", "int_type": "an integer", "list_type": "a list"}


class Unique:
    """Remembers where each id was first seen. remedy: what to do about a second one. file: of ids whose place is the
    number of a line, which takes less memory than its words."""

    def __init__(self, kind: str, remedy: str = "rename or remove one", file: Path | None = None) -> None:
        self.kind, self.remedy, self.file = kind, remedy, file
        self.seen: dict[str | int, str | int] = {}

    def check(self, value: str | int, where: str) -> None:
        """Raises `UserError` at the second appearance of a value."""
        if value in self.seen:
            raise UserError(
                f"{where}: {self.kind} {value!r} was already given at {self._place(value)}; ids must be unique: "
                f"{self.remedy}"
            )
        self.seen[value] = where if self.file is None else line_number(where)

    def _place(self, value: str | int) -> str:
        return f"{self.file}:{self.seen[value]}" if self.file else str(self.seen[value])

    def take(self, value: str, where: str, repeated: str) -> str:
        """`value`; where it appeared before and `repeated` is `number`, `value#2`, `value#3`, …"""
        name, count = value, 2
        while repeated == "number" and name in self.seen:
            name, count = f"{value}#{count}", count + 1
        self.check(name, where)
        return name


class Rejects:
    """The records of a dataset that cannot be used. causes: a line for each, with its place and what to do."""

    def __init__(self) -> None:
        self.causes: list[str] = []

    @contextlib.contextmanager
    def gather(self) -> Iterator[None]:
        """Take down a `UserError` of the record that is being read, and go on behind the block."""
        try:
            yield
        except UserError as error:
            self.causes.append(str(error))


def line_number(where: str) -> int:
    """The number in a line's place as `json_lines` gives it."""
    return int(where.rpartition(":")[2])


def json_lines(path: Path, rejects: Rejects) -> Iterator[tuple[str, Any]]:
    """(`file:line`, value) of every line that is not blank and holds JSON; the others go to `rejects`."""
    for number, line in read_lines(path, lambda error: rejects.causes.append(str(error))):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            value = parse_json(line, unique=True)
        except json.JSONDecodeError as error:
            rejects.causes.append(
                f"{where}:{error.colno}: malformed JSON ({error.msg}); each line must hold one whole JSON object"
            )
            continue
        yield where, value

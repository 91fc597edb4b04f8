"""Checked reading of records: every complaint names the file, the record, what was found and what to do."""

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from foundation.errors import UserError, nearest
from foundation.files import inside, parse_json, read_lines


def check_fields(record: Any, where: str, required: Sequence[str], optional: Sequence[str]) -> None:
    """Raise `UserError` unless `record` is an object with all required fields and no unknown one."""
    if not isinstance(record, dict):
        raise UserError(
            f"{where}: found {type(record).__name__}, expected an object with the fields {', '.join(required)}"
        )
    known = (*required, *optional)
    for name in record:
        if name not in known:
            raise UserError(
                f"{where}: unknown field {name!r}{nearest(name, known)}; --ignore-fields {name} reads past it"
            )
    for name in required:
        if name not in record:
            raise UserError(f"{where}: field {name!r} is missing; add it")


def text(record: dict, name: str, where: str, default: str | None = None, empty: bool = True) -> str | None:
    """The string in field `name`; `default` where the field is absent or null. Raises `UserError` for other types, and for blank text if not `empty`."""
    value = record.get(name)
    if value is None:
        value = default
        if value is None and not empty:
            raise UserError(f"{where}: field {name!r} is null, expected text; fill it in or remove the record")
        return value
    if not isinstance(value, str):
        raise UserError(f"{where}: field {name!r} holds {type(value).__name__} {value!r:.60}, expected a string")
    if not empty and not value.strip():
        raise UserError(f"{where}: field {name!r} is empty; fill it in or remove the record")
    _check_characters(value, f"{where}: field {name!r}")
    return value


def _check_characters(value: str, what: str) -> None:
    if not value.isascii():
        try:
            value.encode("utf-8")
        except UnicodeEncodeError as error:
            raise UserError(
                f"{what} holds half of a surrogate pair at character {error.start}; write the character whole"
            ) from error


def label(record: dict, name: str, where: str) -> str:
    """An id: a non-empty string, or an integer taken as one."""
    value = record.get(name)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return text(record, name, where, empty=False)


def labels(record: dict, name: str, where: str) -> tuple[str, ...] | None:
    """A list of ids, each where it comes first; None where the field is absent or null."""
    value = record.get(name)
    if value is None:
        return None
    if not isinstance(value, list):
        raise UserError(f"{where}: field {name!r} holds {type(value).__name__} {value!r:.60}, expected a list of ids")
    return tuple(dict.fromkeys(label({name: item}, name, where) for item in value))


def image_list(record: dict, name: str, where: str, single: bool = False) -> list[str]:
    """The paths listed in field `name`; none where it is absent, null or empty. single: one path may stand there without a list."""
    value = record.get(name)
    listed = [] if value is None or value == "" else [value] if single and isinstance(value, str) else value
    if not isinstance(listed, list) or not all(isinstance(path, str) for path in listed):
        raise UserError(
            f"{where}: field {name!r} holds {value!r:.60}, expected {'a path or ' if single else ''}a list of file names"
        )
    return [path for path in listed if path]


class Unique:
    """Remembers where each id was first seen. remedy: what to do about a second one."""

    def __init__(self, kind: str, remedy: str = "rename or remove one") -> None:
        self.kind, self.remedy, self.seen = kind, remedy, {}

    def name(self, value: str, where: str, repeated: str = "refuse") -> str:
        """`value`, or a numbered form of it for a later appearance if `repeated` is `number`; otherwise `UserError` at the second one."""
        if value not in self.seen:
            self.seen[value] = where
            return value
        if repeated == "refuse":
            raise UserError(
                f"{where}: {self.kind} {value!r} was already given at {self.seen[value]}; ids must be unique: {self.remedy}"
            )
        count = 2
        while f"{value}#{count}" in self.seen:
            count += 1
        return self.name(f"{value}#{count}", where)


class ImageFolder:
    """Checks that listed images stay inside one folder; one `lstat` per image, not a resolution of its whole path."""

    def __init__(self, root: Path) -> None:
        self.root, self.parents = root, {}

    def check(self, relative: str, where: str) -> str:
        """`relative` itself, normalised. Raises `UserError` where it leaves the folder, by its text or through a symbolic link, or is no text."""
        _check_characters(relative, f"{where}: image path {relative!r}")
        parent, name = os.path.split(relative)
        try:
            if "\0" in relative or "\\" in relative or os.path.isabs(relative) or ".." in relative.split("/"):
                inside(self.root, relative)
            if not name or name == ".":
                raise UserError(f"image path {relative!r} names no file; give a file name or leave the field out")
            if parent not in self.parents:
                self.parents[parent] = str(inside(self.root, parent)) if parent else str(self.root)
            if os.path.islink(os.path.join(self.parents[parent], name)):
                inside(self.root, relative)
        except UserError as error:
            raise UserError(f"{where}: {error}") from error
        return os.path.normpath(relative)


def json_lines(path: Path) -> Iterator[tuple[str, Any]]:
    """(`file:line`, value) of every line that is not blank. Raises `UserError` with line and column for malformed ones."""
    for number, line in read_lines(path):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            value = parse_json(line, unique=True)
        except json.JSONDecodeError as error:
            raise UserError(
                f"{where}:{error.colno}: malformed JSON ({error.msg}); each line must hold one whole JSON object"
            ) from error
        yield where, value

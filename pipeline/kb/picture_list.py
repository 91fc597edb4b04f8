"""The list of pictures to fetch: pictures.jsonl of a KB, or anybody's lines of id and address."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from foundation.errors import UserError
from foundation.files import parse_json, read_lines
from pipeline.datasets.fields import Label, Record, Text
from pipeline.servers.titles import page_key


class _Line(Record):
    id: Label
    file: Text | None = None
    url: Text | None = None
    property: Text | None = None


@dataclass(frozen=True)
class Listed:
    """A picture of an entity. file: its name on Commons; address: where it lies; one of the two, the other empty."""

    id: str
    file: str
    address: str

    @property
    def key(self) -> str:
        return self.file or self.address


def read(path: Path) -> list[Listed]:
    """The pictures of a list, in its order. Raises `UserError` with the line for one of another form."""
    if path.suffix.lower() not in (".jsonl", ".ndjson", ".tsv"):
        raise UserError(f"--list {path}: expected a file ending in .jsonl or .tsv")
    if not path.is_file():
        raise UserError(f"--list {path}: no such file; BuildKB writes one, pictures.jsonl")
    found = list(dict.fromkeys(_tsv(path) if path.suffix.lower() == ".tsv" else _jsonl(path)))
    if not found:
        raise UserError(f"--list {path}: holds no picture")
    return found


def _jsonl(path: Path) -> Iterator[Listed]:
    for number, text in read_lines(path):
        if not text.strip():
            continue
        try:
            value = parse_json(text, unique=True)
        except json.JSONDecodeError as error:
            raise UserError(f"{path}:{number}:{error.colno}: malformed JSON ({error.msg})") from None
        line = _Line.read(value, f"{path}:{number}")
        if bool(line.file) == bool(line.url):
            raise UserError(f"{path}:{number}: expected `file`, a name on Commons, or `url`, an address, not both")
        yield Listed(line.id, _file(line.file or ""), (line.url or "").strip())


def _tsv(path: Path) -> Iterator[Listed]:
    for number, text in read_lines(path):
        name, _, place = (cell.strip() for cell in text.partition("\t"))
        if not text.strip():
            continue
        if not (name and place):
            raise UserError(
                f"{path}:{number}: {text!r:.60}: expected an id, a tab, and an address or a file of Commons"
            )
        is_address = place.lower().startswith(("http://", "https://"))
        yield Listed(name, "" if is_address else _file(place), place if is_address else "")


def _file(name: str) -> str:
    """A file's name in one form, without `File:`."""
    key = page_key(name)
    return page_key(key.partition(":")[2]) if key.startswith(("File:", "Image:")) else key

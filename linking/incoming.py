"""New mentions to link, one JSON object per line, read and checked line by line in constant memory."""

import json
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from foundation.errors import UserError
from foundation.files import bounded_lines, parse_json
from pipeline.datasets.fields import Label
from pipeline.datasets.layouts.jsonl import MentionLine
from pipeline.datasets.picture_files import PictureFolder
from pipeline.datasets.records import Mention

MAX_LINE = 1 << 20  # bytes of one line
SHOWN = 200  # characters of a refused line that are kept
_FOLDERS = 1024  # picture folders remembered as safe
Value = TypeVar("Value")
Make = Callable[[int, Any, PictureFolder], Value]
"""Makes what a line holds of its number, its JSON and the pictures' folder. Raises `UserError`."""


class _Record(MentionLine):
    """A mention to link. A dataset's own mentions.jsonl may be given as it is: gold, split and group are not read."""

    id: Label | None = None
    gold: Any = None
    split: Any = None
    group: Any = None


@dataclass(frozen=True)
class Line(Generic[Value]):
    """One line that is not blank: what it holds, or the reason why it is refused and how it begins.

    number: from 1. size: bytes of the input up to the line's end.
    """

    number: int
    size: int
    value: Value | None
    reason: str = ""
    begins: str = ""


def read(path: Path, images: Path, ignored: Collection[str] = ()) -> Iterator[Line[Mention]]:
    """The lines of a file of mentions, in order.

    images: folder that their pictures must not leave. ignored: further fields that are passed over.
    A mention without an id has its line's number as one. Raises `UserError` where the file cannot be read.
    """
    return lines(path, images, lambda number, value, folder: _mention(number, value, folder, ignored), "mentions")


def lines(path: Path, images: Path, make: Make[Value], kind: str) -> Iterator[Line[Value]]:
    """The lines of a file as `make` reads them. kind: what they are, for messages."""
    folder = PictureFolder(images)
    try:
        with open(path, "rb") as handle:
            for number, raw, size in bounded_lines(handle, MAX_LINE):
                if folder.size > _FOLDERS:
                    folder = PictureFolder(images)
                if raw.strip():
                    yield _checked(number, raw, size, folder, make)
    except OSError as error:
        raise UserError(
            f"{path}: {error.strerror}; --input names a file of {kind}, one JSON object per line (docs/linking.md)"
        ) from error


def _checked(number: int, raw: bytes, size: int, folder: PictureFolder, make: Make[Value]) -> Line[Value]:
    try:
        return Line(number, size, make(number, _json(number, raw), folder))
    except UserError as error:
        return Line(
            number,
            size,
            None,
            str(error).removeprefix(f"line {number}: "),
            raw[: 4 * SHOWN].decode("utf-8", "replace").strip()[:SHOWN],
        )


def _json(number: int, raw: bytes) -> Any:
    where = f"line {number}"
    if len(raw) > MAX_LINE:
        raise UserError(f"{where}: longer than {MAX_LINE:,} bytes; a sentence is enough around a mention")
    try:
        return parse_json(raw.decode("utf-8").rstrip("\r\n"), unique=True)
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: not UTF-8 at byte {error.start}; save the file as UTF-8") from error
    except json.JSONDecodeError as error:
        raise UserError(
            f"{where}: malformed JSON at column {error.colno} ({error.msg}); each line must hold one whole JSON object"
        ) from error


def _mention(number: int, value: Any, folder: PictureFolder, ignored: Collection[str]) -> Mention:
    where = f"line {number}"
    record = _Record.read(value, where, ignored)
    return Mention(
        id=str(number) if record.id is None else record.id,
        sentence=record.sentence,
        phrase=record.mention,
        split="test",
        span=record.span(where),
        image=folder.find(record.image, where) if record.image else None,
        type=record.type,
        given=record.given(),
    )

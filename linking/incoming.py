"""New mentions to link, one JSON object per line, read and checked line by line in constant memory."""

import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foundation.errors import UserError
from foundation.files import bounded_lines, parse_json
from pipeline.datasets.fields import Label
from pipeline.datasets.layouts.jsonl import MentionLine
from pipeline.datasets.picture_files import PictureFolder
from pipeline.datasets.records import Mention

MAX_LINE = 1 << 20  # bytes of one line
SHOWN = 200  # characters of a refused line that are kept
_FOLDERS = 1024  # picture folders remembered as safe


class _Record(MentionLine):
    """A mention to link. A dataset's own mentions.jsonl may be given as it is: gold, split and group are not read."""

    id: Label | None = None
    gold: Any = None
    split: Any = None
    group: Any = None


@dataclass(frozen=True)
class Line:
    """One line that is not blank: a mention, or the reason why it is refused and how the line begins.

    number: from 1. size: bytes of the input up to the line's end.
    """

    number: int
    size: int
    mention: Mention | None
    reason: str = ""
    begins: str = ""


def read(path: Path, images: Path, ignored: Collection[str] = ()) -> Iterator[Line]:
    """The lines of a file of mentions, in order.

    images: folder that their pictures must not leave. ignored: further fields that are passed over.
    A mention without an id has its line's number as one. Raises `UserError` where the file cannot be read.
    """
    folder = PictureFolder(images)
    try:
        with open(path, "rb") as handle:
            for number, raw, size in bounded_lines(handle, MAX_LINE):
                if folder.size > _FOLDERS:
                    folder = PictureFolder(images)
                if raw.strip():
                    yield _checked(number, raw, size, folder, ignored)
    except OSError as error:
        raise UserError(
            f"{path}: {error.strerror}; --input names a file of mentions, one JSON object per line (docs/linking.md)"
        ) from error


def _checked(number: int, raw: bytes, size: int, folder: PictureFolder, ignored: Collection[str]) -> Line:
    try:
        return Line(number, size, _mention(number, raw, folder, ignored))
    except UserError as error:
        return Line(
            number,
            size,
            None,
            str(error).removeprefix(f"line {number}: "),
            raw[: 4 * SHOWN].decode("utf-8", "replace").strip()[:SHOWN],
        )


def _mention(number: int, raw: bytes, folder: PictureFolder, ignored: Collection[str]) -> Mention:
    where = f"line {number}"
    if len(raw) > MAX_LINE:
        raise UserError(f"{where}: longer than {MAX_LINE:,} bytes; a sentence is enough around a mention")
    try:
        value = parse_json(raw.decode("utf-8").rstrip("\r\n"), unique=True)
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: not UTF-8 at byte {error.start}; save the file as UTF-8") from error
    except json.JSONDecodeError as error:
        raise UserError(
            f"{where}: malformed JSON at column {error.colno} ({error.msg}); each line must hold one whole JSON object"
        ) from error
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

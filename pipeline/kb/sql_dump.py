"""Tables of a MediaWiki as its dumps publish them: .sql or .sql.gz files of INSERT statements, as mysqldump writes."""

import contextlib
import gzip
import re
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, cast

from foundation.errors import UserError
from foundation.files import bounded_lines

_LONGEST_LINE = 64 << 20
"""Bytes of one INSERT; mysqldump writes about 1 MB."""
_COLUMN = re.compile(rb"\s*`(\w+)`")
_TOKEN = re.compile(rb"'((?:[^'\\]|\\.)*)'|([^\s,();']+)|([()])", re.S)
_ESCAPE = re.compile(rb"\\(.)", re.S)
_ESCAPED = {b"n": b"\n", b"t": b"\t", b"r": b"\r", b"0": b"\0", b"b": b"\b", b"Z": b"\x1a"}


def rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """These columns of a table's rows, as text; NULL as an empty text.

    Raises `UserError` where the file is damaged, no such dump, or has no such column.
    """
    places: list[int] = []
    width = 0
    try:
        with _opened(path) as handle:
            names: list[str] = []
            inside = False
            for number, line, _ in bounded_lines(handle, _LONGEST_LINE):
                if len(line) > _LONGEST_LINE:
                    raise UserError(f"{path}:{number}: a line of more than {_LONGEST_LINE:,} bytes; no dump of a table")
                if line.startswith(b"CREATE TABLE"):
                    inside = True
                elif inside and (match := _COLUMN.match(line)):
                    names.append(match[1].decode())
                elif line.startswith(b"INSERT INTO"):
                    inside = False
                    if not places:
                        places, width = _places(path, names, columns), len(names)
                    yield from _values(line, places, width, f"{path}:{number}")
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise UserError(f"{path}: damaged, or ends early; fetch it again") from None
    if not places:
        raise UserError(f"{path}: holds no row; expected a dump of a MediaWiki's table")


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    with gzip.open(path, "rb") if path.suffix == ".gz" else open(path, "rb") as handle:
        yield cast(BinaryIO, handle)


def number(text: str) -> int:
    """The number in a column of ids. Raises `UserError` for another value."""
    if not text.isdecimal() or len(text) > 18:
        raise UserError(f"a dump of a table holds {text!r:.40} where an id stands; fetch it again")
    return int(text)


def _places(path: Path, names: Sequence[str], columns: Sequence[str]) -> list[int]:
    missing = [name for name in columns if name not in names]
    if missing:
        raise UserError(f"{path}: the table has no column {missing[0]}; found {', '.join(names) or 'none'}")
    return [names.index(name) for name in columns]


def _values(line: bytes, places: Sequence[int], width: int, where: str) -> Iterator[tuple[str, ...]]:
    row: list[bytes] | None = None
    for match in _TOKEN.finditer(line, line.find(b"VALUES") + len(b"VALUES")):
        mark = match[3]
        if mark == b"(":
            row = []
        elif mark == b")" and row is not None:
            if len(row) != width:
                raise UserError(f"{where}: a row of {len(row)} values, expected {width}; fetch the file again")
            yield tuple(_text(row[place]) for place in places)
            row = None
        elif row is not None:
            row.append(match[1] if match[2] is None else b"" if match[2] == b"NULL" else match[2])


def _text(value: bytes) -> str:
    if b"\\" in value:
        value = _ESCAPE.sub(lambda match: _ESCAPED.get(match[1], match[1]), value)
    return value.decode("utf-8", "replace")

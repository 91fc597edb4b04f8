"""Texts from a local file: QID or title → text, as JSON Lines, JSON, TSV, or the `@@@@`-separated lines of the
WikiDiverse release.
"""

import json
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from foundation.errors import UserError
from foundation.files import parse_json, read_json, read_lines
from pipeline.enhance.text import LONGEST
from pipeline.servers.titles import page_key

KEYS = ("id", "qid", "title", "entity", "name", "wiki", "url")
TEXTS = ("text", "description", "extract", "abstract", "summary", "desc", "static")
BETWEEN = "@@@@"  # the WikiDiverse release's entity2desc files
MAX_JSON = 4 << 30


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """As `read_lines`. Raises `UserError` where the file cannot be read, too."""
    try:
        yield from read_lines(path)
    except OSError as error:
        raise UserError(f"--pages {path}: {error.strerror}; name a file of QID or title → text") from None


def _of_record(record: Any, where: str) -> Iterator[tuple[str, str]]:
    """(key, text) for each key that a record has."""
    if not isinstance(record, dict):
        raise UserError(
            f"{where}: found {type(record).__name__}, expected an object with one of {', '.join(KEYS)} and one of "
            f"{', '.join(TEXTS)}"
        )
    keys = [str(record[name]) for name in KEYS if isinstance(record.get(name), str) or type(record.get(name)) is int]
    text = next((record[name] for name in TEXTS if record.get(name) is not None), "")
    if not keys:
        raise UserError(
            f"{where}: no key; expected a text in one of the fields {', '.join(KEYS)}, found "
            f"{', '.join(record) or 'nothing'}"
        )
    if not isinstance(text, str):
        raise UserError(f"{where}: the text is {type(text).__name__}, expected a string")
    for key in keys:
        yield key, text


def _json_lines(path: Path) -> Iterator[tuple[str, str]]:
    for number, line in _lines(path):
        if line.strip():
            try:
                record = parse_json(line)
            except json.JSONDecodeError as error:
                raise UserError(
                    f"{path}:{number}: malformed JSON ({error.msg}); each line must hold one JSON object"
                ) from None
            yield from _of_record(record, f"{path}:{number}")


def _json(path: Path) -> Iterator[tuple[str, str]]:
    """An object key → text (or key → record), or a list of records."""
    if path.is_file() and path.stat().st_size > MAX_JSON:
        raise UserError(
            f"--pages {path}: more than {MAX_JSON >> 30} GB of one JSON value; convert it to JSON Lines, one page a "
            "line"
        )
    content = read_json(path)
    if isinstance(content, list):
        for number, record in enumerate(content):
            yield from _of_record(record, f"{path}: record {number}")
        return
    if not isinstance(content, dict):
        raise UserError(f"{path}: found {type(content).__name__}, expected an object key → text or a list of records")
    for key, value in content.items():
        text = (
            next((value[name] for name in TEXTS if value.get(name) is not None), "")
            if isinstance(value, dict)
            else value
        )
        if not isinstance(text, str | None):
            raise UserError(f"{path}: {key!r:.60} holds {type(text).__name__}, expected a text")
        yield key, text or ""


def _separated(path: Path) -> Iterator[tuple[str, str]]:
    """Key and text columns of a TSV, by its header line if it has one, else the first two; or `key@@@@text`, whose text
    may run over lines.
    """
    columns, between, key = (0, 1), "", ""
    parts: list[str] = []
    for number, line in _lines(path):
        if number == 1:
            between = BETWEEN if BETWEEN in line else "\t"
            names = [name.strip().lower() for name in line.split(between)]
            if names[0] in KEYS and any(name in TEXTS for name in names):
                columns = (0, next(place for place, name in enumerate(names) if name in TEXTS))
                continue
        cells = line.split(between, 1) if between == BETWEEN else line.split(between)
        if len(cells) > max(columns):
            if parts:
                yield key, "\n".join(parts)
            key, parts = cells[columns[0]], [cells[columns[1]]]
        elif between == BETWEEN and parts:
            parts.append(line)
        elif line.strip():
            raise UserError(f"{path}:{number}: no {between!r} in this line, expected key and text separated by it")
    if parts:
        yield key, "\n".join(parts)


_READERS = {".jsonl": _json_lines, ".ndjson": _json_lines, ".json": _json, ".tsv": _separated, ".txt": _separated}


def check(path: Path) -> None:
    """Raises `UserError` where `path` is no file of a kind that is read."""
    if path.suffix.lower() not in _READERS:
        raise UserError(f"--pages {path}: expected a file ending in {', '.join(_READERS)}")
    if not path.is_file():
        raise UserError(f"--pages {path}: no such file; name one of QID or title → text")


def texts(path: Path, wanted: Collection[str]) -> dict[str, str]:
    """Text by page key (see `page_key`) for the wanted keys; of a key's texts the first. Raises `UserError` with file
    and line for malformed ones.
    """
    check(path)
    chosen: dict[str, str] = {}
    for key, text in _READERS[path.suffix.lower()](path):
        key = page_key(key)
        if key in wanted and text.strip():
            chosen.setdefault(key, text[:LONGEST])
    return chosen

"""What the layouts of published releases share: files by split, pictures under other names, percent-encoded names."""

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import unquote

from pydantic import BeforeValidator, Field

from foundation.errors import UserError
from foundation.files import read_json
from pipeline.datasets.fields import Aliases, FilledText, Phrase, Record, Rejects, Text, TextOrBlank, Unique, as_list
from pipeline.datasets.records import SPLITS


def split_files(folder: Path, dev: str = "dev", ending: str = r"\.json") -> dict[str, list[Path]]:
    """Files `*_{split}{ending}` of each split, without those that begin with a dot, such as a Mac's `._` files.

    dev, ending: regular expressions, of the word for dev, of the ending.
    """
    names = sorted(entry.name for entry in os.scandir(folder)) if folder.is_dir() else []
    words = {split: dev if split == "dev" else split for split in SPLITS}
    return {
        split: [folder / name for name in names if re.fullmatch(rf"(?!\.)(.*[_-])?({word}){ending}", name)]
        for split, word in words.items()
    }


def one_each(files: dict[str, list[Path]], folder: Path, form: str, layout: str) -> list[Path]:
    """The file of each split, in the order of `SPLITS`. Raises `UserError` where a split has none or several.

    form: a file name with `{split}` in it, layout: the layout's files in words, for the message.
    """
    paths = []
    for split, candidates in files.items():
        if len(candidates) != 1:
            names = " and ".join(path.name for path in candidates) or "none"
            raise UserError(f"{folder}: expected one file {form.format(split=split)}, found {names}; {layout}")
        paths += candidates
    return paths


def read_keyed(path: Path) -> dict[str, Any]:
    """A JSON object. Raises `UserError` for anything else, and for a key given twice."""
    value = read_json(path, unique=True)
    if not isinstance(value, dict) or not value:
        kind = "an empty object" if value == {} else type(value).__name__
        raise UserError(f"{path}: found {kind}, expected an object with one field for each record")
    return value


def decoded(value: str) -> str:
    """`value` without percent-encoding, if UTF-8 stands behind it."""
    try:
        plain = unquote(value, errors="strict")
    except UnicodeDecodeError:
        return value
    return plain if plain.strip() else value


class ReleaseMention(Record):
    """What the records of releases share. `mentions` and `answer` are two texts, or two lists of the same length.

    entities: the gold's name, which is never kept.
    """

    sentence: TextOrBlank
    mentions: Annotated[list[Phrase], BeforeValidator(as_list)]
    answer: Annotated[list[Text | None], BeforeValidator(as_list)]
    image: Text | None = Field(default=None, alias="imgPath")
    mention_type: Text | None = None
    entities: Any = None

    def pairs(self, where: str) -> list[tuple[str, str | None]]:
        """(phrase as it stands in the record, gold or None for NIL). Raises `UserError` where their numbers differ."""
        if len(self.mentions) != len(self.answer) or not self.mentions:
            raise UserError(
                f"{where}: {len(self.mentions)} mentions and {len(self.answer)} answers, expected one answer for each "
                "mention"
            )
        return list(zip(self.mentions, self.answer, strict=True))


class KeyedText(Record):
    """A text under its key, as a release's files of descriptions and properties hold it."""

    key: Text
    text: TextOrBlank


class _Names(Record):
    QID: FilledText
    names: Aliases


def qid_aliases(folder: Path) -> Path | None:
    """The file with the entities' further names, where the folder has one."""
    path = folder / "qid2aliases.json"
    return path if path.is_file() else None


def read_aliases(path: Path | None, rejects: Rejects) -> dict[str, tuple[str, ...]]:
    """QID -> its further names; of no file, none."""
    aliases: dict[str, tuple[str, ...]] = {}
    for qid, names in (read_keyed(path) if path is not None else {}).items():
        with rejects.gather():
            record = _Names.read({"QID": qid, "names": names}, f"{path}: {qid!r:.40}")
            aliases[record.QID] = tuple(dict.fromkeys(map(decoded, record.names)))
    return aliases


def mention_ids() -> Unique:
    return Unique("mention id", "rename or remove one, or pass --repeated-ids number")


def first_folder(folder: Path, given: str | None, usual: Sequence[str]) -> Path:
    """The picture folder: the one that an option names, else the first usual one that is there, else the first."""
    if given:
        return folder / given
    return next((folder / name for name in usual if (folder / name).is_dir()), folder / usual[0])


def stamps_below(roots: dict[str, Path]) -> Iterator[tuple[str, int, int]]:
    """(name, size, mtime_ns) of every file below the picture folders, since a record may mean any of them."""
    for side, root in roots.items():
        waiting = [(root, "")] if root.is_dir() else []
        entered = set()  # links may lead back
        while waiting:
            place, prefix = waiting.pop()
            if (real := os.path.realpath(place)) in entered:
                continue
            entered.add(real)
            with os.scandir(place) as entries:
                for entry in entries:
                    if entry.is_dir():
                        waiting.append((Path(entry.path), f"{prefix}{entry.name}/"))
                        continue
                    try:
                        stat = entry.stat()
                        yield f"{side}/{prefix}{entry.name}", stat.st_size, stat.st_mtime_ns
                    except OSError:
                        yield f"{side}/{prefix}{entry.name}", -1, -1

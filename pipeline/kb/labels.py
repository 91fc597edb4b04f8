"""Labels of the items and properties that a KB's entities refer to: found in one pass over a file of labels."""

import sqlite3
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path

import msgspec

from foundation.errors import UserError
from foundation.files import bounded_lines, explained
from pipeline.kb.contracts import LONGEST_NAME
from pipeline.kb.values import clean, is_id
from pipeline.kb.wikidata import Scanned, referred

_LONGEST_LINE = 1 << 20


class Bits:
    """A set of whole numbers below a thousand million, in one bit each: 17 MB where they reach 140 million."""

    MOST = 10**9

    def __init__(self) -> None:
        self._bits = bytearray()

    def add(self, number: int) -> bool:
        """Add a number; whether it is new. Raises `UserError` for one that is no number of a page or an item."""
        if not 0 <= number < self.MOST:
            raise UserError(f"the number {number} is no page's or item's; expected one below {self.MOST:,}")
        place, bit = number >> 3, 1 << (number & 7)
        if place >= len(self._bits):
            self._bits.extend(bytes(place + 1 - len(self._bits)))
        new = not self._bits[place] & bit
        self._bits[place] |= bit
        return new

    def __contains__(self, number: int) -> bool:
        place = number >> 3
        return 0 <= place < len(self._bits) and bool(self._bits[place] & 1 << (number & 7))

    def __iter__(self) -> Iterator[int]:
        for place, byte in enumerate(self._bits):
            if byte:
                yield from (place * 8 + bit for bit in range(8) if byte >> bit & 1)


class Numbers:
    """A set of QIDs and of properties' ids."""

    def __init__(self) -> None:
        self._kinds = {"Q": Bits(), "P": Bits()}

    def add(self, name: str) -> bool:
        """Add an id; whether it is new."""
        return self._kinds[name[0]].add(int(name[1:]))

    def __contains__(self, name: str) -> bool:
        return int(name[1:]) in self._kinds[name[0]]

    def __iter__(self) -> Iterator[str]:
        return (f"{kind}{number}" for kind, bits in self._kinds.items() for number in bits)


def records(path: Path) -> Iterator[Scanned]:
    """The entities that the first pass kept."""
    decode = msgspec.json.Decoder(Scanned).decode
    with open(path, "rb") as handle:
        yield from map(decode, handle)


def needed(path: Path) -> Numbers:
    """Ids whose labels the kept entities need."""
    found = Numbers()
    for record in records(path):
        for name in referred(record):
            found.add(name)
    return found


def lines(path: Path) -> Iterator[tuple[str, str]]:
    """(id, label) of a file of labels: id, tab, label. Raises `UserError` with the line for another one."""
    try:
        handle = open(path, "rb")  # noqa: SIM115 - closed below
    except OSError as error:
        raise UserError(f"--labels {path}: {error.strerror}; name a file of lines with QID, tab and label") from None
    with handle:
        for number, raw, _ in bounded_lines(handle, _LONGEST_LINE):
            name, _, text = raw.decode("utf-8", "replace").partition("\t")
            if raw.strip() and not (is_id(name) and text.strip()):
                raise UserError(f"{path}:{number}: {raw[:60]!r}: expected a QID or a property's id, a tab and a label")
            if raw.strip():
                yield name, clean(text)[:LONGEST_NAME]


class Labels:
    """Labels by id, on disk."""

    def __init__(self, path: Path) -> None:
        with explained(path, "--out"):
            self._rows = sqlite3.connect(path)
            self._rows.executescript(
                "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; "
                "CREATE TABLE IF NOT EXISTS labels (id TEXT PRIMARY KEY, label TEXT NOT NULL) WITHOUT ROWID;"
            )
        self.path = path
        self.get = lru_cache(200_000)(self._get)

    def fill(self, labels: Iterable[tuple[str, str]], wanted: Numbers) -> None:
        """Keep the labels of ids that are wanted; of several the first."""
        with explained(self.path, "--out"), self._rows:
            self._rows.executemany(
                "INSERT OR IGNORE INTO labels VALUES (?, ?)", (pair for pair in labels if pair[0] in wanted)
            )
        self.get.cache_clear()

    def _get(self, name: str) -> str | None:
        row = self._rows.execute("SELECT label FROM labels WHERE id = ?", (name,)).fetchone()
        return row[0] if row else None

    def close(self) -> None:
        self._rows.close()

"""The first pass over a dump: every entity is looked at once, those of the KB are kept, and the labels of all.

Pieces of the dump are read by several processes and put together in order. What is written and counted up to a piece's
end is noted from time to time; a killed run goes on there, and leaves the same bytes.
"""

import base64
import contextlib
import os
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import IO, Any

import msgspec

from foundation.checksums import remembered, write_sealed
from foundation.child import follow_parent
from foundation.errors import UserError
from foundation.files import explained, fault_point
from foundation.progress import Bar
from pipeline.kb.contracts import LONGEST_RECORD
from pipeline.kb.dump import Dump, Piece, text_of
from pipeline.kb.wikidata import Item, Labelled, Selection, kind, label, scanned

NOTES = 0.05
"""Share of the time that notes of how far the pass is may take. Where the disk is fast there is one behind each piece,
and a kill costs no more than that."""
_EXAMPLES = 5
ENTITIES_PART, LABELS_PART = "scan-entities.jsonl", "scan-labels.tsv"
_BRACKETS = (b"[", b"]")
MALFORMED = "malformed: no JSON object of an entity"
TOO_LONG = f"malformed: longer than {LONGEST_RECORD:,} bytes"
SEEN = "entities in the dump"


@dataclass
class Part:
    """What a piece, or a line between two, gives. lines: of the KB's entities. labels: of all entities. brackets: the
    last that stood alone in a line. examples: records that are malformed.
    """

    head: bytes = b""
    tail: bytes = b""
    has_line_end: bool = False
    lines: list[bytes] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)
    brackets: str = ""


class Reader:
    """Reads lines of a dump."""

    def __init__(self, selection: Selection) -> None:
        self.selection = selection
        self._whole, self._label = msgspec.json.Decoder(Item), msgspec.json.Decoder(Labelled)
        self._encode = msgspec.json.Encoder().encode

    def piece(self, text: bytes) -> Part:
        first, last = text.find(b"\n"), text.rfind(b"\n")
        if first < 0:
            return Part(head=text)
        part = Part(head=text[:first], tail=text[last + 1 :], has_line_end=True)
        for line in text[first + 1 : last].split(b"\n") if last > first else ():
            self.line(line, part)
        return part

    def line(self, line: bytes, part: Part) -> None:
        """Add what a line gives to a part."""
        line = line.strip(b" \t\r,")
        if not line:
            return
        if line in _BRACKETS:
            part.brackets += line.decode()
            return
        part.counts[SEEN] += 1
        if len(line) > LONGEST_RECORD:
            self._reject(part, TOO_LONG, line)
            return
        try:
            self._entity(line, part)
        except (msgspec.DecodeError, RecursionError, UnicodeError):
            self._reject(part, MALFORMED, line)

    def _reject(self, part: Part, cause: str, line: bytes) -> None:
        part.counts[cause] += 1
        if len(part.examples) < _EXAMPLES:
            part.examples.append(f"{cause}: {line[:60].decode('utf-8', 'replace')}")

    def _entity(self, line: bytes, part: Part) -> None:
        taken = self.selection.condition.may_hold(line)
        item: Item | Labelled = (self._whole if taken else self._label).decode(line)
        of = kind(item)
        if of == "other":
            part.counts["left out: neither item nor property"] += 1
            return
        if self.selection.keep_labels and (text := label(item, self.selection)):
            part.labels.append(f"{item.id}\t{text}\n")
        if of == "property":
            part.counts["properties"] += 1
        elif not isinstance(item, Item):
            part.counts["left out by --where"] += 1
        else:
            record = scanned(item, self.selection, part.counts)
            if record is not None:
                part.lines.append(self._encode(record) + b"\n")


_READER: list[Reader] = []


def _begin(selection: Selection) -> None:
    """Make a process of the pool ready."""
    follow_parent()
    _READER[:] = [Reader(selection)]


def _read(path: Path, piece: Piece) -> Part:
    return _READER[0].piece(text_of(path, piece))


@dataclass
class Progress:
    """How far the pass is. place: where the next piece begins. carry: the bytes of a line before it. sizes: of the
    files. opened, closed: whether the list of entities has begun and ended.
    """

    place: int = 0
    carry: bytes = b""
    sizes: dict[str, int] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)
    opened: bool = False
    closed: bool = False
    done: bool = False

    def to_json(self, request: str) -> dict[str, Any]:
        carry = base64.b64encode(self.carry).decode()
        return {**self.__dict__, "carry": carry, "counts": dict(self.counts), "request": request}

    @classmethod
    def read(cls, path: Path, request: str) -> "Progress":
        """What is noted there of the same request; a new one where nothing is."""
        noted = remembered(path)
        if noted.pop("request", None) != request:
            return cls()
        return cls(**{**noted, "carry": base64.b64decode(noted["carry"]), "counts": Counter(noted["counts"])})


class Scan:
    """The pass, which writes `entities`, a line for each entity of the KB, and `labels`.

    request: what names the work; a note of another is not gone on with.
    """

    def __init__(self, folder: Path, dump: Dump, selection: Selection, request: str) -> None:
        self.folder, self.dump, self.selection, self.request = folder, dump, selection, request
        self.files = {"entities": folder / ENTITIES_PART, "labels": folder / LABELS_PART}
        self.note = folder / "scan.json"

    def run(self, processes: int) -> Progress:
        """Do what is left of the pass. Raises `UserError` for a dump that is damaged or ends early."""
        self.progress = Progress.read(self.note, self.request)
        if self.progress.done:
            return self.progress
        reader = Reader(self.selection)
        with contextlib.ExitStack() as opened:
            self._handles = {name: opened.enter_context(self._continued(name)) for name in self.files}
            read = opened.enter_context(_readers(self.dump.path, self.selection, processes))
            bar = opened.enter_context(
                Bar(self.dump.size, "reading the dump", "byte", self.progress.sizes.get("read", 0))
            )
            due = 0.0
            for piece, part, note in read(self.dump.pieces(self.progress.place)):
                self._take(piece, part, reader)
                bar.update(piece.read - bar.done)
                began = time.monotonic()
                if began >= due or os.environ.get("MEL_FAULT"):
                    note()
                    self._keep()
                    ended = time.monotonic()
                    due = ended + (ended - began) / NOTES
            rest = Part()
            reader.line(self.progress.carry, rest)
            self._add(rest)
            self._check_end()
            self.progress.carry, self.progress.done = b"", True
            self._keep()
        return self.progress

    @contextlib.contextmanager
    def _continued(self, name: str) -> Iterator[IO[bytes]]:
        """A file, cut to what was noted."""
        path = self.files[name]
        with explained(path, "--out"), open(path, "ab") as handle:
            handle.truncate(self.progress.sizes.get(name, 0))
            handle.seek(0, os.SEEK_END)
            yield handle

    def _take(self, piece: Piece, part: Part, reader: Reader) -> None:
        """Add a piece, whose first line may have begun in the one before."""
        progress = self.progress
        if not part.has_line_end:
            progress.carry = (progress.carry + part.head)[: LONGEST_RECORD + 1]
        else:
            between = Part()
            reader.line((progress.carry + part.head)[: LONGEST_RECORD + 1], between)
            self._add(between)
            self._add(part)
            progress.carry = part.tail[: LONGEST_RECORD + 1]
        progress.place = piece.end
        progress.sizes["read"] = piece.read

    def _add(self, part: Part) -> None:
        progress = self.progress
        self._handles["entities"].write(b"".join(part.lines))
        self._handles["labels"].write("".join(part.labels).encode())
        progress.counts.update(part.counts)
        progress.examples = (progress.examples + part.examples)[:_EXAMPLES]
        progress.opened = progress.opened or "[" in part.brackets
        progress.closed = part.brackets.endswith("]") if part.brackets else progress.closed

    def _keep(self) -> None:
        """Note how far the pass is, behind all that it has written."""
        for name, handle in self._handles.items():
            with explained(self.files[name], "--out"):
                handle.flush()
                os.fsync(handle.fileno())
            self.progress.sizes[name] = handle.tell()
        write_sealed(self.note, self.progress.to_json(self.request))
        fault_point("kb-noted")

    def _check_end(self) -> None:
        if self.progress.opened and not self.progress.closed:
            raise UserError(f"{self.dump.path}: ends early, the list of entities is not closed; fetch it again")


Pieces = Iterator[tuple[Piece, Callable[[], None]]]
Parts = Iterator[tuple[Piece, Part, Callable[[], None]]]


@contextlib.contextmanager
def _readers(path: Path, selection: Selection, processes: int) -> Iterator[Callable[[Pieces], Parts]]:
    """A function that reads pieces, in order, in so many processes; in this one where it is one."""
    if processes == 1:
        reader = Reader(selection)
        yield lambda pieces: ((piece, reader.piece(text_of(path, piece)), note) for piece, note in pieces)
        return
    pool = ProcessPoolExecutor(processes, get_context("spawn"), _begin, (selection,))
    try:
        yield lambda pieces: _in_order(pool, path, pieces, 2 * processes)
    except BrokenProcessPool:
        raise UserError(
            "a process that reads the dump was killed; if memory ran out, choose fewer --processes. Run the same "
            "command again to continue"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _in_order(pool: ProcessPoolExecutor, path: Path, pieces: Pieces, most: int) -> Parts:
    """Parts in the order of their pieces; at most so many are under way, and their texts in memory."""
    waiting: deque[tuple[Piece, Future[Part], Callable[[], None]]] = deque()
    for piece, note in pieces:
        future = pool.submit(_read, path, piece)
        waiting.append((Piece(piece.place, piece.end, piece.read, None), future, note))
        if len(waiting) >= most:
            first, part, noted = waiting.popleft()
            yield first, part.result(), noted
    for first, part, noted in waiting:
        yield first, part.result(), noted

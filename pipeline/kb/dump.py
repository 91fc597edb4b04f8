"""A dump of Wikidata in pieces, which processes can decompress and read one by one: .json, .json.gz, .json.bz2.

A place is where a piece begins: a byte of .json, a byte of the text in .gz, a bit of .bz2. A killed run goes on at the
place that it noted.
"""

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from foundation.checksums import remembered, write_sealed
from foundation.errors import UserError
from pipeline.kb import bzipped

PIECE = 8 << 20
"""Bytes of text in a piece."""
_FEED = 1 << 20  # bytes of a .gz that are read at a time
_GZIP = 31  # zlib's word for the form of .gz
ENDINGS = (".json", ".jsonl", ".json.gz", ".jsonl.gz", ".json.bz2", ".jsonl.bz2")


@dataclass(frozen=True)
class Piece:
    """place, end: where it begins, and where the next one does. read: bytes of the file up to there. held: its text, or
    what finds it in the file.
    """

    place: int
    end: int
    read: int
    held: bytes | bzipped.Blocks | None


@dataclass(frozen=True)
class Dump:
    """A dump's file. index: file beside the output that notes where a member of a .gz begins."""

    path: Path
    index: Path

    def check(self) -> None:
        """Raises `UserError` where there is no such file, or it is of another kind."""
        if not self.path.name.lower().endswith(ENDINGS):
            raise UserError(f"--dump {self.path}: expected a file ending in {', '.join(ENDINGS)}")
        if not self.path.is_file():
            raise UserError(f"--dump {self.path}: no such file; name a dump of Wikidata in JSON")

    @property
    def size(self) -> int:
        return self.path.stat().st_size

    def pieces(self, start: int) -> Iterator[tuple[Piece, Callable[[], None]]]:
        """The pieces from a place on, each with a function that notes how to come back to its end quickly.

        Raises `UserError` for a damaged file.
        """
        name = self.path.name.lower()
        if name.endswith(".gz"):
            yield from self._gzipped(start)
        elif name.endswith(".bz2"):
            for blocks in bzipped.groups(self.path, start):
                yield Piece(blocks.start, blocks.end, blocks.end // 8, blocks), _nothing
        else:
            for place in range(start, self.size, PIECE):
                end = min(place + PIECE, self.size)
                yield Piece(place, end, end, None), _nothing

    def _gzipped(self, start: int) -> Iterator[tuple[Piece, Callable[[], None]]]:
        """As `pieces`. A .gz can be entered where one of its members begins: published dumps have many."""
        noted = remembered(self.index)
        at, place = (noted["file"], noted["text"]) if noted and noted["text"] <= start else (0, 0)
        waiting, first = bytearray(), place
        with open(self.path, "rb") as file:
            file.seek(at)
            for text, member in self._inflated(file, place):

                def note(member: tuple[int, int] = member) -> None:
                    write_sealed(self.index, {"file": member[0], "text": member[1]})

                place += len(text)
                waiting += text[max(0, len(text) - (place - start)) :] if place > start else b""
                first = max(first, place - len(waiting))
                if len(waiting) >= PIECE:
                    yield Piece(first, place, file.tell(), bytes(waiting)), note
                    waiting.clear()
                    first = place
            if waiting:
                yield Piece(first, place, file.tell(), bytes(waiting)), _nothing

    def _inflated(self, file: BinaryIO, place: int) -> Iterator[tuple[bytes, tuple[int, int]]]:
        """Text of the members from here on, at most `PIECE` bytes at a time, and where its member begins: byte of the
        file, byte of the text. place: of the text here."""
        decoder, member, inside = zlib.decompressobj(_GZIP), (file.tell(), place), False
        feed = file.read(_FEED)
        if not feed:
            raise UserError(f"{self.path}: ends early; fetch it again")
        while feed:
            try:
                text = decoder.decompress(feed, PIECE)
            except zlib.error:
                raise UserError(f"{self.path}: damaged before byte {file.tell():,}; fetch it again") from None
            place, inside, feed = place + len(text), not decoder.eof, decoder.unconsumed_tail
            yield text, member
            if decoder.eof:
                feed = (decoder.unused_data or file.read(_FEED)).lstrip(b"\0")  # some writers fill the last block
                decoder, member = zlib.decompressobj(_GZIP), (file.tell() - len(feed), place)
            feed = feed or file.read(_FEED)
        if inside:
            raise UserError(f"{self.path}: ends early; fetch it again")


def _nothing() -> None:
    pass


def text_of(path: Path, piece: Piece) -> bytes:
    """The text of a piece. Raises `UserError` for a damaged file."""
    if isinstance(piece.held, bytes):
        return piece.held
    if isinstance(piece.held, bzipped.Blocks):
        return bzipped.decompressed(path, piece.held)
    with open(path, "rb") as handle:
        handle.seek(piece.place)
        text = handle.read(piece.end - piece.place)
    if len(text) != piece.end - piece.place:
        raise UserError(f"{path}: became shorter while it was read; run the same command again when it is whole")
    return text

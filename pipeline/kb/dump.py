"""A dump of Wikidata in pieces, which processes can decompress and read one by one: .json, .json.gz, .json.bz2.

A place is where a piece begins: a byte of .json, a byte of the text in .gz, a bit of .bz2. A killed run goes on at the
place that it noted.
"""

import contextlib
import os
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from foundation.errors import UserError
from pipeline.kb import bzipped

PIECE = 8 << 20
"""Bytes of text in a piece."""
_SPACING = 1 << 29
"""Bytes of text between two points in a .gz that can be gone back to; each takes 32 kB. indexed_gzip takes no more."""
_NOTED_EVERY = 16 << 30
"""Bytes of text after which the points are noted again: half a minute's decompression."""
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
    """A dump's file. index: file beside the output that notes points of a .gz which can be gone back to."""

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
        import indexed_gzip

        noted = 0
        try:
            with open(self.path, "rb") as file, indexed_gzip.IndexedGzipFile(file, spacing=_SPACING) as opened:
                if start and self.index.exists():
                    with contextlib.suppress(indexed_gzip.ZranError, OSError):  # it only saves time
                        opened.import_index(str(self.index))
                opened.seek(start)
                place = start

                def note() -> None:
                    nonlocal noted
                    if place - noted >= _NOTED_EVERY:
                        noted = place
                        temporary = self.index.with_name(f".{self.index.name}.tmp")
                        opened.export_index(str(temporary))
                        os.replace(temporary, self.index)

                while text := opened.read(PIECE):
                    place += len(text)
                    yield Piece(place - len(text), place, file.tell(), text), note
        except (indexed_gzip.ZranError, EOFError, zlib.error, OSError) as error:
            if isinstance(error, OSError) and error.errno:
                raise
            raise UserError(f"{self.path}: damaged, or ends early; fetch it again") from None


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

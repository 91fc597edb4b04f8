"""The blocks of a .bz2 file, found without decompressing it, so that processes can divide them and a killed run goes on
at any of them.

A block begins, at any bit, with 48 fixed bits and its CRC; 48 others end a stream (a file is one stream or several). A
group of blocks with a header before it and an end behind it is a .bz2 file of its own. That the 48 bits stand by chance
where no block begins is expected once in 300 files of 100 GB; only at a group's border it would matter.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from foundation.errors import UserError

_BLOCK, _END = 0x314159265359, 0x177245385090
_MARK_BYTES = 6
_WINDOW = 2 << 20
_OVERLAP = 16  # bytes: a mark at any bit, and the CRC behind it
_TOGETHER = 8  # blocks of a group: up to 7.2 MB in most files
MOST_BYTES = 256 << 20
"""Of a group, decompressed. A block of random text has 0.9 MB; one of equal bytes can have 46."""


@dataclass(frozen=True)
class Blocks:
    """Blocks that follow one another: where the first begins and the last ends, in bits, and their CRCs."""

    start: int
    end: int
    crcs: tuple[int, ...]


def groups(path: Path, start: int) -> Iterator[Blocks]:
    """The blocks that begin at bit `start` or later, a few at a time. Raises `UserError` where the file ends early."""
    first, crcs, ended = 0, list[int](), start > 0
    for place, is_block, crc in _marks(path, start):
        if crcs and (not is_block or len(crcs) == _TOGETHER):
            yield Blocks(first, place, tuple(crcs))
            crcs = []
        ended = not is_block
        if is_block:
            first = first if crcs else place
            crcs.append(crc)
    if not ended:
        raise UserError(f"{path}: ends early, or is no bzip2 file; fetch it again")


def _marks(path: Path, start: int) -> Iterator[tuple[int, bool, int]]:
    """(bit, whether a block begins there or else a stream ends, its CRC), in order."""
    with open(path, "rb") as handle:
        offset = start // 8
        handle.seek(offset)
        window = handle.read(_WINDOW)
        least = start
        while len(window) > _MARK_BYTES:
            more = handle.read(_WINDOW)
            whole = len(window) if not more else len(window) - _OVERLAP
            for bit in _found(window):
                place = offset * 8 + bit
                if least <= place and bit // 8 < whole:
                    yield place, _bits(window, bit, 48) == _BLOCK, _bits(window, bit + 48, 32)
                    least = place + 1
            window, offset = window[whole:] + more, offset + whole
            if not more:
                return


def _found(window: bytes) -> list[int]:
    """Bits at which either mark begins."""
    size, number = len(window), int.from_bytes(window, "big")
    places = []
    for shift in range(8):
        shifted = (number << shift).to_bytes(size + 1, "big")[1:]
        for mark in (_BLOCK, _END):
            wanted, place = mark.to_bytes(_MARK_BYTES, "big"), -1
            while (place := shifted.find(wanted, place + 1)) >= 0:
                places.append(8 * place + shift)
    return sorted(places)


def _bits(data: bytes, place: int, count: int) -> int:
    """A number of `count` bits; zeros stand behind the end."""
    size = (place % 8 + count + 7) // 8
    part = data[place // 8 : place // 8 + size].ljust(size, b"\0")
    return int.from_bytes(part, "big") >> (8 * size - place % 8 - count) & ((1 << count) - 1)


def decompressed(path: Path, blocks: Blocks) -> bytes:
    """What blocks hold. Raises `UserError` for damage, and where it is too much."""
    with open(path, "rb") as handle:
        handle.seek(blocks.start // 8)
        data = handle.read(-(-blocks.end // 8) - blocks.start // 8)
    count = blocks.end - blocks.start
    body = _bits(data, blocks.start % 8, count)
    # All CRCs first; then without one of them, whose mark may stand by chance inside a block.
    for crcs in (blocks.crcs, *(blocks.crcs[:n] + blocks.crcs[n + 1 :] for n in range(len(blocks.crcs)))):
        text = _read(_file(body, count, crcs))
        if text is not None and len(text) > MOST_BYTES:
            raise UserError(f"{path}: expands to more than {MOST_BYTES:,} bytes behind byte {blocks.start // 8:,}")
        if text is not None:
            return text
    raise UserError(f"{path}: damaged behind byte {blocks.start // 8:,}; fetch it again")


def _read(file: bytes) -> bytes | None:
    """The content of a .bz2 file, or a little more than `MOST_BYTES` of it; None where it is damaged."""
    import rapidgzip

    parts, size = [], 0
    try:
        with rapidgzip.IndexedBzip2File(io.BytesIO(file), parallelization=1) as opened:
            while size <= MOST_BYTES and (part := opened.read(4 << 20)):
                parts.append(part)
                size += len(part)
    except (RuntimeError, ValueError, OSError):
        return None
    return b"".join(parts)


def _file(body: int, count: int, crcs: tuple[int, ...]) -> bytes:
    """A .bz2 file of blocks of `count` bits. Its CRC is made of those of the blocks, each turned in by a bit."""
    crc = 0
    for one in crcs:
        crc = (crc << 1 | crc >> 31) & 0xFFFFFFFF ^ one
    bits = count + 48 + 32
    number = (body << 48 | _END) << 32 | crc
    return b"BZh9" + (number << -bits % 8).to_bytes((bits + 7) // 8, "big")

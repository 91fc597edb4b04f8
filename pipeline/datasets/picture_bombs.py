"""What a picture file may be made of: counted in its bytes, before a decoder meets what it would take minutes for."""

import re
import struct

_JPEG, _PNG, _TIFF = b"\xff\xd8", b"\x89PNG\r\n\x1a\n", (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
# Each scan of a JPEG is a pass over all its pixels. Encoders write about ten.
_SCANS, _FEW_SCANS, _SCANNED_PIXELS = 200, 64, 2_000_000_000
# Chunks, blocks or segments before the pixels, each of which costs Pillow some microseconds. A PNG of 50 MB has about
# 6,000 chunks, an animated one a few for each of its pictures.
_PARTS = 100_000
# EXIF that a JPEG spreads over segments is joined one by one, in time quadratic in their number. It fits into one.
_EXIF_SEGMENTS = 64
# Numbers in a TIFF's lists, each of which becomes a Python object: two a strip, of which there is at most one a row.
_NUMBERS = 500_000
_MARK = re.compile(rb"\xff[\x02-\xcf\xd9-\xfe]")  # of a JPEG, but for those that stand among coded pixels
_TIFF_BYTES = {1: 0, 2: 0, 7: 0}  # types that stay bytes


def excess(data: bytes) -> str | None:
    """What a picture file has too many of, for the cause of its verdict; None where it may be decoded."""
    try:
        if data.startswith(_JPEG):
            return _of_jpeg(data)
        if data.startswith(_PNG):
            return "too many parts" if _png_chunks(data) > _PARTS else None
        if data.startswith(b"GIF8"):
            return "too many parts" if _gif_blocks(data) > _PARTS else None
        if data.startswith(_TIFF):
            return "too many parts" if _tiff_numbers(data) > _NUMBERS else None
    except (struct.error, IndexError, OverflowError):
        pass  # it ends within its head: the decoder says so
    return None


def _of_jpeg(data: bytes) -> str | None:
    place, parts, exif, pixels = 2, 0, 0, 0
    while place + 4 <= len(data):
        parts += 1
        if parts > _PARTS or exif > _EXIF_SEGMENTS:
            return "too many parts"
        mark = data[place + 1] if data[place] == 0xFF else 0xFF
        if mark == 0xFF or mark == 0:  # bytes that fill, or mean nothing here; each is one step for Pillow too
            place += 1
            continue
        if mark == 0xDA:
            break
        if mark == 0x01 or 0xD0 <= mark <= 0xD9:  # marks without a segment
            place += 2
            continue
        if 0xC0 <= mark <= 0xCF and mark not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from(">HH", data, place + 5)
            pixels = height * width
        exif += mark == 0xE1 and data.startswith(b"Exif\0\0", place + 4)
        place += 2 + int.from_bytes(data[place + 2 : place + 4], "big")
    most, scans = max(_FEW_SCANS, min(_SCANS, _SCANNED_PIXELS // max(1, pixels))), 0
    while (found := _MARK.search(data, place)) and data[found.end() - 1] != 0xD9:  # up to the end of the picture
        parts, scans = parts + 1, scans + (data[found.end() - 1] == 0xDA)
        if scans > most or parts > _PARTS:
            return "too many scans" if scans > most else "too many parts"
        place = found.end() + int.from_bytes(data[found.end() : found.end() + 2], "big")
    return None


def _png_chunks(data: bytes) -> int:
    place, chunks = len(_PNG), 0
    while place + 8 <= len(data) and chunks <= _PARTS:
        place += 12 + int.from_bytes(data[place : place + 4], "big")
        chunks += 1
    return chunks


def _gif_blocks(data: bytes) -> int:
    """Of the extensions before the first picture, with the bytes between them that mean nothing."""
    place, blocks = 13, 0
    if data[10] & 0x80:
        place += 3 << ((data[10] & 7) + 1)
    while place < len(data) and data[place] not in b",;" and blocks <= _PARTS:
        blocks += 1
        if data[place] != 0x21:
            place += 1
            continue
        place += 2
        while data[place] and blocks <= _PARTS:
            place += 1 + data[place]
            blocks += 1
        place += 1
    return blocks


def _tiff_numbers(data: bytes) -> int:
    """Declared in the lists of the first directory."""
    order, big = "<" if data.startswith(b"II") else ">", b"+" in data[:4]
    (place,) = struct.unpack_from(f"{order}{'Q' if big else 'I'}", data, 8 if big else 4)
    (entries,) = struct.unpack_from(f"{order}{'Q' if big else 'H'}", data, place)
    place += 8 if big else 2
    numbers, entry = entries, f"{order}{'HHQ' if big else 'HHI'}"
    for _ in range(min(entries, _NUMBERS)):
        if place + struct.calcsize(entry) > len(data):  # a decoder keeps what it read up to here
            break
        _, kind, count = struct.unpack_from(entry, data, place)
        numbers += 0 if kind in _TIFF_BYTES else count
        place += 20 if big else 12
    return numbers

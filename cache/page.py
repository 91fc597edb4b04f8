"""The first page of a shard file, which HDF5 leaves to its user: the seal of the file, and its contents in short, so
that a shard opens without HDF5."""

import hashlib
import json
import os
from collections.abc import Mapping
from typing import Any, BinaryIO

from cache.columns import BLOCK_BYTES

PAGE = 4096  # bytes
SIGNATURE = b"\x89HDF\r\n\x1a\n"
_BRIEF = b"contents: "
_BRIEF_SEAL = "sha256 of the contents: "
_HEAD = f"feature shard, HDF5 from byte {PAGE} on\nsha256 of the bytes from there: {{}}\n"
_UNSEALED = "0" * 64
CONTENTS = len(_HEAD.format(_UNSEALED))
"""Where in the page the contents begin. They are the same for all shards that differ in values alone."""


def read(handle: BinaryIO) -> bytes:
    """The first page of a file that is open for reading, b"" where HDF5 begins at its first byte."""
    page = os.pread(handle.fileno(), PAGE, 0)
    return b"" if page.startswith(SIGNATURE) else page


def brief(page: bytes) -> dict[str, Any] | None:
    """The contents of the shard as its page gives them; None where it does not: written by an earlier version, or too
    long for a page.

    Raises `ValueError` where they are not as they were written.
    """
    lines = page.rstrip(b"\0").split(b"\n")
    if len(lines) < 4 or not lines[2].startswith(_BRIEF):
        return None
    text = lines[2].removeprefix(_BRIEF)
    if lines[3] != _seal_of_brief(text).encode():
        raise ValueError("the contents on its first page are not what was written")
    found: dict[str, Any] = json.loads(text)
    return found


def put(handle: BinaryIO, contents: Mapping[str, Any]) -> None:
    """Write the contents of a shard that is not sealed yet to its first page, where they fit."""
    text = json.dumps(contents, sort_keys=True, separators=(",", ":")).encode()
    page = _page(_UNSEALED, text)
    handle.seek(0)
    handle.write(page if len(page) == PAGE else _page(_UNSEALED, None))


def seal(handle: BinaryIO) -> None:
    """Write the SHA-256 of all bytes after the first page to it, readable with `head -n 2`; the contents there stay."""
    handle.flush()
    page = read(handle)
    lines = page.split(b"\n")
    value = _after_first_page(handle)
    handle.seek(0)
    handle.write(_page(value, lines[2].removeprefix(_BRIEF) if brief(page) is not None else None))
    handle.flush()


def seal_broken(handle: BinaryIO) -> bool | None:
    """Whether any byte of the file differs from when it was sealed; None for a file whose HDF5 part starts at byte 0,
    without a seal."""
    page = os.pread(handle.fileno(), PAGE + len(SIGNATURE), 0)
    if page[PAGE:] != SIGNATURE:
        return None
    lines = page[:PAGE].split(b"\n")
    text = lines[2].removeprefix(_BRIEF) if len(lines) > 2 and lines[2].startswith(_BRIEF) else None
    return page[:PAGE] != _page(_after_first_page(handle), text)


def _after_first_page(handle: BinaryIO) -> str:
    digest = hashlib.sha256()
    handle.seek(PAGE)
    while block := handle.read(BLOCK_BYTES):
        digest.update(block)
    return digest.hexdigest()


def _page(value: str, text: bytes | None) -> bytes:
    lines = _HEAD.format(value).encode()
    if text is not None:
        lines += _BRIEF + text + f"\n{_seal_of_brief(text)}\n".encode()
    return lines.ljust(PAGE, b"\0")


def _seal_of_brief(text: bytes) -> str:
    return _BRIEF_SEAL + hashlib.sha256(text).hexdigest()

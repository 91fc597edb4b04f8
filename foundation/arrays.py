"""Arrays out of .npz files, read so that a damaged or foreign file is one line and takes no more memory than it has
bytes."""

import hashlib
import io
import math
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from foundation.checksums import OTHER_BYTES, SEAL
from foundation.errors import NotAsWritten
from foundation.files import write_atomic
from foundation.remedies import remedy

_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
NUMBERS = "biuf"
"""Kinds of numpy's dtypes: truth values, whole numbers with and without a sign, fractions."""


@dataclass(frozen=True)
class Expected:
    """What an array must be.

    kinds: letters of numpy's dtype kinds. shape: the size of each axis, None where any will do; None: any shape.
    optional: whether it may lack.
    """

    kinds: str = NUMBERS + "U"
    shape: tuple[int | None, ...] | None = None
    optional: bool = False


class _Unfit(Exception):
    """What is wrong with the file, in words that follow its name."""


def read_npz(path: Path, expected: Mapping[str, Expected]) -> dict[str, np.ndarray]:
    """The expected arrays of an uncompressed .npz file, by name; optional ones that are not there are left out.

    Nothing is unpickled; a checksum that the file holds is compared. Raises `NotAsWritten` for a file that is missing
    or damaged, or whose arrays are others.
    """
    try:
        with zipfile.ZipFile(path) as file:
            members = {info.filename.removesuffix(".npy"): info for info in file.infolist()}
            lacking = [name for name, array in expected.items() if name not in members and not array.optional]
            if lacking:
                raise _Unfit(f"has no array {lacking[0]!r}")
            found = {
                name: _array(file, members[name], array, name) for name, array in expected.items() if name in members
            }
            if SEAL in members:
                others = {
                    name: _array(file, info, Expected(), name) for name, info in members.items() if name not in found
                }
                if str(others.pop(SEAL)) != _seal({**found, **others}):
                    raise _Unfit(OTHER_BYTES)
            return found
    except FileNotFoundError as error:
        raise NotAsWritten(f"{path}: no such file; {remedy(path)}") from error
    except _Unfit as error:
        problem = str(error)
    except MemoryError:
        raise
    except Exception as error:  # zipfile and numpy raise many kinds for damaged files
        problem = f"cannot be read as arrays ({type(error).__name__}: {str(error).partition(chr(10))[0][:120]})"
    raise NotAsWritten(f"{path}: {problem}; {remedy(path)}")


def write_npz(path: Path, arrays: Mapping[str, np.ndarray], seal: bool = False) -> None:
    """Replace `path` by an .npz file of these arrays; the same bytes for the same arrays.

    seal: with a checksum over all of them, for a file that no receipt holds the checksum of.
    """
    sink = io.BytesIO()
    whole = {name: np.asarray(array) for name, array in arrays.items()}
    np.savez(sink, **whole, **({SEAL: np.array(_seal(whole))} if seal else {}))  # type: ignore[arg-type]  # stubs
    write_atomic(path, sink.getvalue())


def damage(path: Path) -> str | None:
    """What is wrong with an .npz file that `write_npz` wrote, whatever its arrays are; None: nothing."""
    try:
        with zipfile.ZipFile(path) as file:
            members = {info.filename.removesuffix(".npy"): info for info in file.infolist()}
            arrays = {name: _array(file, info, Expected(), name) for name, info in members.items()}
            if SEAL in arrays and str(arrays.pop(SEAL)) != _seal(arrays):
                return OTHER_BYTES
    except MemoryError:
        raise
    except Exception as error:  # zipfile and numpy raise many kinds for damaged files
        return f"cannot be read as arrays ({str(error).partition(chr(10))[0][:120]})"
    return None


def foreign_npz(path: Path, most: int) -> dict[str, np.ndarray]:
    """All arrays of an .npz file that somebody else made, compressed ones too.

    most: bytes of all together, as the file announces them. Nothing is unpickled. Raises `ValueError` and what zipfile
    and numpy raise for a damaged file.
    """
    with zipfile.ZipFile(path) as file:
        announced = sum(info.file_size for info in file.infolist())
        if announced > most:
            raise ValueError(f"announces {announced / 1e9:,.1f} GB of arrays, at most {most / 1e9:,.1f} GB are read")
        try:
            return {
                info.filename.removesuffix(".npy"): _array(file, info, Expected(), info.filename, compressed=True)
                for info in file.infolist()
            }
        except _Unfit as error:
            raise ValueError(str(error)) from None


def _seal(arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 (hex) of arrays with their names, shapes and dtypes."""
    hashed = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        hashed.update(f"{name} {array.dtype.str} {array.shape}\0".encode())
        hashed.update(np.ascontiguousarray(array).tobytes())
    return hashed.hexdigest()


def _array(
    file: zipfile.ZipFile, info: zipfile.ZipInfo, expected: Expected, name: str, compressed: bool = False
) -> np.ndarray:
    if not compressed and info.compress_type != zipfile.ZIP_STORED:
        raise _Unfit(f"holds the array {name!r} compressed")
    with file.open(info) as member:
        version = np.lib.format.read_magic(member)
        if version not in _HEADERS:
            raise _Unfit(f"holds the array {name!r} in the unknown version {version}")
        shape, fortran_order, dtype = _HEADERS[version](member)
        if dtype.kind not in expected.kinds or dtype.hasobject or not _fits(shape, expected.shape):
            sizes = ", ".join("any" if size is None else str(size) for size in expected.shape or ())
            wanted = f"of {len(expected.shape)} axes ({sizes})" if expected.shape is not None else "of any shape"
            raise _Unfit(f"holds as {name!r} {dtype}{shape}, expected {'/'.join(expected.kinds)} {wanted}")
        size = math.prod(shape) * dtype.itemsize
        if size != info.file_size - member.tell():
            raise _Unfit(f"holds as {name!r} {dtype}{shape} in {info.file_size:,} bytes")
        values = np.empty(math.prod(shape), dtype)
        _fill(member, values)
        return values.reshape(shape, order="F" if fortran_order else "C")


def _fits(shape: tuple[int, ...], expected: tuple[int | None, ...] | None) -> bool:
    if not all(type(size) is int and size >= 0 for size in shape):
        return False
    if expected is None:
        return True
    return len(shape) == len(expected) and all(
        wanted in (None, size) for size, wanted in zip(shape, expected, strict=True)
    )


def _fill(member: IO[bytes], values: np.ndarray) -> None:
    """Read an array's bytes, to the member's end, where its checksum is compared."""
    view = memoryview(values.view(np.uint8).data if values.size else bytearray()).cast("B")
    place = 0
    while place < len(view):
        block = member.read(min(1 << 24, len(view) - place))
        if not block:
            raise _Unfit("ends early")
        view[place : place + len(block)] = block
        place += len(block)
    member.read(1)

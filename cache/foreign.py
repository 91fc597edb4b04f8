"""Bytes out of an HDF5 file that somebody else made: a group of byte arrays, read one at a time, nothing trusted.

What stands in other files (external links, external storage, virtual datasets) and what another name stands for (soft
links) is not read. Filters are not run by HDF5, which would unpack whatever they give, but here, up to the announced
size.
"""

import os
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from cache.layout import NOT_ITS_FAULT
from foundation.errors import PassingError, UserError
from foundation.files import error_number

MOST_CHUNKS = 4096  # of one array
_DAMAGED = "damaged HDF5 data"
_DEFLATE, _SHUFFLE = h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE


class Unusable(Exception):
    """An array that cannot be used, now or later.

    cause: a short text, the same for all with this fault. too_large: whether more bytes than allowed are the fault.
    """

    def __init__(self, cause: str, too_large: bool = False) -> None:
        super().__init__(cause)
        self.cause, self.too_large = cause, too_large


def keys_there(path: Path, group: str, names: Iterable[str]) -> set[str]:
    """Which of `names` the group of a file has.

    Raises `UserError` for a file that is no HDF5 file, `PassingError` for one that cannot be opened now.
    """
    try:
        with _opened(path) as file:
            members = _group(file, group)
            return set() if members is None else {name for name in names if _there(members, name)}
    except Unusable as error:
        raise UserError(f"{path}: {group} is {error.cause}; it must be a group of byte arrays in this file") from error
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        raise _failure(path, error) from error


def read_bytes(path: Path, group: str, name: str, most: int) -> bytes:
    """The bytes of the array (n,) uint8 `name` in a group of a file.

    The file is open only meanwhile, so threads may read at once, and processes that were forked. Raises
    `FileNotFoundError` where there is no such array, `Unusable` for one of more than `most` bytes and for what is no
    such array, `PassingError` where the file cannot be read now.
    """
    try:
        with _opened(path) as file:
            members = _group(file, group)
            if members is None or not _there(members, name):
                raise FileNotFoundError(f"{path}: no {group}/{name}")
            return _bytes(_member(members, name), most)
    except (Unusable, FileNotFoundError, MemoryError):
        raise
    except Exception as error:  # HDF5 and h5py raise many kinds for damaged structures
        if isinstance(failure := _failure(path, error), PassingError):
            raise failure from error
        raise Unusable(_DAMAGED) from error


def _opened(path: Path) -> h5py.File:
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    return h5py.File(path, "r", locking=False)


def _failure(path: Path, error: Exception) -> Exception:
    number = error_number(error)
    if isinstance(error, FileNotFoundError):
        return UserError(f"{path}: no such file")
    if number in NOT_ITS_FAULT:
        return PassingError(f"{path}: {os.strerror(number or 0)}")
    reason = str(error).partition("\n")[0][:120]
    return UserError(f"{path}: no HDF5 file, or a damaged one ({reason}); put the release's own file there")


def _there(group: h5py.Group, name: str) -> bool:
    """Whether a group has a member of this name, which is not taken as a path; no link is followed."""
    plain = name and name != "." and "/" not in name and "\0" not in name
    return bool(plain) and group.id.links.exists(name.encode())


def _group(file: h5py.File, name: str) -> h5py.Group | None:
    if not _there(file, name):
        return None
    group = _member(file, name)
    if not isinstance(group, h5py.Group):
        raise Unusable("no group")
    return group


def _member(group: h5py.Group, name: str) -> Any:
    """Raises `Unusable` for a link, which may lead anywhere."""
    kind = group.id.links.get_info(name.encode()).type
    if kind != h5py.h5l.TYPE_HARD:
        raise Unusable("a link to another file" if kind == h5py.h5l.TYPE_EXTERNAL else "a link to another name")
    return group[name]


def _bytes(dataset: Any, most: int) -> bytes:
    if not isinstance(dataset, h5py.Dataset):
        raise Unusable("a group instead of an array")
    if dataset.external or dataset.is_virtual:
        raise Unusable("an array in another file")
    if dataset.shape is None or len(dataset.shape) != 1 or dataset.dtype != np.uint8:
        raise Unusable("no array of bytes")
    if dataset.size > most:
        raise Unusable("too many bytes", too_large=True)
    if dataset.chunks is None:
        filled = np.zeros(dataset.size, np.uint8)
        if dataset.size:
            dataset.read_direct(filled)
        return filled.tobytes()
    return _of_chunks(dataset, most)


def _of_chunks(dataset: h5py.Dataset, most: int) -> bytes:
    """An array in chunks. One that was never written is zeros."""
    plain, (size,), (step,) = dataset.id.get_create_plist(), dataset.shape, dataset.chunks
    filters = [plain.get_filter(number)[0] for number in range(plain.get_nfilters())]
    packed = _DEFLATE in filters
    if [one for one in filters if one != _SHUFFLE] not in ([], [_DEFLATE]):  # shuffling bytes leaves them as they are
        raise Unusable("an HDF5 filter other than gzip")
    if step > most or -(-size // step) > MOST_CHUNKS:
        raise Unusable("too many bytes", too_large=True)
    out = bytearray(size)
    for start in range(0, size, step):
        found = dataset.id.get_chunk_info_by_coord((start,))
        if found.byte_offset is None:
            continue
        if found.size > most:
            raise Unusable("too many bytes", too_large=True)
        if found.filter_mask and filters:
            raise Unusable("an HDF5 chunk without its filter")
        _, data = dataset.id.read_direct_chunk((start,))
        data = _unpacked(data, step) if packed else data
        if len(data) != step:
            raise Unusable(_DAMAGED)
        out[start : start + step] = data[: size - start]
    return bytes(out)


def _unpacked(data: bytes, size: int) -> bytes:
    """`size` bytes, or one more where there are more: the rest is not unpacked."""
    try:
        return zlib.decompressobj().decompress(data, size + 1)
    except zlib.error as error:
        raise Unusable(_DAMAGED) from error

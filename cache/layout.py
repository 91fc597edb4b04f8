"""How arrays stand in a shard file: mapped where HDF5 allows it, read through h5py elsewhere, older layouts brought to
today's."""

import contextlib
import ctypes
import errno
import functools
import hashlib
import io
import math
import mmap
import os
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

from cache import page
from cache.columns import BLOCK_BYTES, Pending
from cache.errors import Damaged, Gone
from cache.identity import DTYPES
from cache.page import PAGE
from foundation.errors import PassingError, UserError
from foundation.files import error_number, free_bytes

LAYOUT = 1  # raised when names or meaning of a shard's arrays or attributes change; then MIGRATIONS gets a function
NOT_ITS_FAULT = {
    errno.EACCES,
    errno.EPERM,
    errno.EMFILE,
    errno.ENFILE,
    errno.ENOMEM,
    errno.ESTALE,
    errno.ETIMEDOUT,
    errno.EINTR,
}
_DTYPES = {name: np.dtype(name) for name in (*DTYPES, "int64")}  # of arrays that a shard may hold
_MAP_FAILED = ctypes.c_void_p(-1).value


class H5Array:
    """An array that cannot be mapped (chunked, compressed): indexed like a read-only numpy array, read through h5py at
    each access.

    Slow, but memory stays flat and nothing stays open, so it can be pickled and survives a fork.
    """

    def __init__(self, path: Path, name: str, shape: tuple[int, ...], dtype: np.dtype) -> None:
        self.path, self.name, self.shape, self.dtype = path, name, shape, dtype

    @property
    def size(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64))

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> np.ndarray:
        """Rows by int, slice or integer array (any order, repeats allowed)."""
        with h5py.File(self.path, "r", locking=False) as file:
            dataset = file[self.name]
            if not isinstance(index, np.ndarray):
                return np.asarray(dataset[index])
            rows, inverse = np.unique(index, return_inverse=True)  # h5py wants them ascending and once
            return np.asarray(dataset[rows])[inverse]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[:], dtype)


class Unread(NamedTuple):
    """An array that was not read, see `read`."""

    dtype: np.dtype
    shape: tuple[int, ...]


Array = np.ndarray | H5Array


@dataclass
class Contents:
    """A shard as its file gives it. arrays: HDF5 path without the leading slash → array."""

    attributes: dict[str, Any]
    arrays: dict[str, Array]


# From a layout version to the function that turns its contents into the next version's. Shards are never rewritten:
# this happens on every open.
MIGRATIONS: dict[int, Callable[[Contents], Contents]] = {}


def create(path: Path, attributes: Mapping[str, str | list[str]], arrays: Mapping[str, Pending]) -> dict[str, int]:
    """Make the file `path` with all its metadata and checksums, and room for each array; returns where in the file each
    one goes, in file order.

    Arrays without a byte have no place. Raises `OSError` (ENOSPC) when the disk has less room than the arrays need:
    then nothing is made.
    """
    bytes_needed = sum(math.prod(array.shape) * array.dtype.itemsize + 4 * PAGE for array in arrays.values()) + 8 * PAGE
    if free_bytes(path.parent) < bytes_needed:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    properties.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    properties.set_obj_track_times(False)  # the same rows give the same bytes
    with h5py.File(
        path, "x", libver="earliest", locking=False, userblock_size=PAGE, alignment_threshold=1, alignment_interval=PAGE
    ) as file:
        file.attrs["layout"] = LAYOUT
        for name, value in attributes.items():
            file.attrs[name] = _text(value)
        offsets = {}
        for name, array in arrays.items():
            dataset = file.create_dataset(name, array.shape, array.dtype, dcpl=properties.copy())
            dataset.attrs["sha256"] = _text(array.sha256())
            if dataset.size:
                offsets[name] = dataset.id.get_offset()
    with open(path, "r+b") as handle:
        with h5py.File(path, "r", locking=False) as file:
            contents = _brief(file)
        page.put(handle, {**contents, "bytes": os.fstat(handle.fileno()).st_size})
    return dict(sorted(offsets.items(), key=lambda item: item[1]))


def _brief(file: h5py.File) -> dict[str, Any]:
    """The contents of a shard for its first page: attributes, and dtype, shape and place of each array."""
    arrays = {}

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            arrays[name] = [item.dtype.name, list(item.shape), item.id.get_offset() if item.size else None]

    file.visititems(visit)
    return {"attributes": {name: _plain(value) for name, value in file.attrs.items()}, "arrays": arrays}


def _text(strings: str | list[str]) -> np.ndarray | np.bytes_:
    """Strings as an attribute of fixed-length UTF-8.

    Those of variable length lie in HDF5's heap, where one flipped byte makes it read for ever.
    """
    if isinstance(strings, str):
        return np.bytes_(strings.encode())
    encoded = [string.encode() for string in strings]
    return np.array(encoded, f"S{max(1, *map(len, encoded))}")


def read(path: Path, keys_alone: bool = False) -> Contents:
    """Open the shard `path` and map its arrays; the file is closed again, the maps stay.

    keys_alone: where the first page gives the contents, only `keys` is read and nothing is mapped; the other arrays
    are `Unread`.

    Raises `UserError` (`Gone`, `Damaged`) naming the file when it is missing, truncated, no HDF5 file, of a newer
    layout, or refers to other files; `PassingError` when the system cannot open it just now.
    """
    with _readable(path):
        contents = _of_first_page(path, keys_alone)
        if contents is None:
            with h5py.File(path, "r", locking=False) as file:
                contents = Contents({name: _plain(value) for name, value in file.attrs.items()}, _arrays(path, file))
        version = int(contents.attributes["layout"])
    if version > LAYOUT:
        raise UserError(f"shard {path} has layout {version}, this version reads up to {LAYOUT}; update the package")
    while version < LAYOUT:
        if version not in MIGRATIONS:
            raise Damaged(f"shard {path} has the unknown layout {version}, expected {LAYOUT}")
        contents, version = MIGRATIONS[version](contents), version + 1
    return contents


def _of_first_page(path: Path, keys_alone: bool) -> Contents | None:
    """The contents as the first page gives them; None where it does not, or where the file is not as long as it says:
    what is wrong then is found by HDF5."""
    with open(path, "rb", buffering=0) as handle:
        found, size = page.brief(page.read(handle)), os.fstat(handle.fileno()).st_size
        if found is None or found["bytes"] != size or found["attributes"]["layout"] > LAYOUT:
            return None
        listed = {
            name: (_DTYPES[dtype], tuple(shape), start) for name, (dtype, shape, start) in found["arrays"].items()
        }
        if keys_alone:
            arrays: dict[str, Any] = {name: Unread(dtype, shape) for name, (dtype, shape, _) in listed.items()}
            if "keys" in listed:
                dtype, shape, start = listed["keys"]
                data = os.pread(handle.fileno(), math.prod(shape) * dtype.itemsize, start)
                arrays["keys"] = np.frombuffer(data, dtype).reshape(shape)
            return Contents(found["attributes"], arrays)
        raw = _map(handle, size)
    arrays = {
        name: np.empty(shape, dtype) if start is None else _view(raw, name, dtype, (start, shape))
        for name, (dtype, shape, start) in listed.items()
    }
    return Contents(found["attributes"], arrays)


def _view(raw: np.ndarray, name: str, dtype: np.dtype, place: tuple[int, Sequence[int]]) -> np.ndarray:
    """The array of a mapped file at a place: its first byte, and its shape."""
    start, shape = place
    length = math.prod(shape) * dtype.itemsize
    if start < 0 or start + length > len(raw):
        raise ValueError(f"array {name} ends after the end of the file")
    array: np.ndarray = raw[start : start + length].view(dtype).reshape(shape)
    return array


def damage(path: Path) -> str | None:
    """What in the shard is not as it was written, by its seal and the checksum of each array; None where all hold.
    Raises as `read` does.

    The seal comes first and without HDF5, which need not survive damage to its own structures. It was taken of the
    file, the checksums of the arrays before they were written: they differ alone where the disk or the memory failed in
    between.
    """
    if seal_broken(path):
        return "its bytes are not what was written (the checksum of the file differs)"
    with _readable(path), h5py.File(path, "r", locking=False) as file:
        for name, array in _arrays(path, file).items():
            if checksum(array) != _plain(file[name].attrs.get("sha256")):
                return f"array {name} is not what was written (its checksum differs)"
        with open(path, "rb") as handle:
            found = page.brief(page.read(handle))
        if found is not None and found != {**_brief(file), "bytes": path.stat().st_size}:
            return "the contents on its first page are not those of the file"
    return None


def seal_broken(path: Path) -> bool | None:
    """Whether a byte of the shard is not as it was written; None for one without a seal. Raises as `read` does."""
    with _readable(path), open(path, "rb") as handle:
        return page.seal_broken(handle)


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Every failure to read the shard as one line for the user."""
    try:
        yield
    except FileNotFoundError as error:
        raise Gone(f"shard {path} is gone") from error
    except MemoryError:
        raise
    except Exception as error:
        number = error_number(error)
        if number in NOT_ITS_FAULT:
            raise PassingError(
                f"shard {path} cannot be opened now ({os.strerror(number or 0)}); run the same command again"
            ) from error
        reason = str(error).partition("\n")[0][:120]
        raise Damaged(f"shard {path} is truncated or damaged ({reason})") from error


def _arrays(path: Path, file: h5py.File) -> dict[str, Array]:
    # Read-only and shared: the pages belong to the page cache, not to this process.
    raw = _mapped(path)
    arrays = {}

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            arrays[name] = _array(path, name, item, raw)

    file.visititems(visit)  # does not follow links that lead out of the file
    return arrays


def _mapped(path: Path) -> np.ndarray:
    """The file's bytes as a read-only (n,) uint8 array over its pages, unmapped with the last view of it.

    `mmap.mmap` before Python 3.13 keeps a descriptor for each map, so that a store of a thousand shards would use up a
    process's descriptors. Raises `OSError` where the system cannot map it, `ValueError` for an empty file.
    """
    with open(path, "rb", buffering=0) as handle:
        return _map(handle, os.fstat(handle.fileno()).st_size)


def _map(handle: io.FileIO, size: int) -> np.ndarray:
    if size == 0:
        raise ValueError("the file is empty")
    place = _libc().mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, handle.fileno(), 0)
    if place == _MAP_FAILED:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(handle.name))
    pages = (ctypes.c_ubyte * size).from_address(place)
    unmap = weakref.finalize(pages, _libc().munmap, place, size)
    unmap.atexit = False  # threads may still read while the interpreter ends; the system unmaps what is left
    array: np.ndarray = np.ndarray((size,), np.uint8, memoryview(pages))
    array.flags.writeable = False
    return array


@functools.cache
def _libc() -> ctypes.CDLL:
    library = ctypes.CDLL(None, use_errno=True)
    library.mmap.restype = ctypes.c_void_p
    library.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_int64]
    library.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    return library


def _plain(value: Any) -> Any:
    """An attribute as Python ints and strings."""
    value = value.tolist() if isinstance(value, np.ndarray | np.generic) else value
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value.decode() if isinstance(value, bytes) else value


def _array(path: Path, name: str, dataset: h5py.Dataset, raw: np.ndarray) -> Array:
    if dataset.external or dataset.is_virtual:
        raise ValueError(f"array {name} lies in another file")
    if dataset.dtype.name not in _DTYPES or not dataset.dtype.isnative:
        raise ValueError(f"array {name} has the dtype {dataset.dtype}")
    if dataset.chunks is not None or dataset.id.get_create_plist().get_layout() != h5py.h5d.CONTIGUOUS:
        return H5Array(path, name, dataset.shape, dataset.dtype)
    if dataset.size == 0:  # has no place in the file
        return np.empty(dataset.shape, dataset.dtype)
    start = dataset.id.get_offset()
    if start is None:
        raise ValueError(f"array {name} ends after the end of the file")
    return _view(raw, name, dataset.dtype, (start, dataset.shape))


def checksum(array: Array) -> str:
    """SHA-256 hex of the array's bytes in C order, read a block at a time."""
    digest = hashlib.sha256()
    rows = max(1, BLOCK_BYTES // max(1, array.size * array.dtype.itemsize // max(1, len(array))))
    for start in range(0, len(array), rows):
        digest.update(np.ascontiguousarray(array[start : start + rows]).data)
    return digest.hexdigest()

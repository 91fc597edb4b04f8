"""Arrays by record id out of files that somebody else made: .npy, .npz, .pt, .safetensors, Parquet, Hugging Face.

Nothing is unpickled. What a file announces is compared with its size, and with the most that may be read, before it is
read.
"""

import contextlib
import json
import math
import os
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cache.identity import Output
from foundation.arrays import foreign_npz
from foundation.errors import PassingError, UserError
from foundation.files import read_json, read_lines
from pipeline.imported.contracts import MOST_BYTES

if TYPE_CHECKING:
    import pyarrow as pa

IDS_ENDING = ".ids.json"
"""Of the file of ids beside a file that holds arrays alone."""
OUTPUTS_KEY = b"mel_outputs"
"""Metadata of a Parquet file that ExportFeatures wrote: its outputs as JSON."""
MOST_LEVELS = 4  # of lists inside lists
MOST_ARRAYS = 1_000
MOST_IDS_BYTES = 1 << 30
VALUES, OFFSETS, LENGTHS = "/values", "/offsets", "/lengths"
_ID_COLUMNS = ("id", "ids")


class Unfit(Exception):
    """What is wrong with a file, in words that follow its name."""


@dataclass(frozen=True)
class Array:
    """n rows. values: (n, *shape), or of ragged ones (sum of lengths, *shape). offsets: (n + 1,) int64, None for fixed
    ones. present: (n,) bool; rows that are not are left out of `values`."""

    values: np.ndarray
    offsets: np.ndarray | None
    present: np.ndarray

    @property
    def rows(self) -> int:
        """Rows that are present."""
        return len(self.values) if self.offsets is None else len(self.offsets) - 1

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one row, or of one step of a ragged row."""
        return tuple(self.values.shape[1:])

    def take(self, places: np.ndarray) -> Sequence[np.ndarray] | np.ndarray:
        """The rows at `places` (b,) among those that are present."""
        if self.offsets is None:
            return np.asarray(self.values[places])
        return [np.asarray(self.values[self.offsets[at] : self.offsets[at + 1]]) for at in places.tolist()]


@dataclass(frozen=True)
class FileContent:
    """What a file holds: arrays by name, "" where it is one without a name, and ids where a column has them."""

    arrays: Mapping[str, Array]
    ids: list[str] | None = None


def read(path: Path, ids: str, most: int = MOST_BYTES) -> tuple[list[str], dict[str, Array]]:
    """n ids and arrays of n rows by name. ids, path: see `ImportJob`. most: bytes of the arrays.

    Raises `UserError` for a file that is missing, damaged, too large or of another kind.
    """
    with _explained(path):
        column = ids if ids and not Path(ids).is_file() else ""
        source = _source(path, column, most)
    if ids and not column:
        listed = read_ids(Path(ids))
    elif source.ids is not None:
        listed = source.ids
    elif (beside := path.with_name(path.name + IDS_ENDING)).is_file():
        listed = read_ids(beside)
    else:
        what = f"there is neither a file nor a column {ids!r}" if ids else "no ids are given"
        raise UserError(
            f"--from {path}: {what}; name a text file with an id a line, a JSON list of ids, or a column with --ids"
        )
    for name, array in source.arrays.items():
        if len(array.present) != len(listed):
            raise UserError(
                f"--from {path}: {len(array.present):,} rows of {name or 'the array'} for {len(listed):,} ids; expected"
                " an id for each row, in their order"
            )
    return listed, dict(source.arrays)


def read_ids(path: Path) -> list[str]:
    """The ids in a file: a JSON list of texts or whole numbers, or a line each. Raises `UserError`."""
    if path.stat().st_size > MOST_IDS_BYTES:
        raise UserError(f"--ids {path}: {path.stat().st_size:,} bytes, at most {MOST_IDS_BYTES:,} are read")
    if path.suffix != ".json":
        return [line for _, line in read_lines(path)]
    found = read_json(path)
    if not isinstance(found, list) or not all(type(one) in (str, int) for one in found):
        raise UserError(f"--ids {path}: expected a JSON list of texts or whole numbers")
    return [str(one) for one in found]


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except (UserError, PassingError):
        raise
    except Unfit as error:
        problem = str(error)
    except FileNotFoundError:
        problem = "no such file"
    except MemoryError:
        problem = "it does not fit into memory; import fewer records at a time"
    except Exception as error:  # each library raises many kinds for damaged files
        problem = f"cannot be read ({type(error).__name__}: {' '.join(str(error).split())[:120]})"
    else:
        return
    raise UserError(f"--from {path}: {problem}")


def _source(path: Path, ids: str, most: int) -> FileContent:
    if path.is_dir():
        return _of_dataset(path, ids, most)
    if not path.is_file():
        raise FileNotFoundError if not path.exists() else Unfit("is no regular file")
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise Unfit(f"is of no known format; expected {', '.join(_READERS)}, or the folder of a Hugging Face dataset")
    return reader(path, ids, most)


def _refuse_large(announced: int, most: int) -> None:
    if announced > most:
        raise Unfit(f"announces {announced / 1e9:,.1f} GB of arrays, at most {most / 1e9:,.1f} GB may be imported here")


def _memory() -> int:
    """Bytes of this machine's memory, for formats that are unpacked into it."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _npy(path: Path, _: str, most: int) -> FileContent:
    _refuse_large(path.stat().st_size, most)
    found = np.load(path, mmap_mode="r", allow_pickle=False)
    if not isinstance(found, np.ndarray):
        raise Unfit("is no .npy file")
    return _named({"": found}, "")


def _npz(path: Path, ids: str, most: int) -> FileContent:
    return _named(foreign_npz(path, min(most, _memory())), ids)


def _safetensors(path: Path, ids: str, most: int) -> FileContent:
    from safetensors import safe_open

    _refuse_large(path.stat().st_size, most)
    with safe_open(path, framework="pt") as file:
        return _named({name: _numpy(name, file.get_tensor(name)) for name in file.keys()}, ids)  # noqa: SIM118


def _torch(path: Path, ids: str, most: int) -> FileContent:
    import torch

    size = path.stat().st_size
    _refuse_large(size, most)
    with zipfile.ZipFile(path) as file:
        if any(member.compress_type != zipfile.ZIP_STORED for member in file.infolist()):
            raise Unfit("holds compressed members, as torch.save writes none")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:
        raise Unfit(
            f"is refused ({type(error).__name__}): a file of tensors alone is expected (weights_only)"
        ) from None
    found = state if isinstance(state, dict) else {"": state}
    arrays: dict[str, np.ndarray] = {}
    announced = 0
    for name, value in found.items():
        if not isinstance(name, str):
            raise Unfit(f"has the key {name!r:.40}; expected names of arrays")
        if isinstance(value, list) and value and all(isinstance(one, str) for one in value):
            arrays[name] = np.array(value, object)
            continue
        tensors = value if isinstance(value, list) else [value]
        if not tensors or not all(isinstance(one, torch.Tensor) for one in tensors):
            raise Unfit(f"holds as {name!r:.60} a {type(value).__name__}; expected a tensor, or a list of them")
        announced += sum(one.numel() * one.element_size() for one in tensors)
        if announced > size:
            raise Unfit("announces more numbers than it has bytes for")
        if isinstance(value, list):
            if len({(one.dtype, one.shape[1:]) for one in tensors}) > 1 or not tensors[0].ndim:
                raise Unfit(f"holds as {name!r:.60} tensors of different kinds; expected (L, …) of one dtype")
            lengths = np.array([0, *(len(one) for one in tensors)], np.int64)
            arrays[name + VALUES], arrays[name + OFFSETS] = _numpy(name, torch.cat(tensors)), lengths.cumsum()
        else:
            arrays[name] = _numpy(name, value)
    return _named(arrays, ids)


def _numpy(name: str, tensor: Any) -> np.ndarray:
    import torch

    if tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
        raise Unfit(f"holds as {name!r:.60} a tensor that is no plain array")
    if tensor.dtype == torch.bfloat16:
        tensor = tensor.float()
    array: np.ndarray = tensor.detach().contiguous().numpy()
    return array


def _named(found: Mapping[str, np.ndarray], ids: str) -> FileContent:
    """Arrays with those of ragged rows put together: `X/values` and `X/offsets`, or `X` and `X/lengths`."""
    if len(found) > MOST_ARRAYS:
        raise Unfit(f"holds {len(found):,} arrays, at most {MOST_ARRAYS:,} are read")
    column = ids or next((name for name in _ID_COLUMNS if name in found and _is_ids(found[name])), None)
    if ids and (ids not in found or not _is_ids(found[ids])):
        raise UserError(f"--ids {ids}: neither a file nor an array of ids")
    arrays = dict[str, Array]()
    for name, values in found.items():
        if name == column or (name.endswith((OFFSETS, LENGTHS)) and _stem(name) not in (name, "")):
            continue
        if values.dtype.kind not in "fiu":
            if values.dtype.kind in "UO":
                continue  # texts beside the numbers
            raise Unfit(f"holds as {name!r:.60} {values.dtype}, expected numbers")
        if not values.ndim:
            raise Unfit(f"holds as {name!r:.60} a single number, expected rows")
        if name.endswith(VALUES) and (stem := name.removesuffix(VALUES)) + OFFSETS in found:
            arrays[stem] = _ragged(stem, values, found[stem + OFFSETS])
        elif name + LENGTHS in found:
            arrays[name] = _padded(name, values, found[name + LENGTHS])
        else:
            arrays[name] = Array(values, None, np.ones(len(values), bool))
    listed = None if column is None else [str(one) for one in found[column].tolist()]
    return FileContent(arrays, listed)


def _stem(name: str) -> str:
    return name.removesuffix(OFFSETS).removesuffix(LENGTHS)


def _is_ids(array: np.ndarray) -> bool:
    return array.ndim == 1 and array.dtype.kind in "UOiu"


def _ragged(name: str, values: np.ndarray, offsets: np.ndarray) -> Array:
    good = offsets.ndim == 1 and offsets.dtype.kind in "iu" and len(offsets) > 0
    ends = offsets.astype(np.int64) if good else np.zeros(0, np.int64)
    if not good or ends[0] != 0 or (np.diff(ends) < 0).any() or ends[-1] != len(values):
        raise Unfit(
            f"{name}{OFFSETS} does not fit the {len(values):,} steps of {name}{VALUES}; expected whole numbers that "
            "rise from 0 to their number"
        )
    return Array(values, ends, np.ones(len(ends) - 1, bool))


def _padded(name: str, values: np.ndarray, lengths: np.ndarray) -> Array:
    """(n, L, …) with the length of each row, as ragged rows."""
    good = lengths.ndim == 1 and lengths.dtype.kind in "iu" and values.ndim > 1 and len(lengths) == len(values)
    if not good or (lengths < 0).any() or (lengths > values.shape[1]).any():
        raise Unfit(
            f"{name}{LENGTHS} does not fit {name}, {values.dtype}{values.shape}; expected a length for each row"
        )
    inside = np.arange(values.shape[1]) < lengths[:, None]
    offsets = np.concatenate([[0], lengths.astype(np.int64).cumsum()])
    return Array(np.asarray(values)[inside], offsets, np.ones(len(values), bool))


def _parquet(path: Path, ids: str, most: int) -> FileContent:
    return _tables([path], ids, most)


def _of_dataset(folder: Path, ids: str, most: int) -> FileContent:
    """The folder that `Dataset.save_to_disk` wrote, or one of Parquet files as the hub has them."""
    if (folder / "dataset_dict.json").exists():
        splits = ", ".join(sorted(path.name for path in folder.iterdir() if path.is_dir())[:20])
        raise Unfit(f"holds the splits {splits}; name the folder of one")
    if (state := folder / "state.json").is_file():
        return _tables(_listed(folder, read_json(state)), ids, most)
    parts = [*sorted(folder.glob("*.parquet")), *sorted((folder / "data").glob("*.parquet"))]
    if not parts:
        raise Unfit("is a folder without state.json and without Parquet files; expected that of a Hugging Face dataset")
    return _tables(parts, ids, most)


def _listed(folder: Path, state: Any) -> list[Path]:
    """The Arrow files that a state.json names."""
    files = state.get("_data_files") if isinstance(state, dict) else None
    names = [one.get("filename") if isinstance(one, dict) else None for one in files or ()]
    plain = [name for name in names if isinstance(name, str) and Path(name).name == name and name.endswith(".arrow")]
    if not names or len(plain) != len(names):
        raise Unfit("has a state.json that names no Arrow files beside it; save the dataset again")
    if state.get("_indices_data_files") or state.get("_indices_files"):
        raise Unfit("has rows in another order than its files; save it after `flatten_indices()`")
    return [folder / name for name in plain]


def _tables(paths: Sequence[Path], ids: str, most: int) -> FileContent:
    import pyarrow as pa

    tables, declared, left = [], dict[str, Output](), most
    for path in paths:
        opened, size = _table(path, left)
        left -= size
        opened.validate(full=True)
        declared = _declared(opened.schema.metadata or {})
        tables.append(opened)
    table = pa.concat_tables(tables)
    if len(set(table.column_names)) < len(table.column_names):
        raise Unfit("has a column twice")
    column = ids or next((name for name in _ID_COLUMNS if name in table.column_names), "")
    if column and column not in table.column_names:
        raise UserError(
            f"--ids {column}: neither a file nor a column; there are: {', '.join(table.column_names)[:200]}"
        )
    listed = None
    if column:
        texts = table[column]
        known = pa.types.is_string(texts.type) or pa.types.is_large_string(texts.type)
        if not (known or pa.types.is_integer(texts.type)) or texts.null_count:
            raise Unfit(f"has in {column!r} {texts.type} with {texts.null_count} missing ones; expected texts")
        listed = [str(one) for one in texts.to_pylist()]
    arrays = {
        name: _of_column(name, table[name].combine_chunks(), declared.get(name))
        for name in table.column_names
        if name != column and _is_numbers(table[name].type)
    }
    return FileContent(arrays, listed)


def _table(path: Path, most: int) -> tuple["pa.Table", int]:
    """A table, and the bytes that it announces."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    size = path.stat().st_size
    _refuse_large(size, most)
    if path.suffix == ".arrow":
        with pa.memory_map(str(path)) as handle, pa.ipc.open_stream(handle) as stream:
            return stream.read_all(), size
    file = pq.ParquetFile(path)
    groups = [file.metadata.row_group(number) for number in range(file.metadata.num_row_groups)]
    columns = [group.column(number) for group in groups for number in range(group.num_columns)]
    announced = sum(max(one.total_uncompressed_size, 8 * one.num_values) for one in columns)
    _refuse_large(announced, min(most, _memory()))
    return file.read(), announced


def _declared(metadata: Mapping[bytes, bytes]) -> dict[str, Output]:
    if OUTPUTS_KEY not in metadata:
        return {}
    try:
        outputs = [Output.from_json(one) for one in json.loads(metadata[OUTPUTS_KEY])]
    except (ValueError, TypeError, RecursionError):
        raise Unfit("has outputs in its metadata that are none") from None
    return {output.name: output for output in outputs}


def _is_list(kind: "pa.DataType") -> bool:
    import pyarrow as pa

    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _is_numbers(kind: "pa.DataType") -> bool:
    """Whether a column holds numbers, or lists of them."""
    import pyarrow as pa

    for _ in range(MOST_LEVELS + 1):
        if isinstance(kind, pa.BaseExtensionType):
            kind = kind.storage_type
        if not _is_list(kind):
            break
        kind = kind.value_type
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def _of_column(name: str, column: Any, declared: Output | None) -> Array:
    """A column of numbers or lists, rows that are null left out."""
    import pyarrow as pa

    if isinstance(column, pa.ChunkedArray):
        column = pa.concat_arrays(column.chunks)
    if isinstance(column, pa.ExtensionArray):
        column = column.storage
    present = np.asarray(column.is_valid().to_numpy(zero_copy_only=False), bool)
    fixed = pa.types.is_fixed_size_list(column.type)
    if not present.all():
        column = column.filter(column.is_valid())
    levels: list[np.ndarray] = []
    while _is_list(column.type):
        if column.null_count:
            raise Unfit(f"has missing values inside the rows of {name!r}")
        if pa.types.is_fixed_size_list(column.type):
            levels.append(np.full(len(column), column.type.list_size, np.int64))
        else:
            levels.append(np.asarray(column.value_lengths().to_numpy(zero_copy_only=False), np.int64))
        column = column.flatten()
    if column.null_count:
        raise Unfit(f"has missing values inside the rows of {name!r}")
    values = np.asarray(column.to_numpy(zero_copy_only=False))
    ragged = declared.ragged if declared else len(levels) > 1 and not fixed
    sizes = [_size(name, lengths) for lengths in levels[1 if ragged else 0 :]]
    if ragged:
        if not levels:
            raise Unfit(f"has in {name!r} single numbers, expected lists")
        offsets = np.concatenate([[0], levels[0].cumsum()])
        shape = declared.shape if declared and not len(values) else tuple(sizes)
        return Array(values.reshape(int(offsets[-1]), *shape), offsets, present)
    return Array(values.reshape(int(present.sum()), *sizes), None, present)


def _size(name: str, lengths: np.ndarray) -> int:
    """The one length of all lists of a level."""
    if not len(lengths):
        return 0
    if (lengths != lengths[0]).any():
        place = int(np.flatnonzero(lengths != lengths[0])[0])
        raise Unfit(
            f"has in {name!r} lists of {int(lengths[0]):,} numbers, and one of {int(lengths[place]):,} (the "
            f"{place + 1:,}th); expected the same number in all"
        )
    return int(lengths[0])


_READERS = {".npy": _npy, ".npz": _npz, ".pt": _torch, ".safetensors": _safetensors, ".parquet": _parquet}


def announced_bytes(arrays: Mapping[str, Array]) -> int:
    """Bytes of all arrays as they are in the file."""
    return sum(math.prod(array.values.shape) * array.values.dtype.itemsize for array in arrays.values())

"""One shard file: atomic write, memory-mapped read."""

import contextlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np

from cache import layout, page
from cache.columns import OutputRows, Pending, cause_codes, check_keys, pending, whole
from cache.errors import Damaged
from cache.identity import KEY_BYTES, Output
from cache.layout import Array
from foundation.files import explained, fault_point, link_new
from foundation.processes import temporary_name

_TOGETHER = 1 << 22  # bytes of rows that are looked at together


class Status(IntEnum):
    """The verdict on a row. Rows that are not OK hold zeros (fixed) or nothing (ragged)."""

    OK = 0
    MISSING = 1
    BROKEN = 2
    TOO_LARGE = 3


class Shard:
    """An open shard of n rows; every array is a read-only view of the mapped file, or an `H5Array` where it cannot be
    mapped.

    keys_alone: of the arrays only `keys` is to be read, see `cache.layout.read`. Raises `UserError` naming the file
    when it is truncated, damaged or gone, as `cache.layout.read` does. No file stays open; a pickle holds the path
    alone.
    """

    def __init__(self, path: Path, keys_alone: bool = False) -> None:
        self.path = Path(path)
        self._contents = layout.read(self.path, keys_alone)
        problem = self._shape_problem("keys", np.uint8, (None, KEY_BYTES))
        for name in ("status", "cause"):
            problem = problem or self._shape_problem(name, np.uint8, (len(self),))
        if problem:
            raise Damaged(f"shard {self.path}: {problem}")

    @classmethod
    def of_rows(
        cls, path: Path, feature: str, identity: str, outputs: Mapping[str, Output], rows: "NewRows"
    ) -> "Shard":
        """The shard that `write` would write, in memory alone. Raises as `write` does for what the rows hold."""
        pending_arrays, table = _arrays(feature, outputs, rows)
        arrays: dict[str, Array] = {}
        for name, array in pending_arrays.items():
            blocks = list(array.blocks())
            arrays[name] = np.concatenate(blocks) if blocks else np.empty(array.shape, array.dtype)
        made = cls.__new__(cls)
        made.path, made._contents = path, layout.Contents({"identity": identity, "causes": table}, arrays)
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        return Shard, (self.path,)

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def nbytes(self) -> int:
        """What its arrays take."""
        arrays = self._contents.arrays.values()
        return sum(int(np.prod(array.shape, dtype=np.int64)) * array.dtype.itemsize for array in arrays)

    @property
    def identity(self) -> str:
        """Identity (64 hex digits) of the feature the rows belong to."""
        return str(self._contents.attributes.get("identity", ""))

    @property
    def keys(self) -> Array:
        """(n, 16) uint8"""
        return self._contents.arrays["keys"]

    @property
    def status(self) -> Array:
        """(n,) uint8, values of `Status`"""
        return self._contents.arrays["status"]

    @property
    def cause(self) -> Array:
        """(n,) uint8, positions in `causes`"""
        return self._contents.arrays["cause"]

    @property
    def causes(self) -> list[str]:
        """The distinct causes in this shard; the first is the empty one, of rows that are OK."""
        return [str(cause) for cause in self._contents.attributes.get("causes", [""])]

    def fixed(self, output: str) -> Array:
        """(n, *shape). Raises `UserError` when the shard has no such output."""
        return self._array(output)

    def ragged(self, output: str) -> tuple[Array, Array]:
        """values (ΣL, *shape) and offsets (n + 1,) int64: row i is values[offsets[i]:offsets[i + 1]].

        Raises `UserError` when there is none.
        """
        return self._array(f"{output}/values"), self._array(f"{output}/offsets")

    def unfit(self, outputs: Mapping[str, Output]) -> str | None:
        """Why the arrays are not those of a feature with these outputs, by shapes and dtypes alone; None where they
        are."""
        for name, output in outputs.items():
            if output.ragged:
                problem = self._shape_problem(f"{name}/offsets", np.int64, (len(self) + 1,))
                problem = problem or self._shape_problem(f"{name}/values", output.dtype, (None, *output.shape))
            else:
                problem = self._shape_problem(name, output.dtype, (len(self), *output.shape))
            if problem:
                return problem
        return None

    def misfilled(self, outputs: Mapping[str, Output]) -> str | None:
        """Why its content is none that `write` takes: verdicts without a meaning, offsets that do not ascend, NaN or
        infinity; None where it is. Reads every row; the arrays are those of these outputs, see `unfit`."""
        if not np.isin(self.status, list(Status)).all() or int(np.max(self.cause, initial=0)) >= len(self.causes):
            return "has verdicts that mean nothing"
        for name, output in outputs.items():
            values = self.fixed(name) if not output.ragged else self.ragged(name)[0]
            if output.ragged:
                offsets = np.asarray(self.ragged(name)[1])
                if offsets[0] != 0 or offsets[-1] != len(values) or (np.diff(offsets) < 0).any():
                    return f"output {name} has offsets that do not ascend from 0 to the end of its values"
            rows = max(1, _TOGETHER // max(1, output.row_bytes))
            blocks = range(0, len(values), rows) if np.dtype(output.dtype).kind == "f" else ()
            if not all(np.isfinite(values[start : start + rows]).all() for start in blocks):
                return f"output {name} holds NaN or infinity"
        return None

    def _shape_problem(self, name: str, dtype: type | str, shape: tuple[int | None, ...]) -> str | None:
        array = self._contents.arrays.get(name)
        if array is None:
            return f"has no array {name}"
        fits = len(array.shape) == len(shape) and all(
            wanted in (None, size) for wanted, size in zip(shape, array.shape, strict=True)
        )
        if array.dtype != dtype or not fits:
            wanted = ", ".join("any" if size is None else str(size) for size in shape)
            return f"array {name} is {array.dtype}{array.shape}, expected {np.dtype(dtype)}({wanted})"
        return None

    def _array(self, name: str) -> Array:
        if name not in self._contents.arrays:
            raise Damaged(f"shard {self.path} has no array {name!r}")
        return self._contents.arrays[name]


@dataclass(frozen=True)
class NewRows:
    """Rows to be written as one shard.

    keys: (n, 16) uint8, distinct. status: (n,) of `Status`. causes: n texts, empty where OK. columns: for each output a
    (n, *shape) array or n rows, (*shape) or ragged (L, *shape); rows that are not OK are not looked at and may be None.
    """

    keys: np.ndarray
    status: np.ndarray
    causes: Sequence[str]
    columns: Mapping[str, OutputRows]


def write(final: Path, feature: str, identity: str, outputs: Mapping[str, Output], rows: NewRows) -> Path | None:
    """Write the shard `final` whole or not at all; None when another writer gave that name first (its file stays).

    feature, identity, outputs: of the feature that the rows belong to. Raises `NotFinite` for a value that is not
    finite, before or after the cast to the output's dtype (naming feature and key), and `UserError` for a disk that is
    full or cannot be written; `ValueError` for columns that do not fit the outputs. Nothing is left behind then.
    """
    arrays, table = _arrays(feature, outputs, rows)
    temporary = temporary_name(final)
    fault_point("before-write")
    with explained(final):
        try:
            offsets = layout.create(temporary, {"feature": feature, "identity": identity, "causes": table}, arrays)
            # HDF5 has laid the file out; the bytes are written by hand, because HDF5 does not survive a full disk in
            # good order.
            with open(temporary, "r+b") as handle:
                for array_name, offset in offsets.items():
                    handle.seek(offset)
                    for block in arrays[array_name].blocks():
                        handle.write(block.data)
                        fault_point("mid-write")
                page.seal(handle)
                os.fsync(handle.fileno())
            fault_point("before-link")
            written = link_new(temporary, final)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
    fault_point("after-link")
    return final if written else None


def _arrays(feature: str, outputs: Mapping[str, Output], rows: NewRows) -> tuple[dict[str, Pending], list[str]]:
    """The arrays of a shard, and its causes."""
    keys, causes = check_keys(rows.keys), rows.causes
    if len(rows.status) != len(keys) or len(causes) != len(keys):
        raise ValueError(f"{len(rows.status)} statuses and {len(causes)} causes for {len(keys)} keys")
    status = np.array([Status(int(value)) for value in rows.status], np.uint8)
    codes, table = cause_codes(causes)
    arrays = {"keys": whole(keys), "status": whole(status), "cause": whole(codes)}
    arrays |= pending(feature, keys, status == Status.OK, outputs, rows.columns)
    return arrays, table

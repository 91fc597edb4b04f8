"""From the rows an extractor gives to the blocks a shard holds: shapes, dtypes and finite numbers checked on the
way."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cache.errors import NotFinite
from cache.identity import KEY_BYTES, Output

BLOCK_BYTES = 16 << 20  # what is cast, checked and written at a time

OutputRows = np.ndarray | Sequence[np.ndarray | None]
"""The rows of one output: an array of fixed-shape ones, or an array per row, None where a row is not ok."""


@dataclass(frozen=True)
class Pending:
    """An array about to be written.

    blocks: gives its rows (k, *shape[1:]) in order, C-contiguous, a few at a time, as often as called.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    blocks: Callable[[], Iterator[np.ndarray]]

    def sha256(self) -> str:
        digest = hashlib.sha256()
        for block in self.blocks():
            digest.update(block.data)
        return digest.hexdigest()


def whole(array: np.ndarray) -> Pending:
    """An array that is in memory as it will be written."""
    array = np.ascontiguousarray(array)
    return Pending(array.shape, array.dtype, lambda: iter([array]))


def pending(
    feature: str, keys: np.ndarray, ok: np.ndarray, outputs: Mapping[str, Output], columns: Mapping[str, OutputRows]
) -> dict[str, Pending]:
    """The arrays of all outputs by their path in the shard.

    keys: (n, 16) uint8. ok: (n,) bool; other rows become zeros (fixed) or nothing (ragged), whatever their column says.
    Raises `NotFinite` naming feature and key for a number that is not finite, before the cast or after it; `ValueError`
    for columns that are not those of the outputs, or rows of another shape or kind of number.
    """
    if set(columns) != set(outputs):
        raise ValueError(f"feature {feature}: columns {sorted(columns)}, expected {sorted(outputs)}")
    arrays = {}
    for name, output in outputs.items():
        column, place = columns[name], f"feature {feature}, output {name}"
        if len(column) != len(keys):
            raise ValueError(f"{place}: {len(column)} rows for {len(keys)} keys")
        for i in np.flatnonzero(ok).tolist():
            _check(f"{place}: row {keys[i].tobytes().hex()}", output, column[i])
        dtype = np.dtype(output.dtype)
        if output.ragged:
            lengths = np.array([len(row) if good else 0 for row, good in zip(column, ok, strict=True)], np.int64)
            arrays[f"{name}/values"] = Pending(
                (int(lengths.sum()), *output.shape), dtype, _ragged_blocks(output, column, lengths)
            )
            arrays[f"{name}/offsets"] = whole(np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)]))
        else:
            arrays[name] = Pending((len(keys), *output.shape), dtype, _fixed_blocks(output, column, ok))
    return arrays


def _check(place: str, output: Output, row: np.ndarray | None) -> None:
    shape = () if row is None else np.shape(row)
    step = shape[1:] if output.ragged else shape
    if row is None or step != output.shape or len(shape) != len(output.shape) + output.ragged:
        raise ValueError(
            f"{place} has the shape {shape}, expected {('any', *output.shape) if output.ragged else output.shape}"
        )
    if row.size == 0:
        return
    wanted = np.dtype(output.dtype)
    if wanted.kind != "f":
        if row.dtype.kind not in "iu" or row.min() < np.iinfo(wanted).min or row.max() > np.iinfo(wanted).max:
            raise ValueError(
                f"{place} is {row.dtype} from {row.min()} to {row.max()}, expected whole numbers in the range of "
                f"{wanted}"
            )
    elif not np.isfinite(_cast(row, wanted)).all():
        what = f"a value beyond the range of {wanted}" if np.isfinite(row).all() else "NaN or infinity"
        raise NotFinite(f"{place} holds {what}, expected finite numbers; check the model's weights")


def _cast(row: np.ndarray, dtype: np.dtype) -> np.ndarray:
    with np.errstate(over="ignore"):  # an overflow is found as an infinity
        return row.astype(dtype, copy=False)


def _fixed_blocks(output: Output, column: OutputRows, ok: np.ndarray) -> Callable[[], Iterator[np.ndarray]]:
    rows = max(1, BLOCK_BYTES // output.row_bytes)

    def blocks() -> Iterator[np.ndarray]:
        for start in range(0, len(ok), rows):
            block = np.zeros((min(rows, len(ok) - start), *output.shape), output.dtype)
            for i in np.flatnonzero(ok[start : start + rows]).tolist():
                block[i] = column[start + i]
            yield block

    return blocks


def _ragged_blocks(output: Output, column: OutputRows, lengths: np.ndarray) -> Callable[[], Iterator[np.ndarray]]:
    group = (
        np.cumsum(lengths) * output.row_bytes // BLOCK_BYTES
    )  # rows of one group end within the same block's worth of bytes

    def blocks() -> Iterator[np.ndarray]:
        for number in np.unique(group):
            places = np.flatnonzero((group == number) & (lengths > 0)).tolist()
            rows = [_cast(np.asarray(column[i]), np.dtype(output.dtype)) for i in places]
            if rows:
                yield np.concatenate(rows)

    return blocks


def check_keys(keys: np.ndarray) -> np.ndarray:
    """(n, 16) uint8, C-contiguous.

    Raises `ValueError` for another shape or dtype, for none at all, and for a key that stands twice.
    """
    keys = np.ascontiguousarray(keys)
    if keys.dtype != np.uint8 or keys.ndim != 2 or keys.shape[1] != KEY_BYTES or not len(keys):
        raise ValueError(f"keys are {keys.dtype}{keys.shape}, expected uint8 (n, {KEY_BYTES}) with n > 0")
    if len(np.unique(keys.view(f"V{KEY_BYTES}"))) != len(keys):
        raise ValueError("keys stand twice in one shard")
    return keys


def cause_codes(causes: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """n strings → codes (n,) uint8 and the table they point into, whose first entry is the empty string.

    Raises `ValueError` for too many.
    """
    table = ["", *sorted(set(causes) - {""})]
    if len(table) > 256 or max(map(len, table)) > 200:
        raise ValueError(
            f"{len(table) - 1} different causes, at most 255 of 200 characters are possible; use constant strings"
        )
    position = {cause: code for code, cause in enumerate(table)}
    return np.array([position[cause] for cause in causes], np.uint8), table

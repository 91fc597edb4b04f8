"""Parquet tables, read so that a missing, damaged or foreign file is one line."""

import contextlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foundation.errors import UserError

if TYPE_CHECKING:
    import pyarrow as pa

AGAIN = "delete it and run the command that made it again"


def read(
    path: Path,
    columns: Collection[str] | None = None,
    optional: Collection[str] = (),
    filters: Any = None,
    remedy: str = AGAIN,
) -> "pa.Table":
    """The rows of a table, its texts checked to be UTF-8.

    columns: that must be there, and are read; None: all. optional: further ones that are read where they are there.
    filters: see `pyarrow.parquet.read_table`. remedy: the end of the message. Raises `UserError`.
    """
    import pyarrow.parquet as pq

    with _readable(path, remedy):
        there = pq.read_schema(path).names
        lacking = [name for name in columns or () if name not in there]
        if lacking:
            raise ValueError(f"it has no column {lacking[0]!r}")
        wanted = there if columns is None else [name for name in there if name in {*columns, *optional}]
        if filters is None:
            table = pq.ParquetFile(path).read(columns=wanted)
        else:
            table = pq.read_table(path, columns=wanted, filters=filters)
        table.validate(full=True)
        return table


def names(path: Path, remedy: str = AGAIN) -> list[str]:
    """Names of a table's columns. Raises `UserError`."""
    import pyarrow.parquet as pq

    with _readable(path, remedy):
        found: list[str] = pq.read_schema(path).names
        return found


def rows(path: Path, remedy: str = AGAIN) -> int:
    """Rows of a table. Raises `UserError`."""
    import pyarrow.parquet as pq

    with _readable(path, remedy):
        return int(pq.read_metadata(path).num_rows)


@contextlib.contextmanager
def _readable(path: Path, remedy: str) -> Iterator[None]:
    import pyarrow as pa

    try:
        yield
    except MemoryError:
        raise
    except (OSError, ValueError, pa.ArrowException) as error:
        missing = isinstance(error, FileNotFoundError)
        reason = "no such file" if missing else f"cannot be read ({str(error).partition(chr(10))[0][:160]})"
        raise UserError(f"{path}: {reason}; {'run the command that makes it again' if missing else remedy}") from error

"""Parquet tables, read so that a missing, damaged or foreign file is one line."""

import contextlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from foundation.errors import NotAsWritten
from foundation.remedies import remedy

if TYPE_CHECKING:
    import pyarrow as pa

Kind = Literal["string", "integer"]
"""What a column holds: texts, of which some may be missing, or whole numbers, none missing."""


def read(
    path: Path,
    columns: Collection[str] | None = None,
    optional: Collection[str] = (),
    filters: Any = None,
    needs: Mapping[str, Kind] = MappingProxyType({}),
) -> "pa.Table":
    """The rows of a table, its texts checked to be UTF-8.

    columns: that must be there, and are read; None: all. optional: further ones that are read where they are there.
    filters: see `pyarrow.parquet.read_table`. needs: where all are read, columns that must be among them, and what they
    hold. Raises `NotAsWritten`.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    with _readable(path):
        there = pq.read_schema(path).names
        lacking = [name for name in (*(columns or ()), *needs) if name not in there]
        if lacking:
            raise ValueError(f"it has no column {lacking[0]!r}")
        _refuse_twice(there)
        wanted = there if columns is None else [name for name in there if name in {*columns, *optional}]
        if filters is None:
            table = pq.ParquetFile(path).read(columns=wanted)
        else:
            table = pq.read_table(path, columns=wanted, filters=filters)
        table.validate(full=True)
        for name, kind in needs.items():
            found = table[name]
            if not getattr(pa.types, f"is_{kind}")(found.type) or (kind == "integer" and found.null_count):
                raise ValueError(f"its column {name!r} holds {found.type} with {found.null_count} missing values")
        return table


def batches(path: Path, columns: Sequence[str], size: int) -> "Iterator[pa.RecordBatch]":
    """The rows of some columns, at most `size` at a time, their texts checked to be UTF-8. Raises `NotAsWritten`."""
    import pyarrow.parquet as pq

    with _readable(path), pq.ParquetFile(path) as file:
        _refuse_twice(file.schema_arrow.names)
        lacking = [name for name in columns if name not in file.schema_arrow.names]
        if lacking:
            raise ValueError(f"it has no column {lacking[0]!r}")
        for batch in file.iter_batches(size, columns=list(columns)):
            batch.validate(full=True)
            yield batch


def check(path: Path, needs: Mapping[str, Kind]) -> None:
    """Compare the types of columns with what they must hold, as `read` does; no row is read. Raises `NotAsWritten`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with _readable(path):
        schema = pq.read_schema(path)
        _refuse_twice(schema.names)
        for name, kind in needs.items():
            if name not in schema.names:
                raise ValueError(f"it has no column {name!r}")
            if not getattr(pa.types, f"is_{kind}")(schema.field(name).type):
                raise ValueError(f"its column {name!r} holds {schema.field(name).type}")


def _refuse_twice(names: Sequence[str]) -> None:
    twice = [name for name in set(names) if names.count(name) > 1]
    if twice:
        raise ValueError(f"it has the column {min(twice)!r} twice")


def names(path: Path) -> list[str]:
    """Names of a table's columns. Raises `NotAsWritten`."""
    import pyarrow.parquet as pq

    with _readable(path):
        found: list[str] = pq.read_schema(path).names
        return found


def rows(path: Path) -> int:
    """Rows of a table. Raises `NotAsWritten`."""
    import pyarrow.parquet as pq

    with _readable(path):
        return int(pq.read_metadata(path).num_rows)


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    import pyarrow as pa

    try:
        yield
    except MemoryError:
        raise
    except (OSError, ValueError, pa.ArrowException) as error:
        missing = isinstance(error, FileNotFoundError)
        reason = "no such file" if missing else f"cannot be read ({str(error).partition(chr(10))[0][:160]})"
        raise NotAsWritten(f"{path}: {reason}; {remedy(path)}") from error

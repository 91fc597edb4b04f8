"""The tables of a prepared dataset, read a column at a time."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from foundation import parquet
from foundation.errors import NotAsWritten, UserError
from foundation.remedies import remedy


class Columns(Mapping[str, list[Any]]):
    """Columns of one table as lists of Python values, each read when first used.

    The table is what the files say together, row by row; a file that does not exist adds no column.
    """

    def __init__(self, *paths: Path) -> None:
        self._values: dict[str, list[Any]] = {}
        self._path = paths[0]
        self._files = {name: path for path in paths if path.exists() for name in parquet.names(path)}
        if not self._files:
            raise UserError(f"{paths[0]}: no such table; `luigi --module tasks PrepareDataset` makes it")

    def __contains__(self, name: object) -> bool:
        return name in self._files

    def __getitem__(self, name: str) -> list[Any]:
        if name not in self._values:
            if name not in self:
                raise NotAsWritten(f"{self._path}: it has no column {name!r}; {remedy(self._path)}")
            self._values[name] = parquet.read(self._files[name], [name])[name].to_pylist()
        return self._values[name]

    def add(self, name: str, values: list[Any]) -> None:
        """Take one more column, of as many rows."""
        self._values[name], self._files[name] = values, self._path

    def check(self, needs: Mapping[str, parquet.Kind]) -> None:
        """See `needs` of `parquet.read`, of the types alone. Raises `NotAsWritten`."""
        parquet.check(self._path, needs)

    def pieces(self, names: Sequence[str], size: int) -> Iterator[dict[str, list[Any]]]:
        """The columns of `size` rows after another, read as they are asked for: the table is never whole in memory."""
        kept = [name for name in names if name in self._values]
        if lacking := [name for name in names if name not in self]:
            raise NotAsWritten(f"{self._path}: it has no column {lacking[0]!r}; {remedy(self._path)}")
        start = 0
        for batch in parquet.batches(self._path, [name for name in names if name not in kept], size):
            piece = batch.to_pydict()
            end = start + batch.num_rows
            yield {name: self._values[name][start:end] if name in kept else piece[name] for name in names}
            start = end

    def get(self, name: str, default: Any = None) -> Any:
        """The column, or `default` where there is none."""
        return self[name] if name in self._files else default

    @property
    def rows(self) -> int:
        """Rows of the table."""
        return parquet.rows(self._path)

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


def number_of_names(folder: Path) -> int:
    """Names of the entities of a prepared dataset, aliases among them. Raises `NotAsWritten`."""
    path = folder / "entities.parquet"
    found = parquet.rows(path)
    if "aliases" in parquet.names(path):  # not by `pyarrow.compute`, whose import takes longer than the sum
        found += sum(len(chunk.flatten()) for chunk in parquet.read(path, ["aliases"])["aliases"].chunks)
    return int(found)


PIECE = 8192
"""Records that are Python objects at a time."""
Columned = Mapping[str, Sequence[Any]]
"""A table: `Columns` of a file, or lists."""


def pieces(table: Columned, names: Sequence[str]) -> Iterator[dict[str, list[Any]]]:
    """The named columns of `PIECE` records after another."""
    if isinstance(table, Columns):
        yield from table.pieces(names, PIECE)
        return
    for start in range(0, records_of(table), PIECE):
        yield {name: list(table[name][start : start + PIECE]) for name in names}


def records_of(table: Columned) -> int:
    """The number of a table's records."""
    return table.rows if isinstance(table, Columns) else len(next(iter(table.values()), ()))

"""The KB that mentions are linked against: that of the run, or another one, as it was prepared or changed since."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa

from cache.keys import KeyColumn
from linking.id_rows import IdRows
from pipeline.datasets.arrow_columns import ArrowColumn, mapped
from pipeline.pairs.texts import Texts

COLUMNS = ("id", "name", "type", "attributes", "description")
ALIASES = "aliases"


@dataclass
class Kb:
    """N entities.

    folder: of the prepared dataset. table: columns id, name, type, attributes, description and, where there are any,
    aliases, of Arrow: no value is a Python object until it is asked for. then: the same as prepared, of B entities.
    files: name of a key column -> its file, where it is another KB than the run's own; None: the run's own. origin
    (N,): the row of each entity in `then`, -1 for one that came or was changed since; those that have one come first,
    in ascending order. fresh: of the others, by name of the column.
    """

    folder: Path
    table: Mapping[str, ArrowColumn]
    then: Mapping[str, ArrowColumn]
    files: Mapping[str, Path] | None
    origin: np.ndarray
    fresh: dict[str, KeyColumn] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.rows = IdRows(self.table["id"])
        self.texts = Texts(self.table)
        self._then: dict[str, KeyColumn] = {}

    @classmethod
    def read(cls, prepared: Path, files: Mapping[str, Path] | None = None) -> "Kb":
        """Of entities.parquet. Raises `UserError` where it cannot be read, and where its columns cannot be written to
        a temporary file."""
        table = mapped(prepared / "entities.parquet", COLUMNS, optional=[ALIASES])
        return cls(prepared, table, table, files, np.arange(len(table["id"])))

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def grown(self) -> bool:
        """Whether it has changed since it was prepared."""
        return self.table is not self.then

    @property
    def as_trained(self) -> bool:
        """Whether it is the KB that the run was trained on, unchanged."""
        return self.files is None and not self.grown

    def keys(self, column: str, path: Path) -> KeyColumn:
        """The keys of a column, a record per entity. path: its file where the KB is the run's own."""
        then, fresh = self.keys_then(column, path), self.fresh.get(column)
        if not self.grown:
            return then
        stayed = then.of_records(self.origin[self.origin >= 0])
        return stayed if fresh is None else stayed.joined(fresh)

    def keys_then(self, column: str, path: Path) -> KeyColumn:
        """The same of the KB as it was prepared. Raises `UserError` where the file cannot be read."""
        path = path if self.files is None else self.files[column]
        if str(path) not in self._then:
            self._then[str(path)] = KeyColumn.load(path)
        return self._then[str(path)]

    def change(
        self, table: Mapping[str, Sequence], columns: Mapping[str, KeyColumn], without: Sequence[str]
    ) -> np.ndarray:
        """Take up the entities of `table`, which replace those of the same ids, and let those of the ids `without` go.

        columns: their keys by name of the column. Returns the rows (m,) that those that stay had: they come first now,
        in this order.
        """
        gone = {self.rows[name] for name in (*table["id"], *without) if name in self.rows}
        kept = np.delete(np.arange(len(self)), np.array(sorted(gone), np.int64))
        number = len(table["id"])
        now = {
            name: column.changed(kept, table.get(name, [None] * number))
            for name, column in self._with_aliases(ALIASES in table).items()
        }
        first = int((self.origin >= 0).sum())
        known = {name: column.of_records(kept[kept >= first] - first) for name, column in self.fresh.items()}
        joined = {name: known[name].joined(column) if name in known else column for name, column in columns.items()}
        self.fresh = {**known, **joined}
        self.texts = self.texts.grown(now, kept)
        self.origin = np.concatenate([self.origin[kept], np.full(number, -1, np.int64)])
        self.table = now
        self.rows = self.rows.changed(kept, now["id"])
        return kept

    def _with_aliases(self, wanted: bool) -> Mapping[str, ArrowColumn]:
        """The table, with a column of aliases where the entities that come have some."""
        if ALIASES in self.table or not wanted:
            return self.table
        return {**self.table, ALIASES: ArrowColumn([pa.nulls(len(self), pa.list_(pa.string()))])}

"""The contract of a candidate source, and what it reads."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from cache.inputs import Input
from cache.keys import KeyColumn
from cache.store import Store
from cache.table import Table
from foundation.arrays import Expected, read_npz
from foundation.errors import UserError
from pipeline.candidates.contracts import RunSource
from pipeline.candidates.lists import RankedLists
from pipeline.datasets.prepared import Columns

UNKNOWN = -1
"""The rank of a gold that a source does not rank."""


def open_table(read: Input, output: str) -> Table:
    """One output of an input, a row per record. Raises `UserError` for a view with several keys per record."""
    column = KeyColumn.load(read.keys)
    if column.counts is not None:
        raise UserError(
            f"{read.feature} under view {read.view!r}: a {read.side} may have several rows there, "
            "and dense candidates need one; choose another feature in --sources"
        )
    return column.table(Store.open(read.store), output)


_VECTORS = {
    "mentions": Expected("f", (None, None)),
    "entities": Expected("f", (None, None)),
    "rows": Expected("iu", (None,)),
}


@dataclass(frozen=True)
class RunVectors:
    """One run's vectors. mentions (m, d), entities (N, d), of length 1 or zeros where a record has nothing; rows (m,):
    the mentions that it lists."""

    mentions: np.ndarray
    entities: np.ndarray
    rows: np.ndarray


def read_vectors(spec: RunSource) -> list[RunVectors]:
    """Of the files of a source. Raises `UserError` where one is damaged."""
    return [RunVectors(**read_npz(path, _VECTORS)) for path in spec.files]


@dataclass(frozen=True)
class Grown:
    """A KB as it was when indexes over it were built, of which some entities came, changed or went since.

    entities: the columns of its B entities then. rows (N,): the row that each of the N entities of now had then, -1 for
    one that came or was changed since; those that had one come first, in ascending order. vectors: as
    `SourceInputs.vectors`, of then. of_run: gives the vectors of the B entities by a run, (B, d).
    """

    entities: Mapping[str, Sequence[Any]]
    rows: np.ndarray
    vectors: Callable[[Input, str], Table]
    of_run: Callable[[RunSource], np.ndarray]

    @cached_property
    def row_of(self) -> np.ndarray:
        """(B,) the row that each entity of then has now, -1 for one that went or was changed."""
        places = np.full(len(self.entities["id"]), -1, np.int64)
        places[self.rows[self.rows >= 0]] = np.flatnonzero(self.rows >= 0)
        return places

    @property
    def fresh(self) -> np.ndarray:
        """(f,) rows of the entities that came or were changed since, the last ones."""
        return np.flatnonzero(self.rows < 0)


@dataclass(frozen=True)
class SourceInputs:
    """What candidate sources read.

    mentions: columns of M mentions, of which a source reads id, phrase (text), type (text or None) or given (rows of
    the KB, as they came, or None), and a check of its lists gold (row, below 0 for none) and split. entities: columns
    id, name and type of the N entities of the KB, and aliases (lists of further names) where any has some. vectors:
    gives an output of an input as a table with a row per record. of_run: gives the vectors of a run. workers: threads,
    -1 for one per core. indexes: folder that indexes over the KB are kept in, None for a temporary one. beside: the
    lists of other sources, for one that `waits` for them; only such as a retriever ordered that did not learn from
    these mentions. grown: the KB as indexes know it, where it has changed since they were built. listed: the number of
    mentions that are listed in all, where these are a part of them. more_come: whether others follow and nobody knows
    how many, as for a linker; then an index over vectors that is there is used.
    """

    mentions: Mapping[str, Sequence[Any]]
    entities: Mapping[str, Sequence[Any]]
    vectors: Callable[[Input, str], Table] = open_table
    of_run: Callable[[RunSource], Sequence[RunVectors]] = read_vectors
    workers: int = -1
    indexes: Path | None = None
    beside: Sequence[RankedLists] = ()
    grown: Grown | None = None
    listed: int | None = None
    more_come: bool = False

    @property
    def indexed(self) -> Mapping[str, Sequence[Any]]:
        """The columns of the entities that indexes are over."""
        return self.grown.entities if self.grown else self.entities

    @classmethod
    def of_dataset(cls, folder: Path, workers: int = -1) -> "SourceInputs":
        """Of a prepared dataset; its columns are read when they are first used."""
        mentions = Columns(folder / "mentions.parquet", folder / "given.parquet")
        return cls(mentions, Columns(folder / "entities.parquet"), workers=workers, indexes=folder)


class Source(ABC):
    """Orders the KB, or a part of it, for each mention; a candidate list is the beginning of that order."""

    @property
    @abstractmethod
    def label(self) -> str:
        """What tables and receipts call it, such as `name:token_set_ratio`."""

    def check(self, inputs: SourceInputs) -> None:  # noqa: B027  # most sources need nothing that a dataset may lack
        """Raises `UserError` where the dataset lacks what this source needs."""

    def waits(self, inputs: SourceInputs) -> bool:
        """Whether it reads the lists of the others, `SourceInputs.beside`."""
        return False

    def notes(self, inputs: SourceInputs, k: int) -> list[str]:
        """What a user should know of lists of k entities, a line each."""
        return []

    def choices(self) -> list[str]:
        """How the lists were found so far, where this source chose by itself, a line each."""
        return []

    @abstractmethod
    def lists(self, inputs: SourceInputs, k: int) -> RankedLists:
        """The first k entities of each mention's order; their scores are above 0 and do not increase.

        Raises `UserError`.
        """

    @abstractmethod
    def ranks(self, inputs: SourceInputs, rows: np.ndarray, gold: np.ndarray) -> np.ndarray:
        """(m,) int64 rank, from 1, of the golds (m,) >= 0 in the whole orders of the mentions at `rows` (m,).

        `UNKNOWN` for a gold that is not in the order. Raises `UserError`.
        """

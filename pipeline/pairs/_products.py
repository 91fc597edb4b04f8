"""Products of a vector per mention with one per candidate, each vector read once."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np

from pipeline.pairs import _blocks

HELD_BYTES = 512 << 20  # of the entities' vectors kept in memory

Read = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
"""From records (n,) to their vectors (n, d) float32, and which of them have one (n,) bool."""
Over = Literal["best", "mean"]
"""What becomes of the products of a mention with each picture of an entity: the largest, or the mean."""


@dataclass(frozen=True)
class PictureVectors:
    """Vectors of pictures, those of all entities one after another; counts: (N,) int64 how many each entity has."""

    read: Read
    counts: np.ndarray
    over: Over


def products(read_mentions: Read, read_entities: Read, width: int, ids: np.ndarray) -> np.ndarray:
    """(M, k) float32 inner products of vectors of `width`; NaN where a side has none or the list has ended."""
    held = _Held(ids, width, read_entities)
    out = np.empty(ids.shape, np.float32)
    for block in _blocks.blocks(ids, 4 * width):
        out[block] = held.products(*read_mentions(np.arange(block.start, block.stop)), ids[block])
    return out


def products_over(read_mentions: Read, pictures: PictureVectors, width: int, ids: np.ndarray) -> np.ndarray:
    """(M, k) float32, as `products`, over the pictures of each entity; NaN where no picture of it has a vector."""
    counts, over = pictures.counts, pictures.over
    firsts, several = counts.cumsum() - counts, np.where(ids >= 0, counts[ids.clip(0)], 0)
    out = np.full(ids.shape, np.nan if over == "best" else 0, np.float64)
    found = np.zeros(ids.shape, np.int64)
    for number in range(int(several.max(initial=0))):
        there = several > number
        rows = np.flatnonzero(there.any(1))
        columns = np.argsort(~there[rows], 1, kind="stable")[:, : int(there.sum(1).max())]  # no wider than need be
        place = rows[:, None], columns
        listed = np.where(there[place], firsts[ids[place].clip(0)] + number, -1)
        values = products(partial(_read_some, read_mentions, rows), pictures.read, width, listed)
        found[place] += ~np.isnan(values)
        out[place] = np.fmax(out[place], values) if over == "best" else out[place] + np.nan_to_num(values)
    if over == "mean":
        out = np.where(found > 0, out / np.maximum(found, 1), np.nan)
    return out.astype(np.float32)


def _read_some(read: Read, rows: np.ndarray, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return read(rows[index])


class _Held:
    """Vectors of all listed entities, read once: in memory where they are few, else in a temporary file, mapped."""

    def __init__(self, ids: np.ndarray, width: int, read: Read) -> None:
        self.entities = np.unique(ids)
        self.entities = self.entities[self.entities >= 0]
        shape = (len(self.entities), width)
        self.vectors: np.ndarray
        if 4 * len(self.entities) * width <= HELD_BYTES:
            self.vectors = np.empty(shape, np.float32)
        else:
            self.file = tempfile.TemporaryFile()  # noqa: SIM115  # lives as long as the map of it
            self.vectors = np.memmap(self.file, np.float32, "w+", shape=shape)
        self.ok = np.zeros(len(self.entities), bool)
        step = max(1, _blocks.BLOCK_BYTES // (16 * max(1, width)))
        for start in range(0, len(self.entities), step):
            part = slice(start, start + step)
            self.vectors[part], self.ok[part] = read(self.entities[part])

    def products(self, left: np.ndarray, left_ok: np.ndarray, ids: np.ndarray) -> np.ndarray:
        """(b, k) products of the mentions' vectors (b, d) with those of their candidates."""
        if not len(self.entities):
            return np.full(ids.shape, np.nan, np.float32)
        place = np.searchsorted(self.entities, np.maximum(ids, self.entities[0]))
        values = np.matmul(self.vectors[place], left[:, :, None])[:, :, 0]
        values[~((ids >= 0) & left_ok[:, None] & self.ok[place])] = np.nan
        return values

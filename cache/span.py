"""Rows of several mapped arrays, gathered in one pass as if they were one array."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Span:
    """Arrays of rows of one shape and dtype, wherever in memory each lies.

    Numpy gathers rows of one array. Mapped files lie at addresses whose distances are multiples of a page, so that all
    their rows stand on one grid of addresses: `step` bytes apart, the largest number that divides a row and every
    distance. grid: the view (g, *shape) whose rows start at each place of it, from the lowest array's first row to the
    highest array's last; most of its rows are none, and may lie where nothing is mapped: only `gather` reads it. first:
    (arrays,) the place of each array's first row, -1 where there is no array. each: places between two rows. some:
    the number of one array. arrays: what must stay mapped.
    """

    grid: np.ndarray = field(repr=False)  # printing it could read what is not mapped
    first: np.ndarray
    each: int
    some: int
    arrays: tuple[np.ndarray, ...]

    @classmethod
    def of(cls, arrays: Mapping[int, np.ndarray], count: int) -> "Span | None":
        """The span of arrays (n, *shape) by number, below `count`; None of arrays that are not of contiguous rows of
        at least one byte."""
        filled = {number: array for number, array in arrays.items() if array.size}
        if not filled or not all(array.flags.c_contiguous for array in filled.values()):
            return None
        begins = {number: array.ctypes.data for number, array in filled.items()}
        low = filled[min(begins, key=begins.__getitem__)]
        row, lowest = low[0].nbytes, low.ctypes.data
        step = math.gcd(row, *(begin - lowest for begin in begins.values()))
        if step % low.dtype.alignment:
            return None
        last = max(begins[number] + (len(array) - 1) * row for number, array in filled.items())
        grid = np.lib.stride_tricks.as_strided(
            low, ((last - lowest) // step + 1, *low.shape[1:]), (step, *low.strides[1:]), writeable=False
        )
        first = np.full(count, -1, np.int64)
        for number, begin in begins.items():
            first[number] = (begin - lowest) // step
        return cls(grid, first, row // step, min(filled), tuple(filled.values()))

    def gather(self, number: np.ndarray, row: np.ndarray, whole: bool) -> np.ndarray:
        """(b, *shape) the rows `row` (b,) of the arrays `number` (b,); zeros where the number is negative. whole: none
        is."""
        if whole:
            found: np.ndarray = self.grid[self.first[number] + row * self.each]
            return found
        there = number >= 0
        place = self.first[np.where(there, number, self.some)] + np.where(there, row, 0) * self.each
        out: np.ndarray = self.grid[place]
        out[~there] = 0
        return out

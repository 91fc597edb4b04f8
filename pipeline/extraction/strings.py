"""Strings of a KB of any size: their bytes in a file without a name, their ends in memory."""

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from typing import IO, overload

import numpy as np

HELD_BYTES = 16 << 20
"""Of strings that are kept in memory; more are written to a temporary file, which is mapped."""


class Strings(Sequence[str]):
    """n strings, each decoded when it is asked for."""

    def __init__(self, parts: Sequence[np.ndarray], part: np.ndarray, start: np.ndarray, end: np.ndarray) -> None:
        """parts: UTF-8 of strings one after another, (bytes,) uint8 each. part: (n,) in which of them a string lies,
        from byte start (n,) to byte end (n,)."""
        self._parts, self._part, self._start, self._end = parts, part, start, end

    def __len__(self) -> int:
        return len(self._end)

    @overload
    def __getitem__(self, place: int) -> str: ...

    @overload
    def __getitem__(self, place: slice) -> "Strings": ...

    def __getitem__(self, place: "int | slice") -> "str | Strings":
        if isinstance(place, slice):
            return self.at(np.arange(len(self))[place])
        if not -len(self) <= place < len(self):
            raise IndexError(place)
        data = self._parts[int(self._part[place])][int(self._start[place]) : int(self._end[place])]
        return data.tobytes().decode("utf-8", "surrogatepass")

    def __iter__(self) -> Iterator[str]:
        return map(self.__getitem__, range(len(self)))

    def at(self, places: np.ndarray) -> "Strings":
        """Those at these places (m,), in their order."""
        return Strings(self._parts, self._part[places], self._start[places], self._end[places])


def joined(several: Sequence[Strings]) -> Strings:
    """The strings of several, one after another's."""
    numbers = np.cumsum([0, *(len(one._parts) for one in several[:-1])])
    return Strings(
        [data for one in several for data in one._parts],
        np.concatenate([one._part + np.int32(number) for one, number in zip(several, numbers, strict=True)]),
        np.concatenate([one._start for one in several]),
        np.concatenate([one._end for one in several]),
    )


class Writer:
    """Takes strings and gives them back as `Strings`."""

    def __init__(self) -> None:
        self._held, self._size = bytearray(), 0
        self._file: IO[bytes] | None = None
        self._lengths: list[np.ndarray] = []

    def add(self, strings: Iterable[str]) -> None:
        """Append strings."""
        parts = [string.encode("utf-8", "surrogatepass") for string in strings]
        self._lengths.append(np.array([len(part) for part in parts], np.int64))
        self._held += b"".join(parts)
        if len(self._held) > HELD_BYTES:
            self._spill()

    def _spill(self) -> None:
        if self._file is None:
            self._file = tempfile.TemporaryFile()  # noqa: SIM115  # lives as long as the map of it
        self._file.write(self._held)
        self._size += len(self._held)
        self._held = bytearray()

    def strings(self) -> Strings:
        """All that were added."""
        lengths = np.concatenate([np.empty(0, np.int64), *self._lengths])
        ends, part = lengths.cumsum(), np.zeros(len(lengths), np.int32)
        return Strings([self._bytes()], part, ends - lengths, ends)

    def _bytes(self) -> np.ndarray:
        if self._file is None:
            return np.frombuffer(bytes(self._held), np.uint8)
        self._spill()
        self._file.flush()
        return np.memmap(self._file, np.uint8, "r", shape=(self._size,))

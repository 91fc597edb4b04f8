"""What was fetched or asked, kept for good: JSON lines that are only ever appended, so that a killed run loses at most
the line under way.
"""

import contextlib
import json
import os
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from foundation.files import explained, fault_point, locked, make_folder


class Kept:
    """Values by key in one file, a line `{"key": …, "value": …}` each; the first line of a key holds. Values stay on
    disk, offsets in memory.

    Used inside `opened`, by any number of threads of one process.
    """

    def __init__(self, path: Path, writable: bool) -> None:
        self.path, self.places, self._guard, self._handle = path, {}, threading.Lock(), None
        end = self._read()
        if writable:
            make_folder(path.parent)
            with explained(path):
                self._handle = open(path, "a+b")  # noqa: SIM115 - closed by `close`
                self._handle.truncate(end)  # what follows the last whole line is the rest of a write that was cut short
            self._end = end

    def _read(self) -> int:
        """Find every whole line; returns where the last one ends."""
        end = 0
        if not self.path.exists():
            return end
        with open(self.path, "rb") as handle:
            for line in handle:
                if not line.endswith(b"\n"):
                    break
                with contextlib.suppress(ValueError, TypeError, KeyError, RecursionError):
                    self.places.setdefault(json.loads(line)["key"], (end, len(line)))
                end += len(line)
        return end

    def __contains__(self, key: str) -> bool:
        return key in self.places

    def __len__(self) -> int:
        return len(self.places)

    def get(self, key: str) -> Any:
        """The value of `key`, None where there is none."""
        with self._guard:
            if key not in self.places:
                return None
            place, size = self.places[key]
            if self._handle is not None:
                return json.loads(os.pread(self._handle.fileno(), size, place))["value"]
        with open(self.path, "rb") as handle:
            handle.seek(place)
            return json.loads(handle.read(size))["value"]

    def put(self, key: str, value: Any) -> None:
        """Append one value and make it durable."""
        self.put_all({key: value})

    def put_all(self, values: Mapping[str, Any]) -> None:
        """Append values and make them durable; keys that are there already are left alone. Raises `UserError` where the
        disk is full or read-only.
        """
        with self._guard:
            lines = {
                key: json.dumps({"key": key, "value": value}, allow_nan=False).encode() + b"\n"
                for key, value in values.items()
            }
            new = {key: line for key, line in lines.items() if key not in self.places}
            with explained(self.path):
                self._handle.write(b"".join(new.values()))
                self._handle.flush()
                os.fsync(self._handle.fileno())
            for key, line in new.items():
                self.places[key] = (self._end, len(line))
                self._end += len(line)
        fault_point("after-answer")

    def close(self) -> None:
        if self._handle is not None:
            self._handle.close()


@contextlib.contextmanager
def opened(path: Path, writable: bool = True) -> Iterator[Kept]:
    """The values at `path`. Two processes that would write wait for each other, so that the second finds what the first
    was answered.
    """
    if not writable:
        yield Kept(path, writable=False)
        return
    make_folder(path.parent)
    with locked(path.with_name(f".{path.name}.lock")):
        kept = Kept(path, writable=True)
        try:
            yield kept
        finally:
            kept.close()

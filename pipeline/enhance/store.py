"""Answers of wikis and language models on disk: lines are only appended, so a killed run loses at most one."""

import contextlib
import json
import os
import threading
from collections.abc import Iterator, Mapping
from io import BufferedRandom
from pathlib import Path
from typing import Any

from foundation.files import explained, fault_point, locked, make_folder


class AnswerStore:
    """Values by key in one file, a line `{"key": …, "value": …}` each; of several lines with a key the first counts.

    Values stay on disk, offsets in memory. Opened by `answer_store`, and used by any number of threads of one process.
    """

    def __init__(self, path: Path, writable: bool) -> None:
        self.path, self._guard = path, threading.Lock()
        self.places: dict[str, tuple[int, int]] = {}
        self._handle: BufferedRandom | None = None
        self._end = 0
        end = self._read()
        if writable:
            make_folder(path.parent)
            with explained(path):
                self._handle = open(path, "a+b")  # noqa: SIM115 - closed by `close`
                self._handle.truncate(end)  # after the last whole line stands the rest of a write that was cut short
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
        """Append the values of new keys and flush them. Raises `UserError` where the disk is full or read-only."""
        with self._guard:
            lines = {
                key: json.dumps({"key": key, "value": value}, allow_nan=False).encode() + b"\n"
                for key, value in values.items()
            }
            new = {key: line for key, line in lines.items() if key not in self.places}
            if self._handle is None:
                raise ValueError(f"{self.path} was opened for reading")
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
def answer_store(path: Path, writable: bool = True) -> Iterator[AnswerStore]:
    """The values at `path`. Of two processes that write, the second waits, and then finds the answers of the first."""
    if not writable:
        yield AnswerStore(path, writable=False)
        return
    make_folder(path.parent)
    with locked(path.with_name(f".{path.name}.lock")):
        store = AnswerStore(path, writable=True)
        try:
            yield store
        finally:
            store.close()

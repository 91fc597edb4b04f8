"""Answers of wikis and language models on disk: lines are only appended, so a killed run loses at most one."""

import contextlib
import json
import os
import threading
from collections.abc import Iterator, Mapping
from io import FileIO
from pathlib import Path
from typing import Any

from foundation.checksums import sealed, unsealed
from foundation.errors import UserError
from foundation.files import append, explained, fault_point, make_folder
from foundation.locks import Lock, locked


class AnswerStore:
    """Values by key in one file, a line `{"key": …, "value": …, "seal": …}` each; of several lines with a key the first
    counts. A damaged line is passed over: its question is asked again.

    Values stay on disk, offsets in memory. Opened by `answer_store`, and used by any number of threads of one process.
    """

    def __init__(self, path: Path, lock: Lock | None = None) -> None:
        """lock: that this process writes under; None: the store is read only."""
        self.path, self._lock, self._guard = path, lock, threading.Lock()
        self.places: dict[str, tuple[int, int]] = {}
        self._handle: FileIO | None = None
        end = self._read()
        if lock is not None:
            with explained(path):
                self._handle = open(path, "a+b", buffering=0)  # noqa: SIM115 - closed by `close`
                self._handle.truncate(end)  # after the last whole line stands the rest of a write that was cut short

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
                    record = unsealed(json.loads(line))
                    record["value"]  # of a line without one, nothing is kept
                    self.places.setdefault(record["key"], (end, len(line)))
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
        """Append the values of new keys and flush them, all or none.

        Raises `UserError` where the disk is full or read-only, and where another process writes, since this one was
        stopped for long.
        """
        with self._guard:
            lines = {
                key: json.dumps(sealed({"key": key, "value": value}), allow_nan=False).encode() + b"\n"
                for key, value in values.items()
            }
            new = {key: line for key, line in lines.items() if key not in self.places}
            if self._handle is None or self._lock is None:
                raise ValueError(f"{self.path} was opened for reading")
            if not self._lock.held:
                raise UserError(
                    f"{self.path}: another process took it over while this one was stopped; run the same command again"
                )
            with explained(self.path):
                end = append(self._handle.fileno(), b"".join(new.values()))
            for key, line in new.items():
                self.places[key] = (end, len(line))
                end += len(line)
        fault_point("after-answer")

    def close(self) -> None:
        if self._handle is not None:
            self._handle.close()


@contextlib.contextmanager
def answer_store(path: Path, writable: bool = True) -> Iterator[AnswerStore]:
    """The values at `path`. Of two processes that write, the second waits, and then finds the answers of the first."""
    if not writable:
        yield AnswerStore(path)
        return
    make_folder(path.parent)
    with locked(path.with_name(f".{path.name}.lock")) as lock:
        store = AnswerStore(path, lock)
        try:
            yield store
        finally:
            store.close()

"""A study's journal: a file of Optuna's records, one JSON object a line, which several processes append to."""

import contextlib
import json
import os
import shlex
import zlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from optuna.storages.journal import BaseJournalBackend

from cache import claims
from foundation.checksums import renamed_seal
from foundation.errors import UserError
from foundation.files import append, explained
from foundation.locks import Lock, locked
from foundation.waiting import Wait

TTL = 30.0  # seconds without a sign of life after which a claim on the journal is stale

SUM = "crc32"
"""Key of a line's checksum: of the line without it. Optuna passes over it; lines of earlier versions have none."""


class Journal(BaseJournalBackend):
    """Records in the file `path`, whose lock is `.<name>.lock` beside it. Plain Optuna can read the file too.

    A line that a killed writer left unfinished is cut off by the next one. Raises `UserError` for a line that is
    damaged; `OSError` where the disk is full: nothing of the record stays then.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._starts = [0]  # where each line begins, as far as they have been read
        if not path.exists():  # one that is there may be read alone
            with explained(path):
                os.close(self._open())

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        """The records from a number on."""
        number = min(log_number_from, len(self._starts) - 1)
        with open(self.path, "rb") as file:
            file.seek(self._starts[number])
            for line in file:
                if not line.endswith(b"\n"):  # being written, or cut off
                    return
                number += 1
                record = self._record(line, number)
                if number == len(self._starts):
                    self._starts.append(self._starts[-1] + len(line))
                if number > log_number_from:
                    yield record

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append records, all or none."""
        data = b"".join(map(_line, logs))
        with self._alone() as lock:
            descriptor = self._open()
            try:
                end = _end_of_lines(descriptor)
                if end < os.fstat(descriptor).st_size and lock.held:
                    os.ftruncate(descriptor, end)
                append(descriptor, data)
            finally:
                os.close(descriptor)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[Lock]:
        """Inside, nobody else appends. On a file system without locks, a claim is what keeps others out."""
        with locked(self.path.with_name(f".{self.path.name}.lock")) as lock, contextlib.ExitStack() as stack:
            if not lock.exclusive:
                folder, name = self.path.parent, f"{self.path.name}.claim"
                wait = Wait()
                while (claim := claims.take(folder, name, TTL)) is None:
                    wait.pause(partial(claims.described, folder / name, TTL))
                stack.enter_context(claim)
            yield lock

    def _open(self) -> int:
        return os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)

    def _record(self, line: bytes, number: int) -> dict[str, Any]:
        try:
            record = json.loads(line)
            if isinstance(record, dict):
                found = record.pop(SUM) if SUM in record else renamed_seal(record, _sum)
                if found in (None, _sum(record)):
                    return record
        except (ValueError, RecursionError):
            pass
        place = shlex.quote(str(self.path))
        raise UserError(
            f"{self.path}:{number}: damaged; keep the lines before it (head -n {number - 1} {place} > {place}.kept && "
            f"mv {place}.kept {place}) and run the same command again: it makes the rest anew"
        )


def _line(record: dict[str, Any]) -> bytes:
    return _text({**record, SUM: _sum(record)}).encode() + b"\n"


def _sum(record: dict[str, Any]) -> str:
    return f"{zlib.crc32(_text(record).encode()):08x}"


def _text(record: dict[str, Any]) -> str:
    return json.dumps(record, separators=(",", ":"))


def _end_of_lines(descriptor: int) -> int:
    """Where the last whole line of a file ends."""
    end = os.fstat(descriptor).st_size
    while end:
        start = max(0, end - (1 << 16))
        found = os.pread(descriptor, end - start, start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0

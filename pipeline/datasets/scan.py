"""The verdict on every listed picture file, remembered from one scan to the next."""

import hashlib
import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from cache.identity import KEY_BYTES
from cache.shard import Status
from foundation.checksums import remembered, write_sealed
from foundation.errors import PassingError
from foundation.files import append, explained, make_folder, write_atomic
from foundation.progress import Bar
from pipeline.datasets.contracts import DECODER_VERSION, DEFAULT_LIMITS, Limits
from pipeline.datasets.images import ImageError, decoding, image_key, picture_stamp, read_picture

_DRAFT = (64, 64)
_CHUNK = 10_000  # files between two lines of the memo's journal
_Stamp = tuple[int, int]  # size in bytes, mtime in ns


class Scan(NamedTuple):
    """Verdict on one file. key: content key, None where the bytes were not read; width, height: upright size in pixels,
    0 where unknown.
    """

    status: Status
    cause: str | None
    key: bytes | None
    width: int
    height: int


def examine(path: str, limits: Limits) -> Scan | PassingError:
    """The verdict on a file; the error where it cannot be read now."""
    key = None
    try:
        data = read_picture(Path(path), limits)
        key = image_key(data)
        with decoding(data, limits, _DRAFT) as (_, (width, height)):
            return Scan(Status.OK, None, key, width, height)
    except FileNotFoundError:
        return Scan(Status.MISSING, "no such file", None, 0, 0)
    except ImageError as error:
        return Scan(error.status, error.cause, key, 0, 0)
    except PassingError as error:
        return error
    except MemoryError:
        return PassingError(f"{path}: not enough memory to decode it")


def examine_all(paths: Sequence[str], limits: Limits, workers: int | None = None) -> Iterator[Scan | PassingError]:
    """`examine` of each file, in order. workers: threads; None: one per core."""
    with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        yield from pool.map(lambda path: examine(path, limits), paths)


_SCHEMA = pa.schema(
    {
        "path": pa.string(),
        "size": pa.int64(),
        "mtime_ns": pa.int64(),
        "status": pa.uint8(),
        "cause": pa.string(),
        "key": pa.binary(KEY_BYTES),
        "width": pa.int32(),
        "height": pa.int32(),
    }
)


class _Memo:
    """Verdicts of earlier scans, valid while a file's size and mtime, the limits and the decoder stay as they were.

    A Parquet table that is written when a scan ends; until then what is new is appended to a journal beside it, a line
    of JSON for every `_CHUNK` files, behind its checksum.
    """

    def __init__(self, path: Path, limits: Limits) -> None:
        self.path, self.sums, self.digest = path, path.with_suffix(".json"), ""
        self.journal, self.new = path.with_suffix(".new"), False
        self.rules = {b"rules": repr((DECODER_VERSION, asdict(limits))).encode()}
        self.rows: dict[str, tuple[_Stamp, Scan]] = {}
        try:
            data = self.path.read_bytes()
            digest = hashlib.sha256(data).hexdigest()
            if digest not in remembered(self.sums).get("sha256", [digest]):
                return
            self.digest = digest
            table = pq.ParquetFile(io.BytesIO(data)).read()
            if table.schema.metadata == self.rules and table.schema.equals(_SCHEMA):
                columns = [column.to_pylist() for column in table.columns]
                for name, size, mtime, status, *rest in zip(*columns, strict=True):
                    self.rows[name] = (size, mtime), Scan(Status(status), *rest)
        except (OSError, pa.ArrowInvalid, ValueError):
            pass  # a memo may be lost: everything is read again
        try:
            with open(self.journal, "rb") as handle:
                for line in handle:
                    self.new = True
                    self._take(line)
        except (OSError, ValueError, TypeError):
            pass  # what a killed scan wrote last is read again

    def _take(self, line: bytes) -> None:
        """The rows of a line of the journal. Raises `ValueError` or `TypeError` for one that is not whole."""
        digest, _, text = line.rstrip(b"\n").partition(b" ")
        if hashlib.sha256(text).hexdigest().encode() != digest:
            raise ValueError
        rules, rows = json.loads(text)
        if rules.encode() == self.rules[b"rules"]:
            for name, size, mtime, status, cause, key, *pixels in rows:
                scan = Scan(Status(status), cause, None if key is None else bytes.fromhex(key), *pixels)
                self.rows[name] = (size, mtime), scan

    def add(self, new: Mapping[str, tuple[_Stamp, Scan]]) -> None:
        """Take up verdicts, and append them to the journal: a scan writes each once, however many there are."""
        if not new:
            return
        self.rows |= new
        self.new = True
        rows = [
            (name, *stamp, int(scan.status), scan.cause, scan.key and scan.key.hex(), scan.width, scan.height)
            for name, (stamp, scan) in new.items()
        ]
        text = json.dumps([self.rules[b"rules"].decode(), rows]).encode()
        make_folder(self.journal.parent)
        with explained(self.journal):
            descriptor = os.open(self.journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
            try:
                append(descriptor, hashlib.sha256(text).hexdigest().encode() + b" " + text + b"\n")
            finally:
                os.close(descriptor)

    def save(self) -> None:
        """Write the table, if there is anything new, and remove the journal."""
        if not self.new:
            return
        rows = [(name, *stamp, int(scan.status), *scan[1:]) for name, (stamp, scan) in sorted(self.rows.items())]
        columns = zip(*rows, strict=True) if rows else [()] * len(_SCHEMA)
        arrays = [pa.array(column, field.type) for column, field in zip(columns, _SCHEMA, strict=True)]
        sink = io.BytesIO()
        pq.write_table(pa.table(arrays, schema=_SCHEMA.with_metadata(self.rules)), sink)
        before, self.digest = self.digest, hashlib.sha256(sink.getvalue()).hexdigest()
        write_sealed(self.sums, {"sha256": [before, self.digest]})  # a kill from here on leaves a file that it knows
        write_atomic(self.path, sink.getvalue())
        self.journal.unlink(missing_ok=True)


def scan(
    paths: Sequence[Path | None],
    limits: Limits = DEFAULT_LIMITS,
    memo: Path | None = None,
    rescan: bool = False,
    workers: int | None = None,
) -> list[Scan]:
    """Verdict on each file, in order; None is a picture that is not listed (MISSING, "not listed").

    memo: file of the verdicts of earlier scans, saved as the scan goes on. A file with the size and mtime of an earlier
    scan under the same limits is not read again unless `rescan`. workers: threads; None: one per core.
    Raises `PassingError` at the end, with all other verdicts saved, where some file could not be read.
    """
    names = list(dict.fromkeys(os.fspath(path) for path in paths if path is not None))
    known = _Memo(memo, limits) if memo else None
    verdicts: dict[str, Scan] = {}
    stamps: dict[str, _Stamp] = {}
    for name in names:
        try:
            stamps[name] = picture_stamp(Path(name))
        except OSError:
            continue  # reading it will tell whether it is missing or unreadable
        if known and not rescan and name in known.rows and known.rows[name][0] == stamps[name]:
            verdicts[name] = known.rows[name][1]
    waiting = [name for name in names if name not in verdicts]
    failures: list[PassingError] = []
    with Bar(len(waiting), "looking at pictures", "picture") as bar:
        for begin in range(0, len(waiting), _CHUNK):
            chunk, new = waiting[begin : begin + _CHUNK], dict[str, tuple[_Stamp, Scan]]()
            for name, verdict in zip(chunk, examine_all(chunk, limits, workers), strict=True):
                bar.update()
                if isinstance(verdict, PassingError):
                    failures.append(verdict)
                    continue
                verdicts[name] = verdict
                if known and name in stamps and verdict.status != Status.MISSING:
                    new[name] = stamps[name], verdict
            if known:
                known.add(new)
    if known:
        known.save()
    if failures:
        raise PassingError(
            f"{len(failures)} of {len(names)} pictures could not be read now, the first: {failures[0]}; mend that and "
            "run again"
        )
    unlisted = Scan(Status.MISSING, "not listed", None, 0, 0)
    return [unlisted if path is None else verdicts[os.fspath(path)] for path in paths]

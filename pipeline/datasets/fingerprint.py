"""A hash that tells whether a dataset's files are still the same, fast enough for every `complete()`."""

import contextlib
import dataclasses
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from foundation.checksums import file_sha256, remembered, write_sealed
from foundation.errors import UserError
from pipeline.datasets.contracts import NO_OPTIONS, LayoutOptions
from pipeline.datasets.layouts import layout


def state(data_dir: Path, format: str | None = None) -> list[tuple[int, ...]]:
    """Inode, size, mtime and ctime of a dataset's text files. Raises `UserError` as `fingerprint` does."""
    try:
        stats = [os.stat(path) for path in layout(data_dir, format).sources(data_dir)]
    except OSError as error:
        raise UserError(f"{error.filename or data_dir}: {error.strerror}; the dataset needs this file") from error
    return [(stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns) for stat in stats]


def _content(path: Path, memo: dict[str, Any], rescan: bool) -> str:
    """SHA-256 of a file; the one in `memo` while the file has the size and mtime that stand there."""
    stat = os.stat(path)
    stamp = [stat.st_size, stat.st_mtime_ns]
    known = memo.get(str(path))
    if not rescan and isinstance(known, list) and len(known) == 3 and known[:2] == stamp:
        return str(known[2])
    digest = file_sha256(path)
    memo[str(path)] = [*stamp, digest]
    return digest


def fingerprint(
    data_dir: Path,
    format: str | None = None,
    options: LayoutOptions = NO_OPTIONS,
    memo: Path | None = None,
    rescan: bool = False,
) -> str:
    """SHA-256 (hex) over the contents of the text files and the names, sizes and mtimes of the pictures.

    No picture is opened, and neither name nor place of the folder counts. memo: JSON file that remembers content hashes
    by path, size and mtime, so that text files are read once; rescan: read them again all the same.
    Raises `UserError` for a layout that is not recognised or a missing text file.
    """
    module = layout(data_dir, format)
    known = remembered(Path(memo)) if memo else {}
    entries = dict(known)
    try:
        contents = [(path.name, _content(path, entries, rescan)) for path in module.sources(data_dir)]
        stamps = sorted(module.stamps(data_dir, options))
    except OSError as error:
        raise UserError(f"{error.filename or data_dir}: {error.strerror}; the dataset needs this file") from error
    if memo and entries != known:
        with contextlib.suppress(UserError):
            write_sealed(Path(memo), entries)
    # Part of the hash: a layout keeps this name wherever its module lies, or every dataset would be prepared anew.
    hashed_name = f"pipeline.datasets.{module.__name__.rpartition('.')[2]}"
    chosen = dataclasses.asdict(options)
    if options.follow_links:  # as before the option came
        del chosen["follow_links"]
    reading = {"format": hashed_name, "options": chosen, "contents": contents}
    digest = hashlib.sha256(json.dumps(reading, sort_keys=True).encode())
    for name, size, mtime_ns in stamps:
        digest.update(f"{name}\0{size}\0{mtime_ns}\n".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()

"""Whether a dataset's files are still the same: one hash, fast enough to be asked by every `complete()`."""

import contextlib
import dataclasses
import hashlib
import json
import os
from pathlib import Path

from foundation.errors import UserError
from foundation.files import read_json, write_json
from pipeline.datasets.contracts import LayoutOptions
from pipeline.datasets.layouts import layout


def _content(path: Path, memo: dict[str, list], rescan: bool) -> str:
    """SHA-256 of a file; the one in `memo` while size and mtime are those it was taken at."""
    found = os.stat(path)
    known = memo.get(str(path))
    if not rescan and isinstance(known, list) and len(known) == 3 and known[:2] == [found.st_size, found.st_mtime_ns]:
        return known[2]
    with open(path, "rb") as handle:
        digest = hashlib.file_digest(handle, "sha256").hexdigest()
    memo[str(path)] = [found.st_size, found.st_mtime_ns, digest]
    return digest


def fingerprint(
    data_dir: Path,
    format: str | None = None,
    options: LayoutOptions = LayoutOptions(),
    memo: Path | None = None,
    rescan: bool = False,
) -> str:
    """SHA-256 (hex) over the contents of the text files and the names, sizes and mtimes of the pictures; no picture is opened.

    memo: JSON file that remembers content hashes by path, size and mtime, so that text files are read once; `rescan` reads them again.
    Neither the folder's place nor its name counts. Raises `UserError` for a layout that is not recognised or a missing text file.
    """
    module = layout(data_dir, format)
    try:
        known = read_json(memo) if memo and Path(memo).exists() else {}
    except UserError:
        known = {}  # a memo may be lost
    remembered = dict(known) if isinstance(known, dict) else {}
    try:
        contents = [(path.name, _content(path, remembered, rescan)) for path in module.sources(data_dir)]
        stamps = sorted(module.stamps(data_dir, options))
    except OSError as error:
        raise UserError(f"{error.filename or data_dir}: {error.strerror}; the dataset needs this file") from error
    if memo and remembered != known:
        with contextlib.suppress(UserError):
            write_json(memo, remembered)
    # The name that is hashed is a layout's in the first version: a layout keeps it wherever its module lies.
    hashed_name = f"pipeline.datasets.{module.__name__.rpartition('.')[2]}"
    reading = {"format": hashed_name, "options": dataclasses.asdict(options), "contents": contents}
    digest = hashlib.sha256(json.dumps(reading, sort_keys=True).encode())
    for name, size, mtime_ns in stamps:
        digest.update(f"{name}\0{size}\0{mtime_ns}\n".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()

"""A hash that tells whether a dataset's files are still the same, fast enough for every `complete()`."""

import contextlib
import dataclasses
import hashlib
import json
import os
from pathlib import Path
from types import ModuleType
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


@dataclasses.dataclass(frozen=True)
class _Text:
    """A text file. digest: SHA-256 of its content. without: whether it is known to name no picture."""

    path: Path
    digest: str
    without: bool


def _text(path: Path, module: ModuleType, memo: dict[str, Any], rescan: bool) -> _Text:
    """What `memo` keeps of a file while it has the size and mtime that stand there; else what reading it says."""
    stat = os.stat(path)
    stamp, known = [stat.st_size, stat.st_mtime_ns], memo.get(str(path))
    kept: list[Any] = []
    if not rescan and isinstance(known, list) and len(known) in (3, 4) and known[:2] == stamp:
        kept = known[2:]
    digest = str(kept[0]) if kept else file_sha256(path)
    if not hasattr(module, "names_no_picture"):
        memo[str(path)] = [*stamp, digest]
        return _Text(path, digest, without=False)
    without = kept[1] is True if len(kept) == 2 else module.names_no_picture(path)
    memo[str(path)] = [*stamp, digest, without]
    return _Text(path, digest, without)


def fingerprint(
    data_dir: Path,
    format: str | None = None,
    options: LayoutOptions = NO_OPTIONS,
    memo: Path | None = None,
    rescan: bool = False,
) -> str:
    """SHA-256 (hex) over the contents of the text files and the names, sizes and mtimes of the pictures.

    No picture is opened, and neither name nor place of the folder counts. memo: JSON file that remembers content hashes
    by path, size and mtime, and which files name no picture, so that text files are read once; rescan: read them again
    all the same. Raises `UserError` for a layout that is not recognised or a missing text file.
    """
    module = layout(data_dir, format)
    known = remembered(Path(memo)) if memo else {}
    entries = dict(known)
    try:
        texts = [_text(path, module, entries, rescan) for path in module.sources(data_dir)]
        without = ({text.path for text in texts if text.without},) if hasattr(module, "names_no_picture") else ()
        stamps = sorted(module.stamps(data_dir, options, *without))
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
    reading = {"format": hashed_name, "options": chosen, "contents": [(text.path.name, text.digest) for text in texts]}
    digest = hashlib.sha256(json.dumps(reading, sort_keys=True).encode())
    for name, size, mtime_ns in stamps:
        digest.update(f"{name}\0{size}\0{mtime_ns}\n".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()

"""Dataset layouts, one module each, recognised by the files that are there.

A layout module offers
  FILES                       what it is recognised by, in words
  recognises(folder)          whether those files are there
  load(name, folder, options) the `RawDataset`, checked
  stamps(folder, options)     (name, size, mtime_ns) of every picture file that counts, in any order
  sources(folder)             the text files it reads
and where the pictures that count are those that text files name
  names_no_picture(path)      whether such a file names none; `stamps` takes those files as its third argument
"""

import importlib
import os
import pkgutil
from pathlib import Path
from types import ModuleType

from foundation.errors import UserError, nearest
from pipeline.datasets.contracts import MAX_BAD_RECORDS, NO_OPTIONS, LayoutOptions
from pipeline.datasets.records import RawDataset, with_nil


def formats() -> list[str]:
    """Names of the layouts there are."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))


def layout(data_dir: Path, format: str | None = None) -> ModuleType:
    """The layout module named `format`, or the only one that recognises the folder's files. Raises `UserError`."""
    data_dir = Path(data_dir)
    if not os.path.isdir(data_dir):
        raise UserError(f"{data_dir}: no such folder; --data-dir must name the folder that holds the dataset")
    if format is not None and format not in formats():
        raise UserError(f"--format {format!r} is unknown{nearest(format, formats())}")
    modules = {name: importlib.import_module(f"{__name__}.{name}") for name in ([format] if format else formats())}
    if format:
        return modules[format]
    fitting = [name for name, module in modules.items() if module.recognises(data_dir)]
    looked_for = "; ".join(f"{name}: {module.FILES}" for name, module in modules.items())
    if not fitting:
        raise UserError(f"{data_dir}: no dataset recognised; looked for {looked_for}")
    if len(fitting) > 1:
        raise UserError(
            f"{data_dir}: files of {' and '.join(fitting)} found; say which with --format (looked for {looked_for})"
        )
    return modules[fitting[0]]


def load(
    name: str,
    data_dir: Path,
    format: str | None = None,
    options: LayoutOptions = NO_OPTIONS,
    max_bad_records: float = MAX_BAD_RECORDS,
) -> RawDataset:
    """Read a dataset into records; malformed ones are left out and listed.

    Raises `UserError` naming file and remedy for a file that cannot be read at all, and with the first record's cause
    where more than the share `max_bad_records` of the records are malformed.
    """
    try:
        raw = layout(data_dir, format).load(name, Path(data_dir), options)
    except OSError as error:
        raise UserError(f"{error.filename or data_dir}: {error.strerror}; the dataset needs this file") from error
    bad, records = len(raw.rejects), len(raw.rejects) + len(raw.mentions) + len(raw.entities)
    if bad > max_bad_records * records:
        share = f"{bad:,} of {records:,} records are malformed, at most {max_bad_records:.1%} may be"
        raise UserError(f"{raw.rejects[0]}; {share}: --max-bad-records")
    if not raw.entities or not (raw.mentions or raw.kb_alone):
        what = "entity" if raw.mentions else "mention"
        raise UserError(f"{'; '.join([*raw.rejects[:1], f'{data_dir}: not one {what} can be used'])}")
    return with_nil(raw)

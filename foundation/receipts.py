"""Receipts: the results of finished tasks, and whether they are still valid."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from foundation import successors
from foundation.errors import UserError
from foundation.files import fault_point, read_json, write_json


def file_entry(root: Path, path: Path) -> dict[str, Any]:
    """A file as a receipt lists it: path relative to the work folder, and its size in bytes; where it was merged into
    another by now, that one."""
    path = successors.current(path) or path
    return {"path": path.relative_to(root).as_posix(), "bytes": path.stat().st_size}


@dataclass(frozen=True)
class Receipt:
    """What a finished task resolved to.

    request: the significant parameters in clear. result: identities and places. files: what must still be there, see
    `file_entry`. run: seconds, model loads and rows extracted of the run that made it.
    """

    task: str
    request: Mapping[str, Any]
    result: Mapping[str, Any]
    files: Sequence[Mapping[str, Any]]
    run: Mapping[str, Any]


def write(path: Path, receipt: Receipt) -> None:
    """Write a receipt, atomically and last: it is the proof that the task is done."""
    fault_point("before-receipt")
    write_json(path, asdict(receipt))


def standing(root: Path, path: Path) -> dict[str, Any] | None:
    """The receipt at `path` if every file it lists is still there with its size, or was merged into one that is; else
    None: the task is incomplete."""
    try:
        receipt: dict[str, Any] = read_json(path)
        for file in receipt["files"]:
            if not successors.stands(root / file["path"], file["bytes"]):
                return None
    except (UserError, OSError, KeyError, TypeError):
        return None
    return receipt

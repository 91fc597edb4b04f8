"""Receipts: the results of finished tasks, and whether they are still valid."""

from pathlib import Path
from typing import Any

from foundation.errors import UserError
from foundation.files import fault_point, read_json, write_json


def file_entry(root: Path, path: Path) -> dict[str, Any]:
    """A file as a receipt lists it: path relative to the work folder, and its size in bytes."""
    return {"path": path.relative_to(root).as_posix(), "bytes": path.stat().st_size}


def write(
    path: Path, *, task: str, request: Any, result: dict[str, Any], files: list[dict[str, Any]], run: dict[str, Any]
) -> None:
    """Write a receipt atomically, as the last step of a task: it proves that the task is done.

    request: the significant parameters in clear. result: identities and places. files: those that must still exist.
    run: seconds, model loads and extracted rows of the run that wrote it.
    """
    fault_point("before-receipt")
    write_json(path, {"task": task, "request": request, "result": result, "files": files, "run": run})


def standing(root: Path, path: Path) -> dict[str, Any] | None:
    """The receipt at `path` if every file it lists is still there with its size, else None (the task is then
    incomplete)."""
    try:
        receipt = read_json(path)
        for entry in receipt["files"]:
            if (root / entry["path"]).stat().st_size != entry["bytes"]:
                return None
    except (UserError, OSError, KeyError, TypeError):
        return None
    return receipt

"""Receipts: what a finished task resolved to, and how to tell that it still stands."""

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
    """Write the receipt last, atomically: it is the proof that the task is done.

    request: the significant parameters in clear. result: identities and places. files: what must still be there.
    run: seconds, model loads and rows extracted of the run that made it.
    """
    fault_point("before-receipt")
    write_json(path, {"task": task, "request": request, "result": result, "files": files, "run": run})


def standing(root: Path, path: Path) -> dict[str, Any] | None:
    """The receipt at `path` if every file it lists is still there with its size, else None (the task is then incomplete)."""
    try:
        receipt = read_json(path)
        for entry in receipt["files"]:
            if (root / entry["path"]).stat().st_size != entry["bytes"]:
                return None
    except (UserError, OSError, KeyError, TypeError):
        return None
    return receipt

"""What makes a file of a work folder again: the command that left it, by the receipt that lists it or by its place."""

import json
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

COMMAND = "luigi --module tasks"
_PLACES = (
    (r"datasets/[^/]+/columns-.*", "ExtractFeatures"),
    (r"datasets/[^/]+/candidates-[^/]*", "BuildCandidates"),
    (r"datasets/[^/]+/[a-z]+-index-.*", "BuildCandidates"),
    (r"datasets/[^/]+/pairs-(\w+)-[^/]*", "BuildPairs --pair {0}"),
    (r"datasets/[^/]+/descriptions-([a-z]+)[^/]*", "EnhanceEntities --mode {0}"),
    (r"datasets/[^/]+/imported/.*", "ImportFeatures"),
    (r"datasets/.*", "PrepareDataset"),
    (r"cache/layers.json", "ExtractFeatures --cache-path :FOLDER"),
    (r"cache/.*", "ExtractFeatures"),
    (r"runs/[^/]+/([^/]+)/[^/]+/predictions-without-pictures.parquet", "CompareHeads --methods {0} --drop-pictures 1"),
    (r"runs/[^/]+/([^/]+)/.*", "TrainHead --method {0}"),
    (r"sweeps/[^/]+/([^/]+)/.*", "SearchHead --method {0}"),
    (r"reports/.*/compareheads-.*", "CompareHeads"),
    (r"reports/.*/ablate-.*", "Ablate"),
    (r"reports/.*", "Report"),
    (r"demo/world-.*", "DemoWorld"),
    (r"demo/encoders-.*", "DemoEncoders"),
    (r"answers/.*", "EnhanceEntities"),
    (r"receipts/ExtractGroup-.*", "ExtractFeatures"),
    (r"receipts/PromptedFeatures-.*", "TrainHead --method dsmip"),
    (r"receipts/TunedFeatures-.*", "TrainHead"),
    (r"receipts/MaskedPictures-.*", "CompareHeads --drop-pictures 1"),
    (r"receipts/(\w+)-[^/]*", "{0}"),
)
"""Pattern of a path below the work folder → the command that leaves it."""


def remedy(path: Path) -> str:
    """What its reader does about a damaged file, in words that a message ends with."""
    path = path.absolute()
    lost, work = "delete it and run" if _there(path) else "run", work_folder(path)
    if work is not None and path.relative_to(work).parts[0] == "memo":
        return "delete it: it is only remembered work"
    return f"{lost} {maker(path)}"


def maker(path: Path, commands: Mapping[str, str] | None = None) -> str:
    """The command that makes a file again, in backticks. commands: `recorded` of its work folder, where it is known."""
    path = path.absolute()
    work = work_folder(path)
    place = path.relative_to(work).as_posix() if work else path.as_posix()
    command = (commands or {}).get(place)
    if work and commands is None:
        receipts = [path] if place.startswith("receipts/") else reversed(_receipts(work))
        command = next((found[place] for one in receipts if place in (found := _of_receipt(work, one))), None)
    if command:
        return f"`{command}`"
    for pattern, command in _PLACES:
        if match := re.fullmatch(pattern if work else f".*/{pattern}", place):
            return f"`{COMMAND} {command.format(*match.groups())}` again, with the options that it was made with"
    of_run = (path.parent / "run.json").exists()
    return "the TrainHead command that trained it again" if of_run else "the command that made it again"


def work_folder(path: Path) -> Path | None:
    """The work folder that a file lies in: the nearest folder above it with receipts; None where there is none."""
    return next((folder for folder in path.absolute().parents if (folder / "receipts").is_dir()), None)


def _there(path: Path) -> bool:
    return path.exists() or path.is_symlink()


def recorded(work: Path) -> dict[str, str]:
    """Path below the work folder → the command line of the newest receipt that lists it, in today's place of the
    folder; of each receipt its own."""
    commands = dict[str, str]()
    for file in _receipts(work):
        commands |= _of_receipt(work, file)
    return commands


def _receipts(work: Path) -> list[Path]:
    """From the oldest to the newest."""
    return sorted((work / "receipts").glob("*.json"), key=_mtime)


def _of_receipt(work: Path, file: Path) -> dict[str, str]:
    """As `recorded`, of one receipt."""
    receipt = _json(file)
    try:
        command = shlex.join([*COMMAND.split(), *receipt["run"]["command"], "--work-dir", str(work)])
        return dict.fromkeys([file.relative_to(work).as_posix(), *(one["path"] for one in receipt["files"])], command)
    except (KeyError, TypeError, AttributeError):
        return {}


def _mtime(file: Path) -> float:
    try:
        return file.stat().st_mtime
    except OSError:
        return 0.0


def _json(file: Path) -> Any:
    """What a receipt holds; nothing where it is damaged: then another way to make the file is named."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None

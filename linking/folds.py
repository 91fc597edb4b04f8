"""Runs that are like a finished one, but left a fold of train out. No torch."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from foundation.checksums import RECORD, read_sealed
from foundation.errors import NotAsWritten
from heads.config.dual import FOLDS, TAUGHT

_APART = ("fold", *TAUGHT)
"""Options in which such a run may differ: a student's teachers would know the fold."""


def folds_of(folder: Path) -> tuple[Path, ...]:
    """The runs beside the one in `folder` that left out each fold of `FOLDS`, in their order; empty where one lacks."""
    like = _like(folder)
    found: dict[int, Path] = {}
    for other in sorted(folder.parent.glob("*")):
        fold = _fold(other)
        if fold is not None and fold[1] == FOLDS and _like(other) == like:
            found[fold[0]] = other
    return tuple(found[fold] for fold in range(FOLDS)) if len(found) == FOLDS else ()


def _fold(folder: Path) -> tuple[int, int] | None:
    """The fold that a finished run left out."""
    if not (folder / RECORD).is_file():
        return None
    try:
        fold = read_sealed(folder / RECORD)["config"].get("fold")
    except (NotAsWritten, KeyError):
        return None
    return (fold[0], fold[1]) if fold else None


def _like(folder: Path) -> Mapping[str, Any] | None:
    """What a run depends on, without what may differ; features that runs made for themselves are named by `config`."""
    path = folder / "config.json"
    if not path.is_file():
        return None
    depends = dict(read_sealed(path))
    for name in ("heads", "tuned", "prompted"):
        depends.pop(name, None)
    config = {name: value for name, value in depends["config"].items() if name not in _APART}
    return {**depends, "config": config}

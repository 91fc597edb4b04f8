"""Files whose content was put into another one: a list beside them says into which, so that receipts of them stand."""

import contextlib
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from foundation.errors import UserError
from foundation.files import read_json, write_json

LIST = "merged.json"
LOOKS = 4
"""At a file that other processes may merge meanwhile."""


@dataclass(frozen=True)
class Successors:
    """merged: name of a file that is gone → name of the one that holds its content now. sizes: bytes of the latter."""

    merged: dict[str, str] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> "Successors":
        """The list of a folder, empty where it has none. Raises `UserError` where it is not as it was written."""
        path = folder / LIST
        if not path.exists():
            return cls()
        content = read_json(path)
        listed: dict[str, Any] = {}
        if isinstance(content, dict):
            listed = {name: content.get(name) for name in ("merged", "sizes")}
        if not listed or content.get("sha256") != _sha256(listed):
            raise UserError(f"{path} is not as it was written; delete it: the next ExtractFeatures looks at its rows")
        return cls(listed["merged"], listed["sizes"])

    def write(self, folder: Path, temporary: Path) -> None:
        """Write the list, under the name `temporary` first."""
        listed = {"merged": self.merged, "sizes": self.sizes}
        write_json(folder / LIST, {**listed, "sha256": _sha256(listed)}, temporary)

    def with_merged(self, names: Iterable[str], into: Path) -> "Successors":
        """The list after the content of these files was put into another file of their folder."""
        gone = set(names)
        merged = {name: into.name if successor in gone else successor for name, successor in self.merged.items()}
        merged |= dict.fromkeys(sorted(gone), into.name)
        sizes = {name: size for name, size in self.sizes.items() if name not in gone}
        return Successors(merged, {**sizes, into.name: into.stat().st_size})


def stands(path: Path, size: int) -> bool:
    """Whether a file of that many bytes is there, or another one into which its content was put."""
    try:
        place, found = standing(path)
    except FileNotFoundError:
        return False
    return found == (size if place == path else _listed(path.parent).sizes.get(place.name))


def standing(path: Path) -> tuple[Path, int]:
    """The file that `current` gives, and its bytes. Raises `FileNotFoundError` where there is none."""
    for _ in range(LOOKS - 1):
        place = current(path) or path
        with contextlib.suppress(FileNotFoundError):  # it was merged between the two looks
            return place, place.stat().st_size
    place = current(path) or path
    return place, place.stat().st_size


def current(path: Path) -> Path | None:
    """The file itself or, where it is gone, the one into which its content was put; None where there is neither."""
    if path.exists():
        return path
    name = _listed(path.parent).merged.get(path.name)
    return path.with_name(name) if name is not None and path.with_name(name).exists() else None


_read: dict[Path, tuple[tuple[int, int, int], Successors]] = {}


def _listed(folder: Path) -> Successors:
    """The list of a folder, read once as long as it does not change; empty where it cannot be read."""
    try:
        state = (folder / LIST).stat()
        stamp = state.st_ino, state.st_size, state.st_mtime_ns
        if folder not in _read or _read[folder][0] != stamp:
            _read[folder] = stamp, Successors.read(folder)
        return _read[folder][1]
    except (UserError, OSError):
        return Successors()


def _sha256(listed: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(listed, sort_keys=True).encode()).hexdigest()

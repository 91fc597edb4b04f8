"""Checksums of files; those of a finished run, so that one that has changed since is noticed before it is used."""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from foundation.errors import UserError
from foundation.files import read_json

RECORD = "run.json"
"""The file of a run that holds the others' checksums, under `sha256`."""


def file_sha256(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes. Raises `OSError`."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def checksums(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """Name → SHA-256 (hex) of a folder's files."""
    return {name: file_sha256(folder / name) for name in names}


def changed(folder: Path, expected: Mapping[str, str]) -> list[str]:
    """Names of the files that are gone or have other bytes than when `checksums` gave `expected`."""
    there = [name for name in expected if (folder / name).is_file()]
    found = checksums(folder, there)
    return [name for name, value in expected.items() if found.get(name) != value]


def check_run(folder: Path, *names: str) -> None:
    """Raises `UserError` where one of a run's files is not what training wrote. Runs of before checksums pass."""
    expected = read_json(folder / RECORD).get("sha256", {}) if (folder / RECORD).exists() else {}
    for name in changed(folder, {name: expected[name] for name in names if name in expected}):
        raise UserError(
            f"{folder / name} is not what training wrote (its checksum differs); delete this file and run the "
            "TrainHead command that trained it again"
        )

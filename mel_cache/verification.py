"""Checks every file of a work folder that holds a checksum, or that a receipt or a run holds the checksum of."""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cache import verify as stores
from cache.store import SPEC
from foundation import layers
from foundation.arrays import damage
from foundation.checksums import (
    INDEX,
    OTHER_BYTES,
    RECORD,
    SEAL,
    file_sha256,
    problem,
    read_sealed,
    remembered,
    unsealed,
)
from foundation.errors import NotAsWritten, UserError
from foundation.files import read_json
from foundation.paths import Paths
from foundation.progress import Bar
from foundation.remedies import maker, recorded
from mel_cache.contracts import BadFile, Verification, VerifyJob

GROWING = (".journal", ".jsonl")
"""Endings of files that lines are added to. A damaged one is not removed: the command that reads it says how to keep
the other lines, or passes over the damaged one."""


def verify(job: VerifyJob) -> Verification:
    """Read every file whose checksum is known and compare it; with `repair`, remove what is bad.

    Removing is the repair: the command that made a file makes it again where it is gone.
    """
    paths = Paths(job.work)
    folders = [folder for folder in (paths.cache, *paths.learned()) if folder.is_dir()]
    check = _Check(paths)
    for folder in folders:
        for finding in stores.verify(folder, job.shards):
            check.found(finding.path, finding.problem)
    check.receipts()
    check.others(folders)
    check.layers()
    bad, commands = [], recorded(paths.root) if check.bad else {}  # now: a receipt may itself be removed
    for path, words in sorted(check.bad.items()):
        made_by = maker(path, commands)
        bad.append(BadFile(path=paths.relative(path), problem=words, maker=made_by))
    if job.repair:
        findings = [stores.DamagedFile(path, words) for path, words in check.bad.items() if not _stays(path)]
        gone = {paths.relative(path) for path in stores.repair(findings)}
        bad = [BadFile(path=one.path, problem=one.problem, maker=one.maker, removed=one.path in gone) for one in bad]
    rows = 0 if bad or not job.shards else sum(entry.rows for folder in folders for entry in stores.usage(folder)[0])
    of_layers, in_layers = ({}, ()) if check.layer_list in check.bad else _layers(paths, job.shards)
    return Verification(
        rows=rows,
        files=len(check.seen),
        unlisted=len(check.unlisted),
        bad=tuple(bad),
        layers=of_layers,
        in_layers=in_layers,
    )


def _stays(path: Path) -> bool:
    """Whether a damaged file is not removed: no command makes again what it says."""
    return path.suffix in GROWING or path.name == layers.LIST


def _layers(paths: Paths, shards: bool) -> tuple[dict[str, int], tuple[BadFile, ...]]:
    """The rows of each folder that the cache reads beneath itself, and what is bad there; nothing is changed."""
    rows, bad = dict[str, int](), list[BadFile]()
    for layer in layers.read(paths.cache):
        maker = f"{layers.without(paths.cache, layer)} goes on without {layer}, and what it held is extracted here"
        if not layer.is_dir():
            bad.append(BadFile(path=str(layer), problem="is not there; mount it", maker=maker))
            continue
        for finding in stores.verify(layer, shards):
            if finding.path.suffix != ".tmp":  # of a writer of its owner's
                bad.append(BadFile(path=str(finding.path), problem=finding.problem, maker=maker))
        rows[str(layer)] = sum(entry.rows for entry in stores.usage(layer)[0])
    return rows, tuple(bad)


@dataclass
class _Check:
    """bad: file → what is wrong with it. seen: files whose content was read. unlisted: those with a size alone."""

    paths: Paths
    bad: dict[Path, str] = field(default_factory=dict)
    seen: set[Path] = field(default_factory=set)
    unlisted: set[Path] = field(default_factory=set)

    def found(self, path: Path, words: str) -> None:
        self.bad.setdefault(path, words)

    def receipts(self) -> None:
        """All receipts, and the files that they list.

        A file that several receipts list is as it was written where one of them says so: a later command may have
        written it anew. One that is gone with its folder was removed on purpose.
        """
        listed: dict[Path, list[Mapping[str, Any]]] = {}
        for path in sorted(self.paths.receipts.glob("*.json"), key=lambda path: path.lstat().st_mtime_ns):
            receipt = self.sealed(path)
            if receipt is None:
                continue
            try:
                for one in receipt["files"]:
                    listed.setdefault(self.paths.root / one["path"], []).append(one)
            except (KeyError, TypeError):
                self.found(path, "is no receipt")
        own = {path for path in listed if path.suffix == ".h5" or path.name == SPEC}
        with Bar(len(listed) - len(own), "checking", "file") as bar:
            for path in sorted(listed.keys() - own):
                bar.update()
                words = [problem(self.paths.root, one) for one in listed[path]]
                if not path.parent.is_dir():
                    continue
                (self.seen if any("sha256" in one for one in listed[path]) else self.unlisted).add(path)
                if None not in words:
                    self.found(path, str(words[-1]))

    def others(self, stores_of: Iterable[Path]) -> None:
        """The files of runs that `run.json` lists, and all further files that hold their own checksum."""
        for record in sorted(self.paths.root.glob(f"runs/*/*/*/{RECORD}")):
            run = self.sealed(record) or {}
            for name, value in run.get("sha256", {}).items():
                path = record.with_name(name)
                if path not in self.seen and path not in self.bad:
                    self.seen.add(path)
                    size = path.stat().st_size if path.is_file() else 0
                    words = problem(record.parent, {"path": name, "bytes": size, "sha256": value})
                    if words:
                        self.found(path, words)
        for record in sorted(self.paths.root.glob(f"datasets/*/*-index-*/{INDEX}")):
            for listed in (self.sealed(record) or {}).get("files", ()):
                path = record.parent / listed["path"]
                self.seen.add(path)
                if words := problem(record.parent, listed):
                    self.found(path, words)
        for path in self._further(set(stores_of)):
            if path in self.bad or path in self.seen or path.name == SPEC:
                continue
            if path.suffix == ".json" and _has_seal(path):
                self.sealed(path)
            elif path.suffix in _OWN:
                self.seen.add(path)
                words = _OWN[path.suffix](path)
                if words:
                    self.found(path, words)

    @property
    def layer_list(self) -> Path:
        """Where the layers of the cache are named."""
        return self.paths.cache / layers.LIST

    def layers(self) -> None:
        """The list of the cache's layers."""
        if self.layer_list.exists():
            try:
                layers.read(self.paths.cache)
                self.seen.add(self.layer_list)
            except UserError as error:
                self.found(self.layer_list, _words(self.layer_list, error))

    def sealed(self, path: Path) -> dict[str, Any] | None:
        """A JSON file that holds its own checksum; None where it is bad."""
        self.seen.add(path)
        try:
            return read_sealed(path, remedy=lambda _: "")
        except NotAsWritten as error:
            self.found(path, _words(path, error))
            return None

    def _further(self, left_out: set[Path]) -> Iterator[Path]:
        """All files in the folders that commands write to; not those of stores."""
        for name in ("datasets", "runs", "sweeps", "reports", "memo", "answers"):
            for folder, inner, files in os.walk(self.paths.root / name):
                inner[:] = [one for one in inner if Path(folder, one) not in left_out]
                yield from (Path(folder, file) for file in sorted(files) if not file.startswith("."))


def _words(path: Path, error: UserError) -> str:
    """What is wrong, without the file's name and the remedy."""
    return str(error).removeprefix(str(path)).lstrip(": ").partition("; ")[0]


def _has_seal(path: Path) -> bool:
    """Whether a JSON file holds its own checksum, or is no JSON any more."""
    try:
        value = read_json(path)
        return isinstance(value, dict) and SEAL in value
    except UserError:
        return True


def _journal(path: Path) -> str | None:
    """What is wrong with a search's journal; None where nothing is, or where Optuna is not installed."""
    try:
        from experiments.journal import Journal
    except ImportError:
        return None
    try:
        for _ in Journal(path).read_logs(0):
            pass
        json.loads(path.read_bytes().rpartition(b"\n")[2][:-1])
    except UserError as error:
        return f"has a damaged line; {str(error).partition(': ')[2]}"
    except (ValueError, RecursionError):  # nothing stands after the last line, or what a writer that was killed began
        return None
    return "has a last line that does not end; the next SearchHead writes it anew"


def _lines(path: Path) -> str | None:
    """What is wrong with a file of answers, each of whose lines holds its own checksum."""
    bad = 0
    for line in path.read_bytes().splitlines():
        try:
            unsealed(json.loads(line))
        except (ValueError, RecursionError):
            bad += 1
    return f"has {bad} damaged line(s); their questions are asked again" if bad else None


def _table(path: Path) -> str | None:
    """What is wrong with a remembered table, whose checksum lies beside it."""
    known = remembered(path.with_suffix(".json")).get("sha256")
    return None if known is None or file_sha256(path) in known else OTHER_BYTES


_OWN: dict[str, Callable[[Path], str | None]] = {
    ".npz": damage,
    ".journal": _journal,
    ".jsonl": _lines,
    ".parquet": _table,
}
"""By ending: what is wrong with a file that holds its own checksum."""

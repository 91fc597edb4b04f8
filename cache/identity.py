"""What a feature is and what a row is: canonical JSON, hashes, declared outputs."""

import hashlib
import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from foundation.checksums import remembered, write_sealed
from foundation.errors import UserError
from foundation.locks import locked
from foundation.progress import Bar

KEY_BYTES = 16
RULES = 2
"""Raise it by hand if the parts of an identity change: requests of finished tasks then differ and are checked again."""
PART = 1 << 22  # bytes of a file that are hashed at a time
DTYPES = ("float16", "float32", "int32", "uint8")
_RESERVED = {"keys", "status", "cause"}  # arrays that every shard has beside its outputs


def content_key(kind: str, *parts: bytes | str) -> bytes:
    """16-byte key of a unit of content: BLAKE2b-128 over the kind and the parts, each preceded by its length.

    kind separates domains: the same bytes as `text` and as `image` have different keys. Strings count as their UTF-8
    bytes.
    """
    digest = hashlib.blake2b(digest_size=KEY_BYTES, person=b"mel content key")
    for part in (kind, *parts):
        data = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.digest()


def canonical_json(value: Any) -> str:
    """The one JSON text of a value: keys sorted, no white space, ASCII.

    Raises `UserError` naming the place of anything that has no such text: NaN and infinities, keys that are not
    strings, and every type other than dict, list, tuple (written as a list), str, int, float, bool and None; paths and
    sets are refused on purpose.
    """
    _check_plain(value, "spec")
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def _check_plain(value: Any, place: str) -> None:
    if value is None or type(value) in (str, int, bool):
        return
    if type(value) is float:
        if not math.isfinite(value):
            raise UserError(f"{place} is {value}, expected a finite number; an identity cannot be taken of it")
    elif type(value) is dict:
        for key, item in value.items():
            if type(key) is not str:
                raise UserError(f"{place} has the key {key!r} ({type(key).__name__}), expected a string; quote it")
            _check_plain(item, f"{place}.{key}")
    elif isinstance(value, list | tuple):
        for position, item in enumerate(value):
            _check_plain(item, f"{place}[{position}]")
    else:
        raise UserError(
            f"{place} is a {type(value).__name__}, expected a plain JSON value; an identity cannot be taken of it"
        )


def identity(spec: Any) -> str:
    """SHA-256 (64 hex digits) of the canonical JSON of `spec`: the name of a feature."""
    return hashlib.sha256(canonical_json(spec).encode("ascii")).hexdigest()


def weights_hash(files: Sequence[Path], memo: Path | None) -> str:
    """SHA-256 (64 hex digits) of a model's weight files.

    One file: the hash of its bytes, whatever its name. Several: over the names relative to their common folder and the
    hash of each, sorted by name. memo: a JSON file that remembers hashes by path, size and mtime; a missing, damaged or
    read-only one only costs time. Raises `UserError` for no file, or one that cannot be read.
    """
    files = sorted(Path(file).absolute() for file in files)
    if not files:
        raise UserError("weights: no file given, expected at least one; check `model:` in the profile")
    hashes = [_file_hash(file, memo) for file in files]
    if len(files) == 1:
        return hashes[0]
    folder = os.path.commonpath([file.parent for file in files])
    return identity([[os.path.relpath(file, folder), value] for file, value in zip(files, hashes, strict=True)])


def _file_hash(file: Path, memo: Path | None) -> str:
    place = os.path.realpath(file)
    try:
        before = os.stat(place)
        known = _memo(memo).get(place)
        if (
            isinstance(known, dict)
            and (known.get("size"), known.get("mtime_ns")) == (before.st_size, before.st_mtime_ns)
            and "sha256" in known
        ):
            return str(known["sha256"])
        value = _sha256(place, before.st_size)
        after = os.stat(place)
    except OSError as error:
        raise UserError(f"weights {file}: {error.strerror or error}; check `model:` in the profile") from error
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise UserError(
            f"weights {file} changed while they were read; run the same command again once they are written"
        )
    if memo is not None:
        _remember(Path(memo), place, {"size": after.st_size, "mtime_ns": after.st_mtime_ns, "sha256": value})
    return value


def _sha256(place: str, size: int) -> str:
    hashed = hashlib.sha256()
    with open(place, "rb") as handle, Bar(size, f"hashing {os.path.basename(place)}", "byte") as bar:
        while part := handle.read(PART):
            hashed.update(part)
            bar.update(len(part))
    return hashed.hexdigest()


def _memo(memo: Path | None) -> dict[str, Any]:
    """Entries of the memo file; none where it is missing or damaged: it is only a cache of hashes."""
    return remembered(Path(memo)) if memo is not None else {}


def _remember(memo: Path, place: str, content: dict[str, Any]) -> None:
    try:
        memo.parent.mkdir(parents=True, exist_ok=True)
        with locked(memo.with_name(f".{memo.name}.lock")):  # two writers keep each other's entries
            write_sealed(memo, {**_memo(memo), place: content})
    except (UserError, OSError):
        pass


@dataclass(frozen=True)
class Output:
    """One array a feature writes for every row.

    Fixed: (n, *shape). Ragged: a row is (L, *shape), L its own. dtype is one of `DTYPES`; raises `ValueError` for
    another, or for a name that is no lower-case word.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str = "float16"
    ragged: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", tuple(self.shape))
        if not isinstance(self.name, str) or not re.fullmatch(r"[a-z][a-z0-9_]*", self.name) or self.name in _RESERVED:
            raise ValueError(
                f"output name {self.name!r}: expected a lower-case word other than {', '.join(sorted(_RESERVED))}"
            )
        if any(type(size) is not int or size < 1 for size in self.shape):
            raise ValueError(f"output {self.name!r} has shape {self.shape}, expected whole numbers from 1 up")
        if self.dtype not in DTYPES:
            raise ValueError(f"output {self.name!r} has dtype {self.dtype!r}, expected one of {', '.join(DTYPES)}")
        if type(self.ragged) is not bool:
            raise ValueError(f"output {self.name!r} has ragged {self.ragged!r}, expected true or false")

    @property
    def row_bytes(self) -> int:
        """Bytes of one row, or of one step of a ragged row."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "shape": list(self.shape), "dtype": self.dtype, "ragged": self.ragged}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Output":
        """Inverse of `to_json`. Raises `ValueError` for anything else."""
        try:
            return cls(value["name"], tuple(value["shape"]), value["dtype"], value["ragged"])
        except (KeyError, TypeError) as error:
            raise ValueError(f"{value!r} is no output: {error}") from error

"""The manifest of an extraction: a file of the chunks to do, planned once, from which any number of processes work."""

import contextlib
import json
import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from cache.claims import leftovers
from cache.identity import KEY_BYTES
from cache.keys import KeyColumn
from cache.store import Store
from foundation.contracts import contract, from_json, to_json
from foundation.errors import PassingError, UserError
from foundation.files import explained, sync_folder
from foundation.processes import temporary_name
from pipeline.extraction.chunks import Chunk
from pipeline.extraction.contracts import CutTexts
from pipeline.extraction.parents import Parent
from pipeline.extraction.units import Part, Picture, Units

FILE = "chunks.parquet"
FORMAT = 2
"""Raised when the file's columns or its header change; a file of another format is planned anew."""
_HEADER = b"extraction"


@contract
class Coming:
    """What an extraction would add of one feature.

    wanted: distinct units. rows: those that the cache lacks. bytes: that they will take. boxes: that rows cut from
    boxes are made of, None of others.
    """

    wanted: int
    rows: int
    bytes: int
    boxes: int | None = None


@contract
class Listed:
    """A chunk without its rows, see `pipeline.extraction.chunks.Chunk`."""

    features: tuple[str, ...]
    rows: int
    name: str


@contract
class Header:
    """What a manifest says before its rows.

    identities: of the features. shard_rows: most rows of a chunk, as it was asked for. texts: by key column, what of
    its texts was cut.
    """

    identities: Mapping[str, str]
    shard_rows: int
    coming: Mapping[str, Coming]
    chunks: tuple[Listed, ...]
    texts: Mapping[str, CutTexts] = field(default_factory=dict)
    format: int = FORMAT


class Manifest:
    """A manifest on disk; it stays readable for who has it open when another process removes it.

    A row holds a key and what is read for it: a text and its tokens, the path of a picture and the hash of its bytes,
    or the key of the row of another feature that it is made from. The rows of a chunk are one row group.
    """

    def __init__(self, path: Path, parents: Mapping[str, Store]) -> None:
        """parents: the stores of the features that others are made from, by the name of those. Raises `UserError` where
        the file is none of this version, or is damaged."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        self.path, self._parents, self._lock = path, parents, threading.Lock()
        try:
            self._file = pq.ParquetFile(path, page_checksum_verification=True)
            header = json.loads((self._file.schema_arrow.metadata or {})[_HEADER])
        except (OSError, KeyError, ValueError, pa.ArrowException) as error:
            raise UserError(f"{path}: no manifest of an extraction ({error})") from error
        self.header = from_json(Header, header, str(path))
        if self.header.format != FORMAT or self._file.num_row_groups != len(self.header.chunks):
            raise UserError(f"{path}: a manifest of another format")

    @property
    def chunks(self) -> list[Chunk]:
        """The chunks in their order."""
        return [
            Chunk(one.features, one.rows, one.name, partial(self._load, number))
            for number, one in enumerate(self.header.chunks)
        ]

    def _load(self, number: int) -> Units:
        import pyarrow as pa

        listed = self.header.chunks[number]
        try:
            with self._lock:
                table = self._file.read_row_group(number)
            columns = {name: table[name].to_pylist() for name in table.column_names}
            keys = _keys(columns["key"])
            if Store.shard_name(keys) != listed.name:
                raise ValueError("its keys are others")
        except (OSError, ValueError, KeyError, pa.ArrowException) as error:
            with contextlib.suppress(OSError):
                self.path.unlink()
            raise PassingError(
                f"{self.path}: chunk {number} cannot be read ({str(error).partition(chr(10))[0][:160]}); run the same "
                "command again: the rows that are left are planned anew"
            ) from error
        counted = columns["tokens"]
        tokens = None if None in counted else np.array(counted, np.int32)
        return Units(keys, self._sources(columns, listed.features[0]), tokens)

    def _sources(self, columns: Mapping[str, list[Any]], feature: str) -> list[Any]:
        pictures = [
            None if path is None else Picture(path, key)
            for path, key in zip(columns["path"], columns["picture"], strict=True)
        ]
        parents = columns["parent"]
        if None not in parents:
            keys = _keys(parents)
            column = KeyColumn(keys, np.ones(len(keys), bool), np.full((len(keys), 2), -1, np.int32))
            rows = (row or {} for row in Parent.of(self._parents[feature], column).rows())
            return [Part(*one) for one in zip(pictures, parents, rows, strict=True)]
        return pictures if None not in pictures else columns["text"]


def write(path: Path, header: Header, chunks: Sequence[Chunk]) -> None:
    """Write a manifest, whole or not at all. Raises `UserError` where its place cannot be written."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    for left in leftovers(path.parent):
        left.unlink(missing_ok=True)
    key = pa.binary(KEY_BYTES)
    schema = pa.schema(
        {
            "key": key,
            "text": pa.large_string(),
            "tokens": pa.int32(),
            "path": pa.large_string(),
            "picture": key,
            "parent": key,
        },
        metadata={_HEADER: json.dumps(to_json(header))},
    )
    temporary = temporary_name(path)
    with explained(path):
        try:
            with pq.ParquetWriter(temporary, schema, write_page_checksum=True, compression="zstd") as writer:
                for chunk in chunks:
                    table = pa.Table.from_pydict(_columns(chunk.load()), schema)
                    writer.write_table(table, row_group_size=max(1, len(table)))
            with open(temporary, "rb") as handle:
                os.fsync(handle.fileno())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def _columns(units: Units) -> dict[str, list[Any]]:
    sources, tokens = list(units.sources), units.tokens
    parts = [source if isinstance(source, Part) else None for source in sources]
    pictures = [
        part.picture if part else source if isinstance(source, Picture) else None
        for part, source in zip(parts, sources, strict=True)
    ]
    return {
        "key": [key.tobytes() for key in units.keys],
        "text": [source if isinstance(source, str) else None for source in sources],
        "tokens": [None] * len(sources) if tokens is None else tokens.tolist(),
        "path": [picture.path if picture else None for picture in pictures],
        "picture": [picture.key if picture else None for picture in pictures],
        "parent": [part.key if part else None for part in parts],
    }


def _keys(keys: Sequence[bytes]) -> np.ndarray:
    return np.frombuffer(b"".join(keys), np.uint8).reshape(-1, KEY_BYTES)

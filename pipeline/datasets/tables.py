"""The tables a prepared dataset consists of: mentions.parquet, entities.parquet and, where candidates came with the
mentions, given.parquet.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cache.identity import KEY_BYTES
from cache.shard import Status
from foundation.files import atomic
from pipeline.datasets.entity_table import PIECE, EntityTable
from pipeline.datasets.records import RawDataset
from pipeline.datasets.scan import Scan

ROW_GROUP = 1 << 17
"""Rows of a table that are written, and can be read, together."""
# Values of the column `gold` that are no row of entities.parquet.
NIL, OUTSIDE_KB = -1, -2
STATUS_NAMES = {Status.OK: "ok", Status.MISSING: "missing", Status.BROKEN: "broken", Status.TOO_LARGE: "too_large"}

MENTION_SCHEMA = pa.schema(
    {name: pa.string() for name in ("id", "split", "sentence", "phrase")}
    | {name: pa.int32() for name in ("start", "end", "gold")}
    | {name: pa.string() for name in ("gold_id", "type", "group", "image", "image_status", "image_cause")}
    | {"image_key": pa.binary(KEY_BYTES)}
    | {name: pa.bool_() for name in ("phrase_is_name", "gold_in_train", "sentence_in_train", "ambiguous")}
)
ENTITY_SCHEMA = pa.schema(
    {name: pa.string() for name in ("id", "name", "type", "attributes", "description")}
    | {
        "images": pa.list_(pa.string()),
        "image_keys": pa.list_(pa.binary(KEY_BYTES)),
        "image": pa.string(),
        "image_status": pa.string(),
        "image_key": pa.binary(KEY_BYTES),
        "train_count": pa.int32(),
    }
)
ALIASES_FIELD = pa.field("aliases", pa.list_(pa.string()))
"""The last column of entities.parquet where an entity has aliases; without one, there is no such column."""
GIVEN_SCHEMA = pa.schema({"given": pa.list_(pa.int32())})


def mention_columns(raw: RawDataset, scans: dict[str, Scan]) -> dict[str, list]:
    """Columns of mentions.parquet, one row per mention in the dataset's order. scans: verdict by listed image path."""
    mentions, entities = raw.mentions, EntityTable.of(raw.entities)
    row_of = _rows_of(entities, {m.gold for m in mentions})
    gold = [NIL if m.gold is None else row_of.get(m.gold, OUTSIDE_KB) for m in mentions]
    train_sentences = {m.sentence for m in mentions if m.split == "train"}
    train_golds = {g for m, g in zip(mentions, gold, strict=True) if m.split == "train" and g >= 0}
    phrases, name_of = {m.phrase.casefold() for m in mentions}, dict[int, str]()
    alike, golds = Counter[str](), set(gold)
    for row, name in enumerate(map(str.casefold, entities.column("name"))):
        if row in golds:
            name_of[row] = name
        if name in phrases:
            alike[name] += 1
    golds_of: dict[str, set] = {}
    for m in mentions:
        golds_of.setdefault(m.phrase.casefold(), set()).add(m.gold)
    images = [None if m.image is None else scans[m.image] for m in mentions]
    return {
        "id": [m.id for m in mentions],
        "split": [m.split for m in mentions],
        "sentence": [m.sentence for m in mentions],
        "phrase": [m.phrase for m in mentions],
        "start": [m.span[0] if m.span else -1 for m in mentions],
        "end": [m.span[1] if m.span else -1 for m in mentions],
        "gold": gold,
        "gold_id": [m.gold for m in mentions],
        "type": [m.type for m in mentions],
        "group": [m.group for m in mentions],
        "image": [m.image for m in mentions],
        "image_status": ["none" if i is None else STATUS_NAMES[i.status] for i in images],
        "image_cause": [i and i.cause for i in images],
        "image_key": [i and i.key for i in images],
        "phrase_is_name": [g >= 0 and m.phrase.casefold() == name_of[g] for m, g in zip(mentions, gold, strict=True)],
        "gold_in_train": [g in train_golds for g in gold],
        "sentence_in_train": [m.sentence in train_sentences for m in mentions],
        "ambiguous": [alike[m.phrase.casefold()] > 1 or len(golds_of[m.phrase.casefold()]) > 1 for m in mentions],
    }


def _rows_of(entities: EntityTable, ids: Iterable[str | None]) -> dict[str, int]:
    """The row of each of these ids that an entity has."""
    wanted = set(ids)
    return {name: row for row, name in enumerate(entities.column("id")) if name in wanted}


def entity_table(raw: RawDataset, scans: Mapping[str, Scan], train_golds: Iterable[int]) -> pa.Table:
    """The rows of entities.parquet, one per entity in the dataset's order.

    scans: verdict by listed image path. train_golds: rows of the training mentions' golds, with repetitions.
    """
    entities, counts, start = EntityTable.of(raw.entities), Counter(train_golds), 0
    with_aliases = any(any(aliases) for aliases in entities.column("aliases"))
    schema, pieces = ENTITY_SCHEMA.append(ALIASES_FIELD) if with_aliases else ENTITY_SCHEMA, []
    for piece in entities.pieces:
        end = start + piece.num_rows
        columns = {name: piece[name] for name in piece.schema.names if name in schema.names}
        columns |= _image_columns(piece["images"].to_pylist(), scans)
        columns["train_count"] = pa.array([counts[row] for row in range(start, end)], pa.int32())
        arrays = [columns[field.name] for field in schema]
        pieces.append(pa.RecordBatch.from_arrays(arrays, schema=schema))
        start = end
    return pa.Table.from_batches(pieces, schema)


def _image_columns(images: Sequence[Sequence[str]], scans: Mapping[str, Scan]) -> dict[str, pa.Array]:
    shown = []  # of each entity, the picture that stands for it and its verdict
    for listed in images:
        usable = [image for image in listed if scans[image].status == Status.OK]
        first = next(iter(usable or listed), None)
        shown.append((first, None if first is None else scans[first]))
    columns = {
        "image_keys": [
            [scans[image].key if scans[image].status == Status.OK else None for image in listed] for listed in images
        ],
        "image": [image if scan and scan.status == Status.OK else None for image, scan in shown],
        "image_status": ["none" if scan is None else STATUS_NAMES[scan.status] for _, scan in shown],
        "image_key": [scan.key if scan and scan.status == Status.OK else None for _, scan in shown],
    }
    return {name: pa.array(values, ENTITY_SCHEMA.field(name).type) for name, values in columns.items()}


def given_columns(raw: RawDataset) -> dict[str, list] | None:
    """Columns of given.parquet, one row per mention; None where no mention came with candidates.

    A row holds the rows of the entities that came as candidates, best first, without those outside the KB; null where
    none came.
    """
    if all(m.given is None for m in raw.mentions):
        return None
    row_of = _rows_of(EntityTable.of(raw.entities), {name for m in raw.mentions for name in m.given or ()})
    return {"given": [m.given and [row_of[name] for name in m.given if name in row_of] for m in raw.mentions]}


def content(*parts: Mapping[str, list] | pa.Table) -> str:
    """SHA-256 (hex) over the columns of several tables: the same for the same rows, whichever machine and library wrote
    them.
    """
    digest = hashlib.sha256()
    for part in parts:
        for text in _json_of(part):
            digest.update(text.encode())
        digest.update(b"\n")
    return digest.hexdigest()


def _json_of(columns: Mapping[str, list] | pa.Table) -> Iterator[str]:
    """`json.dumps(columns, sort_keys=True)`, keys of pictures in hexadecimal, in pieces."""
    names = columns.column_names if isinstance(columns, pa.Table) else columns
    for number, name in enumerate(sorted(names)):
        yield f"{', ' if number else '{'}{json.dumps(name)}: ["
        between = ""
        for values in _pieces(columns[name]):
            yield between + json.dumps(values, default=bytes.hex)[1:-1]
            between = ", "
        yield "]"
    yield "}"


def _pieces(column: Sequence[Any] | pa.ChunkedArray) -> Iterator[list[Any]]:
    """The values of a column, some at a time."""
    for start in range(0, len(column), PIECE):
        part = column[start : start + PIECE]
        yield part.to_pylist() if isinstance(part, pa.ChunkedArray) else list(part)


def mention_table(columns: Mapping[str, list]) -> pa.Table:
    """The rows of mentions.parquet with these columns."""
    return _table(columns, MENTION_SCHEMA)


def given_table(columns: Mapping[str, list]) -> pa.Table:
    """The rows of given.parquet with these columns."""
    return _table(columns, GIVEN_SCHEMA)


def _table(columns: Mapping[str, list], schema: pa.Schema) -> pa.Table:
    return pa.table([pa.array(columns[field.name], field.type) for field in schema], schema=schema)


def write(path: Path, table: pa.Table) -> None:
    """Write a Parquet file: the same bytes for the same rows. Raises `UserError` for a full or forbidden place."""
    with atomic(path) as handle, pq.ParquetWriter(handle, table.schema) as writer:
        for start in range(0, max(1, len(table)), ROW_GROUP):
            writer.write_table(table.slice(start, ROW_GROUP).combine_chunks())

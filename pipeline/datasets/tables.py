"""The tables a prepared dataset consists of: mentions.parquet, entities.parquet and, where candidates came with the
mentions, given.parquet.
"""

import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterable, Mapping

import pyarrow as pa
import pyarrow.parquet as pq

from cache.identity import KEY_BYTES
from cache.shard import Status
from pipeline.datasets.records import RawDataset
from pipeline.datasets.scan import Scan

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
    mentions, entities = raw.mentions, raw.entities
    row_of = {entity.id: row for row, entity in enumerate(entities)}
    gold = [NIL if m.gold is None else row_of.get(m.gold, OUTSIDE_KB) for m in mentions]
    train_sentences = {m.sentence for m in mentions if m.split == "train"}
    train_golds = {g for m, g in zip(mentions, gold, strict=True) if m.split == "train" and g >= 0}
    alike = Counter(entity.name.casefold() for entity in entities)
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
        "phrase_is_name": [
            g >= 0 and m.phrase.casefold() == entities[g].name.casefold() for m, g in zip(mentions, gold, strict=True)
        ],
        "gold_in_train": [g in train_golds for g in gold],
        "sentence_in_train": [m.sentence in train_sentences for m in mentions],
        "ambiguous": [alike[m.phrase.casefold()] > 1 or len(golds_of[m.phrase.casefold()]) > 1 for m in mentions],
    }


def entity_columns(raw: RawDataset, scans: dict[str, Scan], train_golds: Iterable[int]) -> dict[str, list]:
    """Columns of entities.parquet, one row per entity in the dataset's order.

    scans: verdict by listed image path. train_golds: rows of the training mentions' golds, with repetitions.
    """
    entities, counts = raw.entities, Counter(train_golds)
    shown = []  # of each entity, the picture that stands for it and its verdict
    for entity in entities:
        usable = [image for image in entity.images if scans[image].status == Status.OK]
        first = next(iter(usable or entity.images), None)
        shown.append((first, None if first is None else scans[first]))
    return {
        "id": [e.id for e in entities],
        "name": [e.name for e in entities],
        "type": [e.type for e in entities],
        "attributes": [e.attributes for e in entities],
        "description": [e.description for e in entities],
        "images": [list(e.images) for e in entities],
        "image_keys": [
            [scans[image].key if scans[image].status == Status.OK else None for image in e.images] for e in entities
        ],
        "image": [image if scan and scan.status == Status.OK else None for image, scan in shown],
        "image_status": ["none" if scan is None else STATUS_NAMES[scan.status] for _, scan in shown],
        "image_key": [scan.key if scan and scan.status == Status.OK else None for _, scan in shown],
        "train_count": [counts[row] for row in range(len(entities))],
        **({"aliases": [list(e.aliases) for e in entities]} if any(e.aliases for e in entities) else {}),
    }


def entity_schema(columns: Mapping[str, list]) -> pa.Schema:
    """The schema of entities.parquet with these columns."""
    return ENTITY_SCHEMA.append(ALIASES_FIELD) if ALIASES_FIELD.name in columns else ENTITY_SCHEMA


def given_columns(raw: RawDataset) -> dict[str, list] | None:
    """Columns of given.parquet, one row per mention; None where no mention came with candidates.

    A row holds the rows of the entities that came as candidates, best first, without those outside the KB; null where
    none came.
    """
    if all(m.given is None for m in raw.mentions):
        return None
    row_of = {entity.id: row for row, entity in enumerate(raw.entities)}
    return {"given": [m.given and [row_of[name] for name in m.given if name in row_of] for m in raw.mentions]}


def content(*parts: Mapping[str, list]) -> str:
    """SHA-256 (hex) over the columns of several tables: the same for the same rows, whichever machine and library wrote
    them.
    """
    digest = hashlib.sha256()
    for columns in parts:
        digest.update(json.dumps(columns, sort_keys=True, default=bytes.hex).encode() + b"\n")
    return digest.hexdigest()


def parquet_bytes(columns: dict[str, list], schema: pa.Schema) -> bytes:
    """A Parquet file with these columns; the same bytes for the same columns."""
    sink = io.BytesIO()
    pq.write_table(pa.table([pa.array(columns[field.name], field.type) for field in schema], schema=schema), sink)
    return sink.getvalue()

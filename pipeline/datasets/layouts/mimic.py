"""Layout `mimic`: WikiMEL, RichpediaMEL and WikiDiverse as the MIMIC release lays them out.

    qid2id.json               {QID: row id}; a key `nil` is allowed
    kb_entity.json            [{id, qid, type, entity_name, attr | desc, image_list}]
    *_{train,dev,test}.json   [{id, sentence, mentions, answer (QID or `nil`), imgPath, entities}]
    kb_image/                 pictures named in image_list
    mention_image/            (or mention_images/) pictures named in imgPath

`entities` is the gold's name and is never kept. Names and phrases may be percent-encoded. `imgPath` may be a URL, of which the last part counts, and
the picture may lie there under another extension: the release converted what it had to `.jpg` without changing the records.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from foundation.errors import UserError
from foundation.files import read_json
from pipeline.datasets.contracts import LayoutOptions
from pipeline.datasets.layouts._fields import Unique, check_fields, image_list, label, text
from pipeline.datasets.layouts._release import (
    Pictures,
    decoded,
    first_folder,
    one_each,
    phrases_and_golds,
    split_files,
    stamps_below,
)
from pipeline.datasets.records import SPLITS, Entity, Mention, RawDataset
from pipeline.datasets.spans import find_span

FILES = "qid2id.json, kb_entity.json and *_{train,dev,test}.json"
_MENTION_REQUIRED = ("id", "sentence", "mentions", "answer")
# Read: imgPath and mention_type. The others stand in some copies of the releases and are of no use here, or would tell the answer.
_MENTION_OPTIONAL = ("imgPath", "mention_type", "entities", "type", "topic", "cands", "candidates", "start", "end")
_ENTITY_REQUIRED = ("id", "qid", "entity_name")
_ENTITY_OPTIONAL = ("type", "attr", "desc", "image_list", "instance")


def recognises(folder: Path) -> bool:
    return (folder / "kb_entity.json").is_file() and any(split_files(folder).values())


def sources(folder: Path) -> list[Path]:
    """Raises `UserError` where a split has no file or several."""
    splits = one_each(split_files(folder), folder, "*_{split}.json", f"the layout `mimic` is {FILES}")
    return [folder / "qid2id.json", folder / "kb_entity.json", *splits]


def _roots(folder: Path, options: LayoutOptions) -> tuple[Path, Path]:
    return first_folder(folder, options.mention_images, ("mention_image", "mention_images")), first_folder(
        folder, options.entity_images, ("kb_image",)
    )


def _records(path: Path) -> Iterator[tuple[str, Any]]:
    records = read_json(path, unique=True)
    if not isinstance(records, list) or not records:
        raise UserError(
            f"{path}: found {'an empty list' if records == [] else type(records).__name__}, expected a list of records"
        )
    for number, record in enumerate(records, 1):
        name = record.get("qid", record.get("id")) if isinstance(record, dict) else None
        yield f"{path}: record {number}" + ("" if name is None else f" ({name!r:.40})"), record


def _entities(folder: Path, root: Path, options: LayoutOptions) -> list[Entity]:
    """In the order of their row ids. Raises `UserError` where qid2id.json says otherwise."""
    path = folder / "qid2id.json"
    rows = read_json(path, unique=True)
    if not isinstance(rows, dict):
        raise UserError(f"{path}: found {type(rows).__name__}, expected an object QID -> row id")
    pictures, qids, numbers, entities = Pictures(root), Unique("entity qid"), Unique("entity id"), []
    number_of: dict[str, int] = {}
    for where, record in _records(folder / "kb_entity.json"):
        check_fields(record, where, _ENTITY_REQUIRED, (*_ENTITY_OPTIONAL, *options.ignored))
        qid, number = label(record, "qid", where), record["id"]
        if type(number) is not int:
            raise UserError(f"{where}: field 'id' holds {number!r:.40}, expected the integer row id of qid2id.json")
        qids.name(qid, where)
        numbers.name(number, where)
        kind = text(record, "type", where)
        entity = Entity(
            id=qid,
            name=decoded(text(record, "entity_name", where, empty=False)),
            attributes=text(record, "attr", where, default=""),
            description=text(record, "desc", where, default=""),
            images=tuple(pictures.find(image, where) for image in image_list(record, "image_list", where)),
            type=None if kind == "entity" else kind,
        )
        entities.append(entity)
        number_of[qid] = number
    for qid, number in rows.items():
        if type(number) is not int and qid.lower() != "nil":
            raise UserError(
                f"{path}: {qid!r:.60} holds {type(number).__name__} {number!r:.40}, expected the integer row id of kb_entity.json"
            )
    for qid, where in qids.seen.items():
        if rows.get(qid) != number_of[qid]:
            raise UserError(
                f"{where}: {qid} has id {number_of[qid]} here and {rows.get(qid, 'none')} in {path}; make both from the same release"
            )
    extra = next((qid for qid in rows if qid not in qids.seen and qid.lower() != "nil"), None)
    if extra is not None:
        raise UserError(
            f"{path}: {extra} has id {rows[extra]} here and no record in {folder / 'kb_entity.json'}; make both from the same release"
        )
    return sorted(entities, key=lambda entity: number_of[entity.id])


def load(name: str, folder: Path, options: LayoutOptions) -> RawDataset:
    mention_root, entity_root = _roots(folder, options)
    paths = sources(folder)
    entities = _entities(folder, entity_root, options)
    pictures, seen, mentions = (
        Pictures(mention_root),
        Unique("mention id", "rename or remove one, or pass --repeated-ids number"),
        [],
    )
    for split, path in zip(SPLITS, paths[2:]):
        for where, record in _records(path):
            check_fields(record, where, _MENTION_REQUIRED, (*_MENTION_OPTIONAL, *options.ignored))
            sentence, image = text(record, "sentence", where, default=""), text(record, "imgPath", where)
            image = pictures.find(image, where) if image else None
            pairs = phrases_and_golds(record, where)
            for number, (phrase, gold) in enumerate(pairs):
                key = label(record, "id", where) + (f".{number}" if len(pairs) > 1 else "")
                mention = Mention(
                    id=seen.name(key, where, options.repeated_ids),
                    sentence=sentence,
                    phrase=decoded(phrase),
                    split=split,
                    gold=gold,
                    span=find_span(sentence, decoded(phrase)),
                    image=image,
                    type=text(record, "mention_type", where),
                )
                mentions.append(mention)
    return RawDataset(name, "mimic", mentions, entities, mention_root, entity_root, paths)


def stamps(folder: Path, options: LayoutOptions) -> Iterator[tuple[str, int, int]]:
    return stamps_below(dict(zip(("mentions", "entities"), _roots(folder, options))))

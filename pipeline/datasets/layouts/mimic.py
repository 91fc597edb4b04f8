"""Layout `mimic`: WikiMEL, RichpediaMEL and WikiDiverse as the MIMIC release lays them out.

    qid2id.json               {QID: row id}; a key `nil` is allowed
    kb_entity.json            [{id, qid, type, entity_name, attr | desc, image_list}]
    *_{train,dev,test}.json   [{id, sentence, mentions, answer (QID or `nil`), imgPath, entities}]
    kb_image/                 pictures named in image_list
    qid2aliases.json          optional {QID: [further names]}
    mention_image/            (or mention_images/) pictures named in imgPath

`entities` is the gold's name and is never kept. Names and phrases may be percent-encoded. `imgPath` may be a URL, of
which the last part counts, and the picture may have another extension: the release converted what it had to `.jpg`
without changing the records.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import Field

from foundation.errors import UserError
from foundation.files import read_json
from pipeline.datasets.contracts import LayoutOptions
from pipeline.datasets.fields import FileNames, FilledText, Label, Record, Rejects, Text, TextOrBlank, Unique
from pipeline.datasets.layouts._release import (
    ReleaseMention,
    decoded,
    first_folder,
    mention_ids,
    one_each,
    qid_aliases,
    read_aliases,
    split_files,
    stamps_below,
)
from pipeline.datasets.picture_files import ReleasePictures
from pipeline.datasets.records import SPLITS, Entity, Mention, RawDataset
from pipeline.datasets.spans import find_span

FILES = "qid2id.json, kb_entity.json and *_{train,dev,test}.json"


class MimicMention(ReleaseMention):
    """The fields without a type stand in some copies of the releases; they are of no use here, or tell the answer."""

    id: Label
    type: Any = None
    topic: Any = None
    cands: Any = None
    candidates: Any = None
    start: Any = None
    end: Any = None


class MimicEntity(Record):
    row: int = Field(alias="id", description="the integer row id of qid2id.json")
    qid: Label
    entity_name: FilledText
    type: Text | None = None
    attr: TextOrBlank = ""
    desc: TextOrBlank = ""
    image_list: FileNames = Field(default_factory=list)
    instance: Any = None


def recognises(folder: Path) -> bool:
    return (folder / "kb_entity.json").is_file() and any(split_files(folder).values())


def sources(folder: Path) -> list[Path]:
    """The splits come last. Raises `UserError` where one has no file or several."""
    splits = one_each(split_files(folder), folder, "*_{split}.json", f"the layout `mimic` is {FILES}")
    aliases = qid_aliases(folder)
    return [folder / "qid2id.json", folder / "kb_entity.json", *([aliases] if aliases else []), *splits]


def _roots(folder: Path, options: LayoutOptions) -> tuple[Path, Path]:
    return first_folder(folder, options.mention_images, ("mention_image", "mention_images")), first_folder(
        folder, options.entity_images, ("kb_image",)
    )


def _records(path: Path) -> Iterator[tuple[str, Any]]:
    records = read_json(path, unique=True)
    if not isinstance(records, list) or not records:
        kind = "an empty list" if records == [] else type(records).__name__
        raise UserError(f"{path}: found {kind}, expected a list of records")
    for number, record in enumerate(records, 1):
        name = record.get("qid", record.get("id")) if isinstance(record, dict) else None
        yield f"{path}: record {number}" + ("" if name is None else f" ({name!r:.40})"), record


def _entities(folder: Path, root: Path, options: LayoutOptions, rejects: Rejects) -> list[Entity]:
    """In the order of their row ids. Raises `UserError` where qid2id.json says otherwise."""
    path = folder / "qid2id.json"
    rows = read_json(path, unique=True)
    if not isinstance(rows, dict):
        raise UserError(f"{path}: found {type(rows).__name__}, expected an object QID -> row id")
    records: list[tuple[str, MimicEntity]] = []
    qids, numbers = Unique("entity qid"), Unique("entity id")
    left_out = set[str]()
    for where, value in _records(folder / "kb_entity.json"):
        left_out.add(str(value.get("qid")) if isinstance(value, dict) else "")
        with rejects.gather():
            record = MimicEntity.read(value, where, options.ignored)
            qids.check(record.qid, where)
            numbers.check(record.row, where)
            records.append((where, record))
            left_out.discard(record.qid)
    known = {qid: number for qid, number in rows.items() if qid not in left_out and qid.lower() != "nil"}
    _check_rows(path, known, {record.qid: record.row for _, record in records if record.qid not in left_out}, qids)
    records.sort(key=lambda item: item[1].row)
    listed = (image for _, record in records for image in record.image_list)
    pictures, entities = ReleasePictures(root, listed, options.follow_links), []
    aliases = read_aliases(qid_aliases(folder), rejects)
    for where, record in records:
        with rejects.gather():
            entity = Entity(
                id=record.qid,
                name=decoded(record.entity_name),
                attributes=record.attr,
                description=record.desc,
                images=tuple(pictures.find(image, where) for image in record.image_list),
                type=None if record.type == "entity" else record.type,
                aliases=aliases.get(record.qid, ()),
            )
            entities.append(entity)
    return entities


def _check_rows(path: Path, rows: dict[str, Any], number_of: dict[str, int], qids: Unique) -> None:
    """Raises `UserError` where qid2id.json (`rows`) and kb_entity.json (`number_of`) disagree. qids: their places."""
    for qid, number in rows.items():
        if type(number) is not int:
            raise UserError(
                f"{path}: {qid!r:.60} holds {type(number).__name__} {number!r:.40}, expected the integer row id of "
                "kb_entity.json"
            )
    for qid, number in number_of.items():
        if rows.get(qid) != number:
            raise UserError(
                f"{qids.seen[qid]}: {qid} has id {number} here and {rows.get(qid, 'none')} in {path}; make both from "
                "the same release"
            )
    extra = next((qid for qid in rows if qid not in number_of), None)
    if extra is not None:
        raise UserError(
            f"{path}: {extra} has id {rows[extra]} here and no record in kb_entity.json; make both from the same "
            "release"
        )


def load(name: str, folder: Path, options: LayoutOptions) -> RawDataset:
    mention_root, entity_root = _roots(folder, options)
    paths, rejects = sources(folder), Rejects()
    entities = _entities(folder, entity_root, options, rejects)
    records: list[tuple[str, str, MimicMention]] = []
    for split, path in zip(SPLITS, paths[-3:], strict=True):
        for where, value in _records(path):
            with rejects.gather():
                records.append((split, where, MimicMention.read(value, where, options.ignored)))
    listed = (record.image for _, _, record in records if record.image)
    pictures, ids, mentions = ReleasePictures(mention_root, listed, options.follow_links), mention_ids(), []
    for split, where, record in records:
        with rejects.gather():
            image = pictures.find(record.image, where) if record.image else None
            pairs = record.pairs(where)
            for number, (written, gold) in enumerate(pairs):
                phrase = decoded(written)
                mention = Mention(
                    id=ids.take(record.id + (f".{number}" if len(pairs) > 1 else ""), where, options.repeated_ids),
                    sentence=record.sentence,
                    phrase=phrase,
                    split=split,
                    gold=gold,
                    span=find_span(record.sentence, phrase),
                    image=image,
                    type=record.mention_type,
                )
                mentions.append(mention)
    return RawDataset(name, "mimic", mentions, entities, mention_root, entity_root, paths, rejects=rejects.causes)


def stamps(folder: Path, options: LayoutOptions) -> Iterator[tuple[str, int, int]]:
    return stamps_below(dict(zip(("mentions", "entities"), _roots(folder, options), strict=True)))

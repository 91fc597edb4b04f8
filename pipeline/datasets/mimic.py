"""Layout `mimic`: WikiMEL, RichpediaMEL and WikiDiverse as the MIMIC release lays them out.

    qid2id.json               {QID: row id}; a key `nil` is allowed
    kb_entity.json            [{id, qid, type, entity_name, attr | desc, image_list}]
    *_{train,dev,test}.json   [{id, sentence, mentions, answer (QID or `nil`), imgPath, entities}]
    kb_image/                 pictures named in image_list
    mention_image/            (or mention_images/) pictures named in imgPath

`entities` is the gold's name and is never kept. Names and phrases may be percent-encoded. `imgPath` may be a URL, of which the last part counts, and
the picture may lie there under another extension: the release converted what it had to `.jpg` without changing the records.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from cache.errors import UserError
from cache.files import read_json
from pipeline.datasets._fields import ImageFolder, Unique, check_fields, label, text
from pipeline.records import SPLITS, Dataset, Entity, Mention
from pipeline.spans import find_span

if TYPE_CHECKING:
    from pipeline.datasets import LayoutOptions

FILES = "qid2id.json, kb_entity.json and *_{train,dev,test}.json"
_MENTION_REQUIRED = ("id", "sentence", "mentions", "answer")
# Read: imgPath and mention_type. The others stand in some copies of the releases and are of no use here, or would tell the answer.
_MENTION_OPTIONAL = ("imgPath", "mention_type", "entities", "type", "topic", "cands", "candidates", "start", "end")
_ENTITY_REQUIRED = ("id", "qid", "entity_name")
_ENTITY_OPTIONAL = ("type", "attr", "desc", "image_list", "instance")
_EXTENSIONS = (".jpg", ".jpeg", ".JPG", ".JPEG", ".png", ".PNG", ".gif", ".webp")


def _split_files(folder: Path) -> dict[str, list[Path]]:
    return {split: sorted(path for path in folder.glob(f"*{split}.json") if re.fullmatch(rf"(.*[_-])?{split}\.json", path.name)) for split in SPLITS}


def recognises(folder: Path) -> bool:
    return (folder / "kb_entity.json").is_file() and any(_split_files(folder).values())


def sources(folder: Path) -> list[Path]:
    """Raises `UserError` where a split has no file or several."""
    paths = [folder / "qid2id.json", folder / "kb_entity.json"]
    for split, files in _split_files(folder).items():
        if len(files) != 1:
            found = " and ".join(path.name for path in files) or "none"
            raise UserError(f"{folder}: expected one file *_{split}.json, found {found}; the layout `mimic` is {FILES}")
        paths += files
    return paths


def _roots(folder: Path, options: "LayoutOptions") -> tuple[Path, Path]:
    plural = folder / "mention_images"
    mentions = plural if plural.is_dir() and not (folder / "mention_image").is_dir() else folder / "mention_image"
    return folder / options.mention_images if options.mention_images else mentions, folder / (options.entity_images or "kb_image")


class _Pictures:
    """Finds the file that stands for a listed picture."""

    def __init__(self, root: Path) -> None:
        self.folder = ImageFolder(root)
        self.names = {entry.name for entry in os.scandir(root)} if root.is_dir() else set()

    def find(self, listed: str, where: str) -> str:
        """Path relative to the folder; the listed name itself where no file stands for it."""
        if re.match(r"https?://", listed):
            listed = listed.rstrip("/").rsplit("/", 1)[-1]
        path = self.folder.check(listed, where)
        name = path.rsplit("/", 1)[-1]
        if path in self.names or (path != name and (self.folder.root / path).is_file()):
            return path
        stems = dict.fromkeys(os.path.splitext(form)[0] for form in (name, unquote(name)))
        others = [name, unquote(name), *(stem + extension for stem in stems for extension in _EXTENSIONS), name.split(".")[0] + ".jpg"]
        found = next((other for other in others if other in self.names), None)
        return path if found is None else self.folder.check(found, where)


def _decoded(value: str) -> str:
    try:
        decoded = unquote(value, errors="strict")
    except UnicodeDecodeError:
        return value
    return decoded if decoded.strip() else value


def _records(path: Path) -> Iterator[tuple[str, Any]]:
    records = read_json(path)
    if not isinstance(records, list) or not records:
        raise UserError(f"{path}: found {'an empty list' if records == [] else type(records).__name__}, expected a list of records")
    for number, record in enumerate(records, 1):
        name = record.get("qid", record.get("id")) if isinstance(record, dict) else None
        yield f"{path}: record {number}" + ("" if name is None else f" ({name!r:.40})"), record


def _entities(folder: Path, root: Path, options: "LayoutOptions") -> list[Entity]:
    """In the order of their row ids. Raises `UserError` where qid2id.json says otherwise."""
    path = folder / "qid2id.json"
    rows = read_json(path)
    if not isinstance(rows, dict):
        raise UserError(f"{path}: found {type(rows).__name__}, expected an object QID -> row id")
    pictures, qids, numbers, entities = _Pictures(root), Unique("entity qid"), Unique("entity id"), []
    number_of: dict[str, int] = {}
    for where, record in _records(folder / "kb_entity.json"):
        check_fields(record, where, _ENTITY_REQUIRED, (*_ENTITY_OPTIONAL, *options.ignored))
        qid, number = label(record, "qid", where), record["id"]
        if type(number) is not int:
            raise UserError(f"{where}: field 'id' holds {number!r:.40}, expected the integer row id of qid2id.json")
        qids.name(qid, where)
        numbers.name(number, where)
        listed = record.get("image_list") or []
        if not isinstance(listed, list) or not all(isinstance(image, str) for image in listed):
            raise UserError(f"{where}: field 'image_list' holds {listed!r:.60}, expected a list of file names")
        kind = text(record, "type", where)
        entity = Entity(
            id=qid,
            name=_decoded(text(record, "entity_name", where, empty=False)),
            attributes=text(record, "attr", where, default=""),
            description=text(record, "desc", where, default=""),
            images=tuple(pictures.find(image, where) for image in listed if image),
            type=None if kind == "entity" else kind,
        )
        entities.append(entity)
        number_of[qid] = number
    for qid, where in qids.seen.items():
        if rows.get(qid) != number_of[qid]:
            raise UserError(f"{where}: {qid} has id {number_of[qid]} here and {rows.get(qid, 'none')} in {path}; make both from the same release")
    extra = next((qid for qid in rows if qid not in qids.seen and qid.lower() != "nil"), None)
    if extra is not None:
        raise UserError(f"{path}: {extra} has id {rows[extra]} here and no record in {folder / 'kb_entity.json'}; make both from the same release")
    return sorted(entities, key=lambda entity: number_of[entity.id])


def _phrases_and_golds(record: dict, where: str) -> list[tuple[str, str | None]]:
    """`mentions` and `answer` are two strings, or two lists of the same length."""
    phrases, golds = record["mentions"], record["answer"]
    if not isinstance(phrases, list):
        phrases, golds = [phrases], [golds]
    elif not isinstance(golds, list):
        golds = [golds]
    if len(phrases) != len(golds) or not phrases:
        raise UserError(f"{where}: {len(phrases)} mentions and {len(golds)} answers, expected one answer for each mention")
    pairs = []
    for phrase, gold in zip(phrases, golds):
        phrase = _decoded(text({"mentions": phrase}, "mentions", where, empty=False))
        gold = text({"answer": gold}, "answer", where, default="")
        pairs.append((phrase, None if gold.strip().lower() in ("", "nil") else gold))
    return pairs


def load(name: str, folder: Path, options: "LayoutOptions") -> Dataset:
    mention_root, entity_root = _roots(folder, options)
    paths = sources(folder)
    entities = _entities(folder, entity_root, options)
    pictures, seen, mentions = _Pictures(mention_root), Unique("mention id", "rename or remove one, or pass --repeated-ids number"), []
    for split, path in zip(SPLITS, paths[2:]):
        for where, record in _records(path):
            check_fields(record, where, _MENTION_REQUIRED, (*_MENTION_OPTIONAL, *options.ignored))
            sentence, image = text(record, "sentence", where, default=""), text(record, "imgPath", where)
            image = pictures.find(image, where) if image else None
            pairs = _phrases_and_golds(record, where)
            for number, (phrase, gold) in enumerate(pairs):
                key = label(record, "id", where) + (f".{number}" if len(pairs) > 1 else "")
                mention = Mention(
                    id=seen.name(key, where, options.repeated_ids),
                    sentence=sentence,
                    phrase=phrase,
                    split=split,
                    gold=gold,
                    span=find_span(sentence, phrase),
                    image=image,
                    type=text(record, "mention_type", where),
                )
                mentions.append(mention)
    return Dataset(name, "mimic", mentions, entities, mention_root, entity_root, paths)


def stamps(folder: Path, options: "LayoutOptions") -> Iterator[tuple[str, int, int]]:
    """Every file of both image folders: which of them a record means depends on what is there."""
    for side, root in zip(("mentions", "entities"), _roots(folder, options)):
        waiting = [(root, "")] if root.is_dir() else []
        while waiting:
            place, prefix = waiting.pop()
            with os.scandir(place) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append((Path(entry.path), f"{prefix}{entry.name}/"))
                        continue
                    try:
                        stat = entry.stat()
                        yield f"{side}/{prefix}{entry.name}", stat.st_size, stat.st_mtime_ns
                    except OSError:
                        yield f"{side}/{prefix}{entry.name}", -1, -1

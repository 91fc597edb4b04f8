"""Layout `jsonl`: two text files that can be written by hand.

`mentions.jsonl` holds one mention per line:

    {"id": "m1", "sentence": "Powers with Noel Harrison.", "mention": "Powers", "image": "images/7.jpg", "gold": "Q256474", "split": "train"}

    id          text or integer, unique
    sentence    text
    mention     the phrase as it stands in the sentence
    gold        id of an entity, or null for NIL: the entity is not in the KB
    split       train, dev or test
    image       optional: path relative to the folder
    start, end  optional, together: character offsets of the phrase, end exclusive; looked up if not given
    type        optional label of the mention's kind
    group       optional free label; metrics are reported for each of its values
    candidates  optional list of entity ids, best first: the candidates that came with the mention

`entities.jsonl` holds one entity per line:

    {"id": "Q256474", "name": "Stefanie Powers", "attributes": {"Occupation": ["actor", "singer"]}, "images": ["images/powers.jpg"], "type": "person"}

    id          text or integer, unique
    name        text
    attributes  optional: text, or an object whose values are text or lists of text, read as "Occupation: actor, singer."
    description optional text
    images      optional: a path or a list of paths relative to the folder; the first usable one stands for the entity
    type        optional label, or several joined by `|`

UTF-8; blank lines are skipped; any other field is an error. Images lie below the folder itself, or below the folders named by the options
`mention_images` and `entity_images`.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from foundation.errors import UserError, nearest
from pipeline.datasets.contracts import LayoutOptions
from pipeline.datasets.layouts._fields import (
    ImageFolder,
    Unique,
    check_fields,
    image_list,
    json_lines,
    label,
    labels,
    text,
)
from pipeline.datasets.records import SPLITS, Entity, Mention, RawDataset
from pipeline.datasets.spans import bare, find_span

FILES = "mentions.jsonl and entities.jsonl"
_REQUIRED = ("id", "sentence", "mention", "gold", "split")
_OPTIONAL = ("start", "end", "image", "type", "group", "candidates")
_ENTITY_REQUIRED = ("id", "name")
_ENTITY_OPTIONAL = ("attributes", "description", "images", "type")


def recognises(folder: Path) -> bool:
    return (folder / "mentions.jsonl").is_file() and (folder / "entities.jsonl").is_file()


def sources(folder: Path) -> list[Path]:
    return [folder / "entities.jsonl", folder / "mentions.jsonl"]


def _roots(folder: Path, options: LayoutOptions) -> tuple[Path, Path]:
    return folder / (options.mention_images or ""), folder / (options.entity_images or "")


def span_of(record: dict, sentence: str, phrase: str, where: str) -> tuple[int, int] | None:
    """The record's `start` and `end`, checked, or where the phrase is found. Raises `UserError`."""
    start, end = record.get("start"), record.get("end")
    if start is None and end is None:
        return find_span(sentence, phrase)
    if type(start) is not int or type(end) is not int:
        raise UserError(
            f"{where}: start {start!r} and end {end!r}, expected two integers; leave both out to have the phrase looked up"
        )
    if not 0 <= start < end <= len(sentence):
        raise UserError(
            f"{where}: span {start}..{end} lies outside the sentence of {len(sentence)} characters; offsets count characters from 0"
        )
    if bare(sentence[start:end]) != bare(phrase):
        raise UserError(
            f"{where}: span {start}..{end} covers {sentence[start:end]!r:.60}, not the mention {phrase!r:.60}; leave start and end out to have it looked up"
        )
    return start, end


def _attributes(value: Any, where: str) -> str:
    if isinstance(value, dict):
        parts = []
        for key, item in value.items():
            items = item if isinstance(item, list) else [item]
            if not all(isinstance(i, (str, int, float)) for i in items):
                raise UserError(f"{where}: attribute {key!r} holds {item!r:.60}, expected text or a list of text")
            parts.append(f"{key}: {', '.join(map(str, items))}.")
        value = " ".join(parts)
    return text({"attributes": value}, "attributes", where, default="")


def load(name: str, folder: Path, options: LayoutOptions) -> RawDataset:
    mention_root, entity_root = _roots(folder, options)
    pictures, seen, entities = ImageFolder(entity_root), Unique("entity id"), []
    for where, record in json_lines(folder / "entities.jsonl"):
        check_fields(record, where, _ENTITY_REQUIRED, (*_ENTITY_OPTIONAL, *options.ignored))
        entity = Entity(
            id=label(record, "id", where),
            name=text(record, "name", where, empty=False),
            attributes=_attributes(record.get("attributes"), where),
            description=text(record, "description", where, default=""),
            images=tuple(pictures.check(path, where) for path in image_list(record, "images", where, single=True)),
            type=text(record, "type", where),
        )
        seen.name(entity.id, where)
        entities.append(entity)
    pictures, seen, mentions = (
        ImageFolder(mention_root),
        Unique("mention id", "rename or remove one, or pass --repeated-ids number"),
        [],
    )
    for where, record in json_lines(folder / "mentions.jsonl"):
        check_fields(record, where, _REQUIRED, (*_OPTIONAL, *options.ignored))
        split = text(record, "split", where, empty=False)
        if split not in SPLITS:
            raise UserError(f"{where}: unknown split {split!r}{nearest(split, SPLITS)}")
        sentence, phrase = text(record, "sentence", where, default=""), text(record, "mention", where, empty=False)
        image = text(record, "image", where)
        mention = Mention(
            id=seen.name(label(record, "id", where), where, options.repeated_ids),
            sentence=sentence,
            phrase=phrase,
            split=split,
            gold=None if record["gold"] is None else label(record, "gold", where),
            span=span_of(record, sentence, phrase, where),
            image=pictures.check(image, where) if image else None,
            type=text(record, "type", where),
            group=text(record, "group", where),
            given=labels(record, "candidates", where),
        )
        mentions.append(mention)
    if not entities or not mentions:
        raise UserError(f"{folder / ('mentions.jsonl' if entities else 'entities.jsonl')}: holds no record")
    return RawDataset(name, "jsonl", mentions, entities, mention_root, entity_root, sources(folder))


def stamps(folder: Path, options: LayoutOptions) -> Iterator[tuple[str, int, int]]:
    """Listed files only, so that whatever else lies in the folder (results, an editor's files) does not count."""
    mention_root, entity_root = _roots(folder, options)
    for side, root in (("mentions", mention_root), ("entities", entity_root)):
        listed = set()
        with open(folder / f"{side}.jsonl", encoding="utf-8-sig", errors="replace") as handle:
            for line in handle:
                try:
                    record = json.loads(line)
                    image = record.get("image") or record.get("images") or ()
                    listed.update([image] if isinstance(image, str) else image)
                except (ValueError, AttributeError, TypeError, RecursionError):
                    continue  # `load` complains; the fingerprint needs no more than the text for that line
        for image in listed:
            try:
                stat = os.stat(os.path.join(root, image))
                yield f"{side}/{image}", stat.st_size, stat.st_mtime_ns
            except (OSError, ValueError, TypeError):
                continue

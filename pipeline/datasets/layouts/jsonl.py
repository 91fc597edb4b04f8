"""Layout `jsonl`: two text files that can be written by hand, or `entities.jsonl` alone: a KB to link against.

`mentions.jsonl` holds one mention per line:

    {"id": "m1", "sentence": "Powers with Noel Harrison.", "mention": "Powers", "gold": "Q256474", "split": "train",
     "image": "images/7.jpg"}

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

    {"id": "Q256474", "name": "Stefanie Powers", "attributes": {"Occupation": ["actor", "singer"]}, "type": "person",
     "images": ["images/powers.jpg"]}

    id          text or integer, unique
    name        text
    attributes  optional: text, or an object with values that are text or lists of text, read as
                "Occupation: actor, singer."
    description optional text
    images      optional: a path or a list of paths relative to the folder; the first usable one stands for the entity
    type        optional label, or several joined by `|`
    aliases     optional list of further names: redirects, "also known as"

The files are UTF-8. Blank lines are skipped; any other field is an error. Images lie below the folder itself, or below
the folders that the options `mention_images` and `entity_images` name.
"""

import json
import mmap
import os
from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError

from foundation.errors import UserError
from foundation.files import read_lines
from pipeline.datasets.contracts import LayoutOptions
from pipeline.datasets.entity_table import EntityTable
from pipeline.datasets.fields import (
    Aliases,
    FileOrFiles,
    FilledText,
    Label,
    Phrase,
    Record,
    Rejects,
    Text,
    TextOrBlank,
    Unique,
    as_list,
    json_lines,
    line_number,
)
from pipeline.datasets.layouts._release import mention_ids
from pipeline.datasets.picture_files import PictureFolder
from pipeline.datasets.records import Entity, Mention, RawDataset
from pipeline.datasets.spans import find_span, same_phrase

FILES = "mentions.jsonl and entities.jsonl (entities.jsonl alone: a KB without mentions)"
_OTHER_MENTIONS = ("*train.jsonl", "*dev.jsonl", "*val.jsonl", "*valid.jsonl", "*test.jsonl")
"""Files of mentions in other layouts: `entities.jsonl` beside one is no KB alone."""
ALONE = "no mentions.jsonl: a knowledge base alone, which runs of other datasets can link against (LinkMentions --kb)"


class MentionLine(Record):
    """What a mention to train on and a mention to link share. start, end: given together or not at all."""

    sentence: TextOrBlank
    mention: FilledText
    start: int | None = None
    end: int | None = None
    image: Text | None = None
    type: Text | None = None
    candidates: list[Label] | None = Field(default=None, description="a list of ids")

    def span(self, where: str) -> tuple[int, int] | None:
        """Offsets of the phrase, as given or as found in the sentence. Raises `UserError` where they do not fit."""
        start, end = self.start, self.end
        if start is None and end is None:
            return find_span(self.sentence, self.mention)
        if start is None or end is None:
            raise UserError(
                f"{where}: start {start!r} and end {end!r}, expected two integers; leave both out to have the phrase "
                "looked up"
            )
        if not 0 <= start < end <= len(self.sentence):
            raise UserError(
                f"{where}: span {start}..{end} lies outside the sentence of {len(self.sentence)} characters; offsets "
                "count characters from 0"
            )
        if not same_phrase(self.sentence[start:end], self.mention):
            raise UserError(
                f"{where}: span {start}..{end} covers {self.sentence[start:end]!r:.60}, not the mention "
                f"{self.mention!r:.60}; leave start and end out to have it looked up"
            )
        return start, end

    def given(self) -> tuple[str, ...] | None:
        """The candidates, each where it comes first."""
        return None if self.candidates is None else tuple(dict.fromkeys(self.candidates))


class JsonlMention(MentionLine):
    """A mention may have no phrase: it is then linked by its sentence and picture."""

    id: Label
    mention: Phrase
    gold: Label | None
    split: Literal["train", "dev", "test"]
    group: Text | None = None


def _as_text(value: Any) -> Any:
    """Attributes as one text: `Occupation: actor, singer. Born: 1950.`"""
    if not isinstance(value, dict):
        return "" if value is None else value
    parts = []
    for name, item in value.items():
        items = as_list(item)
        if not all(isinstance(one, str | int | float) for one in items):
            message = "holds under {name} {item}, expected text or a list of text"
            raise PydanticCustomError("field", message, {"name": repr(name), "item": f"{item!r:.60}"})
        parts.append(f"{name}: {', '.join(map(str, items))}.")
    return " ".join(parts)


class JsonlEntity(Record):
    id: Label
    name: FilledText
    attributes: Annotated[Text, BeforeValidator(_as_text)] = ""
    description: TextOrBlank = ""
    images: FileOrFiles = Field(default_factory=list)
    type: Text | None = None
    aliases: Aliases = Field(default_factory=list)


def recognises(folder: Path) -> bool:
    if _has_mentions(folder) or not (folder / "entities.jsonl").is_file():
        return (folder / "mentions.jsonl").is_file() and (folder / "entities.jsonl").is_file()
    return not any(any(folder.glob(name)) for name in _OTHER_MENTIONS)


def sources(folder: Path) -> list[Path]:
    return [folder / "entities.jsonl", *([folder / "mentions.jsonl"] if _has_mentions(folder) else [])]


def _has_mentions(folder: Path) -> bool:
    return os.path.lexists(folder / "mentions.jsonl")


def _roots(folder: Path, options: LayoutOptions) -> tuple[Path, Path]:
    return folder / (options.mention_images or ""), folder / (options.entity_images or "")


def load(name: str, folder: Path, options: LayoutOptions) -> RawDataset:
    mention_root, entity_root = _roots(folder, options)
    rejects = Rejects()
    entities = _entities(folder / "entities.jsonl", entity_root, options, rejects)
    alone = not _has_mentions(folder)
    mentions = [] if alone else _mentions(folder / "mentions.jsonl", mention_root, options, rejects)
    if not rejects.causes and not (entities and (mentions or alone)):
        raise UserError(f"{folder / ('mentions.jsonl' if entities else 'entities.jsonl')}: holds no record")
    return RawDataset(
        name,
        "jsonl",
        mentions,
        entities,
        mention_root,
        entity_root,
        sources(folder),
        rejects=rejects.causes,
        notes=(ALONE,) if alone else (),
        kb_alone=alone,
    )


def _entities(path: Path, root: Path, options: LayoutOptions, rejects: Rejects) -> EntityTable:
    listed, numbers = set[str](), list[int]()

    def read() -> Iterator[Entity]:
        ids = Unique("entity id", file=path)
        for where, value in json_lines(path, rejects):
            with rejects.gather():
                line = JsonlEntity.read(value, where, options.ignored)
                ids.check(line.id, where)
                listed.update(line.images)
                numbers.append(line_number(where))
                yield _entity(line)

    entities = EntityTable.of(read())
    if not listed:
        return entities
    pictures = PictureFolder(root, listed, options.follow_links)

    def with_pictures() -> Iterator[Entity]:
        for entity, number in zip(entities, numbers, strict=True):
            with rejects.gather():
                found = tuple(pictures.find(image, f"{path}:{number}") for image in entity.images)
                yield replace(entity, images=found)

    return EntityTable.of(with_pictures())


def _entity(line: JsonlEntity) -> Entity:
    return Entity(
        id=line.id,
        name=line.name,
        attributes=line.attributes,
        description=line.description,
        images=tuple(line.images),
        type=line.type,
        aliases=tuple(line.aliases),
    )


def _mentions(path: Path, root: Path, options: LayoutOptions, rejects: Rejects) -> list[Mention]:
    lines: list[tuple[str, JsonlMention]] = []
    for where, value in json_lines(path, rejects):
        with rejects.gather():
            lines.append((where, JsonlMention.read(value, where, options.ignored)))
    pictures = PictureFolder(root, (line.image for _, line in lines if line.image), options.follow_links)
    ids, mentions = mention_ids(), []
    for where, line in lines:
        with rejects.gather():
            mention = Mention(
                id=ids.take(line.id, where, options.repeated_ids),
                sentence=line.sentence,
                phrase=line.mention,
                split=line.split,
                gold=line.gold,
                span=line.span(where),
                image=pictures.find(line.image, where) if line.image else None,
                type=line.type,
                group=line.group,
                given=line.given(),
            )
            mentions.append(mention)
    return mentions


def stamps(folder: Path, options: LayoutOptions, without: Collection[Path] = ()) -> Iterator[tuple[str, int, int]]:
    """Listed files only, so that whatever else lies in the folder (results, an editor's files) does not count.

    without: text files of which `names_no_picture` holds; they are not read.
    """
    mention_root, entity_root = _roots(folder, options)
    for side, root in (("mentions", mention_root), ("entities", entity_root)):
        path = folder / f"{side}.jsonl"
        if path in without or (side == "mentions" and not _has_mentions(folder)):
            continue
        listed: set[str] = set()
        for _, line in read_lines(path, lambda error: None):
            try:
                record = json.loads(line)
                image = record.get("image") or record.get("images") or ()
                listed.update([image] if isinstance(image, str) else image)
            except (ValueError, AttributeError, TypeError, RecursionError):
                continue  # `load` complains; the fingerprint needs no more than the text for that line
        pictures = PictureFolder(root, (image for image in listed if isinstance(image, str)))
        for image in pictures.listed:
            try:
                place = pictures.find(image, side)
                stat = os.stat(root / place)
                yield f"{side}/{place}", stat.st_size, stat.st_mtime_ns
            except (OSError, ValueError, UserError):
                continue


def names_no_picture(path: Path) -> bool:
    """Whether no line of a file can have a field `image` or `images`: the word is nowhere, and no letter of it is
    written as an escape. Told without parsing, which takes seconds where a KB is large.
    """
    if not path.stat().st_size:
        return True
    with open(path, "rb") as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as text:
        return all(text.find(word) < 0 for word in _PICTURE_WORDS)


_PICTURE_WORDS = (b'"image', b"\\u006")
"""Bytes of which one stands in every line with a field `image` or `images`: its name as it is, or with an escape."""

"""Layout `ghmfc`: WikiMEL and Richpedia-MEL as the releases of GHMFC and DWE lay them out.

    qid2ne.json             {QID: name}: the KB
    qid2abs.json            optional {QID: properties}: "Occupation: actor. Languages: English."
    qid2brief.json          optional {QID: description}
    qid2aliases.json        optional {QID: [further names]}
    *{train,dev,test}.json  {key: {id, sentence, mentions, answer (QID), imgPath | img_list, entities}}; dev may be
                            named valid
    search_top100.json      optional {mention: [QIDs]}: the candidates, best first; of several search_top*.json the one
                            with the largest number is read
    images/ or KVQAimgs/    pictures named in imgPath; else the first one in img_list that is there; else, where a
                            record has neither field, the one named by the record's key
    kb_image/               optional pictures of the entities, named QID.jpg, QID_0.jpg, QID_1.jpg, …

A mention's id is its key; `id` numbers sentences, which may hold several mentions. `entities` is the gold's name and
`brief` its description: neither is ever kept. Texts of QIDs that qid2ne.json does not name are not read. Names and
phrases may be percent-encoded, and a picture may have another extension than the record says.
"""

import os
import re
from collections.abc import Container, Iterator
from pathlib import Path
from typing import Any

from pydantic import Field

from pipeline.datasets.contracts import LayoutOptions
from pipeline.datasets.fields import FileNames, FilledText, Label, Record, Rejects
from pipeline.datasets.layouts._release import (
    KeyedText,
    ReleaseMention,
    decoded,
    first_folder,
    mention_ids,
    one_each,
    qid_aliases,
    read_aliases,
    read_keyed,
    split_files,
    stamps_below,
)
from pipeline.datasets.picture_files import EXTENSIONS, PictureFolder, ReleasePictures
from pipeline.datasets.records import SPLITS, Entity, Mention, RawDataset
from pipeline.datasets.spans import find_span

FILES = "qid2ne.json and *{train,dev,test}.json"
_ENTITY_PICTURE = re.compile(r"(.+?)(?:[_-](\d{1,9}))?\.(?:jpe?g|png|gif|webp|bmp|tiff?)", re.IGNORECASE)


class GhmfcMention(ReleaseMention):
    id: Any = None
    img_list: FileNames = Field(default_factory=list)
    brief: Any = None  # the gold's description, which is never kept


class _Key(Record):
    key: FilledText


class _Name(Record):
    QID: FilledText
    name: FilledText


class _List(Record):
    """The candidates of a phrase."""

    candidates: list[Label] | None = Field(description="a list of ids")


def _splits(folder: Path) -> dict[str, list[Path]]:
    return split_files(folder, dev="dev|valid")


def _candidates(folder: Path) -> Path | None:
    by_size = {
        int(match[1]): path
        for path in folder.glob("search_top*.json")
        if (match := re.fullmatch(r"search_top(\d{1,9})\.json", path.name))
    }
    return by_size[max(by_size)] if by_size else None


def recognises(folder: Path) -> bool:
    return (folder / "qid2ne.json").is_file() and any(_splits(folder).values())


def sources(folder: Path) -> list[Path]:
    """The splits come last. Raises `UserError` where one has no file or several."""
    splits = one_each(_splits(folder), folder, "*{split}.json", f"the layout `ghmfc` is {FILES}")
    optional = [folder / "qid2abs.json", folder / "qid2brief.json", qid_aliases(folder), _candidates(folder)]
    return [folder / "qid2ne.json", *(path for path in optional if path is not None and path.is_file()), *splits]


def _roots(folder: Path, options: LayoutOptions) -> tuple[Path, Path]:
    return first_folder(folder, options.mention_images, ("images", "KVQAimgs")), first_folder(
        folder, options.entity_images, ("kb_image",)
    )


def _entity_pictures(root: Path, qids: Container[str], options: LayoutOptions) -> dict[str, tuple[str, ...]]:
    """QID -> its pictures, in the order of their numbers."""
    numbered: dict[str, list[tuple[int, str]]] = {}
    folder = PictureFolder(root, follow_links=options.follow_links)
    for name in os.listdir(root) if root.is_dir() else ():
        match = _ENTITY_PICTURE.fullmatch(name)
        if match and match[1] in qids:
            numbered.setdefault(match[1], []).append((int(match[2] or -1), folder.find(name, str(root))))
    return {qid: tuple(name for _, name in sorted(pictures)) for qid, pictures in numbered.items()}


def _entities(folder: Path, root: Path, options: LayoutOptions, rejects: Rejects) -> list[Entity]:
    path = folder / "qid2ne.json"
    names = read_keyed(path)
    texts = {name: folder / f"{name}.json" for name in ("qid2abs", "qid2brief")}
    parsed = {name: read_keyed(file) if file.is_file() else {} for name, file in texts.items()}

    def text(name: str, qid: str) -> str:
        where = f"{texts[name]}: {qid!r:.40}"
        return KeyedText.read({"key": qid, "text": parsed[name].get(qid)}, where).text

    pictures, entities = _entity_pictures(root, names, options), []
    aliases = read_aliases(qid_aliases(folder), rejects)
    for number, (qid, name) in enumerate(names.items(), 1):
        with rejects.gather():
            record = _Name.read({"QID": qid, "name": name}, f"{path}: record {number} ({qid!r:.40})")
            entity = Entity(
                id=record.QID,
                name=decoded(record.name),
                attributes=text("qid2abs", qid),
                description=text("qid2brief", qid),
                images=pictures.get(qid, ()),
                aliases=aliases.get(qid, ()),
            )
            entities.append(entity)
    return entities


def _lists(path: Path | None, rejects: Rejects) -> dict[str, tuple[str, ...] | None]:
    """Phrase -> QIDs."""
    lists: dict[str, tuple[str, ...] | None] = {}
    for phrase, candidates in (read_keyed(path) if path is not None else {}).items():
        with rejects.gather():
            qids = _List.read({"candidates": candidates}, f"{path}: {phrase!r:.40}").candidates
            lists[phrase] = None if qids is None else tuple(dict.fromkeys(qids))
    return lists


def _picture(key: str, record: GhmfcMention, pictures: ReleasePictures, where: str) -> str | None:
    if record.model_fields_set.isdisjoint(("image", "img_list")):
        named = next((key + extension for extension in EXTENSIONS if key + extension in pictures.names()), None)
        return named and pictures.find(named, where)
    paths = [pictures.find(image, where) for image in ([record.image] if record.image else record.img_list)]
    return next((path for path in paths if pictures.holds(path)), paths[0] if paths else None)


def _records(path: Path, options: LayoutOptions, rejects: Rejects) -> Iterator[tuple[str, str, GhmfcMention]]:
    """(key, place, record) of each record of a split."""
    for number, (key, value) in enumerate(read_keyed(path).items(), 1):
        record, where = None, f"{path}: record {number} ({key!r:.40})"
        with rejects.gather():
            _Key.read({"key": key}, where)
            record = GhmfcMention.read(value, where, options.ignored)
        if record is not None:
            yield key, where, record


def load(name: str, folder: Path, options: LayoutOptions) -> RawDataset:
    mention_root, entity_root = _roots(folder, options)
    paths, rejects = sources(folder), Rejects()
    entities = _entities(folder, entity_root, options, rejects)
    lists = _lists(_candidates(folder), rejects)
    records = [
        (split, *record)
        for split, path in zip(SPLITS, paths[-3:], strict=True)
        for record in _records(path, options, rejects)
    ]
    listed = (image for *_, record in records for image in (record.image, *record.img_list) if image)
    pictures, ids, mentions = ReleasePictures(mention_root, listed, options.follow_links), mention_ids(), []
    for split, key, where, record in records:
        with rejects.gather():
            image, pairs = _picture(key, record, pictures, where), record.pairs(where)
            for number, (written, gold) in enumerate(pairs):
                phrase = decoded(written)
                mention = Mention(
                    id=ids.take(key + (f".{number}" if len(pairs) > 1 else ""), where, options.repeated_ids),
                    sentence=record.sentence,
                    phrase=phrase,
                    split=split,
                    gold=gold,
                    span=find_span(record.sentence, phrase),
                    image=image,
                    type=record.mention_type,
                    given=lists.get(written, lists.get(phrase)),
                )
                mentions.append(mention)
    return RawDataset(name, "ghmfc", mentions, entities, mention_root, entity_root, paths, rejects=rejects.causes)


def stamps(folder: Path, options: LayoutOptions) -> Iterator[tuple[str, int, int]]:
    return stamps_below(dict(zip(("mentions", "entities"), _roots(folder, options), strict=True)))

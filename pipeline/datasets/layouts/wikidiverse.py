"""Layout `wikidiverse`: the original WikiDiverse release, with its ten candidates for each mention.

The folder itself, wikidiverse_w_cands/ or candidates/ holds the splits:

    {train,valid,test}_w_10cands.json     a list of mentions, each a list of 11 fields: sentence, image URL, mention,
                                          type, left context, right context, entity URL, candidates, topic, start, end

The folder itself or entities/ holds the KB, which is what these files name (one of them must be there):

    wikipedia_entity2desc_filtered.tsv    lines `entity@@@@description`
    entity2desc.json, entity2brief*.json  {entity: description}
    wikipedia_entity2imgs.tsv             optional: lines `entity@@@@URL[AND]URL…`
    type2entity.json                      optional: {type: [entities]}
    redirects.json                        optional: {title: the title that it redirects to}

Pictures:

    wikinewsImgs/ or images/              the mentions' pictures
    wikipediaImgs/ or images/             optional: the entities' pictures

An entity's id and name is the title of its Wikipedia page, however a file spells it: as an address, percent-encoded,
with `_` or `-` for a blank. Where several files describe an entity, the first description counts. A picture's file is
the MD5 of the last part of its URL (or of the whole URL) with that part's extension; SVG became PNG. The release gives
addresses of the entities' pictures, not the pictures: those that are there count, the others are not missing. A
mention's id is its split and number, its group the topic. Entity URL `nil` is NIL. An entity's type comes from
type2entity.json alone, never from a mention.
"""

import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from foundation.errors import UserError
from foundation.files import read_json, read_lines
from pipeline.datasets.contracts import LayoutOptions
from pipeline.datasets.fields import FilledText, Phrase, Record, Rejects, Text, TextOrBlank
from pipeline.datasets.layouts._release import (
    KeyedText,
    decoded,
    first_folder,
    one_each,
    read_keyed,
    split_files,
    stamps_below,
)
from pipeline.datasets.picture_files import PictureFolder
from pipeline.datasets.records import SPLITS, Entity, Mention, RawDataset, is_nil
from pipeline.datasets.spans import find_span, same_phrase

FILES = (
    "{train,valid,test}_w_10cands.json and entity2desc.json, wikipedia_entity2desc_filtered.tsv or entity2brief*.json"
)
_EXTENSION = re.compile(r"\.(?:jpe?g|png|svg|gif|webp|bmp|tiff?)$", re.IGNORECASE)
_REDIRECTS = "redirects.json"
_HEADERS = ("entity", "title", "name")


class WikidiverseMention(Record):
    """The fields of a record, in its order."""

    sentence: TextOrBlank
    image: Text | None = Field(alias="image URL")
    mention: Phrase
    type: Text | None
    left: Any = Field(alias="left context")
    right: Any = Field(alias="right context")
    entity: TextOrBlank = Field(alias="entity URL")
    candidates: list[Text] = Field(description="a list of entity URLs")
    topic: Text | None
    start: int = Field(description="an integer: the character offset of the mention's start")
    end: int = Field(description="an integer: the character offset of the mention's end, exclusive")

    def span(self) -> tuple[int, int] | None:
        """The given offsets where they cover the phrase, else the nearest place where it stands, else the given offsets
        where they are as long as it (a misspelling).
        """
        start, end, sentence, phrase = self.start, self.end, self.sentence, self.mention
        inside = 0 <= start < end <= len(sentence)
        if inside and same_phrase(sentence[start:end], phrase):
            return start, end
        misspelled = (start, end) if inside and end - start == len(phrase) else None
        return find_span(sentence, phrase, near=start) or misspelled


class _Redirect(Record):
    redirect: FilledText
    target: FilledText


class _Type(Record):
    type: FilledText
    entities: list[Text] = Field(description="a list of entities")


def _splits(folder: Path) -> tuple[Path, dict[str, list[Path]]]:
    """The folder that holds the splits, and their files."""
    places = [folder, folder / "wikidiverse_w_cands", folder / "candidates"]
    files = [split_files(place, dev="valid|dev", ending=r"_w_\d+cands\.json") for place in places]
    pairs = list(zip(places, files, strict=True))
    return next((pair for pair in pairs if any(pair[1].values())), pairs[0])


def _kb_files(folder: Path, *patterns: str) -> list[Path]:
    places = (folder, folder / "entities")
    paths = (path for pattern in patterns for place in places for path in sorted(place.glob(pattern)))
    return [path for path in paths if path.is_file()]


def _descriptions(folder: Path) -> list[Path]:
    return _kb_files(folder, "entity2desc.json", "wikipedia_entity2desc*.tsv", "entity2brief*.json")


def recognises(folder: Path) -> bool:
    return any(_splits(folder)[1].values())


def sources(folder: Path) -> list[Path]:
    """The splits come last. Raises `UserError` where one has no file or several, or no file names entities."""
    place, files = _splits(folder)
    splits = one_each(files, place, "{split}_w_10cands.json (valid for dev)", f"the layout `wikidiverse` is {FILES}")
    described = _descriptions(folder)
    if not described:
        raise UserError(
            f"{folder}: no file that describes the entities; add entity2desc.json, wikipedia_entity2desc_filtered.tsv "
            "or entity2brief*.json"
        )
    return [*described, *_kb_files(folder, "wikipedia_entity2imgs.tsv", "type2entity.json", _REDIRECTS), *splits]


def _roots(folder: Path, options: LayoutOptions) -> tuple[Path, Path]:
    mentions = first_folder(folder, options.mention_images, ("wikinewsImgs", "images"))
    return mentions, first_folder(folder, options.entity_images, ("wikipediaImgs", "images"))


def _title(reference: str) -> str:
    """The page's title, from its address or as it stands. A few addresses carry stray characters in front."""
    _, is_address, address = reference.partition("/wiki/")
    if is_address:
        title = decoded(re.split(r"[?#]", address, maxsplit=1)[0] or address)
    else:
        named = re.search(r"/index\.php\?(?:.*&)?title=([^&#]+)", reference)
        title = decoded(named[1] if named else reference)
    return " ".join(title.replace("_", " ").split())


def _end(title: str, redirects: Mapping[str, str]) -> str:
    """The title at the end of a chain of redirects; of a circle, some title in it."""
    seen: set[str] = set()
    while title in redirects and title not in seen:
        seen.add(title)
        title = redirects[title]
    return title


class _Titles:
    """Finds the KB's spelling of a title: the title itself, else the one it is a redirect to, else the one that differs
    in case and hyphens alone. redirects: title -> title.
    """

    def __init__(self, titles: Iterable[str], redirects: Mapping[str, str]) -> None:
        self.titles = set(titles)
        self.redirects = {
            title: target
            for title in redirects
            if title not in self.titles and (target := _end(title, redirects)) in self.titles
        }
        self.loose: dict[str, str | None] = {}
        for title in self.titles:
            key = self._key(title)
            self.loose[key] = None if key in self.loose else title

    @staticmethod
    def _key(title: str) -> str:
        return " ".join(title.replace("-", " ").casefold().split())

    def find(self, reference: str) -> str:
        title = _title(reference)
        if title in self.titles:
            return title
        return self.redirects.get(title) or self.loose.get(self._key(title)) or title


class _Pictures:
    """Finds the file of a URL's picture."""

    def __init__(self, root: Path, options: LayoutOptions) -> None:
        self.folder, self.names = PictureFolder(root, follow_links=options.follow_links), set[str]()
        self.by_digest: dict[str, str] = {}
        for name in sorted(os.listdir(root)) if root.is_dir() else ():
            self.names.add(name)
            if re.fullmatch(r"[0-9a-f]{32}[\w.-]*", name, re.ASCII):
                self.by_digest.setdefault(name[:32], name)

    def find(self, url: str, where: str) -> tuple[str, bool]:
        """The file's path relative to the folder, and whether it is there."""
        last = url.rsplit("/", 1)[-1]
        digests = [hashlib.md5(part.encode(), usedforsecurity=False).hexdigest() for part in (last, url)]
        extension = _EXTENSION.search(last)
        expected = digests[0] + (re.sub(r"\.svg$", ".png", extension[0], flags=re.IGNORECASE) if extension else "")
        names = (expected, *map(self.by_digest.get, digests))
        there = next((name for name in names if name in self.names), None)
        return (expected, False) if there is None else (self.folder.find(there, where), True)


def _pairs(path: Path) -> Iterator[tuple[str, str]]:
    """(entity, text) of a JSON object, or of lines `entity@@@@text`.

    The first line may be a header; a line without `@@@@` continues the one before. Raises `UserError`.
    """
    if path.suffix == ".json":
        for key, value in read_keyed(path).items():
            record = KeyedText.read({"key": key, "text": value}, f"{path}: {key!r:.40}")
            yield record.key, record.text
        return
    name: str | None = None
    parts: list[str] = []
    for number, line in read_lines(path):
        first, separator, rest = line.partition("@@@@")
        if not separator:
            parts.append(line.strip())
            continue
        if name is not None:
            yield name, " ".join(filter(None, parts))
        is_header = number == 1 and first.strip().lower() in _HEADERS
        name, parts = None if is_header else first, [] if is_header else [rest.strip()]
    if name is None:
        raise UserError(f"{path}: no line of the form entity@@@@text; take the release's own file")
    yield name, " ".join(filter(None, parts))


def _redirects(folder: Path, rejects: Rejects) -> dict[str, str]:
    """Title -> the title that it redirects to."""
    found: dict[str, str] = {}
    for path in _kb_files(folder, _REDIRECTS):
        for redirect, target in read_keyed(path).items():
            with rejects.gather():
                record = _Redirect.read({"redirect": redirect, "target": target}, f"{path}: {redirect!r:.40}")
                found[_title(record.redirect)] = _title(record.target)
    return found


def _entities(folder: Path, root: Path, options: LayoutOptions, redirects: Mapping[str, str]) -> list[Entity]:
    descriptions: dict[str, str] = {}
    for path in _descriptions(folder):
        for name, description in _pairs(path):
            title = _title(name)
            if not title:
                raise UserError(
                    f"{path}: an entity without a name, described as {description!r:.60}; name it or remove it"
                )
            descriptions[title] = descriptions.get(title) or description.strip()
    titles, pictures = _Titles(descriptions, redirects), _Pictures(root, options)
    images: dict[str, list[str]] = {}
    for path in _kb_files(folder, "wikipedia_entity2imgs.tsv"):
        for name, urls in _pairs(path):
            files = [pictures.find(url, f"{path}: {name!r:.60}") for url in re.split(r"\[AND\]|\s", urls) if url]
            images.setdefault(titles.find(name), []).extend(image for image, there in files if there)
    types: dict[str, list[str]] = {}
    for path in _kb_files(folder, "type2entity.json"):
        for kind, names in read_keyed(path).items():
            record = _Type.read({"type": kind, "entities": names}, f"{path}: type {kind!r:.40}")
            for name in record.entities:
                types.setdefault(titles.find(name), []).append(record.type)
    aliases: dict[str, list[str]] = {}
    for redirect, target in titles.redirects.items():
        aliases.setdefault(target, []).append(redirect)
    entities = []
    for title, description in descriptions.items():
        shown, kinds = dict.fromkeys(images.get(title, ())), dict.fromkeys(types.get(title, ()))
        entities.append(
            Entity(
                id=title,
                name=title,
                description=description,
                images=tuple(shown),
                type="|".join(kinds) or None,
                aliases=tuple(aliases.get(title, ())),
            )
        )
    return entities


def _records(path: Path, rejects: Rejects) -> Iterator[tuple[int, str, WikidiverseMention]]:
    """(number from 1, place, record) of each record of a split."""
    records, fields = read_json(path), tuple(WikidiverseMention.field_names())
    if not isinstance(records, list) or not records:
        kind = "an empty list" if records == [] else type(records).__name__
        raise UserError(f"{path}: found {kind}, expected a list of mentions")
    for number, record in enumerate(records, 1):
        where = f"{path}: record {number}"
        if not isinstance(record, list) or len(record) != len(fields):
            kind = f"a list of {len(record)}" if isinstance(record, list) else type(record).__name__
            rejects.causes.append(
                f"{where}: found {kind}, expected a list of {len(fields)} fields ({', '.join(fields)}); take the "
                "release's file with 10 candidates"
            )
            continue
        named = dict(zip(fields, record, strict=True))
        where += f" ({named['mention']!r:.40})" if isinstance(named["mention"], str) else ""
        read = None
        with rejects.gather():
            read = WikidiverseMention.read(named, where)
        if read is not None:
            yield number, where, read


def _given(record: WikidiverseMention, titles: _Titles) -> tuple[str, ...]:
    return tuple(dict.fromkeys(titles.find(url) for url in record.candidates if not is_nil(url)))


def load(name: str, folder: Path, options: LayoutOptions) -> RawDataset:
    mention_root, entity_root = _roots(folder, options)
    paths, rejects = sources(folder), Rejects()
    redirects = _redirects(folder, rejects)
    entities = _entities(folder, entity_root, options, redirects)
    titles = _Titles((entity.id for entity in entities), redirects)
    pictures, mentions = _Pictures(mention_root, options), []
    for split, path in zip(SPLITS, paths[-3:], strict=True):
        for number, where, record in _records(path, rejects):
            url = (record.image or "").strip()
            with rejects.gather():
                mention = Mention(
                    id=f"{split}.{number - 1}",
                    sentence=record.sentence,
                    phrase=record.mention,
                    split=split,
                    gold=record.entity if is_nil(record.entity) else titles.find(record.entity),
                    span=record.span(),
                    image=pictures.find(url, where)[0] if url else None,
                    type=record.type,
                    group=record.topic,
                    given=_given(record, titles),
                )
                mentions.append(mention)
    return RawDataset(name, "wikidiverse", mentions, entities, mention_root, entity_root, paths, rejects=rejects.causes)


def stamps(folder: Path, options: LayoutOptions) -> Iterator[tuple[str, int, int]]:
    return stamps_below(dict(zip(("mentions", "entities"), _roots(folder, options), strict=True)))

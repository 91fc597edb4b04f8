"""Layout `fissfuse`: WikiMEL and WikiDiverse as FissFuse lays them out, the pictures inside one HDF5 file.

    *_{train,valid,test}.jsonl  one mention a line: {mention_id, mentions (the phrase), sentence, imgPath, candidates
                                (QIDs), answer (QID), generated}; valid may be named dev or val
    entities.jsonl              one entity a line: {qid, id, name, desc}: the KB
    *_image.h5, image.h5py      HDF5: the groups `mention_image` and `entity_image` hold picture files as uint8 arrays,
                                a mention's under the base name of imgPath up to its first dot, an entity's under its
                                QID

`mentions` and `qid` must be there, and `answer` or `candidates`; without `answer` the first candidate is the gold.
Fields that are absent or unknown are named in the account. `desc` becomes the entity's attributes, which is what heads
read of it beside its name; `generated` (questions and answers) is not read. A mention's picture without an array is
missing; an entity without one has none. Pictures stay in the HDF5 file. The options `mention_images` and
`entity_images` name another one.
"""

import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field

from foundation.errors import UserError
from foundation.files import inside
from pipeline.datasets.contracts import LayoutOptions
from pipeline.datasets.fields import Label, Phrase, Record, Rejects, Text, TextOrBlank, Unique, json_lines
from pipeline.datasets.layouts._release import mention_ids, one_each, split_files
from pipeline.datasets.records import SPLITS, Entity, Mention, RawDataset
from pipeline.datasets.spans import find_span

FILES = "*_{train,valid,test}.jsonl and entities.jsonl"
R = TypeVar("R", bound=Record)
GROUPS = {"mention": "mention_image", "entity": "entity_image"}
_PICTURES = re.compile(r"(?!\.).*images?\.(?:h5|hdf5|h5py)", re.IGNORECASE)


def _only(value: Any) -> Any:
    """The one item of a list."""
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def _some(value: list[str] | None) -> list[str] | None:
    return value or None


class FissfuseMention(Record):
    mentions: Annotated[Phrase, BeforeValidator(_only)]
    mention_id: Label | None = None
    sentence: TextOrBlank = ""
    image: Text | None = Field(default=None, alias="imgPath")
    candidates: Annotated[list[Label] | None, AfterValidator(_some)] = Field(default=None, description="a list of QIDs")
    answer: Annotated[Label | None, BeforeValidator(_only)] = None
    generated: Any = None

    def gold(self, where: str) -> str:
        """The answer, else the first candidate. Raises `UserError` where neither is there."""
        if self.answer is not None:
            return self.answer
        if self.candidates is None:
            raise UserError(f"{where}: neither answer nor candidates, so the gold is unknown; add an answer (a QID)")
        return self.candidates[0]


class FissfuseEntity(Record):
    qid: Label
    row: Any = Field(default=None, alias="id")
    name: TextOrBlank = ""
    desc: TextOrBlank = ""


@dataclass
class _Notes:
    """What the account says of the files. counts: of each sentence about what is absent or not read."""

    rejects: Rejects = field(default_factory=Rejects)
    counts: Counter[str] = field(default_factory=Counter)

    def read(self, kind: type[R], value: Any, where: str, ignored: tuple[str, ...]) -> R:
        """The record, whatever further fields it has."""
        more = set(value) - set(kind.field_names()) if isinstance(value, dict) else set()
        for name in sorted(more - set(ignored)):
            self.counts[f"{{}} {_KINDS[kind]} have a field {name!r:.40}, which is not read"] += 1
        return kind.read(value, where, (*ignored, *more))

    def add(self, sentence: str, there: bool) -> None:
        """Count a sentence where it holds."""
        self.counts[sentence] += there

    def lines(self) -> tuple[str, ...]:
        """The sentences that hold of some record."""
        return tuple(sentence.replace("{}", f"{count:,}", 1) for sentence, count in self.counts.items() if count)


_KINDS: dict[type[Record], str] = {FissfuseMention: "mentions", FissfuseEntity: "entities"}


def _splits(folder: Path) -> dict[str, list[Path]]:
    return split_files(folder, dev="valid|dev|val", ending=r"\.jsonl")


def recognises(folder: Path) -> bool:
    ours = (folder / "entities.jsonl").is_file() and any(_splits(folder).values())
    return ours and not (folder / "mentions.jsonl").is_file()  # of the layout `jsonl`, which may lie beside other lines


def sources(folder: Path) -> list[Path]:
    """The splits come last. Raises `UserError` where one has no file or several."""
    layout = f"the layout `fissfuse` is {FILES}, of one dataset; give another dataset a folder of its own"
    splits = one_each(_splits(folder), folder, "*_{split}.jsonl (valid for dev)", layout)
    return [folder / "entities.jsonl", *splits]


def _pictures(folder: Path, option: str | None, flag: str, follow_links: bool) -> Path:
    """The HDF5 file of a side's pictures, there or not. Raises `UserError` where several may be meant."""
    if option:
        return folder / option
    files = [entry.name for entry in os.scandir(folder) if entry.is_file()]
    names = sorted(name for name in files if _PICTURES.fullmatch(name))
    if len(names) > 1:
        raise UserError(f"{folder}: pictures in {' and '.join(names)}; name one with {flag}")
    if names and not follow_links:
        inside(folder, names[0])
    return folder / (names[0] if names else "image.h5")


def _roots(folder: Path, options: LayoutOptions) -> tuple[Path, Path]:
    mentions, entities = options.mention_images, options.entity_images
    return (
        _pictures(folder, mentions, "--mention-images", options.follow_links),
        _pictures(folder, entities, "--entity-images", options.follow_links),
    )


def _key(image: str) -> str:
    """The base name up to its first dot."""
    return image.replace("\\", "/").rstrip("/").rpartition("/")[2].partition(".")[0]


def _entities(folder: Path, root: Path, options: LayoutOptions, notes: _Notes) -> list[Entity]:
    from cache.foreign import keys_there

    qids = Unique("entity qid")
    records: list[FissfuseEntity] = []
    for where, value in json_lines(folder / "entities.jsonl", notes.rejects):
        with notes.rejects.gather():
            record = notes.read(FissfuseEntity, value, where, options.ignored)
            qids.check(record.qid, where)
            records.append(record)
            notes.add("{} entities have no name: their QID stands for it", not record.name.strip())
            notes.add("{} entities have no desc", not record.desc.strip())
    shown = keys_there(root, GROUPS["entity"], (record.qid for record in records)) if root.exists() else set()
    return [
        Entity(
            id=record.qid,
            name=record.name if record.name.strip() else record.qid,
            attributes=record.desc,
            images=(f"{GROUPS['entity']}/{record.qid}",) if record.qid in shown else (),
        )
        for record in records
    ]


def _mentions(paths: list[Path], options: LayoutOptions, notes: _Notes) -> list[Mention]:
    """paths: of the splits, in their order."""
    ids, mentions = mention_ids(), []
    for split, path in zip(SPLITS, paths, strict=True):
        for number, (where, value) in enumerate(json_lines(path, notes.rejects)):
            with notes.rejects.gather():
                record = notes.read(FissfuseMention, value, where, options.ignored)
                gold, given, key = record.gold(where), record.candidates, _key(record.image or "")
                mention = Mention(
                    id=ids.take(record.mention_id or f"{split}.{number}", where, options.repeated_ids),
                    sentence=record.sentence,
                    phrase=record.mentions,
                    split=split,
                    gold=gold,
                    span=find_span(record.sentence, record.mentions),
                    image=f"{GROUPS['mention']}/{key}" if key else None,
                    given=None if given is None else tuple(dict.fromkeys(given)),
                )
                mentions.append(mention)
                notes.add("{} mentions have no mention_id: split and number stand for it", record.mention_id is None)
                notes.add("{} mentions have no sentence", not record.sentence.strip())
                notes.add("{} mentions have no imgPath", not key)
                notes.add("{} mentions have no answer: the first candidate is their gold", record.answer is None)
                notes.add(
                    "{} mentions have questions and answers (`generated`), which are not read", bool(record.generated)
                )
    return mentions


def load(name: str, folder: Path, options: LayoutOptions) -> RawDataset:
    mention_root, entity_root = _roots(folder, options)
    paths, notes = sources(folder), _Notes()
    entities = _entities(folder, entity_root, options, notes)
    mentions = _mentions(paths[1:], options, notes)
    if not notes.rejects.causes and not (entities and mentions):
        raise UserError(f"{paths[0] if not entities else folder}: holds no record")
    raw = RawDataset(name, "fissfuse", mentions, entities, mention_root, entity_root, paths, notes.rejects.causes)
    return replace(raw, notes=notes.lines())


def stamps(folder: Path, options: LayoutOptions) -> Iterator[tuple[str, int, int]]:
    """The HDF5 files: a picture in them has no size and time of its own."""
    for side, path in zip(("mentions", "entities"), _roots(folder, options), strict=True):
        if path.exists():
            stat = path.stat()
            yield f"{side}/{path.name}", stat.st_size, stat.st_mtime_ns

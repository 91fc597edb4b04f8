"""Texts to link, one JSON object per line, or those of a run's own dataset; and what is annotated in them."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field

from foundation import parquet
from foundation.errors import UserError
from linking.incoming import Line, lines
from pipeline.datasets.fields import FilledText, Label, Record, Text
from pipeline.datasets.picture_files import PictureFolder

LONGEST = 100_000
"""Characters of a text."""


@dataclass(frozen=True)
class Annotation:
    """An annotated mention. gold: the entity's id; None for NIL."""

    start: int
    end: int
    gold: str | None


@dataclass(frozen=True)
class TextToLink:
    """A text. image: its picture, relative to the pictures' folder. annotated: None where nothing is known of it."""

    id: str
    text: str
    image: str | None = None
    annotated: tuple[Annotation, ...] | None = None


class _AnnotationLine(Record):
    start: int
    end: int
    gold: Label | None = None


class _TextLine(Record):
    text: Annotated[FilledText, Field(max_length=LONGEST)]
    id: Label | None = None
    image: Text | None = None
    mentions: list[_AnnotationLine] | None = Field(default=None, description="a list of start, end and gold")


def read(path: Path, images: Path, ignored: Collection[str] = ()) -> Iterator[Line[TextToLink]]:
    """The lines of a file of texts, in order; see `linking.incoming.read`."""

    def text(number: int, value: object, folder: PictureFolder) -> TextToLink:
        where = f"line {number}"
        record = _TextLine.read(value, where, ignored)
        for one in record.mentions or ():
            if not 0 <= one.start < one.end <= len(record.text):
                raise UserError(
                    f"{where}: mention {one.start}..{one.end} lies outside the text of {len(record.text)} characters"
                )
        return TextToLink(
            id=str(number) if record.id is None else record.id,
            text=record.text,
            image=folder.find(record.image, where) if record.image else None,
            annotated=None
            if record.mentions is None
            else tuple(Annotation(one.start, one.end, one.gold) for one in record.mentions),
        )

    return lines(path, images, text, "texts")


def of_dataset(prepared: Path, split: str, pictures: bool) -> Iterator[Line[TextToLink]]:
    """The texts of a prepared dataset's split, each once with each of its pictures, and its mentions with offsets.

    pictures: whether they are read. Raises `UserError` where the split has no mention with offsets.
    """
    names = ["id", "sentence", "start", "end", "gold_id", "image"]
    table = parquet.read(prepared / "mentions.parquet", names, filters=[("split", "=", split)]).to_pydict()
    texts: dict[tuple[str, str | None], list[Annotation]] = {}
    first: dict[tuple[str, str | None], str] = {}
    for name, sentence, start, end, gold, image in zip(*(table[column] for column in names), strict=True):
        if start < 0 or len(sentence) > LONGEST:
            continue
        place = sentence, image if pictures else None
        texts.setdefault(place, []).append(Annotation(start, end, gold))
        first.setdefault(place, name)
    if not texts:
        raise UserError(
            f"{prepared}: no mention of {split} has offsets; choose another --split, or name texts (--input)"
        )
    for number, ((text, image), annotated) in enumerate(texts.items(), 1):
        whole = tuple(dict.fromkeys(annotated))
        yield Line(number, number, TextToLink(first[text, image], text, image, whole))

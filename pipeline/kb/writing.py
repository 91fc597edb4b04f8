"""The KB's files: entities.jsonl in the layout `jsonl`, pictures.jsonl, sitelinks.jsonl."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from foundation.output import PartFile, writing
from pipeline.datasets.fields import LONGEST_ALIAS, MOST_ALIASES
from pipeline.kb.labels import Numbers, records
from pipeline.kb.values import Value, clean
from pipeline.kb.wikidata import Scanned

_TOGETHER = 1000  # lines
ENTITIES, PICTURES, SITELINKS = "entities.jsonl", "pictures.jsonl", "sitelinks.jsonl"
CLIPPED = f"names left out: longer than {LONGEST_ALIAS} characters, or behind the first {MOST_ALIASES:,}"
FILES = (ENTITIES, PICTURES, SITELINKS)


@dataclass
class Writer:
    """names: of attributes by property; one that is not there has the property's label. label: of an item or property.
    further: more names of an entity, by its QID.
    """

    names: dict[str, str]
    label: Callable[[str], str | None]
    further: Callable[[str], Sequence[str]] = lambda _: ()
    counts: Counter[str] = field(default_factory=Counter)

    def write(self, source: Path, folder: Path) -> None:
        """Write the files of the entities that the first pass kept."""
        seen = Numbers()
        with writing([folder / name for name in FILES], "--out") as parts:
            entities, pictures, sitelinks = files = [_Lines(part) for part in parts]
            for record in records(source):
                if not seen.add(record.id):
                    self.counts["left out: the dump holds them twice"] += 1
                    continue
                entities.add(self.entity(record))
                for name, picture in record.pictures:
                    pictures.add({"id": record.id, "file": picture, "property": name})
                sitelinks.add({"id": record.id, "popularity": record.links, "sitelinks": record.titles})
                self.counts["pictures"] += len(record.pictures)
            for file in files:
                file.flush()

    def entity(self, record: Scanned) -> dict[str, Any]:
        """A line of entities.jsonl."""
        fields: dict[str, Any] = {"id": record.id, "name": record.name}
        attributes = dict(self._attributes(record))
        types = "|".join(dict.fromkeys(text.replace("|", "/") for text in self._texts(record.types)))
        aliases = self._aliases(record)
        optional = {
            "attributes": attributes,
            "description": record.description,
            "type": types,
            "aliases": aliases,
        }
        self.counts["entities"] += 1
        self.counts["names, beside labels"] += len(aliases)
        for name, value in optional.items():
            if value:
                fields[name] = value
            elif name != "aliases":
                self.counts[f"entities without {name}"] += 1
        return fields

    def _attributes(self, record: Scanned) -> Iterator[tuple[str, list[str]]]:
        for name, values in record.attributes:
            texts = list(self._texts(values))
            if texts:
                title = self.names.get(name) or self.label(name) or name
                yield title[:1].upper() + title[1:], texts

    def _texts(self, values: Sequence[Value]) -> Iterator[str]:
        """Values with the labels of those that are items; one without a label is left out."""
        for value in values:
            if isinstance(value, str):
                yield value
                continue
            *before, name = value
            label = self.label(name)
            if label is None:
                self.counts["values without a label"] += 1
            else:
                yield " ".join([*before, label])

    def _aliases(self, record: Scanned) -> list[str]:
        found = dict.fromkeys(record.aliases)
        clipped = record.clipped
        for text in map(clean, self.further(record.id)):
            if text and text != record.name and text not in found:
                if len(found) == MOST_ALIASES or len(text) > LONGEST_ALIAS:
                    clipped += 1
                else:
                    found[text] = None
                    self.counts["names from Wikipedia"] += 1
        self.counts[
            f"names left out: longer than {LONGEST_ALIAS} characters, or behind the first {MOST_ALIASES:,}"
        ] += clipped
        return list(found)


class _Lines:
    """A file of JSON lines that are written many at a time."""

    def __init__(self, part: PartFile) -> None:
        self._part, self._waiting, self._encode = part, list[bytes](), msgspec.json.Encoder().encode

    def add(self, value: Any) -> None:
        self._waiting.append(self._encode(value))
        if len(self._waiting) == _TOGETHER:
            self.flush()

    def flush(self) -> None:
        self._part.write("".join(f"{line.decode()}\n" for line in self._waiting))
        self._waiting.clear()

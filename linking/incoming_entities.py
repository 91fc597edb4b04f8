"""Entities that come to a KB, or leave it, one JSON object per line or per mapping, checked before anything is done."""

from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from cache.shard import Status
from foundation.errors import PassingError, UserError
from pipeline.datasets import tables
from pipeline.datasets.contracts import Limits
from pipeline.datasets.fields import Label, Record, Rejects, Text, Unique, json_lines
from pipeline.datasets.layouts.jsonl import JsonlEntity
from pipeline.datasets.picture_files import PictureFolder
from pipeline.datasets.records import Entity, RawDataset
from pipeline.datasets.scan import Scan, examine_all

TEXTS = ("static", "dynamic")
"""Fields with what EnhanceEntities would write of an entity; runs read them whose entity text is one of these."""


class _Added(JsonlEntity):
    """A line of entities.jsonl. static, dynamic: see `TEXTS`."""

    static: Text = ""
    dynamic: Text = ""


class _Removed(Record):
    """An entity that is gone."""

    id: Label
    removed: Literal[True]


@dataclass(frozen=True)
class Incoming:
    """entities: that are new, or replace those of the same ids. texts: of each, by `TEXTS`. removed: ids. root: folder
    that pictures' paths start from."""

    entities: tuple[Entity, ...]
    texts: Mapping[str, list[str]]
    removed: tuple[str, ...]
    root: Path = field(default_factory=Path)

    @property
    def ids(self) -> list[str]:
        """Of the entities."""
        return [entity.id for entity in self.entities]

    def check(self, known: Container[str]) -> None:
        """Raises `UserError` for ids that are to go and are not known, and for one that is both to come and to go."""
        if both := [name for name in self.removed if name in self.ids]:
            raise UserError(f"entity {both[0]!r} is to come and to go; name it once")
        if lacking := [name for name in self.removed if name not in known]:
            more = f" and {len(lacking) - 1:,} more" if len(lacking) > 1 else ""
            raise UserError(f"entity {lacking[0]!r}{more} is to go, but is not in the KB; leave it out")

    def table(self, limits: Limits) -> tuple[dict[str, list[Any]], list[Scan]]:
        """Columns as in entities.parquet, and of `TEXTS`; and the verdicts on pictures that cannot be used.

        Raises `PassingError` where a picture cannot be read now.
        """
        listed = list(dict.fromkeys(image for entity in self.entities for image in entity.images))
        scans: dict[str, Scan] = {}
        verdicts = examine_all([str(self.root / path) for path in listed], limits)
        for path, verdict in zip(listed, verdicts, strict=True):
            if isinstance(verdict, PassingError):
                raise verdict
            scans[path] = verdict
        raw = RawDataset("extra", "jsonl", [], [*self.entities], self.root, self.root)
        columns = tables.entity_table(raw, scans, []).to_pydict()
        return {**columns, **self.texts}, [scan for scan in scans.values() if scan.status != Status.OK]


def read(path: Path) -> Incoming:
    """The entities of a file, their pictures in its folder or below. Raises `UserError` for the first bad line."""
    rejects = Rejects()
    try:
        lines = list(json_lines(path, rejects))
    except OSError as error:
        raise UserError(
            f"--kb-extra {path}: {error.strerror}; it holds entities, one JSON object per line (docs/linking.md)"
        ) from error
    if rejects.causes:
        raise UserError(f"{rejects.causes[0]}; no entity of {path} is taken")
    if not lines:
        raise UserError(f"--kb-extra {path}: holds no entity; write one JSON object per line, or leave the option out")
    return checked(lines, path.absolute().parent)


def given(entities: Iterable[Mapping[str, Any] | Entity], images: Path) -> Incoming:
    """Those that a program gives: mappings with the fields of a line, or records."""
    return checked(((f"entity {number}", _fields(one)) for number, one in enumerate(entities, 1)), images)


def _fields(entity: Mapping[str, Any] | Entity) -> Any:
    if not isinstance(entity, Entity):
        return entity
    return {
        "id": entity.id,
        "name": entity.name,
        "attributes": entity.attributes,
        "description": entity.description,
        "images": [*entity.images],
        "type": entity.type,
        "aliases": [*entity.aliases],
    }


def checked(values: Iterable[tuple[str, Any]], root: Path) -> Incoming:
    """values: where each entity stands, and its fields. Raises `UserError` for the first that cannot be used."""
    ids, folder = Unique("entity id"), PictureFolder(root)
    entities: list[Entity] = []
    texts: dict[str, list[str]] = {name: [] for name in TEXTS}
    removed: list[str] = []
    for where, line in _lines(values):
        ids.check(line.id, where)
        if isinstance(line, _Removed):
            removed.append(line.id)
            continue
        entities.append(
            Entity(
                id=line.id,
                name=line.name,
                attributes=line.attributes,
                description=line.description,
                images=tuple(folder.find(path, where) for path in line.images),
                type=line.type,
                aliases=tuple(line.aliases),
            )
        )
        for name in TEXTS:
            texts[name].append(getattr(line, name))
    return Incoming(tuple(entities), texts, tuple(removed), root)


def _lines(values: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, _Added | _Removed]]:
    for where, value in values:
        kind = _Removed if isinstance(value, Mapping) and "removed" in value else _Added
        yield where, kind.read(dict(value) if isinstance(value, Mapping) else value, where)

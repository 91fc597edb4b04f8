"""An entity of Wikidata, as dumps and its API write it, and what a KB keeps of it."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import msgspec

from pipeline.datasets.fields import LONGEST_ALIAS, MOST_ALIASES
from pipeline.kb import where as conditions
from pipeline.kb.contracts import LONGEST_NAME
from pipeline.kb.values import Value, clean, is_id, value

ALL_LANGUAGES = "mul"
"""Wikidata's code for a name that all languages share; it stands behind those that are asked for."""
MOST_VALUES = 20
"""Values of one property that are kept."""


class _Term(msgspec.Struct):
    value: str


class _Snak(msgspec.Struct):
    snaktype: str
    datavalue: Any = None


class _Statement(msgspec.Struct):
    mainsnak: _Snak
    rank: str = "normal"


class _Link(msgspec.Struct):
    title: str = ""


class Item(msgspec.Struct):
    """The fields that are read; references, qualifiers and all else are passed over. An empty map may be written as an
    empty list."""

    id: str
    type: str = "item"
    labels: dict[str, _Term] | list[Any] = {}
    descriptions: dict[str, _Term] | list[Any] = {}
    aliases: dict[str, list[_Term]] | list[Any] = {}
    claims: dict[str, list[_Statement]] | list[Any] = {}
    sitelinks: dict[str, _Link] | list[Any] = {}


class Labelled(msgspec.Struct):
    """An entity of which only the label is read."""

    id: str
    type: str = "item"
    labels: dict[str, _Term] | list[Any] = {}


class Scanned(msgspec.Struct, array_like=True):
    """What a KB keeps of an entity. Items among types and attributes wait for their labels.

    attributes: property and values. links: how many wikis have a page. titles: of the pages in the KB's languages, by
    wiki. pictures: property and file name. clipped: names that were left out because they are too many or too long.
    """

    id: str
    name: str
    description: str
    aliases: list[str]
    types: list[Value]
    attributes: list[tuple[str, list[Value]]]
    links: int
    titles: dict[str, str]
    pictures: list[tuple[str, str]]
    clipped: int


@dataclass(frozen=True)
class Selection:
    """What of a dump becomes a KB; see `KBJob`. attributes, pictures: ids of properties. keep_labels: of every entity,
    for the values that are items. wikis: whose titles are kept.
    """

    where: str
    languages: tuple[str, ...]
    attributes: tuple[str, ...]
    types: str
    pictures: tuple[str, ...]
    wikis: tuple[str, ...]
    keep_labels: bool = True

    @cached_property
    def condition(self) -> conditions.Condition:
        return conditions.condition(self.where)

    @cached_property
    def spoken(self) -> tuple[str, ...]:
        """The languages, best first."""
        return (*self.languages, ALL_LANGUAGES)


def label(item: Item | Labelled, selection: Selection) -> str:
    """The name in the first language that has one; empty where none has."""
    terms = item.labels
    if isinstance(terms, dict):
        for language in selection.spoken:
            if language in terms and (text := clean(terms[language].value)):
                return text
    return ""


class Claims:
    """An entity's statements: of each property the preferred ones, else those of normal rank."""

    def __init__(self, item: Item) -> None:
        self._item = item
        self.claims = item.claims if isinstance(item.claims, dict) else {}

    def statements(self, name: str) -> Iterator[_Snak]:
        listed = self.claims.get(name, ())
        rank = "preferred" if any(one.rank == "preferred" for one in listed) else "normal"
        return (one.mainsnak for one in listed if one.rank == rank and one.mainsnak.snaktype == "value")

    def has(self, property: str) -> bool:
        return any(one.rank != "deprecated" for one in self.claims.get(property, ()))

    def items(self, property: str) -> set[str]:
        """QIDs of all statements that are not deprecated."""
        listed = self.claims.get(property, ())
        held = (value(one.mainsnak.datavalue, ()) for one in listed if one.rank != "deprecated")
        return {one[0] for one in held if isinstance(one, list)}

    @property
    def links(self) -> int:
        return len(self._item.sitelinks)

    def values(self, property: str, languages: tuple[str, ...]) -> list[Value]:
        found: list[Value] = []
        if property not in self.claims:
            return found
        for snak in self.statements(property):
            one = value(snak.datavalue, languages)
            if one is not None and one not in found:
                found.append(one)
            if len(found) == MOST_VALUES:
                break
        return found


def scanned(item: Item, selection: Selection, counts: Counter[str]) -> Scanned | None:
    """What a KB keeps of an entity; None for one that it does not take, whose cause is counted."""
    claims = Claims(item)
    if not selection.condition.holds(claims):
        counts["left out by --where"] += 1
        return None
    name = label(item, selection)
    if not name:
        counts["left out: no label in these languages"] += 1
        return None
    if len(name) > LONGEST_NAME:
        counts[f"left out: label of more than {LONGEST_NAME} characters"] += 1
        return None
    aliases, clipped = _aliases(item, name, selection)
    links = item.sitelinks if isinstance(item.sitelinks, dict) else {}
    files = ((name, one) for name in selection.pictures for one in claims.values(name, ()))
    return Scanned(
        id=item.id,
        name=name,
        description=_description(item, selection),
        aliases=aliases,
        types=claims.values(selection.types, selection.spoken) if selection.types else [],
        attributes=[(p, held) for p in selection.attributes if (held := claims.values(p, selection.spoken))],
        links=len(links),
        titles={wiki: clean(links[wiki].title) for wiki in selection.wikis if wiki in links},
        pictures=[(name, one) for name, one in files if isinstance(one, str)],
        clipped=clipped,
    )


def _description(item: Item, selection: Selection) -> str:
    terms = item.descriptions if isinstance(item.descriptions, dict) else {}
    found = (clean(terms[language].value) for language in selection.spoken if language in terms)
    return next(filter(None, found), "")[:LONGEST_NAME]


def _aliases(item: Item, name: str, selection: Selection) -> tuple[list[str], int]:
    """Further names, each once: labels of the other languages and all aliases, and how many were left out."""
    labels = item.labels if isinstance(item.labels, dict) else {}
    aliases = item.aliases if isinstance(item.aliases, dict) else {}
    found: dict[str, None] = {}
    clipped = 0
    for language in selection.spoken:
        for term in (*([labels[language]] if language in labels else []), *aliases.get(language, ())):
            text = clean(term.value)
            if not text or text == name or text in found:
                continue
            if len(text) > LONGEST_ALIAS or len(found) == MOST_ALIASES:
                clipped += 1
            else:
                found[text] = None
    return list(found), clipped


def referred(record: Scanned) -> Iterator[str]:
    """Ids of the items and properties whose labels an entity needs."""
    for held in record.types:
        if isinstance(held, list):
            yield held[-1]
    for name, values in record.attributes:
        yield name
        for held in values:
            if isinstance(held, list):
                yield held[-1]


def kind(item: Item | Labelled) -> str:
    """`item`, `property`, or `other`: a lexeme, or what has no id that a KB can have."""
    if not is_id(item.id):
        return "other"
    return "item" if item.id[0] == "Q" else "property"

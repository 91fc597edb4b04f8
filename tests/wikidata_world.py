"""Entities of a Wikidata, in the JSON of its dumps and of its API, and dumps of them in each published form."""

import bz2
import contextlib
import gzip
import json
import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, Any, cast

Entity = dict[str, Any]


def item(qid: str) -> dict[str, Any]:
    held = {"entity-type": "item", "numeric-id": int(qid[1:]), "id": qid}
    return {"datatype": "wikibase-item", "datavalue": {"value": held, "type": "wikibase-entityid"}}


def text(value: str, datatype: str = "string") -> dict[str, Any]:
    return {"datatype": datatype, "datavalue": {"value": value, "type": "string"}}


def date(time: str, precision: int) -> dict[str, Any]:
    held = {"time": time, "timezone": 0, "before": 0, "after": 0, "precision": precision}
    held["calendarmodel"] = "http://www.wikidata.org/entity/Q1985727"
    return {"datatype": "time", "datavalue": {"value": held, "type": "time"}}


def amount(number: str, unit: str = "1") -> dict[str, Any]:
    return {"datatype": "quantity", "datavalue": {"value": {"amount": number, "unit": unit}, "type": "quantity"}}


def words(value: str, language: str) -> dict[str, Any]:
    held = {"text": value, "language": language}
    return {"datatype": "monolingualtext", "datavalue": {"value": held, "type": "monolingualtext"}}


def statement(name: str, snak: dict[str, Any], rank: str = "normal") -> dict[str, Any]:
    """A statement with a reference and a qualifier, as all of Wikidata's have: most of a dump is these."""
    since = {"snaktype": "value", "property": "P580", "hash": "b" * 40, **date("+1990-01-01T00:00:00Z", 9)}
    source = {"snaktype": "value", "property": "P248", "hash": "5" * 40, **item("Q36578")}
    return {
        "mainsnak": {"snaktype": "value", "property": name, "hash": "a" * 40, **snak},
        "type": "statement",
        "qualifiers": {"P580": [since]},
        "id": f"Q1$00000000-{name}",
        "rank": rank,
        "references": [{"hash": "c" * 40, "snaks": {"P248": [source]}, "snaks-order": ["P248"]}],
    }


def entity(
    id: str,
    labels: dict[str, str],
    claims: dict[str, Sequence[dict[str, Any]]] | None = None,
    aliases: dict[str, Sequence[str]] | None = None,
    descriptions: dict[str, str] | None = None,
    sitelinks: dict[str, str] | None = None,
) -> Entity:
    """claims: values by property (`item`, `text`, …), or whole statements. An empty map is written as an empty list."""

    def terms(values: dict[str, str]) -> Any:
        return {language: {"language": language, "value": value} for language, value in values.items()} or []

    def several(language: str, values: Sequence[str]) -> list[dict[str, str]]:
        return [{"language": language, "value": value} for value in values]

    kind = "property" if id.startswith("P") else "item"
    return {
        "type": kind,
        "id": id,
        "labels": terms(labels),
        "descriptions": terms(descriptions or {}),
        "aliases": {language: several(language, values) for language, values in (aliases or {}).items()} or [],
        "claims": {
            name: [value if "mainsnak" in value else statement(name, value) for value in values]
            for name, values in (claims or {}).items()
        }
        or [],
        "sitelinks": {site: {"site": site, "title": title, "badges": []} for site, title in (sitelinks or {}).items()}
        or [],
        "lastrevid": 1,
        "modified": "2026-01-01T00:00:00Z",
    }


COMMON = (
    entity("Q5", {"en": "human", "de": "Mensch"}),
    entity("Q4830453", {"en": "business"}),
    entity("Q33999", {"en": "actor", "de": "Schauspieler"}),
    entity("Q11573", {"en": "metre"}),
    entity("P106", {"en": "occupation"}),
    entity("P569", {"en": "date of birth"}),
    entity("P2048", {"en": "height"}),
)
"""What the others refer to."""
ANN = entity(
    "Q101",
    {"en": "Ann Lee", "de": "Anna Lee", "fr": "Anne Lee"},
    claims={
        "P31": [item("Q5")],
        "P106": [item("Q33999")],
        "P569": [date("+1942-03-11T00:00:00Z", 11)],
        "P2048": [amount("+1.75", "http://www.wikidata.org/entity/Q11573")],
        "P18": [text("Ann Lee 1970.jpg", "commonsMedia")],
    },
    aliases={"en": ["A. Lee", "Ann"], "de": ["Anna"]},
    descriptions={"en": "American actor"},
    sitelinks={"enwiki": "Ann Lee", "dewiki": "Anna Lee", "frwiki": "Anne Lee"},
)
ACME = entity("Q102", {"en": "Acme"}, claims={"P31": [item("Q4830453")]}, sitelinks={"enwiki": "Acme Inc."})
WORLD = (*COMMON, ANN, ACME)


def people(count: int, seed: int = 0, first: int = 1000) -> Iterable[Entity]:
    """Persons and others, in the proportions of nothing in particular, with about 9 kB of JSON each."""
    chance = random.Random(seed)
    languages = ("en", "de", "fr", "es", "it", "nl", "sv", "pl", "ru", "ja", "zh", "ar", "pt", "arz")
    for number in range(first, first + count):
        identifiers = {f"P{place}": [text(str(chance.getrandbits(40)), "external-id")] for place in range(214, 220)}
        yield entity(
            f"Q{number}",
            {language: f"Person {number} {chance.getrandbits(30)}" for language in languages},
            claims={
                "P31": [item(chance.choice(["Q5", "Q5", "Q4830453", "Q16521"]))],
                "P106": [item(f"Q{chance.randrange(first, first + count)}"), item("Q33999")],
                "P569": [date(f"+{chance.randrange(1800, 2000)}-05-17T00:00:00Z", 11)],
                "P18": [text(f"Person {number}.jpg", "commonsMedia")],
                **identifiers,
            },
            aliases={language: [f"Alias {chance.getrandbits(30)}" for _ in range(2)] for language in languages[:4]},
            descriptions={language: f"someone, {chance.getrandbits(30)}" for language in languages},
            sitelinks={f"{language}wiki": f"Person {number}" for language in languages[: chance.randrange(6)]},
        )


def dump(path: Path, entities: Iterable[Entity], level: int = 1) -> Path:
    """A dump as it is published: a list, one entity a line. The path's ending says how it is compressed."""
    with contextlib.ExitStack() as opened:
        handle: IO[bytes]
        if path.suffix == ".gz":
            handle = cast(Any, opened.enter_context(gzip.open(path, "wb", level)))
        elif path.suffix == ".bz2":
            handle = opened.enter_context(bz2.open(path, "wb", level))
        else:
            handle = opened.enter_context(open(path, "wb"))
        handle.write(b"[\n")
        between = b""
        for one in entities:
            handle.write(between + json.dumps(one, separators=(",", ":"), ensure_ascii=True).encode())
            between = b",\n"
        handle.write(b"\n]\n")
    return path


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def by_id(folder: Path) -> dict[str, dict[str, Any]]:
    """A KB's entities by their ids."""
    return {line["id"]: line for line in lines(folder / "entities.jsonl")}

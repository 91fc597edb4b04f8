"""Entities of a list, and labels, from Wikidata's API in place of a dump: for KBs of some thousand entities."""

import json
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from foundation.errors import PassingError, UserError
from foundation.files import read_lines, write_atomic
from pipeline.kb.contracts import KBJob, Server
from pipeline.kb.wikidata import ALL_LANGUAGES
from pipeline.servers.fetching import Fetcher
from pipeline.servers.mediawiki import ITEMS, Api, part, store_name, user_agent
from pipeline.servers.patience import Pace, check_address
from pipeline.servers.store import answer_store
from pipeline.servers.titles import qid_of
from pipeline.servers.wikidata import entities

MOST_IDS = 1_000_000
"""Entities that are asked for one by one; a dump has them in less time."""
_READ = ("id", "type", "labels", "descriptions", "aliases", "claims", "sitelinks")


def readable(path: Path) -> Path:
    """Raises `UserError` where there is no such file."""
    if not path.is_file():
        raise UserError(f"--ids {path}: no such file; name one with a QID a line")
    return path


def qids(path: Path) -> list[str]:
    """The QIDs of a file, each once. Raises `UserError` with the line of another word."""
    found: dict[str, None] = {}
    for number, line in read_lines(readable(path)):
        word = line.split("\t")[0].strip()
        if not word:
            continue
        name = qid_of(word)
        if name is None:
            raise UserError(f"{path}:{number}: {word!r:.60}: expected a QID, like Q42")
        found[name] = None
        if len(found) > MOST_IDS:
            raise UserError(f"--ids {path}: more than {MOST_IDS:,} entities; name a dump with --dump")
    if not found:
        raise UserError(f"--ids {path}: holds no QID")
    return list(found)


def fetched(job: KBJob, folder: Path) -> Path:
    """A file with the entities of the list, a line each, as in a dump. What earlier runs have asked is not asked again.

    Raises `PassingError` where a server fails: what came is kept.
    """
    assert job.ids is not None
    names = qids(job.ids)
    found = _ask(job, folder, names, "entities", "labels|descriptions|aliases|claims|sitelinks")
    path = folder / "fetched.json"
    write_atomic(path, "".join(_line(name, found[name]) for name in names))
    return path


def _line(name: str, entity: dict[str, Any]) -> str:
    """An entity that does not exist has no labels, and is counted so."""
    held = {"id": name} if "none" in entity else {**{key: entity[key] for key in _READ if key in entity}, "id": name}
    return json.dumps(held) + "\n"


def labels(job: KBJob, folder: Path, names: Sequence[str]) -> Iterator[tuple[str, str]]:
    """(id, label) of items and properties."""
    found = _ask(job, folder, names, "labels", "labels")
    spoken = (*job.languages, ALL_LANGUAGES)
    for name, entity in found.items():
        terms = part(entity, "labels")
        texts = (part(terms, language).get("value") for language in spoken)
        if text := next((text for text in texts if isinstance(text, str) and text.strip()), None):
            yield name, text


def _ask(job: KBJob, folder: Path, names: Sequence[str], unit: str, properties: str) -> dict[str, dict[str, Any]]:
    """Answers by id."""
    server, languages = job.server, "|".join((*job.languages, ALL_LANGUAGES))
    assert server is not None
    with (
        answer_store(folder / store_name(unit, server.api, languages)) as store,
        closing(_api(server)) as api,
    ):

        def fetch(group: list[str]) -> dict[str, Any]:
            parameters = {"props": properties, "languages": languages}
            return {name: held or {"none": "no such entity"} for name, held in entities(api, group, parameters).items()}

        fetcher = Fetcher(dry=False)
        fetcher.fill(store, names, ITEMS, fetch, unit)
        missing = sum(name not in store for name in names)
        if missing:
            raise PassingError(
                f"{missing:,} of {len(names):,} {unit} could not be fetched now: {fetcher.failure}; the same command "
                "asks for these alone"
            )
        return {name: store.get(name) for name in names}


def _api(server: Server) -> Api:
    if not server.contact.strip():
        raise UserError(
            "--wiki-contact: give an e-mail or web address; wikis ask that programs say whom they belong to"
        )
    agent = user_agent("a knowledge base for entity linking", server.contact)
    return Api(check_address("--wikidata-api", server.api), agent, Pace(server.rate), server.patience)

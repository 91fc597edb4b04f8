"""Further names of a KB's entities, from a wiki's dumps: titles that redirect to an entity's page, and titles of
disambiguation pages that list it.
"""

import contextlib
import re
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from foundation.errors import UserError
from foundation.files import explained
from pipeline.kb.labels import Bits, records
from pipeline.kb.sql_dump import number, rows

_REDIRECTS = ("page", "redirect")
_DISAMBIGUATIONS = ("page_props", "pagelinks", "linktarget")
_MOST_HOPS = 3
_BRACKET = re.compile(r" \([^()]*\)$")
_SCHEMA = """
PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;
CREATE TABLE entity (title TEXT PRIMARY KEY, qid TEXT) WITHOUT ROWID;
CREATE TABLE redirect (id INTEGER PRIMARY KEY, title TEXT);
CREATE TABLE page (id INTEGER PRIMARY KEY, title TEXT);
CREATE TABLE link (page INTEGER, target INTEGER);
CREATE TABLE target (id INTEGER PRIMARY KEY, title TEXT);
CREATE TABLE name (qid TEXT, name TEXT, PRIMARY KEY (qid, name)) WITHOUT ROWID;
"""
_HOP = """
SELECT redirect.id, next.title FROM redirect JOIN page ON page.title = redirect.title
JOIN redirect AS next ON next.id = page.id
"""
_LISTED = """
SELECT page.title, target.title, entity.qid FROM link JOIN page ON page.id = link.page
JOIN target ON target.id = link.target JOIN entity ON entity.title = target.title
"""


def files(folder: Path, wiki: str) -> list[Path]:
    """The tables of a wiki in a folder: page and redirect, and page_props, pagelinks and linktarget where they are
    there. Raises `UserError` where one is missing or is there twice.
    """
    found = {name: _file(folder, wiki, name) for name in (*_REDIRECTS, *_DISAMBIGUATIONS)}
    for name in _REDIRECTS:
        if found[name] is None:
            raise UserError(
                f"--wikipedia {folder}: no {wiki}-DATE-{name}.sql.gz there; fetch the tables page and redirect, and "
                "for disambiguation pages page_props, pagelinks and linktarget"
            )
    some = [name for name in _DISAMBIGUATIONS if found[name]]
    if some and len(some) < len(_DISAMBIGUATIONS):
        missing = next(name for name in _DISAMBIGUATIONS if not found[name])
        raise UserError(
            f"--wikipedia {folder}: no {wiki}-DATE-{missing}.sql.gz beside {some[0]}; fetch it, or remove {some[0]}"
        )
    return [path for path in found.values() if path]


def _file(folder: Path, wiki: str, table: str) -> Path | None:
    pattern = re.compile(rf"{re.escape(wiki)}-\w+-{table}\.sql(\.gz)?")
    try:
        listed = sorted(path for path in folder.iterdir() if pattern.fullmatch(path.name))
    except OSError as error:
        raise UserError(
            f"--wikipedia {folder}: {(error.strerror or '').lower()}; name the folder of the dumps"
        ) from None
    if len(listed) > 1:
        raise UserError(f"--wikipedia {folder}: {listed[0].name} and {listed[1].name}; keep one of them")
    return listed[0] if listed else None


def plain(title: str) -> str:
    """A title as text: blanks for underscores, without what tells pages of one name apart: `Mercury (planet)`."""
    return _BRACKET.sub("", title.replace("_", " ")).strip()


def names_it(name: str, title: str) -> bool:
    """Whether a disambiguation page's name can mean a page that it links: they share a word, or the name is made of the
    title's initials. Such pages link other things too: a river's country, a song's singer.
    """
    words = [word.casefold() for word in re.findall(r"\w+", title)]
    own = [word.casefold() for word in re.findall(r"\w+", name)]
    initials = {"".join(word[0] for word in words), "".join(word[0] for word in words if len(word) > 3)}
    return bool(set(own) & set(words)) or "".join(own) in initials


@contextlib.contextmanager
def names(
    source: tuple[Path, str], entities: Path, parts: Path, counts: Counter[str]
) -> Iterator[Callable[[str], Sequence[str]]]:
    """A function that gives an entity's further names by QID.

    source: folder of the dumps, and the wiki's name. entities: those that the first pass kept. parts: folder for what
    is between. Raises `UserError`.
    """
    folder, wiki = source
    tables = {name: _file(folder, wiki, name) for name in (*_REDIRECTS, *_DISAMBIGUATIONS)}
    path = parts / "wikipedia.sqlite"
    path.unlink(missing_ok=True)
    with explained(path, "--out"), contextlib.closing(sqlite3.connect(path)) as database:
        database.executescript(_SCHEMA)
        _Names(database, tables, counts).find(entities, wiki)

        def of(qid: str) -> list[str]:
            return [name for (name,) in database.execute("SELECT name FROM name WHERE qid = ? ORDER BY name", (qid,))]

        yield of


class _Names:
    def __init__(self, database: sqlite3.Connection, tables: dict[str, Path | None], counts: Counter[str]) -> None:
        self.database, self.tables, self.counts = database, tables, counts

    def find(self, entities: Path, wiki: str) -> None:
        titles = ((record.titles[wiki], record.id) for record in records(entities) if wiki in record.titles)
        self._insert("entity", 2, titles)
        wanted = Bits()
        self._insert("redirect", 2, self._redirects(wanted))
        disambiguations = Bits()
        if self.tables["page_props"]:
            for page, name in rows(self.tables["page_props"], ("pp_page", "pp_propname")):
                if name == "disambiguation":
                    disambiguations.add(number(page))
        self._insert("page", 2, self._pages(wanted, disambiguations))
        self._through_redirects()
        if self.tables["page_props"]:
            self._through_disambiguations(disambiguations)

    def _insert(self, table: str, width: int, values: Iterable[tuple[Any, ...]]) -> None:
        with self.database:
            self.database.executemany(f"INSERT OR IGNORE INTO {table} VALUES ({', '.join('?' * width)})", values)

    def _redirects(self, wanted: "Bits") -> Iterator[tuple[int, str]]:
        """Page and target's title of redirects to whole pages of this wiki."""
        path = self.tables["redirect"]
        assert path is not None
        columns = ("rd_from", "rd_namespace", "rd_title", "rd_interwiki", "rd_fragment")
        for page, namespace, title, wiki, fragment in rows(path, columns):
            if namespace == "0" and not wiki and not fragment:
                wanted.add(number(page))
                yield number(page), title.replace("_", " ")

    def _pages(self, redirects: "Bits", disambiguations: "Bits") -> Iterator[tuple[int, str]]:
        path = self.tables["page"]
        assert path is not None
        for page, namespace, title in rows(path, ("page_id", "page_namespace", "page_title")):
            if namespace == "0" and (number(page) in redirects or number(page) in disambiguations):
                yield number(page), title.replace("_", " ")

    def _through_redirects(self) -> None:
        """Names by redirects, also by redirects to redirects; those in a circle reach no page."""
        execute = self.database.execute
        execute("CREATE INDEX page_title ON page (title)")
        for hop in range(_MOST_HOPS):
            found = execute(
                "SELECT entity.qid, page.title FROM redirect JOIN page ON page.id = redirect.id "
                "JOIN entity ON entity.title = redirect.title"
            )
            self._insert("name", 2, [(qid, name) for qid, title in found if (name := plain(title))])
            execute(f"CREATE TABLE hop{hop} AS {_HOP}")
            execute("DELETE FROM redirect")
            execute(f"INSERT INTO redirect SELECT * FROM hop{hop}")
            execute(f"DROP TABLE hop{hop}")
        (left,) = execute("SELECT COUNT(*) FROM redirect").fetchone()
        self.counts[f"redirects in a circle, or over more than {_MOST_HOPS} others"] += left

    def _through_disambiguations(self, pages: "Bits") -> None:
        links, targets = self.tables["pagelinks"], self.tables["linktarget"]
        assert links is not None
        assert targets is not None
        wanted = Bits()

        def linked() -> Iterator[tuple[int, int]]:
            assert links is not None
            for page, target in rows(links, ("pl_from", "pl_target_id")):
                if number(page) in pages:
                    wanted.add(number(target))
                    yield number(page), number(target)

        self._insert("link", 2, linked())
        listed = rows(targets, ("lt_id", "lt_namespace", "lt_title"))
        self._insert(
            "target",
            2,
            (
                (number(id), title.replace("_", " "))
                for id, space, title in listed
                if space == "0" and number(id) in wanted
            ),
        )
        found = self.database.execute(_LISTED)
        self._insert(
            "name", 2, [(qid, plain(page)) for page, title, qid in found if names_it(plain(page), plain(title))]
        )

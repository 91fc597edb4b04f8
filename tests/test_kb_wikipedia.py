"""Further names from a Wikipedia's dumps: redirects (also of redirects, and in circles) and disambiguation pages."""

import gzip

import pytest
from wikidata_world import by_id, dump, entity

from foundation.errors import UserError
from pipeline.kb.build import build_kb
from pipeline.kb.contracts import KBJob
from pipeline.kb.sql_dump import rows
from pipeline.kb.wikipedia import names_it

TABLES = {
    "page": ["page_id", "page_namespace", "page_title", "page_is_redirect", "page_len"],
    "redirect": ["rd_from", "rd_namespace", "rd_title", "rd_interwiki", "rd_fragment"],
    "page_props": ["pp_page", "pp_propname", "pp_value", "pp_sortkey"],
    "pagelinks": ["pl_from", "pl_from_namespace", "pl_target_id"],
    "linktarget": ["lt_id", "lt_namespace", "lt_title"],
}


def quoted(value):
    if value is None or isinstance(value, int):
        return "NULL" if value is None else str(value)
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n") + "'"


def table(folder, name, values, wiki="enwiki"):
    """A table as mysqldump writes it: a CREATE TABLE with keys, and INSERTs of many rows a line."""
    columns = "".join(f"  `{column}` varbinary(255) NOT NULL,\n" for column in TABLES[name])
    head = f"-- MySQL dump\nCREATE TABLE `{name}` (\n{columns}  PRIMARY KEY (`{TABLES[name][0]}`)\n) ENGINE=InnoDB;\n"
    rows = ["(" + ",".join(map(quoted, row)) + ")" for row in values]
    parts = [",".join(rows[start : start + 3]) for start in range(0, len(rows), 3)]
    lines = [f"INSERT INTO `{name}` VALUES {part};\n" for part in parts]
    path = folder / f"{wiki}-20260101-{name}.sql.gz"
    path.write_bytes(gzip.compress((head + "".join(lines)).encode()))
    return path


def world(folder):
    folder.mkdir()
    pages = {
        1: (0, "Ann_Lee"),
        2: (0, "Annie_Lee"),  # to 1
        3: (0, "A._Lee_(actor)"),  # to 2, a redirect itself
        4: (0, "Round"),  # to 5
        5: (0, "And_round"),  # to 4
        6: (1, "Talk_of_Ann"),  # another namespace
        7: (0, "Life_of_Ann"),  # to a section of 1
        8: (0, "Lee_(disambiguation)"),
        9: (0, "O'Lee\\x"),  # to 1, with what must be escaped
        10: (0, "Mercury"),  # no disambiguation page, no redirect
    }
    table(folder, "page", [(number, space, title, 0, 10) for number, (space, title) in pages.items()])
    redirects = [(2, "Ann_Lee"), (3, "Annie_Lee"), (4, "And_round"), (5, "Round"), (6, "Ann_Lee"), (9, "Ann_Lee")]
    whole = [(number, 0, title, "", "") for number, title in redirects]
    table(folder, "redirect", [*whole, (7, 0, "Ann_Lee", "", "Life"), (10, 0, "X", "fr", "")])
    table(folder, "page_props", [(8, "disambiguation", "", None), (1, "wikibase_item", "Q101", None)])
    targets = {50: (0, "Ann_Lee"), 51: (0, "Acme"), 52: (4, "Ann_Lee"), 53: (0, "Nobody_Lee")}
    table(folder, "linktarget", [(number, space, title) for number, (space, title) in targets.items()])
    table(folder, "pagelinks", [*((8, 0, number) for number in targets), (10, 0, 50)])
    return folder


ENTITIES = [
    entity("Q101", {"en": "Ann Lee"}, sitelinks={"enwiki": "Ann Lee"}),
    entity("Q102", {"en": "Acme"}, sitelinks={"enwiki": "Acme"}),
    entity("Q103", {"en": "Elsewhere"}, sitelinks={"dewiki": "Ann Lee"}),
]


def build(folder, **more):
    path = dump(folder / "dump.json", ENTITIES)
    return build_kb(KBJob(**{"out": folder / "kb", "dump": path, "processes": 1, "wikipedia": folder / "wiki", **more}))


def test_redirects_and_disambiguation_pages_give_names(tmp_path):
    world(tmp_path / "wiki")
    report = build(tmp_path)
    names = {name: line.get("aliases", []) for name, line in by_id(tmp_path / "kb").items()}
    assert names == {"Q101": ["A. Lee", "Annie Lee", "Lee", "O'Lee\\x"], "Q102": [], "Q103": []}
    assert report.counts["names from Wikipedia"] == 4
    assert report.counts["redirects in a circle, or over more than 3 others"] == 2


def test_without_the_tables_of_disambiguation_pages_redirects_alone_count(tmp_path):
    folder = world(tmp_path / "wiki")
    for name in ("page_props", "pagelinks", "linktarget"):
        (folder / f"enwiki-20260101-{name}.sql.gz").unlink()
    build(tmp_path)
    assert by_id(tmp_path / "kb")["Q101"]["aliases"] == ["A. Lee", "Annie Lee", "O'Lee\\x"]


def test_tables_that_are_missing_or_there_twice_are_said(tmp_path):
    folder = world(tmp_path / "wiki")
    copy = folder / "enwiki-20260201-page.sql.gz"
    copy.write_bytes((folder / "enwiki-20260101-page.sql.gz").read_bytes())
    with pytest.raises(UserError, match=r"20260101-page\.sql\.gz and enwiki-20260201-page\.sql\.gz; keep one"):
        build(tmp_path)
    copy.unlink()
    (folder / "enwiki-20260101-pagelinks.sql.gz").unlink()
    with pytest.raises(UserError, match="no enwiki-DATE-pagelinks"):
        build(tmp_path)
    (folder / "enwiki-20260101-redirect.sql.gz").unlink()
    with pytest.raises(UserError, match="no enwiki-DATE-redirect"):
        build(tmp_path)
    with pytest.raises(UserError, match="name the folder of the dumps"):
        build(tmp_path, wikipedia=tmp_path / "none")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace(b"`page_title`", b"`page_name`"), "the table has no column page_title"),
        (lambda text: text.replace(b"VALUES (1,0,", b"VALUES (1,0,0,"), "a row of 6 values, expected 5"),
        (lambda text: text[: text.index(b"INSERT")], "holds no row"),
    ],
)
def test_a_table_of_another_form_is_said(tmp_path, change, message):
    path = world(tmp_path / "wiki") / "enwiki-20260101-page.sql.gz"
    path.write_bytes(gzip.compress(change(gzip.decompress(path.read_bytes()))))
    with pytest.raises(UserError, match=message):
        list(rows(path, ("page_id", "page_title")))


def test_a_table_that_ends_early_is_said(tmp_path):
    path = world(tmp_path / "wiki") / "enwiki-20260101-page.sql.gz"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match="damaged, or ends early"):
        list(rows(path, ("page_id",)))


@pytest.mark.parametrize(
    ("name", "title", "expected"),
    [
        ("Mercury", "Mercury (planet)", True),
        ("Mercury", "Freddie Mercury", True),
        ("Mercury", "Solar System", False),
        ("NBA", "National Basketball Association", True),
        ("UN", "United Nations", True),
        ("FBI", "Federal Bureau of Investigation", True),
        ("", "Anything", False),
    ],
)
def test_a_disambiguation_page_names_what_shares_a_word_or_has_its_initials(name, title, expected):
    assert names_it(name, title) is expected

"""What a KB is made from: dumps in each form, lists of QIDs, labels, and tables of a Wikipedia."""

import functools
import gzip
import tempfile
from pathlib import Path

from hypothesis import strategies as st
from test_kb_wikipedia import ENTITIES, world
from wikidata_world import ANN, WORLD, dump

from fuzz.odd import bytes_of, file_of
from fuzz.target import Target, each
from pipeline.kb import by_api, fetch, picture_list
from pipeline.kb.build import build_kb
from pipeline.kb.contracts import KBJob
from pipeline.kb.labels import lines
from pipeline.kb.sql_dump import rows

FORMS = ("dump.json", "dump.json.gz", "dump.json.bz2")


@functools.cache
def _dumps() -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        return {name: dump(Path(folder) / name, WORLD).read_bytes() for name in FORMS}


def _read_dump(value: tuple[str, bytes | None], folder: Path) -> None:
    if value == ("all", None):
        for one, of in _dumps().items():
            (folder / one.replace(".", "_")).mkdir()
            _read_dump((one, of), folder / one.replace(".", "_"))
        return
    name, content = value
    path = folder / name
    path.mkdir() if content is None else path.write_bytes(content)
    job = KBJob(out=folder / "kb", dump=path, where="P31=Q5 or P18", processes=1, max_bad_records=1.0)
    build_kb(job)
    build_kb(job)


def _odd_dumps() -> st.SearchStrategy[tuple[str, bytes | None]]:
    return st.sampled_from(FORMS).flatmap(lambda name: st.tuples(st.just(name), file_of(name, _dumps()[name])))


def _read_lists(value: bytes, folder: Path) -> None:
    path = folder / "list.txt"
    path.write_bytes(value)
    list(lines(path))
    by_api.qids(path)


def _read_table(value: bytes, folder: Path) -> None:
    if value == b"all":
        tables = world(folder / "wiki")
        job = KBJob(out=folder / "kb", dump=dump(folder / "dump.json", ENTITIES), processes=1, wikipedia=tables)
        build_kb(job)
        return
    for name, content in (("table.sql.gz", gzip.compress(value)), ("table.sql.gz", value), ("table.sql", value)):
        (folder / name).write_bytes(content)
        list(rows(folder / name, ("page_id", "page_title")))


TABLE = (
    b"CREATE TABLE `page` (\n  `page_id` int,\n  `page_title` blob,\n  KEY (`x`)\n);\n"
    b"INSERT INTO `page` VALUES (1,'A\\'b'),(2,NULL);\n"
)
ENTITIES_FILE = b'{"id": "Q1", "name": "Ann"}\n{"id": "Q2", "name": "Bo"}\n'
PICTURES_FILE = b'{"id": "Q1", "file": "Ann.jpg", "property": "P18"}\n{"id": "Q2", "url": "https://a.org/b.png"}\n'


def _read_pictures(value: tuple[bytes, bytes], folder: Path) -> None:
    """A list of pictures, and the entities that get their paths."""
    for name in ("list.jsonl", "list.tsv"):
        (folder / name).write_bytes(value[0] if name == "list.jsonl" else value[0].replace(b", ", b"\t"))
    each(
        lambda: picture_list.read(folder / "list.tsv"),
        lambda: picture_list.read(folder / "list.jsonl"),
        lambda: _with_paths(value[1], folder),
    )


def _with_paths(content: bytes, folder: Path) -> None:
    (folder / "entities.jsonl").write_bytes(content)
    listed = [picture_list.Listed("Q1", "Ann.jpg", "")]
    fetch._write_entities(folder / "entities.jsonl", listed, {"Ann.jpg": {"path": "images/a.png"}})


KB = "pipeline.kb"
TARGETS = (
    Target(
        kind="dumps of Wikidata",
        readers=(
            *(f"{KB}.bzipped:{name}" for name in ("_marks", "decompressed")),
            *(f"{KB}.dump:{name}" for name in ("Dump._gzipped", "text_of")),
            f"{KB}.build:_stamp",
            f"{KB}.labels:records",
        ),
        valid=lambda: ("all", None),
        odd=_odd_dumps,
        read=_read_dump,
        hard=lambda: (
            ("dump.json", b"[" * 100_000),
            ("dump.json", b'{"id": "Q1", "labels": {"en": {"value": "\\ud800"}}}'),
            ("dump.json", str(ANN).encode()),
            ("dump.json.bz2", b"BZh9"),
        ),
        share=2,
    ),
    Target(
        kind="lists of QIDs and labels",
        readers=(f"{KB}.labels:lines", f"{KB}.by_api:qids"),
        valid=lambda: b"Q1\tOne\nQ2\tTwo\n",
        odd=lambda: bytes_of(b"Q1\tOne\nP2\tTwo\n"),
        read=_read_lists,
    ),
    Target(
        kind="lists of pictures",
        readers=(*(f"{KB}.picture_list:{name}" for name in ("_jsonl", "_tsv")), f"{KB}.fetch:_with_images"),
        valid=lambda: (PICTURES_FILE, ENTITIES_FILE),
        odd=lambda: st.tuples(bytes_of(PICTURES_FILE), bytes_of(ENTITIES_FILE)),
        read=_read_pictures,
        hard=lambda: (
            (PICTURES_FILE, b'{"id": "Q1", "a": "\\ud800"}\n'),
            (PICTURES_FILE, b"[]\n"),
            (b"[" * 100_000, b"1"),
        ),
    ),
    Target(
        kind="tables of Wikipedia",
        readers=(f"{KB}.sql_dump:_opened",),
        valid=lambda: b"all",
        odd=lambda: bytes_of(TABLE),
        read=_read_table,
    ),
)

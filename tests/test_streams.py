"""Large KBs: records pass in pieces, tokens are counted once, and a dataset's fingerprint is taken once per command."""

import hashlib
import json
import math
import tracemalloc
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import commands
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import small_world

from cache.keys import KeyColumn
from foundation import checksums
from foundation.errors import NotAsWritten
from foundation.files import write_atomic
from pipeline.datasets import entity_table, fingerprint, prepared, scan, tables
from pipeline.datasets.contracts import PrepareJob
from pipeline.datasets.entity_table import EntityTable
from pipeline.datasets.layouts import jsonl
from pipeline.datasets.prepare import prepare
from pipeline.datasets.prepared import Columns
from pipeline.datasets.records import Entity
from pipeline.extraction import stage, strings, units
from pipeline.extraction.contracts import ExtractionJob, Runtime
from pipeline.extractors.clip_text import ClipText
from pipeline.pairs import word_sets
from pipeline.pairs.texts import Texts
from pipeline.pairs.word_sets import WordSets

MANY = 20_000


def kb(count: int) -> Iterator[Entity]:
    for number in range(count):
        text = f"number {number}. " + "the old one of the city. " * 6
        yield Entity(f"Q{number}", f"Name {number % 700}", text, images=(f"{number}.png",) if number % 3 == 0 else ())


class Words:
    """A text extractor that counts words; its limit cuts some texts."""

    limit = 33

    def prompt(self, side: str) -> str:
        return ""

    def count(self, texts: Sequence[str]) -> list[int]:
        return [len(text.split()) for text in texts]


def entities_file(folder: Path, count: int) -> Path:
    columns = {name: [getattr(one, name) for one in kb(count)] for name in ("id", "name", "attributes", "description")}
    pq.write_table(pa.table(columns), folder / "entities.parquet")
    return folder / "entities.parquet"


def test_planning_texts_holds_no_object_per_entity(tmp_path: Path) -> None:
    table = Columns(entities_file(tmp_path, MANY))
    tracemalloc.start()
    column = units.text_column("entity", "name_sep_attributes", table, Words())  # type: ignore[arg-type]
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    text_bytes = sum(len(text) for text in column.sources)
    # 57 bytes of arrays for each, and the texts' own; beside them one piece of records as Python objects.
    assert held < MANY * 80 + text_bytes, held / MANY
    assert peak < MANY * 200 + text_bytes + prepared.PIECE * 3000, peak / MANY
    assert column.records == MANY and column.present.all()


def test_a_columns_tokens_are_those_of_its_texts_also_of_cut_ones_and_travel_with_it(tmp_path: Path) -> None:
    words = Words()
    column = units.text_column("entity", "name_sep_attributes", Columns(entities_file(tmp_path, 200)), words)  # type: ignore[arg-type]
    assert column.tokens is not None and column.texts is not None and 0 < column.texts.cut <= 200
    assert column.tokens.tolist() == [len(text.split()) for text in column.sources] and column.tokens.max() == 33
    column.save(tmp_path / "keys.npz")
    for read in (KeyColumn.load(tmp_path / "keys.npz"), column.joined(column).of_records(np.arange(200, 400))):
        assert read.tokens is not None and read.tokens.tolist() == column.tokens.tolist()
    older = KeyColumn(column.keys, column.present, column.span)
    older.save(tmp_path / "older.npz")
    assert KeyColumn.load(tmp_path / "older.npz").tokens is None


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> ExtractionJob:
    root = tmp_path_factory.mktemp("streams")
    small_world.write(root / "data")
    prepare(PrepareJob(name="small", data_dir=root / "data", out=root / "prepared"))
    texts: dict[Any, str] = {"mention": "mention_sep_sentence", "entity": "name_sep_attributes"}
    return ExtractionJob(
        profile=str(small_world.profile(root)),
        dataset=root / "prepared",
        images={"mention": root / "data", "entity": root / "data"},
        wants=tuple(units.Want(side=side, feature="clip_text", view=view) for side, view in texts.items()),
        work=root / "work",
        columns=root / "work" / "columns",
        runtime=Runtime(device="cpu", precision="fp32", batch_size=4, shard_rows=8),
    )


def test_an_extraction_counts_the_tokens_of_each_text_once(small: ExtractionJob, monkeypatch: Any) -> None:
    counted, plain = list[str](), ClipText.count

    def count(self: ClipText, texts: Sequence[str]) -> list[int]:
        counted.extend(texts)
        return plain(self, texts)

    monkeypatch.setattr(ClipText, "count", count)
    stage.extract(small)
    assert len(counted) == 40 + 12  # mentions and entities; none of these is cut


@pytest.mark.parametrize("held", [strings.HELD_BYTES, 10])
def test_strings_are_given_back_as_they_came_out_of_memory_and_out_of_a_file(monkeypatch: Any, held: int) -> None:
    monkeypatch.setattr(strings, "HELD_BYTES", held)
    written, given = strings.Writer(), ["Ann", "", "Añcient 船", "\ud800 half", "x" * 30]
    for start in range(0, len(given), 2):
        written.add(given[start : start + 2])
    found = written.strings()
    assert [*found] == given and found[-1] == given[-1] and [*found[1:3]] == given[1:3]
    both = strings.joined([found, found.at(np.array([2, 0]))])
    assert [*both] == [*given, given[2], given[0]]
    with pytest.raises(IndexError):
        found[5]


def test_a_table_of_entities_gives_them_back_and_takes_pieces_at_a_time(monkeypatch: Any) -> None:
    monkeypatch.setattr(entity_table, "PIECE", 7)
    listed = [*kb(20), Entity("E", "é", type="person", aliases=("one", "two"))]
    table = EntityTable.of(iter(listed))
    assert len(table) == 21 and table == listed and listed == [*table] and table[-1] == listed[-1]
    assert table[5:9] == listed[5:9] and [table[row] for row in range(21)] == listed
    assert [*table.column("name")] == [one.name for one in listed] and EntityTable.of(table) is table
    with pytest.raises(IndexError):
        table[21]


def test_a_kb_that_is_read_holds_no_object_per_entity() -> None:
    tracemalloc.start()
    table = EntityTable.of(kb(MANY))
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(table) == MANY and held < 20 * MANY and peak < entity_table.PIECE * 1500


def test_the_content_of_tables_is_that_of_their_json(monkeypatch: Any) -> None:
    """As earlier versions computed it: datasets, and all runs over them, are named by it."""
    monkeypatch.setattr(tables, "PIECE", 3)
    columns = {"b": ["x", "é", None, "", "\n", "z", "q"], "a": [[], [b"\x01\xff", None], [], [], [], [], []]}
    arrow = pa.table({"b": columns["b"], "a": pa.array(columns["a"], pa.list_(pa.binary()))})
    text = json.dumps(columns, sort_keys=True, default=bytes.hex).encode() + b"\n"
    assert tables.content(columns) == tables.content(arrow) == hashlib.sha256(text).hexdigest()
    none = json.dumps({"a": []}).encode() + b"\n"
    assert tables.content({"a": []}, columns) == hashlib.sha256(none + text).hexdigest()


def test_columns_in_pieces_are_those_of_the_table(tmp_path: Path) -> None:
    table = Columns(entities_file(tmp_path, 10))
    table.add("static", [f"s{row}" for row in range(10)])
    pieces = [*table.pieces(("static", "name"), 4)]
    assert [len(piece["name"]) for piece in pieces] == [4, 4, 2]
    for name in ("static", "name"):
        assert [value for piece in pieces for value in piece[name]] == table[name]
    with pytest.raises(NotAsWritten, match="no column 'colour'"):
        list(table.pieces(("colour",), 4))


def test_a_command_takes_a_datasets_fingerprint_once(tmp_path: Path, monkeypatch: Any) -> None:
    small_world.write(tmp_path / "data")
    profile, taken, plain = small_world.profile(tmp_path), list[Path](), fingerprint.fingerprint

    def counted(data_dir: Path, *rest: Any, **options: Any) -> str:
        taken.append(data_dir)
        return plain(data_dir, *rest, **options)

    monkeypatch.setattr(fingerprint, "fingerprint", counted)
    where = ("--dataset", "small", "--data-dir", str(tmp_path / "data"), "--work-dir", str(tmp_path / "work"))
    train = ("TrainHead", "--method", "ranker", "--params", '{"epochs": 1}', *where, "--profile", str(profile))
    for _ in range(2):  # the second has nothing to do
        code, said = commands.run(*train)
        assert code == 0, said
        assert len(taken) == 1
        taken.clear()
    with open(tmp_path / "data" / "mentions.jsonl", "a") as handle:
        handle.write(json.dumps({**small_world.mention(3), "id": "m999"}) + "\n")
    commands.run("PrepareDataset", *where, "--profile", str(profile))
    assert len(taken) == 1 and len(list((tmp_path / "work").glob("datasets/*"))) == 2


@pytest.mark.parametrize(
    ("line", "parsed"),
    [
        ('{"id": "Q1", "name": "an image of 船"}', False),
        ('{"id": "Q1", "name": "a", "image": "a.png"}', True),
        ('{"id": "Q1", "name": "a", "imag\\u0065s": ["a.png"]}', True),
    ],
)
def test_files_without_pictures_are_not_parsed_for_a_fingerprint(
    tmp_path: Path, monkeypatch: Any, line: str, parsed: bool
) -> None:
    (tmp_path / "entities.jsonl").write_text(line + "\n")
    (tmp_path / "a.png").write_bytes(b"no picture")
    lines, plain = list[str](), jsonl.read_lines

    def read_lines(*arguments: Any) -> Iterator[tuple[int, str]]:
        lines.append("read")
        return plain(*arguments)

    monkeypatch.setattr(jsonl, "read_lines", read_lines)
    plain_digest, lines[:] = fingerprint.fingerprint(tmp_path), []
    (tmp_path / "a.png").write_bytes(b"another picture")
    assert (fingerprint.fingerprint(tmp_path) != plain_digest) == len(lines) == parsed


def test_whether_a_file_names_pictures_is_remembered_while_the_file_is_the_same(
    tmp_path: Path, monkeypatch: Any
) -> None:
    data, memo, looked, plain = tmp_path / "data", tmp_path / "memo.json", list[str](), jsonl.names_no_picture
    data.mkdir()

    def counted(path: Path) -> bool:
        looked.append(path.name)
        return plain(path)

    def taken() -> tuple[str, list[str]]:
        looked.clear()
        digest = fingerprint.fingerprint(data, memo=memo)
        assert digest == fingerprint.fingerprint(data), "as nothing is remembered"
        return digest, looked[: -len(jsonl.sources(data))]

    monkeypatch.setattr(jsonl, "names_no_picture", counted)
    (data / "entities.jsonl").write_text('{"id": "Q1", "name": "a"}\n')
    first = taken()
    assert first[1] == ["entities.jsonl"] and taken() == (first[0], [])
    entries = checksums.remembered(memo)
    earlier = {path: entry[:3] for path, entry in entries.items()}
    checksums.write_sealed(memo, earlier)
    assert taken() == first and checksums.remembered(memo) == entries, "a memo of before is completed"
    (data / "entities.jsonl").write_text('{"id": "Q1", "name": "a", "images": ["b.png"]}\n')
    named = taken()
    assert named[1] == ["entities.jsonl"] and named[0] != first[0]
    (data / "b.png").write_bytes(b"picture")
    with_picture = taken()
    assert with_picture[0] != named[0] and not with_picture[1]
    (data / "b.png").write_bytes(b"another picture")
    assert taken()[0] != with_picture[0]


def plain_overlap(sentence: frozenset[str], texts: list[frozenset[str]], row: int) -> tuple[float, int]:
    """The definition: over sets of words, and their counts in all texts."""
    shared = sentence & texts[row]
    return math.fsum(math.log(len(texts) / sum(word in own for own in texts)) for word in shared), len(shared)


def test_words_that_texts_share_with_a_sentence_are_weighed_as_sets_of_words_are(monkeypatch: Any) -> None:
    monkeypatch.setattr(word_sets, "PIECE", 5)
    random = np.random.default_rng(0)
    texts = [" ".join(f"w{word}" for word in random.integers(0, 30, random.integers(0, 25))) for _ in range(40)]
    texts[3] = ""
    sets, plain = WordSets.of(iter(texts)), [frozenset(text.split()) for text in texts]
    rows = np.array([3, 0, 39, 7, 7, 12])
    for _ in range(20):
        sentence = frozenset(f"w{word}" for word in random.integers(0, 40, 12))
        sums, number = sets.shared(sentence, rows)
        assert [*zip(sums.tolist(), number.tolist(), strict=True)] == [plain_overlap(sentence, plain, r) for r in rows]
    kept = np.array([0, 2, 7, 30])
    grown = sets.taken(kept).joined(WordSets.of(["w1 new words", "w2"], sets.taken(kept)))
    now = [*(plain[row] for row in kept), frozenset(["w1", "new", "words"]), frozenset(["w2"])]
    for row in range(len(now)):
        sums, number = grown.shared(frozenset(["w1", "w2", "w3", "new", "gone"]), np.array([row]))
        assert (sums[0], number[0]) == plain_overlap(frozenset(["w1", "w2", "w3", "new", "gone"]), now, row)


def test_word_overlap_holds_bytes_for_a_word_and_no_set_for_an_entity(tmp_path: Path) -> None:
    kb = Texts(Columns(entities_file(tmp_path, MANY)))
    tracemalloc.start()
    sets, years, lengths = kb.words, kb.years, kb.lengths
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # Of each entity 7 words of 4 bytes, where they end, two years and a length; each number is a word of its own here.
    assert held < MANY * (7 * 4 + 8 + 16 + 8 + 200), held / MANY
    assert peak < held + MANY * 120 + word_sets.PIECE * 6000, peak / MANY
    assert len(sets) == len(years) == len(lengths) == MANY


def pictures(folder: Path, count: int) -> list[Path]:
    for number in range(count):
        small_world.picture(folder / f"{number}.png", number)
    return [folder / f"{number}.png" for number in range(count)]


def test_a_scan_appends_to_its_memo_and_writes_the_table_once(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(scan, "_CHUNK", 3)
    files, memo, written, plain = pictures(tmp_path / "data", 10), tmp_path / "memo.parquet", list[Path](), write_atomic

    def write(path: Path, *rest: Any) -> None:
        written.append(path)
        plain(path, *rest)

    monkeypatch.setattr(scan, "write_atomic", write)
    first = scan.scan(files, memo=memo)
    assert written == [memo] and not memo.with_suffix(".new").exists()
    monkeypatch.setattr(scan, "examine", None)  # nothing is looked at again
    assert scan.scan(files, memo=memo) == first and written == [memo]


def test_a_scan_that_was_killed_goes_on_from_its_journal_up_to_a_torn_line(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(scan, "_CHUNK", 3)
    files, memo, looked, plain = pictures(tmp_path / "data", 10), tmp_path / "memo.parquet", list[str](), scan.examine
    whole = scan.scan(files)

    def killed(path: str, limits: Any) -> Any:
        if path.endswith("7.png"):
            raise KeyboardInterrupt
        return plain(path, limits)

    monkeypatch.setattr(scan, "examine", killed)
    with pytest.raises(KeyboardInterrupt):
        scan.scan(files, memo=memo, workers=1)
    journal = memo.with_suffix(".new")
    assert len(journal.read_bytes().splitlines()) == 2 and not memo.exists()
    journal.write_bytes(journal.read_bytes()[:-9])  # as a power failure may leave it

    def counted(path: str, limits: Any) -> Any:
        looked.append(path)
        return plain(path, limits)

    monkeypatch.setattr(scan, "examine", counted)
    assert scan.scan(files, memo=memo) == whole
    assert len(looked) == 7 and memo.exists() and not journal.exists()

"""The KB of a linker: columns of Arrow out of which values are taken, ids that are found, and changes to both."""

import random
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from foundation.errors import NotAsWritten
from linking import id_rows
from linking.kb import ALIASES, COLUMNS, Kb
from pipeline.candidates.base import SourceInputs
from pipeline.candidates.by_name import ByName, number_of_names
from pipeline.candidates.contracts import NameSource, TypedNameSource
from pipeline.candidates.known_names import HeldNames, KnownNames
from pipeline.candidates.lists import id_order
from pipeline.candidates.name_index import content_digest
from pipeline.candidates.registry import source
from pipeline.datasets import arrow_columns
from pipeline.datasets.arrow_columns import ArrowColumn, mapped

MANY = 20_000
LISTED = pa.list_(pa.string())


def lists(count: int, aliases: bool = True) -> dict[str, list[Any]]:
    """A KB as lists of Python objects."""
    table: dict[str, list[Any]] = {
        "id": [f"Q{(number * 7919) % count}" for number in range(count)],
        "name": [f"Näme {number % 700} of {number % 31}" for number in range(count)],
        "type": ["person" if number % 3 else None for number in range(count)],
        "attributes": [f"born {1000 + number % 900}. " + "the old one of the city. " * 6 for number in range(count)],
        "description": [None if number % 2 else "" for number in range(count)],
    }
    if aliases:
        table[ALIASES] = [[f"Other {number}", "Näme"][: number % 3] if number % 4 else None for number in range(count)]
    return table


def written(folder: Path, table: dict[str, list[Any]]) -> Path:
    kinds = {name: LISTED if name == ALIASES else pa.string() for name in table}
    pq.write_table(pa.table({name: pa.array(values, kinds[name]) for name, values in table.items()}), folder / FILE)
    return folder


FILE = "entities.parquet"


def as_lists(table: Any) -> dict[str, list[Any]]:
    return {name: [*column] for name, column in table.items()}


def test_a_linkers_kb_holds_no_object_per_entity(tmp_path: Path) -> None:
    folder = written(tmp_path, lists(MANY))
    tracemalloc.start()
    kb = Kb.read(folder)
    names, held = kb.texts.known_names, tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    # Of each entity a hash and a row (12 bytes), where it was before (8) and the number of its names (4).
    assert held < MANY * 32, held / MANY
    assert len(names.counts) == len(kb) == MANY


def test_columns_give_what_the_file_holds_a_value_a_piece_and_some_at_a_time(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(arrow_columns, "ROWS", 7)
    monkeypatch.setattr(arrow_columns, "PIECE", 4)
    table = lists(40)
    columns = mapped(written(tmp_path, table) / FILE, COLUMNS, [ALIASES, "absent"])
    assert as_lists(columns) == table
    places = np.array([39, 0, 7, 7, 13])
    for name, column in columns.items():
        assert [column[place] for place in range(-40, 40)] == table[name] * 2
        assert column[5:30] == table[name][5:30] and column[38:50] == table[name][38:]
        assert column.at(places) == [table[name][place] for place in places]
        with pytest.raises(IndexError):
            column[40]
    assert id_order(columns["id"]).tolist() == id_order(table["id"]).tolist()
    assert number_of_names(columns) == number_of_names(table)
    digests = [content_digest(each["name"], each[ALIASES]) for each in (columns, table)]
    assert digests[0] == digests[1]
    with pytest.raises(NotAsWritten, match="no column 'nothing'"):
        mapped(tmp_path / FILE, ["nothing"])


def test_strings_are_ordered_as_python_orders_them() -> None:
    ids = ["Q10", "Q9", "ö", "z", "Z", "", "😀", "\uffff", "Q9 ", "q9"]
    column = ArrowColumn([pa.array(ids[:4]), pa.array(ids[4:])])
    assert [ids[place] for place in column.order()] == sorted(ids)
    changed = column.changed(np.array([9, 2, 0]), ["A", "😀"])
    assert [[*changed][place] for place in changed.order()] == sorted(changed)


def test_an_empty_kb_can_be_read_and_grow(tmp_path: Path) -> None:
    kb = Kb.read(written(tmp_path, lists(0)))
    assert len(kb) == 0 and "Q0" not in kb.rows
    kb.change({name: values[1:3] for name, values in lists(3).items()}, {}, [])
    assert as_lists(kb.table) == {name: values[1:3] for name, values in lists(3).items()}


@pytest.mark.parametrize("aliases", [True, False])
def test_many_changes_leave_the_columns_of_a_kb_made_with_them(tmp_path: Path, aliases: bool) -> None:
    draw = random.Random(0)
    table = lists(60, aliases)
    kb = Kb.read(written(tmp_path, table))
    assert [*kb.texts.known_names.of_entities(np.arange(60)).clean][:1] == ["name 0 of 0"]
    more = {name: values[60:] for name, values in lists(200).items()}
    for number in range(8):
        ids = draw.sample(table["id"], 5)
        coming = {name: values[7 * number : 7 * number + 7] for name, values in more.items()}
        coming["id"] = [*ids[:3], *(f"N{number}-{each}" for each in range(4))]
        gone = {*coming["id"], *ids[3:]}
        kept = [row for row, name in enumerate(table["id"]) if name not in gone]
        assert kb.change(coming, {}, ids[3:]).tolist() == kept
        table.setdefault(ALIASES, [None] * len(table["id"]))
        table = {name: [*(values[row] for row in kept), *coming[name]] for name, values in table.items()}
        assert as_lists(kb.table) == table
        assert [kb.rows[name] for name in table["id"]] == [*range(len(kb))] and {*kb.rows} == {*table["id"]}
        assert all(name not in kb.rows for name in ids[3:])
        known, rows = KnownNames.of(table["name"], table[ALIASES]), np.arange(len(kb))
        found = kb.texts.known_names.of_entities(rows)
        assert (found.clean, found.written) == (known.clean, known.written)
        for ours, theirs in ((found.accented, known.accented), (found.owner, known.owner), (found.start, known.start)):
            assert ours.tolist() == theirs.tolist()


def test_ids_of_the_same_hash_are_told_apart(monkeypatch: Any) -> None:
    def few(ids: Sequence[str]) -> np.ndarray:
        return np.array([hash(name) % 3 for name in ids], np.int64)

    class Name(str):
        def __hash__(self) -> int:
            return hash(str(self)) % 3

    monkeypatch.setattr(id_rows, "_hashes", few)
    rows = id_rows.IdRows(ArrowColumn([pa.array([f"Q{number}" for number in range(50)])]))
    assert [rows[Name(f"Q{number}")] for number in range(50)] == [*range(50)]
    assert rows.get(Name("Q50")) is None and Name("Q7") in rows


@pytest.mark.parametrize("spec", [NameSource(kind="name-exact"), TypedNameSource()])
def test_sources_list_the_same_from_columns_of_arrow_and_from_lists(tmp_path: Path, spec: Any) -> None:
    table = lists(500)
    mentions: dict[str, list[Any]] = {
        "id": ["a", "b", "c"],
        "phrase": ["Näme 7", "other 13", "name 4 of 4"],
        "type": ["person", None, "person"],
    }
    columns = Kb.read(written(tmp_path, table)).table
    ours, theirs = (source(spec).lists(SourceInputs(mentions, each), 20) for each in (columns, table))
    assert ours.ids.tobytes() == theirs.ids.tobytes() and ours.scores.tobytes() == theirs.scores.tobytes()
    assert (ours.ids >= 0).sum() > 30


def test_an_index_of_names_lists_the_same_from_columns_of_arrow_and_from_lists(tmp_path: Path) -> None:
    pytest.importorskip("tantivy")
    table = lists(500)
    columns = Kb.read(written(tmp_path, table)).table
    mentions: dict[str, list[Any]] = {"id": ["a", "b"], "phrase": ["Näme 7", "other 13"], "type": [None, None]}
    answers = [
        ByName(NameSource(kind="name-index")).lists(SourceInputs(mentions, each, indexes=tmp_path), 20)
        for each in (columns, table)
    ]
    assert answers[0].ids.tobytes() == answers[1].ids.tobytes()
    assert answers[0].scores.tobytes() == answers[1].scores.tobytes()
    assert len([*tmp_path.glob("name-index-*")]) == 1, "the same index"


def test_held_names_are_those_of_the_pieces_together() -> None:
    table = lists(30)
    pieces = [(table["name"][start : start + 4], table[ALIASES][start : start + 4]) for start in range(0, 30, 4)]
    whole, rows = HeldNames.of(pieces), np.array([29, 3, 3, 0])
    some = KnownNames.of(*([table[name][row] for row in rows] for name in ("name", ALIASES)))
    found = whole.of_entities(rows)
    assert (found.clean, found.written, found.start.tolist()) == (some.clean, some.written, some.start.tolist())
    assert len(whole.owner) == len(whole.clean) == whole.counts.sum()

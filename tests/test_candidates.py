"""Candidate lists: exactly what scoring every pair would give, whatever the sources and sizes."""

import json
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rapidfuzz import fuzz
from rapidfuzz.utils import default_process

from cache.identity import Output
from cache.shard import Status
from cache.store import Store
from cache.table import Table
from foundation.errors import UserError
from pipeline.candidates import retrieval
from pipeline.candidates.retrieval import SCORERS, Lists, as_given, by_name, by_name_of_type, by_vector
from pipeline.candidates.stage import build, merge, recall
from pipeline.datasets.layouts import load
from pipeline.demo.world import make_world

WIKIMEL = Path(__file__).parents[2] / "shared" / "data" / "wikimel"


def every_pair(
    phrases: Sequence[str], names: Sequence[str], ids: Sequence[str], k: int, scorer: str
) -> list[list[int]]:
    """The definition, one pair at a time."""
    lists = []
    for phrase in map(default_process, phrases):
        scored = []
        for row, name in enumerate(names):
            name = default_process(name)
            score, ratio = np.float32(getattr(fuzz, scorer)(phrase, name)), np.float32(fuzz.ratio(phrase, name))
            if score > 0:
                scored.append((-score, -ratio, ids[row], row))
        lists.append([entry[-1] for entry in sorted(scored)[:k]])
    return lists


def rows(lists: Lists) -> list[list[int]]:
    return [[entity for entity in listed if entity >= 0] for listed in lists.ids.tolist()]


@pytest.fixture(scope="module")
def small():
    """Few letters, so that names collide, tie, share words, repeat words, and are sometimes empty once cleaned."""
    rng = random.Random(3)

    def text() -> str:
        return "".join(rng.choice("ab cdé-ß 東京") for _ in range(rng.randint(0, 9)))

    names = [text() for _ in range(250)]
    return [text() for _ in range(120)], names, [f"Q{number}" for number in rng.sample(range(5_000), len(names))]


@pytest.mark.parametrize("k", [1, 7, 100, 600])
@pytest.mark.parametrize("scorer", SCORERS)
def test_lists_are_those_of_scoring_every_pair(small, scorer, k, monkeypatch):
    monkeypatch.setattr(retrieval, "_BLOCK_BYTES", 30_000)  # several blocks, several pieces
    monkeypatch.setattr(retrieval, "_PAIRS", 700)
    phrases, names, ids = small
    lists = by_name(phrases, names, ids, k, scorer, workers=2)
    assert lists.ids.shape == lists.scores.shape == (len(phrases), k)
    assert rows(lists) == every_pair(phrases, names, ids, k, scorer)
    assert ((lists.scores > 0) == (lists.ids >= 0)).all() and (np.diff(lists.scores, axis=1) <= 0).all()


def test_equal_scores_are_ordered_by_ratio_then_id():
    lists = by_name(["John"], ["John Adams", "John", "john!", "John Ad"], ["Q3", "Q20", "Q1", "Q4"], 4)
    assert rows(lists) == [[2, 1, 3, 0]]  # Q1 before Q20 with the same name, then the longer ones


def test_nothing_in_common_gives_an_empty_list_and_empty_inputs_work():
    assert rows(by_name(["xyz", "…", ""], ["abc", "!!"], ["Q1", "Q2"], 5)) == [[], [], []]
    assert by_name([], ["abc"], ["Q1"], 5).ids.shape == (0, 5)
    assert rows(by_name(["abc"], [], [], 5)) == [[]]


def test_unknown_scorer_names_the_known_ones():
    with pytest.raises(UserError, match="token_set.*known: token_set_ratio, token_sort_ratio, ratio"):
        by_name(["a"], ["a"], ["Q1"], 1, "token_set")


def test_lists_of_the_demo_are_those_of_scoring_every_pair():
    world = make_world(0, 400, 2500)
    phrases, names, ids = (
        [m.phrase for m in world.mentions[::10]],
        [e.name for e in world.entities],
        [e.id for e in world.entities],
    )
    assert len(set(phrases)) > 50
    assert rows(by_name(phrases, names, ids, 100)) == every_pair(phrases, names, ids, 100, "token_set_ratio")


def test_wikimel_lists_are_those_of_scoring_every_pair():
    if not WIKIMEL.is_dir():
        pytest.skip("the real data under ../shared is not there")
    dataset = load("wikimel", WIKIMEL)
    rng = random.Random(0)
    phrases = [m.phrase for m in rng.sample(dataset.mentions, 20)]
    names, ids = [e.name for e in dataset.entities], [e.id for e in dataset.entities]
    assert rows(by_name(phrases, names, ids, 100)) == every_pair(phrases, names, ids, 100, "token_set_ratio")


def store_of(root: Path, feature: str, vectors: np.ndarray, broken: Sequence[int] = ()) -> tuple[Store, np.ndarray]:
    spec = {"extractor": feature, "outputs": [Output("pooled", vectors.shape[1:], "float32").to_json()]}
    store = Store.create(root, feature, spec)
    keys = np.random.default_rng(len(vectors)).integers(0, 256, (len(vectors), 16), np.uint8)
    status = np.full(len(vectors), Status.OK, np.uint8)
    status[list(broken)] = Status.BROKEN
    vectors = np.where((status == Status.OK)[:, None], vectors, 0)
    store.add(
        keys, status, ["" if s == Status.OK else "truncated" for s in status], {"pooled": vectors.astype(np.float32)}
    )
    return Store.open(store.folder), keys


@pytest.fixture
def vectors():
    rng = np.random.default_rng(0)
    sides = [rng.integers(-2, 3, (count, 6)).astype(np.float32) + 0.1 for count in (50, 333)]
    sides[1][100] = sides[1][7] * 2  # the same direction: a tie
    return sides


def test_dense_lists_are_the_nearest_by_cosine(tmp_path, vectors, monkeypatch):
    monkeypatch.setattr(retrieval, "ENTITY_BLOCK", 64)
    monkeypatch.setattr(retrieval, "_BLOCK_BYTES", 64 * 4 * 7)
    ids = [f"Q{number}" for number in random.Random(0).sample(range(1_000), 333)]
    tables = []
    for name, side, broken in (("mention", vectors[0], [3]), ("entity", vectors[1], [5, 332])):
        store, keys = store_of(tmp_path, name, side, broken)
        present = np.ones(len(keys), bool)
        present[8] = False
        tables.append(Table(store, "pooled", keys, present))
    lists = by_vector(*tables, ids, 10)
    unit = [side / np.linalg.norm(side, axis=1, keepdims=True) for side in vectors]
    cosine = unit[0].astype(np.float64) @ unit[1].T.astype(np.float64)
    for row, listed in enumerate(rows(lists)):
        if row in (3, 8):
            assert listed == []
            continue
        allowed = [e for e in range(333) if e not in (5, 8, 332)]
        expected = sorted(allowed, key=lambda e: (-np.round(cosine[row, e], 5), ids[e]))[:10]
        assert [round(cosine[row, e], 5) for e in listed] == [round(cosine[row, e], 5) for e in expected]
        assert np.allclose(lists.scores[row] * 2 - 1, cosine[row, listed], atol=1e-5)
    assert not {5, 8, 332} & set(lists.ids.ravel().tolist())


def test_fewer_entities_than_asked_for_end_with_minus_one(tmp_path, vectors):
    store, keys = store_of(tmp_path, "f", vectors[0][:4])
    table = Table(store, "pooled", keys, np.ones(4, bool))
    lists = by_vector(table, table, ["a", "b", "c", "d"], 6)
    assert (lists.ids[:, 4:] == -1).all() and all(sorted(listed) == [0, 1, 2, 3] for listed in rows(lists))


def test_vectors_of_different_widths_are_refused(tmp_path, vectors):
    tables = []
    for name, width in (("narrow", 4), ("wide", 6)):
        store, keys = store_of(tmp_path, name, vectors[0][:, :width])
        tables.append(Table(store, "pooled", keys, np.ones(len(keys), bool)))
    with pytest.raises(UserError, match=r"pooled \(4,\) and pooled \(6,\)"):
        by_vector(*tables, ["Q"] * 50, 5)


def test_merging_takes_turns_by_rank_and_skips_repetitions():
    first = Lists(np.array([[4, 2, 9], [-1, -1, -1]], np.int32), np.ones((2, 3), np.float32))
    second = Lists(np.array([[2, 7, 4], [5, 6, -1]], np.int32), np.ones((2, 3), np.float32))
    merged = merge([first, second], 3)
    assert merged.ids.tolist() == [[4, 2, 7], [5, 6, -1]]
    assert np.allclose(merged.scores, [[1, 1 / 2, 1 / 3], [1, 1 / 2, 0]])
    assert merge([first], 3) is first


def test_appending_takes_the_first_source_whole_and_fills_from_the_next():
    first = Lists(np.array([[4, -1, -1, -1], [-1] * 4, [3, 1, 2, 0]], np.int32), np.ones((3, 4), np.float32))
    second = Lists(np.array([[2, 4, 7, 1], [5, 6, -1, -1], [9, 8, 7, 6]], np.int32), np.ones((3, 4), np.float32))
    merged = merge([first, second], 4, "append")
    assert rows(merged) == [[4, 2, 7, 1], [5, 6], [3, 1, 2, 0]]
    assert np.allclose(merged.scores[1], [1, 1 / 2, 0, 0])


def test_candidates_that_came_with_the_data_keep_their_order_up_to_k():
    lists = as_given([[5, 3, 9], [], None, [2]], 2)
    assert lists.ids.tolist() == [[5, 3], [-1, -1], [-1, -1], [2, -1]]
    assert lists.scores.tolist() == [[1, 0.5], [0, 0], [0, 0], [1, 0]]


def test_names_of_a_type_are_those_of_scoring_every_pair_of_that_type(small):
    phrases, names, ids = small
    rng = random.Random(1)
    types = [rng.choice(["Person", " work ", "Place", "Nothing", None, ""]) for _ in phrases]
    entity_types = [rng.choice(["person", "Work|Place", "Place", None]) for _ in names]
    lists = by_name_of_type(phrases, names, types, entity_types, ids, 7, "token_set_ratio", workers=2)
    of = {"Person": ("person",), " work ": ("Work|Place",), "Place": ("Work|Place", "Place"), "Nothing": ()}
    for phrase, kind, listed in zip(phrases, types, rows(lists)):
        among = [row for row, entity_type in enumerate(entity_types) if not kind or entity_type in of[kind]]
        expected = every_pair(
            [phrase], [names[row] for row in among], [ids[row] for row in among], 7, "token_set_ratio"
        )[0]
        assert listed == [among[place] for place in expected]
    assert ((lists.scores > 0) == (lists.ids >= 0)).all()


@pytest.mark.parametrize(
    ("types", "entity_types", "side"), [([None, ""], ["a"], "mention"), (["a", "b"], [None], "entity")]
)
def test_names_of_a_type_need_types_on_both_sides(types, entity_types, side):
    with pytest.raises(UserError, match=f"no {side} has a type"):
        by_name_of_type(["x", "y"], ["x"], types, entity_types, ["Q1"], 2)


def test_recall_counts_only_golds_of_the_kb():
    lists = Lists(np.array([[0, 1], [1, 0], [2, 3], [0, 1], [0, -1]], np.int32), np.ones((5, 2), np.float32))
    found = recall(lists, np.array([0, 0, 9, -1, -2]), np.array(["train", "train", "train", "train", "test"]))
    assert found == {
        "train": {"n": 3, "1": round(1 / 3, 6), "2": round(2 / 3, 6)},
        "test": {"n": 0, "1": 0.0, "2": 0.0},
    }


def test_build_fills_given_candidates_with_names_of_the_type(tmp_path):
    mentions = {
        "phrase": ["Ann", "Ann", "Ann"],
        "gold": [3, 1, 0],
        "split": ["test"] * 3,
        "type": ["person", "ship", "ship"],
    }
    entities = {
        "id": ["Q1", "Q2", "Q3", "Q4"],
        "name": ["Ann", "Ann II", "Ann Lee", "Anne"],
        "type": ["person", "ship", "person", "person"],
    }
    pq.write_table(pa.table(mentions), tmp_path / "mentions.parquet")
    pq.write_table(pa.table(entities), tmp_path / "entities.parquet")
    job = {
        "dataset": str(tmp_path),
        "out": str(tmp_path / "lists.npz"),
        "k": 3,
        "sources": [{"kind": "given"}, {"kind": "name-of-type"}],
    }
    with pytest.raises(UserError, match="no candidates came with this dataset"):
        build(job)
    pq.write_table(pa.table({"given": pa.array([[3, 2], None, [0]], pa.list_(pa.int32()))}), tmp_path / "given.parquet")
    report = build(job | {"merge": "append"})
    with np.load(tmp_path / "lists.npz") as lists:
        assert lists["ids"].tolist() == [[3, 2, 0], [1, -1, -1], [0, 1, -1]]
    recalled = {source: splits["test"]["3"] for source, splits in report["recall"].items()}
    assert recalled == {"given": 0.666667, "name-of-type:token_set_ratio": 0.666667, "merged": 1.0}
    assert report["merge"] == "append" and list(report["recall"]) == list(recalled)
    build(job)
    with np.load(tmp_path / "lists.npz") as lists:
        assert lists["ids"].tolist() == [[3, 0, 2], [1, -1, -1], [0, 1, -1]]
    build(job | {"merge": "append", "k": 1})
    with np.load(tmp_path / "lists.npz") as lists:
        assert lists["ids"].tolist() == [[3], [1], [0]]
    with pytest.raises(UserError, match="--merge 'appended'.*did you mean 'append'"):
        build(job | {"merge": "appended"})


@pytest.fixture
def prepared(tmp_path):
    mentions = {
        "phrase": ["Ann", "Ann", "Bob", "Cid"],
        "gold": [0, 1, 2, -1],
        "split": ["train", "test", "test", "dev"],
    }
    pq.write_table(pa.table(mentions), tmp_path / "mentions.parquet")
    pq.write_table(
        pa.table({"id": ["Q1", "Q2", "Q3"], "name": ["Ann", "Ann Lee", "Robert"]}), tmp_path / "entities.parquet"
    )
    return tmp_path


def test_build_writes_lists_recall_and_rates_of_every_source(prepared, vectors):
    rng = np.random.default_rng(0)
    side = rng.normal(size=(3, 8)).astype(np.float32)
    store, keys = store_of(prepared / "cache", "clip_text", side)
    np.savez(prepared / "entities.npz", keys=keys, present=np.ones(3, bool))
    np.savez(prepared / "mentions.npz", keys=keys[[0, 1, 2, 0]], present=np.array([1, 1, 1, 0], bool))
    dense = {"kind": "dense", "feature": "clip_text", "store": str(store.folder), "output": "pooled"}
    dense |= {"mention_keys": str(prepared / "mentions.npz"), "entity_keys": str(prepared / "entities.npz")}
    report = build(
        {
            "dataset": str(prepared),
            "out": str(prepared / "lists.npz"),
            "k": 2,
            "sources": [{"kind": "name", "scorer": "token_set_ratio"}, dense],
        }
    )
    with np.load(prepared / "lists.npz", allow_pickle=False) as lists:
        assert (lists["ids"].dtype, lists["scores"].dtype, lists["ids"].shape) == (np.int32, np.float32, (4, 2))
        assert lists["ids"].tolist() == [[0, 1], [0, 1], [2, 1], [-1, -1]]
    assert list(report["recall"]) == ["name:token_set_ratio", "dense:clip_text", "merged"]
    assert report["recall"]["dense:clip_text"]["test"] == {"n": 2, "1": 1.0, "2": 1.0}
    assert report["recall"]["name:token_set_ratio"]["test"] == {"n": 2, "1": 0.5, "2": 1.0}
    table = report.pop("table")
    assert json.loads((prepared / "lists.json").read_text()) == report
    assert set(report["seconds"]) == set(report["mentions_per_second"]) == {"name:token_set_ratio", "dense:clip_text"}
    assert all(name in table for name in report["recall"])
    without_gold = [line.split()[-3:] for line in table.splitlines() if " dev " in line]
    assert without_gold == [["0", "-", "-"]] * 3


def test_build_is_the_same_twice_and_refuses_what_it_does_not_know(prepared):
    job = {"dataset": str(prepared), "out": str(prepared / "lists.npz")}
    assert build(job)["k"] == 100
    first = (prepared / "lists.npz").read_bytes()
    build(job)
    assert (prepared / "lists.npz").read_bytes() == first
    with pytest.raises(UserError, match="'names'; did you mean 'name'?.* Known: dense, given, name, name-of-type"):
        build(job | {"sources": [{"kind": "names"}]})
    with pytest.raises(UserError, match="at least 1"):
        build(job | {"k": 0})

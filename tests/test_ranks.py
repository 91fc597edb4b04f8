"""Ranks beyond the list: those of the whole order, one pair at a time."""

import random

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_candidates import store_of

from cache.table import Table
from pipeline.candidates import name_ranking, nearest
from pipeline.candidates.contracts import CandidateJob, GivenSource, NameSource, SourceSpec, TypedNameSource
from pipeline.candidates.merging import merged_ranks
from pipeline.candidates.name_ranking import SCORERS, NameRanking
from pipeline.candidates.nearest import nearest_vectors, vector_ranks
from pipeline.candidates.stage import build_candidates


@pytest.fixture(scope="module")
def small():
    rng = random.Random(5)
    names = ["".join(rng.choice("ab cdé-ß") for _ in range(rng.randint(0, 9))) for _ in range(120)]
    phrases = ["".join(rng.choice("ab cdé-ß") for _ in range(rng.randint(0, 9))) for _ in range(60)]
    return phrases, names, [f"Q{number}" for number in rng.sample(range(5_000), len(names))]


@pytest.mark.parametrize("scorer", SCORERS[:3])
def test_a_rank_by_name_is_the_place_in_the_list_of_all(small, scorer, monkeypatch):
    monkeypatch.setattr(name_ranking, "BLOCK_BYTES", 4 * 120 * 7)
    phrases, names, ids = small
    ranking = NameRanking(names, ids, scorer, workers=1)
    whole = ranking.lists(phrases, len(names))
    gold = np.random.default_rng(0).integers(0, len(names), len(phrases))
    ranks, places = ranking.ranks(phrases, gold), whole.places(gold)
    listed = places > 0
    assert 10 < listed.sum() < len(phrases)
    np.testing.assert_array_equal(ranks[listed], places[listed])
    assert (ranks[~listed] > whole.lengths[~listed]).all(), "what has nothing in common comes after all that has"


def test_below_a_score_of_nothing_all_ranks_are_taken_once(small):
    _, names, ids = small
    ranks = NameRanking(names, ids, workers=1).ranks(["xyz"] * len(names), np.arange(len(names)))
    assert sorted(ranks) == list(range(1, len(names) + 1))


def test_a_rank_by_vector_is_the_place_in_the_list_of_all(tmp_path, monkeypatch):
    monkeypatch.setattr(nearest, "ENTITY_BLOCK", 50)
    monkeypatch.setattr(nearest, "RANK_ROWS", 7)
    rng = np.random.default_rng(1)
    sides = [rng.normal(size=(count, 6)).astype(np.float32) for count in (30, 140)]
    sides[1][100] = sides[1][7]  # a tie
    tables = []
    for name, side, broken in (("mention", sides[0], [3]), ("entity", sides[1], [5])):
        store, keys = store_of(tmp_path, name, side, broken)
        tables.append(Table(store, "pooled", keys, np.ones(len(keys), bool)))
    ids = [f"Q{number}" for number in rng.permutation(1000)[:140]]
    whole = nearest_vectors(*tables, ids, 140)
    rows, gold = np.arange(30), rng.integers(0, 140, 30)
    gold[[3, 4, 5, 6]] = 9, 5, 100, 7
    expected = whole.places(gold)
    expected[[3, 4]] = -1  # a mention, an entity without a vector
    np.testing.assert_array_equal(vector_ranks(*tables, ids, rows, gold), expected)
    np.testing.assert_array_equal(vector_ranks(*tables, ids, rows[10:20], gold[10:20]), expected[10:20])


def test_merged_ranks_are_never_better_than_the_merged_order():
    rng = np.random.default_rng(0)
    for how in ("round-robin", "append"):
        for _ in range(50):
            orders = [rng.permutation(12) for _ in range(2)]
            gold = int(rng.integers(12))
            of_each = [np.array([1 + int(np.flatnonzero(order == gold)[0])]) for order in orders]
            woven = np.stack(orders, 1).ravel() if how == "round-robin" else np.concatenate(orders)
            true = list(dict.fromkeys(woven.tolist())).index(gold) + 1
            bound = int(merged_ranks(of_each, [np.array([12])] * 2, how)[0])
            assert true <= bound <= 2 * true
            assert how != "append" or bound == true


def test_a_source_without_an_order_leaves_the_rank_to_the_next():
    unknown, known, length = np.array([-1, -1]), np.array([4, -1]), np.array([3, 3])
    assert merged_ranks([unknown, known], [length, length], "append").tolist() == [7, -1]
    assert merged_ranks([unknown, known], [length, length], "round-robin").tolist() == [8, -1]


def test_candidates_carry_the_golds_rank(tmp_path):
    names = ["Ann", "Ann Lee", "Ann Leeds", "Robert", "Anne", "Zoe"]
    mentions = {
        "id": [f"m{row}" for row in range(5)],
        "phrase": ["Ann", "Ann", "Ann", "Ann", "Bob"],
        "gold": [0, 4, 5, -1, -2],
        "split": ["test"] * 5,
        "type": ["p", "p", "q", "p", "p"],
    }
    entities = {"id": [f"Q{row}" for row in range(6)], "name": names, "type": ["p", "p", "p", "q", "p", "p"]}
    pq.write_table(pa.table(mentions), tmp_path / "mentions.parquet")
    pq.write_table(pa.table(entities), tmp_path / "entities.parquet")
    pq.write_table(
        pa.table({"given": pa.array([[0], [0], [3], [0], [0]], pa.list_(pa.int32()))}), tmp_path / "given.parquet"
    )

    def gold_rank(*sources: SourceSpec, k: int = 2, merge: str = "round-robin") -> list[int]:
        build_candidates(CandidateJob(dataset=tmp_path, out=tmp_path / "lists.npz", sources=sources, k=k, merge=merge))
        with np.load(tmp_path / "lists.npz", allow_pickle=False) as saved:
            return saved["gold_rank"].tolist()

    assert gold_rank(NameSource()) == [1, 4, 6, -1, -1]
    assert gold_rank(GivenSource()) == [1, -1, -1, -1, -1], "nothing is known beyond what came with the data"
    trusted = GivenSource(order="trusted")
    assert gold_rank(trusted, NameSource(), merge="append") == [1, 5, 7, -1, -1]
    assert gold_rank(GivenSource(), NameSource(), merge="append")[1:] == [5, 7, -1, -1], "behind both lists"
    assert gold_rank(TypedNameSource()) == [1, 4, -1, -1, -1], "a gold of another type is nowhere in that order"
    assert gold_rank(NameSource(), k=6)[:2] == [1, 4]

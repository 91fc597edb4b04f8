"""Ranks, figures and parts, against counts made by hand."""

import numpy as np
import pytest
import torch

from heads.metrics import dev_half, figures, not_below, parts, rank_in_lists, rerank, table


def test_ties_count_against_us():
    scores = torch.tensor([[3.0, 5.0, 5.0, 1.0], [1.0, 1.0, 1.0, 1.0]])
    assert not_below(scores, torch.tensor([5.0, 1.0])).tolist() == [[False, True, True, False], [True] * 4]
    lists = np.array([[7, 8, 9], [7, 8, 9], [7, 8, -1]])
    found = rank_in_lists(
        np.array([[2.0, 2.0, 1.0], [0.5, 2.0, 1.0], [1.0, 2.0, 9.0]], np.float32), lists, np.array([7, 9, 7])
    )
    assert found.tolist() == [2, 2, 2]


def test_scores_that_differ_by_rounding_alone_are_ties():
    scores = torch.tensor([[100.00001, 99.99999, 99.9, 100.1]])
    assert not_below(scores, torch.tensor([100.0])).tolist() == [[True, True, False, True]]


def test_a_score_that_is_no_number_never_helps():
    lists, gold = np.array([[3, 4, 5]]), np.array([4])
    assert rank_in_lists(np.array([[np.nan, 1.0, 0.0]], np.float32), lists, gold).tolist() == [2]
    assert rank_in_lists(np.array([[0.0, np.nan, 0.0]], np.float32), lists, gold).tolist() == [3]


def test_a_gold_that_is_not_listed_is_a_miss():
    lists = np.array([[3, 4], [3, 4], [3, -1]])
    scores = np.zeros((3, 2), np.float32)
    assert rank_in_lists(scores, lists, np.array([5, -1, -2])).tolist() == [0, 0, 0]
    assert rank_in_lists(scores, lists, np.array([5, -2, -1])).tolist() == [0, 0, 0], "where a list ends is no NIL"
    assert rank_in_lists(np.zeros((2, 0), np.float32), np.zeros((2, 0), np.int64), np.array([1, 2])).tolist() == [0, 0]


def test_rerank_puts_the_rest_in_retrieval_order_and_the_unknown_last():
    assert rerank(np.array([3, 0, 0]), np.array([9, 120, -1]), 500).tolist() == [3, 120, 500]


def test_figures_are_the_definitions():
    found = figures(np.array([1, 2, 0, 10, 40]), np.array([True, True, False, True, True]))
    assert found["n"] == 5
    assert [found[f"H@{k}"] for k in (1, 3, 5, 10, 20)] == pytest.approx([0.2, 0.4, 0.4, 0.6, 0.6])
    assert found["MRR"] == pytest.approx((1 + 1 / 2 + 1 / 10 + 1 / 40) / 5)
    assert found["MR"] == pytest.approx((1 + 2 + 10 + 40) / 4)
    assert found["recall"] == pytest.approx(0.8)
    assert figures(np.array([], int), np.array([], bool)) == {"n": 0}


def test_dev_is_halved_by_gold_entity():
    halves = [dev_half(f"Q{number}") for number in range(2000)]
    assert set(halves) == {"choose", "calibrate"}
    assert 900 < halves.count("choose") < 1100
    assert halves == [dev_half(f"Q{number}") for number in range(2000)]


def test_parts_split_the_mentions_whose_gold_is_in_the_kb():
    facts = {
        "split": np.array(["dev", "dev", "test", "test", "test"]),
        "gold_id": np.array(["Q0", None, "Q1", "Q9", "Q2"], object),
        "image_status": np.array(["ok", "ok", "broken", "ok", "none"]),
        "phrase_is_name": np.array([True, False, False, True, False]),
        "gold_in_train": np.array([True, False, True, False, False]),
        "sentence_in_train": np.array([False] * 5),
        "ambiguous": np.array([True] * 5),
        "group": np.array(["a", "a", None, "b", "b"], object),
    }
    gold = np.array([0, -1, 1, -2, 2])
    found = parts(facts, gold, np.array([False, True, True]))
    assert not found["image on both sides: yes"].any()
    assert parts(facts, gold, np.array([True, True, True]))["image on both sides: yes"].tolist() == [
        True,
        False,
        False,
        False,
        False,
    ]
    assert found["all"].tolist() == [True, False, True, False, True]
    assert found["mention image: yes"].tolist() == [True, False, False, False, False]
    assert found["gold image: yes"].tolist() == [False, False, True, False, True]
    assert found["gold in train: no"].tolist() == [False, False, False, False, True]
    assert found["group: a"].tolist() == [True, False, False, False, False]
    assert found["group: b"].tolist() == [False, False, False, False, True]
    assert not found["sentence in train: yes"].any() and not found["ambiguous phrase: no"].any()
    assert (found["half: choose"] | found["half: calibrate"]).tolist() == [True, False, False, False, False]
    for name in (
        "mention image",
        "gold image",
        "image on both sides",
        "phrase is the name",
        "gold in train",
        "sentence in train",
        "ambiguous phrase",
    ):
        np.testing.assert_array_equal(found[f"{name}: yes"] ^ found[f"{name}: no"], found["all"])


def test_the_table_shows_every_protocol_with_its_recall_and_the_parts_of_the_last_split():
    whole = figures(np.array([1, 4]), np.array([True, False]))
    text = table(
        {
            split: {"full-kb": {"all": whole, "group: a": whole, "NIL": {"n": 7}}, "candidates": {"all": whole}}
            for split in ("dev", "test")
        }
    )
    lines = text.splitlines()
    assert [line.split()[:2] for line in lines if "full-kb" in line or "candidates" in line][:4] == [
        ["dev", "full-kb"],
        ["dev", "candidates"],
        ["test", "full-kb"],
        ["test", "candidates"],
    ]
    assert next(line for line in lines if line.startswith("test") and "candidates" in line).split()[2:] == [
        "2",
        "50.00",
        "50.00",
        "100.00",
        "100.00",
        "100.00",
        "62.50",
        "2.5",
        "50.00",
    ]
    assert next(line for line in lines if line.startswith("NIL")).split() == ["NIL", "7"]
    assert sum(line.startswith("group: a") for line in lines) == 1

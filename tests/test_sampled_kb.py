"""Golds ranked in a hashed sample of the KB: the definition, the sample, and what such figures are called."""

from typing import Any

import numpy as np
import pytest
import torch

from heads import sampled_kb, scoring
from heads.base import Rows
from heads.config import load_config
from heads.protocols import ordered, protocol_name, protocol_of, under
from heads.sampled_kb import Listed, against_sample, sample_rows
from heads.scoring import Golds, Scoring


class Vectors:
    """A side whose rows are vectors."""

    device = torch.device("cpu")

    def __init__(self, vectors: np.ndarray) -> None:
        self.vectors, self.count = vectors, len(vectors)

    def rows(self, index: np.ndarray) -> Rows:
        return Rows({"v": torch.from_numpy(self.vectors[index])})


class Products:
    """A head that scores by inner products. encoded: entities that it encoded."""

    def __init__(self) -> None:
        self.encoded = 0

    def encode_mentions(self, rows: Rows) -> Rows:
        return rows

    def encode_entities(self, rows: Rows) -> Rows:
        self.encoded += len(rows)
        return rows

    def score_block(self, mentions: Rows, entities: Rows) -> dict[str, torch.Tensor]:
        of_mentions, of_entities = mentions["v"], entities["v"]
        assert isinstance(of_mentions, torch.Tensor) and isinstance(of_entities, torch.Tensor)
        return {"score": of_mentions @ of_entities.T}


@pytest.fixture
def world(monkeypatch: Any) -> tuple[Scoring, np.ndarray, np.ndarray, np.ndarray]:
    """Scoring of 30 mentions and 90 entities, all scores, lists of ten of which some end early, and golds."""
    for module, name, value in ((scoring, "CHUNK", 4), (scoring, "ENTITIES", 8), (sampled_kb, "MENTIONS", 7)):
        monkeypatch.setattr(module, name, value)
    random = np.random.default_rng(0)
    mentions, entities = (random.integers(-3, 4, (count, 5)).astype(np.float32) for count in (30, 90))
    lists = np.stack([random.permutation(90)[:10] for _ in range(30)])
    lists[::4, 6:] = -1
    golds = np.where(np.arange(30) % 3 == 0, lists[:, 0], random.integers(0, 90, 30))
    golds[5] = -1
    both: Any = Vectors(mentions), Vectors(entities)
    return Scoring(Products(), *both), mentions @ entities.T, lists, golds  # type: ignore[arg-type]


def found(world: Any, sample: np.ndarray) -> Any:
    whole, scores, lists, golds = world
    rows = np.arange(len(lists))
    of_lists = np.where(lists >= 0, scores[rows[:, None], lists], -np.inf).astype(np.float32)
    return against_sample(whole, rows, Listed(lists, of_lists, Golds(golds, scores[rows, golds])), sample)


def test_a_gold_is_ranked_among_its_candidates_and_the_sample_each_counted_once(world: Any) -> None:
    _, scores, lists, golds = world
    sample = sample_rows(np.array([f"Q{row}" for row in range(90)]), 25)
    result = found(world, sample)
    for row, gold in enumerate(golds.tolist()):
        if gold < 0:
            continue
        others = {*sample.tolist(), *lists[row][lists[row] >= 0].tolist()} - {gold}
        assert result.not_below[row] == sum(scores[row, other] >= scores[row, gold] for other in others)
        expected = sorted((scores[row, other] for other in (*others, gold)), reverse=True)[:10]
        assert result.top_scores[row].tolist() == expected
        assert [scores[row, entity] for entity in result.top[row]] == expected
        assert len(set(result.top[row].tolist())) == 10


def test_entities_of_the_sample_alone_are_encoded_and_all_of_them_give_the_ranks_of_the_whole_kb(world: Any) -> None:
    whole, scores, _, golds = world
    found(world, np.arange(20, 45))
    assert whole.head.encoded == 25
    rows = np.arange(30)
    plain = whole.kb(rows, Golds(golds, scores[rows, golds]))
    known = golds >= 0
    assert (found(world, np.arange(90)).not_below == plain.not_below)[known].all()
    assert (found(world, np.empty(0, np.int64)).not_below <= plain.not_below)[known].all()


def test_a_sample_is_part_of_a_larger_one_and_knows_no_order() -> None:
    ids = np.array([f"Q{row}" for row in range(500)])
    small, large = sample_rows(ids, 50), sample_rows(ids, 200)
    assert len(small) == 50 and set(small) < set(large) and (np.diff(small) > 0).all()
    assert {*ids[small]} == {*ids[::-1][sample_rows(ids[::-1], 50)]}
    assert len(sample_rows(ids, 10**6)) == 500


def test_figures_of_a_sample_have_its_size_in_their_name_and_stand_where_those_of_the_kb_do() -> None:
    name = protocol_name("full-kb", False, 20_000)
    assert name == "full-kb (sample of 20,000)" and protocol_of(name) == "full-kb"
    assert protocol_name(name, True) == name and protocol_name("full-kb", True) == "full-kb"
    assert ordered(["rerank", name, "candidates"]) == [name, "candidates", "rerank"]
    assert under({name: 1, "rerank": 2}, "full-kb") == 1


def test_the_option_takes_a_size_or_a_truth_value_and_changes_no_name_of_a_run() -> None:
    for value in (True, False, 20_000):
        assert load_config("bert", {"full_kb": value}).full_kb is value or value == 20_000
    with pytest.raises(Exception, match="full_kb"):
        load_config("bert", {"full_kb": -3})

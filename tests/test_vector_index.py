"""The index of vectors: near what comparing all gives, scored exactly, and not used where it finds too little."""

import dataclasses

import numpy as np
import pytest
from test_candidates import store_of, vector_source

from cache.inputs import Input
from cache.table import Table
from foundation.errors import UserError
from foundation.paths import Paths
from pipeline.candidates import contracts, vector_costs, vector_index
from pipeline.candidates.base import RunVectors, SourceInputs
from pipeline.candidates.contracts import ListOptions, RunSource
from pipeline.candidates.registry import source
from pipeline.candidates.specs import candidate_sources, indexes_vectors, placed, vector_features
from pipeline.extraction.contracts import Extraction

pytest.importorskip("usearch")

N, M = 600, 80


@pytest.fixture
def inputs(tmp_path):
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(20, 16))
    sides = [
        (centres[rng.integers(0, 20, count)] + 0.5 * rng.normal(size=(count, 16))).astype(np.float16)
        for count in (M, N)
    ]
    sides[0][3] = 0
    sides[1][5] = 0
    vectors = RunVectors(sides[0], sides[1], np.arange(M))
    mentions = {"phrase": ["a"] * M, "id": [f"m{row}" for row in range(M)]}
    entities = {"id": [f"Q{row}" for row in rng.permutation(N)], "name": ["a"] * N}
    return SourceInputs(mentions, entities, of_run=lambda _: [vectors], indexes=tmp_path)


def run_source(how: contracts.How) -> RunSource:
    return RunSource(run="runs/demo/dual/0", files=(), how=how)


def test_lists_by_an_index_are_nearly_those_of_comparing_all_and_scored_as_they_are(inputs, tmp_path):
    exact = source(run_source("exact")).lists(inputs, 10)
    by_index = source(run_source("index"))
    lists = by_index.lists(inputs, 10)
    shares = [
        np.isin(one[one >= 0], other).mean() for one, other in zip(exact.ids, lists.ids, strict=True) if one[0] >= 0
    ]
    assert np.mean(shares) >= 0.99
    same = (exact.ids == lists.ids) & (exact.ids >= 0)
    np.testing.assert_allclose(lists.scores[same], exact.scores[same], rtol=1e-6)
    assert (lists.ids[3] == -1).all() and not (lists.ids == 5).any(), "a record without a vector"
    assert (np.diff(lists.scores, axis=1) <= 0).all()
    (note,) = by_index.notes(inputs, 10)[1:]
    assert "of exact's first 10 entities are found by the index (79 mentions measured); it is used" in note
    assert len(list(tmp_path.glob("vector-index-*"))) == 1


def test_an_index_is_built_once_for_the_same_vectors(inputs, tmp_path):
    first = source(run_source("index")).lists(inputs, 10)
    (folder,) = tmp_path.glob("vector-index-*")
    before = (folder / vector_index.FILE).stat().st_mtime_ns
    again = source(run_source("index")).lists(inputs, 10)
    assert (first.ids == again.ids).all() and (folder / vector_index.FILE).stat().st_mtime_ns == before


def test_an_index_that_finds_too_little_is_not_used_and_that_is_said(inputs, monkeypatch):
    monkeypatch.setattr(vector_index, "LEAST_RECALL", 1.01)
    by_index = source(run_source("index"))
    exact = source(run_source("exact")).lists(inputs, 10)
    assert (by_index.lists(inputs, 10).ids == exact.ids).all()
    assert "so all entities are compared" in by_index.notes(inputs, 10)[-1]


def test_the_costs_decide_by_sizes_alone():
    assert not vector_costs.index_pays(20_000, 1_000_000) and vector_costs.index_pays(100_000, 1_000_000)
    assert not vector_costs.index_pays(10**9, 100_000) and vector_costs.index_pays(200_000, 400_000)
    assert vector_costs.search_pays(1_000_000) and not vector_costs.search_pays(100_000)
    assert vector_costs.too_large_to_compare(1_000_000, 68) and not vector_costs.too_large_to_compare(1_000_000, 67)


def index_folders(folder):
    return len(list(folder.glob("vector-index-*")))


def test_lists_of_a_dataset_take_an_index_where_that_costs_less_whether_or_not_one_is_there(
    inputs, tmp_path, monkeypatch
):
    exact = source(run_source("exact")).lists(inputs, 10)
    auto = source(run_source("auto"))
    assert (auto.lists(inputs, 10).ids == exact.ids).all() and index_folders(tmp_path) == 0
    monkeypatch.setattr(vector_index, "search_pays", lambda entities: entities == N)
    source(run_source("index")).lists(inputs, 10)
    monkeypatch.setattr(
        vector_index.VectorIndex, "nearest", lambda *_: pytest.fail("the index that lies there is used")
    )
    beside = source(run_source("auto"))
    assert (beside.lists(inputs, 10).ids == exact.ids).all()
    assert beside.choices()[0].endswith("an index would cost more than it saves for so few mentions")
    monkeypatch.undo()
    monkeypatch.setattr(vector_index, "index_pays", lambda mentions, entities: (mentions, entities) == (M, N))
    paid = source(run_source("auto"))
    by_index = paid.lists(inputs, 10)
    assert (by_index.ids == source(run_source("index")).lists(inputs, 10).ids).all()
    assert "it is used (for so many mentions it costs less than comparing all)" in paid.choices()[0]
    part = dataclasses.replace(inputs, listed=10 * M)
    assert source(run_source("auto")).lists(part, 10).ids.shape == (M, 10), "compared: the whole has another size"


def test_mentions_that_come_one_by_one_use_the_index_that_is_there(inputs, tmp_path):
    asked = dataclasses.replace(inputs, more_come=True)
    assert not source(run_source("auto")).lists(asked, 10).ids[3].max() >= 0 and index_folders(tmp_path) == 0
    expected = source(run_source("index")).lists(inputs, 10)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    linked = source(run_source("auto"))
    assert (linked.lists(asked, 10).ids == expected.ids).all()
    assert "it is used (it was built before)" in linked.choices()[0]
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_mentions_that_come_one_by_one_build_an_index_over_too_many_entities(inputs, tmp_path, monkeypatch):
    monkeypatch.setattr(vector_costs, "HELD", 16 * N - 1)
    linked = source(run_source("auto"))
    linked.lists(dataclasses.replace(inputs, more_come=True), 10)
    assert index_folders(tmp_path) == 1
    assert f"comparing a mention with {N} vectors of 16 numbers takes too long" in linked.choices()[0]


def test_sources_say_whether_an_index_is_used():
    assert vector_features("dense:a,dense-index:a,dense-exact:b") == ["a", "b"]
    assert placed("name,dense-index:runs/x", str.upper) == "name,dense-index:RUNS/X"
    many = (10**9, 10**9)
    assert indexes_vectors("dense-index:a", lambda: (1, 1)) and not indexes_vectors("dense-exact:a", lambda: many)
    assert indexes_vectors("dense:a", lambda: (100_000, 10**6))
    assert not indexes_vectors("name,dense:a", lambda: (20_000, 10**6)) and not indexes_vectors("name", lambda: many)
    parts = {"runs/x": 3}
    assert not indexes_vectors("dense:runs/x", lambda: (100_000, 10**6), parts), "an index for each fold"
    options = ListOptions(sources="dense-index:runs/x,dense:runs/x")
    of_runs = {"runs/x": run_source("auto")}
    found = candidate_sources(options, Extraction(), Paths.below("/nowhere"), of_runs)
    assert [getattr(spec, "how", None) for spec in found] == ["index", "auto"]
    with pytest.raises(UserError, match="dense-exact:"):
        vector_features("dense-index:")


def test_vectors_of_a_feature_are_named_by_their_keys(tmp_path):
    spec = vector_source(tmp_path)
    assert isinstance(spec.entity, Input)
    spec.entity.keys.parent.mkdir(parents=True)
    digests = []
    for content in (b"one", b"two", b"one"):
        spec.entity.keys.write_bytes(content)
        digests.append(source(spec)._digest)
    assert digests[0] != digests[1]


def test_vectors_of_a_feature_are_looked_up_too(tmp_path):
    rng = np.random.default_rng(1)
    tables = {}
    for side, count in (("mention", 70), ("entity", 300)):
        store, keys = store_of(tmp_path / "cache", side, rng.normal(size=(count, 8)).astype(np.float32), broken=[4])
        tables[side] = Table(store, "pooled", keys, np.ones(count, bool))
    spec = vector_source(tmp_path)
    spec.entity.keys.parent.mkdir(parents=True)
    spec.entity.keys.write_bytes(b"keys")
    ids = [f"Q{row}" for row in range(300)]
    inputs = SourceInputs({"phrase": ["a"] * 70}, {"id": ids}, lambda read, _: tables[read.side], indexes=tmp_path)
    lists = {how: source(dataclasses.replace(spec, how=how)).lists(inputs, 5) for how in ("exact", "index")}
    assert (lists["exact"].ids == lists["index"].ids).mean() > 0.99
    assert (lists["index"].ids[4] == -1).all()

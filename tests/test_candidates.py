"""Candidate lists: exactly what scoring every pair would give, whatever the sources and sizes."""

import dataclasses
import json
import random
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rapidfuzz import fuzz

from cache.identity import Output
from cache.inputs import Input, Side
from cache.keys import KeyColumn
from cache.shard import Status
from cache.store import Store
from cache.table import Table
from foundation.contracts import from_json, to_json
from foundation.errors import UserError
from foundation.paths import Paths
from foundation.spelling import clean, clean_accented
from pipeline.candidates import name_ranking, nearest
from pipeline.candidates.base import UNKNOWN, RunVectors, SourceInputs, open_table
from pipeline.candidates.contracts import (
    CandidateJob,
    CandidateLists,
    GivenSource,
    ListOptions,
    NameSource,
    RunSource,
    SourceSpec,
    TypedNameSource,
    VectorSource,
)
from pipeline.candidates.given import first_of_each
from pipeline.candidates.lists import RankedLists
from pipeline.candidates.merging import merge
from pipeline.candidates.name_ranking import SCORERS, NameRanking
from pipeline.candidates.nearest import nearest_vectors
from pipeline.candidates.recall import recall, recall_table
from pipeline.candidates.registry import SOURCES, source
from pipeline.candidates.specs import candidate_sources, vector_features
from pipeline.candidates.stage import build_candidates
from pipeline.datasets.layouts import load
from pipeline.demo.world import make_world
from pipeline.extraction.contracts import Extraction, FeatureRows

WIKIMEL = Path(__file__).parents[2] / "shared" / "data" / "wikimel"


def every_pair(
    phrases: Sequence[str], names: Sequence[str], ids: Sequence[str], k: int, scorer: str
) -> list[list[int]]:
    """The definition, one pair at a time."""
    lists = []
    for phrase in phrases:
        scored: list[tuple[Any, ...]] = []
        for row, name in enumerate(names):
            keys = [
                -np.float32(measure(spelled(phrase), spelled(name)))
                for measure in (getattr(fuzz, scorer), fuzz.ratio)
                for spelled in (clean, clean_accented)
            ]
            if keys[0] < 0:
                scored.append((*keys, ids[row], row))
        lists.append([entry[-1] for entry in sorted(scored)[:k]])
    return lists


def rows(lists: RankedLists) -> list[list[int]]:
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
    monkeypatch.setattr(name_ranking, "BLOCK_BYTES", 30_000)  # several blocks, several pieces
    monkeypatch.setattr(name_ranking, "PAIRS", 700)
    phrases, names, ids = small
    lists = NameRanking(names, ids, scorer, workers=2).lists(phrases, k)
    assert lists.ids.shape == lists.scores.shape == (len(phrases), k)
    assert rows(lists) == every_pair(phrases, names, ids, k, scorer)
    assert ((lists.scores > 0) == (lists.ids >= 0)).all() and (np.diff(lists.scores, axis=1) <= 0).all()


def test_equal_scores_are_ordered_by_ratio_then_id():
    lists = NameRanking(["John Adams", "John", "john!", "John Ad"], ["Q3", "Q20", "Q1", "Q4"]).lists(["John"], 4)
    assert rows(lists) == [[2, 1, 3, 0]]  # Q1 before Q20 with the same name, then the longer ones


def test_nothing_in_common_gives_an_empty_list_and_empty_inputs_work():
    assert rows(NameRanking(["abc", "!!"], ["Q1", "Q2"]).lists(["xyz", "…", ""], 5)) == [[], [], []]
    assert NameRanking(["abc"], ["Q1"]).lists([], 5).ids.shape == (0, 5)
    assert rows(NameRanking([], []).lists(["abc"], 5)) == [[]]


def test_unknown_scorer_names_the_known_ones():
    with pytest.raises(
        UserError, match=r"token_set.*did you mean .token_set_ratio.\? Known: WRatio, partial_ratio, ratio"
    ):
        NameRanking(["a"], ["Q1"], "token_set").lists(["a"], 1)


def test_lists_of_the_demo_are_those_of_scoring_every_pair():
    world = make_world(0, 400, 2500)
    phrases, names, ids = (
        [m.phrase for m in world.mentions[::10]],
        [e.name for e in world.entities],
        [e.id for e in world.entities],
    )
    assert len(set(phrases)) > 50
    assert rows(NameRanking(names, ids).lists(phrases, 100)) == every_pair(phrases, names, ids, 100, "token_set_ratio")


def test_wikimel_lists_are_those_of_scoring_every_pair():
    if not WIKIMEL.is_dir():
        pytest.skip("the real data under ../shared is not there")
    dataset = load("wikimel", WIKIMEL)
    rng = random.Random(0)
    phrases = [m.phrase for m in rng.sample(dataset.mentions, 20)]
    names, ids = [e.name for e in dataset.entities], [e.id for e in dataset.entities]
    assert rows(NameRanking(names, ids).lists(phrases, 100)) == every_pair(phrases, names, ids, 100, "token_set_ratio")


@pytest.mark.parametrize("scorer", SCORERS)
def test_the_best_of_an_entitys_names_counts(small, scorer, monkeypatch):
    monkeypatch.setattr(name_ranking, "BLOCK_BYTES", 30_000)
    monkeypatch.setattr(name_ranking, "PAIRS", 700)
    phrases, names, _ = small
    names = [name for name in names if clean(name)]  # an alias of which nothing is left is none
    rng = random.Random(9)
    own = [sorted(rng.sample(range(len(names)), rng.choice((1, 1, 2, 4)))) for _ in range(80)]
    entities = [f"Q{number}" for number in rng.sample(range(500), 80)]
    ranking = NameRanking(
        [names[rows[0]] for rows in own],
        entities,
        scorer,
        workers=1,
        aliases=[[names[row] for row in rows[1:]] for rows in own],
    )
    flat = [row for rows in own for row in rows]
    owner = [place for place, rows in enumerate(own) for _ in rows]
    of_names = every_pair(phrases, [names[row] for row in flat], [entities[place] for place in owner], 500, scorer)
    expected = [list(dict.fromkeys(owner[at] for at in listed)) for listed in of_names]
    lists = ranking.lists(phrases, 9)
    assert rows(lists) == [listed[:9] for listed in expected]
    at = [row for row, listed in enumerate(expected) if listed]
    gold = np.array([expected[row][-1] for row in at])
    assert ranking.ranks([phrases[row] for row in at], gold).tolist() == [len(expected[row]) for row in at]


ACCENTED = [
    "Lech Wałęsa",
    "José García",
    "Søren Kierkegård",
    "Vũ Đức Đam",
    "Þórbergur Æsir",
    "Ağ Iğdır",
    "Владимир Йёлкин",
]


@pytest.mark.parametrize("form", ["NFC", "NFD", "NFKD"])
def test_names_are_found_without_accents_and_in_any_normal_form(form):
    typed = ["walesa", "GARCIA", "Soren", "Vu Duc Dam", "thorbergur aesir", "IGDIR", "ВЛАДИМИР ИЕЛКИН"]
    names = [unicodedata.normalize(form, name) for name in ACCENTED]
    lists = NameRanking(names, [f"Q{row}" for row in range(len(names))]).lists(typed + ACCENTED, 1)
    assert [listed[0] for listed in rows(lists)] == [*range(len(names))] * 2
    assert (lists.scores == 100).all()


def test_of_names_that_differ_in_accents_alone_the_one_as_written_comes_first():
    ranking = NameRanking(["Thomas Muller", "Thomas Müller"], ["Q1", "Q2"])
    lists = ranking.lists(["Müller", "Muller", unicodedata.normalize("NFD", "MÜLLER")], 2)
    assert rows(lists) == [[1, 0], [0, 1], [1, 0]]
    assert ranking.ranks(["Müller", "Muller"], np.array([0, 0])).tolist() == [2, 1]


VOWEL_SIGNS = {
    "hindi": "दिल्ली दीला दोला दिला मुंबई मंबा कोलकाता कालका कोलका पुणे पाणी पण",
    "bengali": "ঢাকা ঢেকি ঢাকি কলকাতা কালকেতু কলাকতি",
    "tamil": "சென்னை சேனை சின்னா மதுரை மதரா மாதுரி",
    "thai": "กรุงเทพ กรงเทพ กรีงเทพ ภูเก็ต ภเกต สมชาย สมชัย สุมชาย",
    "khmer": "ភ្នំពេញ ភនពេញ ភូនពេញ",
    "burmese": "ရန်ကုန် ရနကန ရိန်ကုန်",
    "kana": "ハハ ババ パパ はは ばば",
    "korean": "한국 하구 한구",
}


@pytest.mark.parametrize("script", VOWEL_SIGNS)
@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_names_that_differ_in_vowel_signs_alone_are_told_apart(script, form):
    names = VOWEL_SIGNS[script].split()
    lists = NameRanking(names, [f"Q{row}" for row in range(len(names))]).lists(
        [unicodedata.normalize(form, name) for name in names], 2
    )
    assert lists.ids[:, 0].tolist() == [*range(len(names))]
    assert (lists.scores[:, 0] == 100).all() and (lists.scores[:, 1] < 100).all()


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
    monkeypatch.setattr(nearest, "ENTITY_BLOCK", 64)
    monkeypatch.setattr(nearest, "BLOCK_BYTES", 64 * 4 * 7)
    ids = [f"Q{number}" for number in random.Random(0).sample(range(1_000), 333)]
    tables = []
    for name, side, broken in (("mention", vectors[0], [3]), ("entity", vectors[1], [5, 332])):
        store, keys = store_of(tmp_path, name, side, broken)
        present = np.ones(len(keys), bool)
        present[8] = False
        tables.append(Table(store, "pooled", keys, present))
    lists = nearest_vectors(*tables, ids, 10)
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
    lists = nearest_vectors(table, table, ["a", "b", "c", "d"], 6)
    assert (lists.ids[:, 4:] == -1).all() and all(sorted(listed) == [0, 1, 2, 3] for listed in rows(lists))


def vector_source(folder: Path = Path()) -> VectorSource:
    """Of a feature whose stores and key columns lie in a folder of each side."""

    def side(name: Side) -> Input:
        place = folder / name
        return Input(side=name, feature="clip_text", view="text", store=place / "store", keys=place / "keys.npz")

    return VectorSource(mention=side("mention"), entity=side("entity"))


def test_vectors_of_different_widths_are_refused(tmp_path, vectors):
    tables = {}
    for side, width in (("mention", 4), ("entity", 6)):
        store, keys = store_of(tmp_path, side, vectors[0][:, :width])
        tables[side] = Table(store, "pooled", keys, np.ones(len(keys), bool))
    inputs = SourceInputs({}, {"id": ["Q"] * 50}, lambda read, output: tables[read.side])
    with pytest.raises(UserError, match=r"pooled \(4,\) and pooled \(6,\)"):
        source(vector_source()).lists(inputs, 5)


def test_a_view_with_several_rows_per_mention_is_refused(tmp_path):
    read = vector_source(tmp_path).mention
    read.keys.parent.mkdir()
    KeyColumn(np.zeros((3, 16), np.uint8), np.ones(3, bool), np.full((3, 2), -1), np.array([1, 2])).save(read.keys)
    with pytest.raises(UserError, match="clip_text under view 'text': a mention may have several rows"):
        open_table(read, "pooled")


def test_merging_takes_turns_by_rank_and_skips_repetitions():
    first = RankedLists(np.array([[4, 2, 9], [-1, -1, -1]], np.int32), np.ones((2, 3), np.float32))
    second = RankedLists(np.array([[2, 7, 4], [5, 6, -1]], np.int32), np.ones((2, 3), np.float32))
    merged = merge([first, second], 3)
    assert merged.ids.tolist() == [[4, 2, 7], [5, 6, -1]]
    assert np.allclose(merged.scores, [[1, 1 / 2, 1 / 3], [1, 1 / 2, 0]])
    assert merge([first], 3) is first


def test_appending_takes_the_first_source_whole_and_fills_from_the_next():
    first = RankedLists(np.array([[4, -1, -1, -1], [-1] * 4, [3, 1, 2, 0]], np.int32), np.ones((3, 4), np.float32))
    second = RankedLists(np.array([[2, 4, 7, 1], [5, 6, -1, -1], [9, 8, 7, 6]], np.int32), np.ones((3, 4), np.float32))
    merged = merge([first, second], 4, "append")
    assert rows(merged) == [[4, 2, 7, 1], [5, 6], [3, 1, 2, 0]]
    assert np.allclose(merged.scores[1], [1, 1 / 2, 0, 0])


def test_candidates_that_came_with_the_data_keep_their_order_up_to_k():
    lists = first_of_each([[5, 3, 9], [], None, [2]], 2)
    assert lists.ids.tolist() == [[5, 3], [-1, -1], [-1, -1], [2, -1]]
    assert lists.scores.tolist() == [[1, 0.5], [0, 0], [0, 0], [1, 0]]


def test_names_of_a_type_are_those_of_scoring_every_pair_of_that_type(small):
    phrases, names, ids = small
    rng = random.Random(1)
    types = [rng.choice(["Person", " work ", "Place", "Nothing", None, ""]) for _ in phrases]
    entity_types = [rng.choice(["person", "Work|Place", "Place", None]) for _ in names]
    entities = {"name": names, "type": entity_types, "id": ids}
    inputs = SourceInputs({"phrase": phrases, "type": types}, entities, workers=2)
    lists = source(TypedNameSource()).lists(inputs, 7)
    of = {"Person": ("person",), " work ": ("Work|Place",), "Place": ("Work|Place", "Place"), "Nothing": ()}
    for phrase, kind, listed in zip(phrases, types, rows(lists), strict=True):
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
    inputs = SourceInputs({"type": types}, {"type": entity_types})
    with pytest.raises(UserError, match=f"no {side} has a type"):
        source(TypedNameSource()).check(inputs)


def test_recall_counts_only_golds_of_the_kb():
    lists = RankedLists(np.array([[0, 1], [1, 0], [2, 3], [0, 1], [0, -1]], np.int32), np.ones((5, 2), np.float32))
    found = recall(lists, np.array([0, 0, 9, -1, -2]), np.array(["train", "train", "train", "train", "test"]))
    assert found == {
        "train": {"n": 3, "1": round(1 / 3, 6), "2": round(2 / 3, 6)},
        "test": {"n": 0, "1": 0.0, "2": 0.0},
    }


def test_build_fills_given_candidates_with_names_of_the_type(tmp_path):
    mentions = {
        "id": ["m1", "m2", "m3"],
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
    job = CandidateJob(
        dataset=tmp_path,
        out=tmp_path / "lists.npz",
        sources=(GivenSource(order="trusted"), TypedNameSource()),
        k=3,
        merge="append",
    )

    def built(**changes):
        build_candidates(dataclasses.replace(job, **changes))
        with np.load(tmp_path / "lists.npz") as lists:
            return lists["ids"].tolist()

    with pytest.raises(UserError, match="no candidates came with this dataset"):
        build_candidates(job)
    pq.write_table(pa.table({"given": pa.array([[3, 2], None, [0]], pa.list_(pa.int32()))}), tmp_path / "given.parquet")
    report = build_candidates(job)
    assert built() == [[3, 2, 0], [1, -1, -1], [0, 1, -1]]
    recalled = {label: splits["test"]["3"] for label, splits in report.recall.items()}
    assert recalled == {"given": 0.666667, "name-of-type:token_set_ratio": 0.666667, "merged": 1.0}
    assert report.merge == "append" and list(report.recall) == list(recalled)
    assert built(merge="round-robin") == [[3, 0, 2], [1, -1, -1], [0, 1, -1]]
    assert built(k=1) == [[3], [1], [0]]
    with pytest.raises(UserError, match=r"--merge 'appended'.*did you mean 'append'"):
        built(merge="appended")


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


def test_lists_recall_and_rates_of_every_source_are_written(prepared):
    side = np.random.default_rng(0).normal(size=(3, 8)).astype(np.float32)
    store, keys = store_of(prepared / "cache", "clip_text", side)
    folders = {name: prepared / name for name in ("mention", "entity")}
    for folder, rows, present in ((folders["mention"], [0, 1, 2, 0], [1, 1, 1, 0]), (folders["entity"], [0, 1, 2], 1)):
        folder.mkdir()
        (folder / "store").symlink_to(store.folder)
        column = np.broadcast_to(np.array(present, bool), len(rows)), np.full((len(rows), 2), -1, np.int32)
        KeyColumn(keys[rows], *column).save(folder / "keys.npz")
    sources = NameSource(), vector_source(prepared)
    report = build_candidates(CandidateJob(dataset=prepared, out=prepared / "lists.npz", k=2, sources=sources))
    with np.load(prepared / "lists.npz", allow_pickle=False) as lists:
        assert (lists["ids"].dtype, lists["scores"].dtype, lists["ids"].shape) == (np.int32, np.float32, (4, 2))
        assert lists["ids"].tolist() == [[0, 1], [0, 1], [2, 1], [-1, -1]]
    assert list(report.recall) == ["name:token_set_ratio", "dense:clip_text", "merged"]
    assert report.recall["dense:clip_text"]["test"] == {"n": 2, "1": 1.0, "2": 1.0}
    assert report.recall["name:token_set_ratio"]["test"] == {"n": 2, "1": 0.5, "2": 1.0}
    beside = json.loads((prepared / "lists.json").read_text())
    assert {**beside, "file": str(prepared / "lists.npz"), "digest": report.digest} == to_json(report)
    assert set(report.seconds) == set(report.mentions_per_second) == {"name:token_set_ratio", "dense:clip_text"}
    table = recall_table(report)
    assert all(name in table for name in report.recall)
    without_gold = [line.split()[-3:] for line in table.splitlines() if re.search(r" dev +0 ", line)]
    assert without_gold == [["0", "-", "-"]] * 3
    assert report.per_mention == {"train": 2.0, "dev": 0.0, "test": 2.0, "all": 1.5}
    assert table.splitlines()[-2:] == [
        "candidates per mention  train  dev  test  all",
        "mean                      2.0  0.0   2.0  1.5",
    ]


def test_lists_are_the_same_twice_and_what_cannot_be_built_is_refused(prepared):
    job = CandidateJob(dataset=prepared, out=prepared / "lists.npz")
    report = build_candidates(job)
    first = (prepared / "lists.npz").read_bytes()
    assert report.k == 100 and build_candidates(job).digest == report.digest
    assert (prepared / "lists.npz").read_bytes() == first
    assert build_candidates(dataclasses.replace(job, digest="named")).digest == "named"
    with pytest.raises(UserError, match="at least 1"):
        build_candidates(dataclasses.replace(job, k=0))
    with pytest.raises(UserError, match=r"entities\.parquet: no such table; .*PrepareDataset"):
        (prepared / "entities.parquet").unlink()
        build_candidates(job)


def test_lists_in_a_receipt_are_read_as_they_were_written(prepared):
    report = build_candidates(CandidateJob(dataset=prepared, out=prepared / "lists.npz"))
    written = json.dumps(to_json(report))
    assert json.dumps(to_json(from_json(CandidateLists, json.loads(written)))) == written
    assert list(json.loads(written)) == [
        *("file", "digest", "k", "merge", "mentions", "entities", "recall", "seconds", "mentions_per_second"),
        "per_mention",
        *("notes", "gold_forced_in"),
    ]
    before = {name: value for name, value in json.loads(written).items() if name != "per_mention"}
    old = from_json(CandidateLists, before)
    assert old.per_mention == {} and "per mention" not in recall_table(old)


CLIP_TEXT = {"clip_text": FeatureRows(identity="0" * 64, store="clip_text-0", rows=1, extracted=0, verdicts={"ok": 1})}


def test_sources_of_the_command_line_are_specifications(tmp_path):
    both = Extraction(
        features=CLIP_TEXT,
        columns={"mention.clip_text.sentence": "a/m.npz", "entity.clip_text.name": "a/e.npz", "entity.other.name": "x"},
    )
    options = ListOptions(sources="name, name-of-type,given,dense:clip_text", scorer="WRatio", given_order="trusted")
    name, typed, given, dense = candidate_sources(options, both, Paths(tmp_path))
    assert (name, typed, given) == (
        NameSource(scorer="WRatio"),
        TypedNameSource(scorer="WRatio"),
        GivenSource(order="trusted"),
    )
    assert (dense.mention.keys, dense.entity.keys) == (tmp_path / "a/m.npz", tmp_path / "a/e.npz")
    assert dense.mention.view == "sentence" and dense.entity.store == tmp_path / "cache" / "clip_text-0"
    assert vector_features("name, dense:a,dense:b") == ["a", "b"]


@pytest.mark.parametrize("sources", ["names", "dense:", "dense", "given:x", "name,fuzzy"])
def test_a_source_that_does_not_exist_is_refused_in_one_line(tmp_path, sources):
    wrong = sources.rpartition(",")[2]
    with pytest.raises(
        UserError, match=f"--sources '{wrong}': expected `name`, `name-exact`, `name-index`, `name-of-type`, `given` or"
    ):
        candidate_sources(ListOptions(sources=sources), Extraction(), Paths(tmp_path))


def test_a_feature_of_one_side_is_no_source(tmp_path):
    one = Extraction(features=CLIP_TEXT, columns={"mention.clip_text.sentence": "a/m.npz"})
    with pytest.raises(UserError, match="extracts 'clip_text' for one side only"):
        candidate_sources(ListOptions(sources="dense:clip_text"), one, Paths(tmp_path))


# What every source keeps


@pytest.fixture
def everything(small, tmp_path):
    """Inputs that any source can read: names and types that collide, ties between vectors, lists of all lengths."""
    rng = random.Random(4)
    phrases, names, ids = small
    phrases, names, ids = phrases[:40], names[:90], ids[:90]
    given = [None if row == 3 else rng.sample(range(90), rng.randint(0, 12)) for row in range(40)]
    types = [rng.choice(["a", "b", None]) for _ in phrases]
    entity_types = [rng.choice(["a", "a|b", "b", None]) for _ in names]
    numbers = np.random.default_rng(0)
    tables, of_run = {}, {}
    for side, count in (("mention", 40), ("entity", 90)):
        vectors = numbers.integers(-1, 2, (count, 3)).astype(np.float32)
        of_run[side] = vectors.astype(np.float16)
        store, keys = store_of(tmp_path, side, vectors, broken=[2])
        tables[side] = lambda rows, store=store, keys=keys: Table(store, "pooled", keys[rows], np.ones(len(rows), bool))

    parts = np.arange(40)[1::2], np.arange(40)[::2]

    def inputs(order: list[int]) -> SourceInputs:
        """With the entities in another order."""
        place = {entity: row for row, entity in enumerate(order)}
        entities = {"name": names, "id": ids, "type": entity_types}
        return SourceInputs(
            {
                "id": [f"m{row}" for row in range(40)],
                "gold": [place[0]] * 40,
                "split": ["test"] * 40,
                "phrase": phrases,
                "type": types,
                "given": [listed and [place[entity] for entity in listed] for listed in given],
            },
            {name: [column[row] for row in order] for name, column in entities.items()},
            lambda read, output: tables[read.side](np.array(order) if read.side == "entity" else np.arange(40)),
            lambda spec: [RunVectors(of_run["mention"][rows], of_run["entity"][order], rows) for rows in parts],
            workers=1,
        )

    return inputs


SPECS: dict[type, SourceSpec] = {
    NameSource: NameSource(),
    TypedNameSource: TypedNameSource(scorer="ratio"),
    GivenSource: GivenSource(),
    VectorSource: vector_source(),
    RunSource: RunSource(run="runs/d/dual/x", files=()),
}


@pytest.mark.parametrize("kind", SOURCES, ids=lambda kind: kind.__name__)
def test_every_source_keeps_the_contract(everything, kind):
    spec = SPECS[kind]
    job = CandidateJob(dataset=Path("d"), out=Path("o"), sources=(spec,))
    assert from_json(CandidateJob, json.loads(json.dumps(to_json(job)))) == job
    each, inputs = source(spec), everything(list(range(90)))
    each.check(inputs)
    assert each.label.partition(":")[0] == spec.kind
    whole = each.lists(inputs, 90)
    assert (whole.ids.dtype, whole.scores.dtype) == (np.int32, np.float32)
    assert whole.ids.shape == whole.scores.shape == (40, 90) and whole.ids.max() < 90
    ended = whole.ids < 0
    assert (whole.ids[ended] == -1).all() and (whole.scores[ended] == 0).all() and (whole.scores[~ended] > 0).all()
    assert (np.diff(ended.astype(int), axis=1) >= 0).all(), "nothing comes after the end of a list"
    assert (np.diff(whole.scores, axis=1) <= 0).all(), "best first"
    assert all(len(set(listed)) == len(listed) for listed in rows(whole)) and any(rows(whole))
    for k in (1, 5):
        short = each.lists(inputs, k)
        np.testing.assert_array_equal(short.ids, whole.ids[:, :k])
        np.testing.assert_array_equal(short.scores, whole.scores[:, :k])


@pytest.mark.parametrize("kind", SOURCES, ids=lambda kind: kind.__name__)
def test_the_order_of_every_source_depends_on_ids_alone_not_on_rows(everything, kind):
    order = random.Random(8).sample(range(90), 90)
    straight = source(SPECS[kind]).lists(everything(list(range(90))), 7)
    mixed = source(SPECS[kind]).lists(everything(order), 7)
    assert rows(straight) == [[order[entity] for entity in listed] for listed in rows(mixed)]
    np.testing.assert_allclose(straight.scores, mixed.scores, rtol=1e-6)


@pytest.mark.parametrize("kind", SOURCES, ids=lambda kind: kind.__name__)
def test_lists_of_every_source_are_the_beginning_of_the_order_that_ranks_speak_of(everything, kind):
    each, inputs = source(SPECS[kind]), everything(list(range(90)))
    whole, numbers = each.lists(inputs, 90), np.random.default_rng(2)
    mentions = numbers.permutation(40)[:30]
    gold = np.where(
        numbers.random(30) < 0.7,
        [numbers.choice(listed) if listed else 0 for listed in map(rows(whole).__getitem__, mentions)],
        numbers.integers(0, 90, 30),
    )
    ranks, places = each.ranks(inputs, mentions, gold), whole.rows(mentions).places(gold)
    assert ranks.dtype == np.int64 and ranks.shape == (30,) and (places > 0).sum() > 10
    if kind is GivenSource:
        assert (ranks == UNKNOWN).all(), "an order that is a hash ranks nothing"
        each = source(GivenSource(order="trusted"))
        whole = each.lists(inputs, 90)
        ranks, places = each.ranks(inputs, mentions, gold), whole.rows(mentions).places(gold)
    np.testing.assert_array_equal(ranks[places > 0], places[places > 0])
    unlisted = places == 0
    assert ((ranks == UNKNOWN) | (ranks > whole.rows(mentions).lengths))[unlisted].all()
    assert each.ranks(inputs, mentions[:0], gold[:0]).shape == (0,)

"""Lists that came with the data: neither their order nor a gold that was put into them tells the answer."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import small_world
import torch

import mel_cache
from foundation.checksums import read_sealed, write_sealed
from foundation.errors import UserError
from foundation.paths import Paths
from heads.base import Rows, make_head
from heads.config import load_config
from heads.metrics import rank_in_lists, rerank
from linking.finished import _list_options
from mel_cache.steps import digest
from pipeline.candidates.base import SourceInputs
from pipeline.candidates.contracts import CandidateJob, GivenSource, ListOptions, NameSource
from pipeline.candidates.given import gold_forced_in
from pipeline.candidates.lists import hash_order
from pipeline.candidates.registry import source
from pipeline.candidates.specs import candidate_sources
from pipeline.candidates.stage import build_candidates
from pipeline.datasets.given import Most, by_split, gold_places
from pipeline.extraction.contracts import Extraction
from pipeline.pairs.contracts import PairJob
from pipeline.pairs.stage import build_pairs

ENTITIES = 12
MENTIONS = 40


def lists_with_gold_at(place: int) -> list[list[int]]:
    """Five candidates of each mention, the same whatever the place (from 0) of the gold among them."""
    numbers, lists = np.random.default_rng(0), []
    for row in range(MENTIONS):
        others = numbers.permutation([entity for entity in range(ENTITIES) if entity != row % ENTITIES])[:4].tolist()
        others.insert(place, row % ENTITIES)
        lists.append(others)
    return lists


def prepared(folder: Path, given: list[list[int] | None], gold: list[int] | None = None) -> Path:
    folder.mkdir()
    mentions = {
        "id": [f"m{row}" for row in range(len(given))],
        "phrase": [f"Name {row % 3}" for row in range(len(given))],
        "gold": gold or [row % ENTITIES for row in range(len(given))],
        "split": [("train", "dev", "test")[row % 3] for row in range(len(given))],
    }
    entities = {name: [f"{name} {row}" for row in range(ENTITIES)] for name in ("id", "name")}
    for name in ("attributes", "description", "type"):
        entities[name] = [""] * ENTITIES
    pq.write_table(pa.table(mentions), folder / "mentions.parquet")
    pq.write_table(pa.table(entities), folder / "entities.parquet")
    pq.write_table(pa.table({"given": pa.array(given, pa.list_(pa.int32()))}), folder / "given.parquet")
    return folder


def job(folder: Path, *sources, **changes) -> CandidateJob:
    return CandidateJob(dataset=folder, out=folder / "lists.npz", sources=sources or (GivenSource(),), **changes)


def arrays(folder: Path) -> dict[str, np.ndarray]:
    with np.load(folder / "lists.npz", allow_pickle=False) as saved:
        return dict(saved)


@pytest.mark.parametrize(
    "sources", [(GivenSource(),), (GivenSource(), NameSource()), (NameSource(), GivenSource())], ids=len
)
@pytest.mark.parametrize("merge", ["append", "round-robin"])
@pytest.mark.parametrize("k", [3, 8])
def test_lists_do_not_depend_on_the_place_of_the_gold(tmp_path, sources, merge, k):
    built = []
    for place in (0, 4, 2):
        folder = prepared(tmp_path / f"at{place}", lists_with_gold_at(place))
        build_candidates(job(folder, *sources, merge=merge, k=k))
        built.append((folder / "lists.npz").read_bytes())
    assert built[0] == built[1] == built[2]


def test_a_hashed_order_depends_on_the_mention_and_spreads_the_gold(tmp_path):
    folder = prepared(tmp_path / "a", [list(range(ENTITIES))] * 600, [0] * 600)
    build_candidates(job(folder, k=ENTITIES))
    saved = arrays(folder)
    counts = np.bincount(np.argmax(saved["ids"] == 0, axis=1), minlength=ENTITIES)
    assert counts.min() > 25 and counts.max() < 80, "600 golds over 12 places: 50 each"
    assert set(saved["scores"].ravel().tolist()) == {1.0} and not saved["retrieved"]


@pytest.mark.parametrize("sources", [(GivenSource(),), (GivenSource(), NameSource())], ids=len)
def test_no_retrieval_feature_is_made_of_a_hashed_order(tmp_path, sources):
    folder = prepared(tmp_path / "a", lists_with_gold_at(0))

    def retrieval(*sources):
        build_candidates(job(folder, *sources, k=8))
        pair = PairJob(
            name="retrieval", dataset=folder, candidates=folder / "lists.npz", out=folder / "p.npz", digest="d"
        )
        made = build_pairs(pair)
        with np.load(folder / "p.npz") as saved:
            return made, saved["values"]

    made, values = retrieval(*sources)
    assert made.present == 0 and np.isnan(values).all()
    trusted = GivenSource(order="trusted", accept_gold_place=True)
    made, values = retrieval(trusted)
    assert made.present == 1 and values[0, 0].tolist() == [1, 1]
    assert retrieval(NameSource())[0].present == 1


def test_lists_of_before_are_a_retrievers(tmp_path):
    folder = prepared(tmp_path / "a", lists_with_gold_at(1))
    np.savez(folder / "lists.npz", ids=np.full((MENTIONS, 1), 3, np.int32), scores=np.ones((MENTIONS, 1), np.float32))
    pair = PairJob(name="retrieval", dataset=folder, candidates=folder / "lists.npz", out=folder / "p.npz", digest="d")
    assert build_pairs(pair).present == 1


def test_a_trusted_order_keeps_its_lists_and_the_golds_place_beyond_them(tmp_path):
    given = lists_with_gold_at(4)
    for row in range(0, MENTIONS, 3):
        given[row] = given[row][::-1]
    folder = prepared(tmp_path / "a", given)
    build_candidates(job(folder, GivenSource(order="trusted", accept_gold_place=True), k=2))
    saved = arrays(folder)
    assert saved["ids"].tolist() == [listed[:2] for listed in given] and saved["retrieved"]
    assert saved["gold_rank"].tolist() == [1 if row % 3 == 0 else 5 for row in range(MENTIONS)]
    build_candidates(job(folder, k=2))
    ranks = arrays(folder)["gold_rank"]
    assert set(ranks.tolist()) == {1, 2, -1}, "a hash ranks nothing beyond the list"


def with_shares(*counts: int, gold_absent: int = 0) -> tuple[list[list[int]], list[int]]:
    """`counts` lists of four whose gold is at place 1, 2, …, and some without it."""
    given = []
    for place, count in enumerate(counts):
        one = [1, 2, 3]
        one.insert(place, 0)
        given += [one] * count
    given += [[1, 2, 3, 4]] * gold_absent
    return given, [0] * len(given)


@pytest.mark.parametrize(
    ("counts", "absent", "outcome"),
    [
        ((95, 5), 0, "taken"),  # 95 % exactly
        ((96, 4), 0, "noted"),
        ((99, 1), 0, "noted"),  # 99 % exactly
        ((100,), 0, "refused"),
        ((100,), 300, "refused"),  # of the lists that hold their gold
        ((5, 95), 0, "taken"),
        ((4, 96), 0, "refused"),
        ((2, 2, 96), 0, "refused"),
        ((2, 2, 0, 96), 0, "refused"),  # the last
    ],
)
def test_a_trusted_order_that_gives_the_gold_away_is_noted_or_refused(tmp_path, counts, absent, outcome):
    given, gold = with_shares(*counts, gold_absent=absent)
    folder = prepared(tmp_path / "a", given, gold)
    table = pq.read_table(folder / "mentions.parquet")
    split = pa.array(["test"] * len(given))
    pq.write_table(table.set_column(table.schema.get_field_index("split"), "split", split), folder / "mentions.parquet")
    trusted = GivenSource(order="trusted")
    if outcome == "refused":
        with pytest.raises(UserError, match=r"--given-order trusted: the gold is at .* in (96|100)\.0% of the 100"):
            build_candidates(job(folder, trusted))
        built = build_candidates(job(folder, dataclasses.replace(trusted, accept_gold_place=True)))
    else:
        built = build_candidates(job(folder, trusted))
    assert any("trust their order only if" in note for note in built.notes) == (outcome != "taken" and counts[0] > 95)
    assert build_candidates(job(folder)).notes == (), "a hashed order needs no such note"


def test_one_split_is_enough_to_refuse_and_single_candidates_have_no_place(tmp_path):
    given, gold = with_shares(30)
    others = [[1, 0, 2], [1, 2, 0], [0, 2, 1]] * 200
    folder = prepared(tmp_path / "a", given + others, gold + [0] * 600)
    table = pq.read_table(folder / "mentions.parquet")
    split = pa.array(["train"] * 30 + ["test"] * 600)
    pq.write_table(table.set_column(table.schema.get_field_index("split"), "split", split), folder / "mentions.parquet")
    with pytest.raises(UserError, match=r"place 1 in 100.0% of the 30 given lists of train"):
        build_candidates(job(folder, GivenSource(order="trusted")))
    single = prepared(tmp_path / "b", [[0]] * 60, [0] * 60)
    assert build_candidates(job(single, GivenSource(order="trusted"))).notes == ()


def test_hashed_lists_that_are_cut_are_noted(tmp_path):
    folder = prepared(tmp_path / "a", lists_with_gold_at(0))
    (note,) = build_candidates(job(folder, k=3)).notes
    assert note == "40 given lists are longer than --candidates 3: a hash says which entities stay"
    assert build_candidates(job(folder, k=5)).notes == ()


def test_recall_of_a_hashed_order_is_that_of_whole_lists(tmp_path):
    folder = prepared(tmp_path / "a", lists_with_gold_at(0))
    built = build_candidates(job(folder, GivenSource(), NameSource(), k=12))
    assert set(built.recall["given"]["test"]) == set(built.recall["merged"]["test"]) == {"n", "12"}
    assert set(built.recall["name:token_set_ratio"]["test"]) == {"n", "1", "5", "10", "12"}
    assert built.recall["given"]["test"] == {"n": 13, "12": 1.0}


def test_splits_whose_lists_always_hold_the_gold_are_named(tmp_path):
    given = lists_with_gold_at(2)
    given[4] = None  # of dev: no list, so nothing was put into it
    given[2] = [entity for entity in given[2] if entity != 2]  # of test
    folder = prepared(tmp_path / "a", given)
    assert gold_forced_in(SourceInputs.of_dataset(folder)) == ("train", "dev")
    built = build_candidates(job(folder, GivenSource(), NameSource()))
    assert built.gold_forced_in == ("train", "dev") and arrays(folder)["forced"].tolist() == ["train", "dev"]
    assert build_candidates(job(folder, NameSource())).gold_forced_in == (), "no given list is read"


def test_places_of_golds_are_those_counted_by_hand():
    given = [[5, 6, 7], [6, 5], [7, 6, 5], [5], None, [6, 7], [], [1, 2, 3, 4, 5], [5, 6]]
    gold = [5, 5, 5, 5, 5, 5, 5, 5, -1]
    places = gold_places(given, gold)
    assert places.golds == 7 and len(places.places) == 5 and not places.always
    assert [places.at(place) for place in (1, 2, 3)] == [2, 1, 1]
    assert places.last == 3, "of two, of three and of five; one alone is no last"
    assert places.most() == Most(first=1 / 4, place="the last place", share=3 / 4, lists=4)
    parts = by_split(given, gold, ["train"] * 4 + ["test"] * 5)
    assert list(parts) == ["train", "test", "all"] and parts["train"].always and parts["all"] == places


def test_a_mention_to_link_gets_its_candidates_in_the_same_order():
    entities = {"id": [f"id {row}" for row in range(ENTITIES)]}
    of = {}
    for place in (0, 4):
        given = lists_with_gold_at(place)
        table = {"id": [f"m{row}" for row in range(MENTIONS)], "given": given}
        of[place] = source(GivenSource()).lists(SourceInputs(table, entities), 5)
    assert of[0].ids.tolist() == of[4].ids.tolist() and (of[0].scores == 1).all()


def test_the_order_of_given_lists_is_an_option_of_the_lists(tmp_path):
    def made(**options):
        return candidate_sources(ListOptions(sources="given", **options), Extraction(), Paths(tmp_path))

    assert made() == (GivenSource(order="hashed"),)
    assert made(given_order="trusted", accept_gold_place=True) == (
        GivenSource(order="trusted", accept_gold_place=True),
    )
    with pytest.raises(UserError, match=r"--given-order 'trust' is unknown; did you mean 'trusted'"):
        made(given_order="trust")
    assert json.loads(json.dumps(dataclasses.asdict(ListOptions())))["given_order"] == "hashed"


# Cases whose right value is counted by hand (docs/evaluation.md lists them)


def test_a_hashed_list_that_is_cut_keeps_its_gold_in_k_of_n_cases(tmp_path):
    folder = prepared(tmp_path / "a", [list(range(ENTITIES))] * 1200, [0] * 1200)
    recalled = build_candidates(job(folder, k=3)).recall["given"]
    for split in ("train", "dev", "test"):
        assert recalled[split]["n"] == 400 and abs(recalled[split]["3"] - 3 / 12) < 0.08


def test_a_gold_behind_a_trusted_list_that_is_cut_keeps_its_place_and_a_hashed_one_is_last(tmp_path):
    given = [[*range(1, 9), 0, 10, 11, 9]] * 7 + [[0, *range(1, 12)]] * 3
    folder = prepared(tmp_path / "a", given, [0] * 10)
    build_candidates(job(folder, GivenSource(order="trusted"), k=4))
    in_list, rank = arrays(folder)["ids"] == 0, arrays(folder)["gold_rank"]
    assert rank.tolist() == [9] * 7 + [1] * 3 and in_list.any(1).tolist() == [False] * 7 + [True] * 3
    assert rerank(np.where(in_list.any(1), 1, 0), rank, ENTITIES).tolist() == [9] * 7 + [1] * 3
    build_candidates(job(folder, k=4))
    saved = arrays(folder)
    listed = (saved["ids"] == 0).any(1)
    assert not listed.all() and (saved["gold_rank"][~listed] == -1).all()
    assert (rerank(np.where(listed, 1, 0), saved["gold_rank"], ENTITIES)[~listed] == ENTITIES).all()


def test_merged_lists_hold_what_both_sources_hold(tmp_path):
    given = [[11, 10, 9], [], None]
    folder = prepared(tmp_path / "a", given, [11, 11, 0])
    build_candidates(job(folder, GivenSource(), NameSource(), k=12))
    assert [sorted(row[row >= 0].tolist()) for row in arrays(folder)["ids"]] == [list(range(12))] * 3
    built = build_candidates(job(folder, GivenSource(), NameSource(), k=4, merge="append"))
    ids = [set(row.tolist()) for row in arrays(folder)["ids"]]
    assert {11, 10, 9} < ids[0] and len(ids[0]) == len(ids[1]) == len(ids[2]) == 4
    assert built.recall["given"] == {"train": {"n": 1, "4": 1}, "dev": {"n": 1, "4": 0}, "test": {"n": 1, "4": 0}}
    assert built.gold_forced_in == ("train",), "dev has a list without its gold, test has no list"


def test_ids_that_read_alike_when_joined_have_orders_of_their_own():
    names = ["3", "23", "4", "24", "5", "25"]
    orders = {mention: hash_order(mention, range(6), names) for mention in ("m1", "m12", "m", "m1 ", "1 m1")}
    assert len({tuple(order) for order in orders.values()}) == len(orders)
    assert orders["m1"] == hash_order("m1", [5, 4, 3, 2, 1, 0], names)


def test_nil_and_golds_outside_the_kb_have_no_place_and_do_not_unmake_the_label(tmp_path):
    given = [[5, 1], [1, 5], [2, 3], [7, 8], [5, 2, 1]]
    places = gold_places(given, [5, 5, -1, -2, 5])
    assert (places.golds, places.at(1), places.at(2), places.last, places.always) == (3, 2, 1, 1, True)
    folder = prepared(tmp_path / "a", given, [5, 5, -1, -2, 5])
    assert build_candidates(job(folder)).gold_forced_in == ("train", "dev"), "test has NIL alone"
    assert arrays(folder)["gold_rank"].tolist()[2:4] == [-1, -1]


def test_a_ranker_over_hashed_places_alone_ranks_every_gold_last():
    shapes = {"pairs.retrieval": (2,)}
    torch.manual_seed(0)
    head = make_head("ranker", load_config("ranker", {"pair_features": ["retrieval"], "frequency": False}), shapes)
    lists = torch.arange(5)[None].expand(4, 5)
    empty = {"retrieval": torch.full((4, 5, 2), float("nan"))}
    scores = head.score_lists(Rows(), Rows(), lists, empty)["score"].detach().numpy()
    assert rank_in_lists(scores, lists.numpy(), np.array([0, 1, 4, 2])).tolist() == [5, 5, 5, 5]


# Work folders of before


def test_lists_of_a_run_of_before_are_linked_in_their_own_order():
    request = {"k": 5, "scorer": "ratio", "sources": "given", "merge": "append", "dataset": "x", "upstream": []}
    assert _list_options(request) == ListOptions(
        k=5, scorer="ratio", sources="given", merge="append", given_order="trusted"
    )
    assert _list_options({**request, "given_order": "hashed"}).given_order == "hashed"


def test_lists_of_before_are_built_again_and_that_is_said(tmp_path, capsys):
    data = small_world.write(tmp_path / "data")
    lines = [json.loads(line) for line in (data / "mentions.jsonl").read_text().splitlines()]
    listed = "".join(json.dumps({**line, "candidates": [line["gold"], "Q1", "Q2"]}) + "\n" for line in lines)
    (data / "mentions.jsonl").write_text(listed)
    dataset = mel_cache.prepare(mel_cache.DatasetJob(name="given", data_dir=data, work_dir=tmp_path / "work"))
    job = mel_cache.CandidatesJob(dataset=dataset, k=4, sources="given")
    built = mel_cache.build_candidates(job)
    assert "built again" not in capsys.readouterr().err
    (new,) = (tmp_path / "work" / "receipts").glob("BuildCandidates-*.json")
    receipt = read_sealed(new)
    assert receipt["request"].pop("given_order") == "hashed"
    old = Paths(tmp_path / "work").receipt("BuildCandidates", digest("BuildCandidates", receipt["request"]))
    write_sealed(old, receipt)
    new.unlink()
    again = mel_cache.build_candidates(job)
    assert "candidate lists are built again: lists that came with the dataset" in capsys.readouterr().err
    assert again.lists.digest == built.lists.digest and again.lists.gold_forced_in == ("train", "dev", "test")
    with pytest.raises(UserError, match="--given-order trusted: the gold is at place 1"):
        mel_cache.build_candidates(dataclasses.replace(job, given_order="trusted"))
    trusted = mel_cache.build_candidates(dataclasses.replace(job, given_order="trusted", accept_gold_place=True))
    assert trusted.lists.digest != built.lists.digest and (trusted.ids != built.ids).any()

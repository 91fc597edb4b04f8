"""DRIN against its equations over the whole graph in float64; what it may not know; its ablations."""

import json

import drin_reference as reference
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from heads_world import build_job, head_pairs, head_rows, head_shapes, job_for

from foundation.errors import UserError
from heads import training
from heads.base import Batch, make_head
from heads.checkpoint import read_tensors, write_tensors
from heads.config import load_config
from heads.config.drin import RELATIONS
from heads.runs import load_run

LISTS = torch.tensor([[8, 0, 3, 5], [1, 7, 2, -1], [4, 5, 6, 8], [7, -1, 0, 2], [2, 8, 1, 6], [0, -1, -1, -1]])
GOLD = [3, 1, 0, 0, 6, 0]  # the third is not listed
VARIANTS = {
    "paper": {},
    "one layer": {"layers": 1},
    "four layers": {"layers": 4},
    "bare equation": {"edge_scale": "none", "neighbours": "sum"},
    "static edges": {"static_edges": True},
    "no tt": {"edges": ["ti", "it", "ii"]},
    "no ti": {"edges": ["tt", "it", "ii"]},
    "no it": {"edges": ["tt", "ti", "ii"]},
    "no ii": {"edges": ["tt", "ti", "it"]},
    "own list": {"negatives": "candidates"},
    "a hinge each": {"hinge": "each"},
    "release": {"release": True},
    "text only": {"image_feature": None},
    "release, one layer": {"release": True, "layers": 1},
    "release, three layers": {"release": True, "layers": 3},
    "release, static edges": {"release": True, "static_edges": True},
    "release, no LayerNorm, bare sums": {
        "release": True,
        "layer_norm": False,
        "neighbours": "sum",
        "edge_scale": "none",
    },
    "release, text only": {"release": True, "image_feature": None},
    "the mean over the list": {"neighbours": "list"},
    "no edges to the mention's image": {"edges": ["tt", "ti"]},
    "no edges to the candidates' images": {"edges": ["it"]},
    "images of images": {"edges": ["ti", "ii"], "layers": 3},
    "no edges": {"edges": []},
    "release, no edges": {"release": True, "edges": []},
}


def make(seed=3, **options):
    """A small head with random weights everywhere."""
    config = load_config("drin", {"width": 7, **options})
    torch.manual_seed(seed)
    head = make_head("drin", config, head_shapes(config))
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return head


def sides(head, seed=1):
    """Features of six mentions and nine entities; the fifth mention and entity 6 have no text and no picture."""
    mentions, entities = (
        head_rows(head.shapes, 6, seed, lengths=(3, 9)),
        head_rows(head.shapes, 9, seed + 1, missing=0.2),
    )
    for rows, absent in ((mentions, 4), (entities, 6)):
        for name in [name for name in rows if name.endswith(".ok")]:
            rows[name][absent] = False
    return mentions, entities


def plain_mention(rows, row):
    """One mention as the reference reads it."""
    here = torch.tensor([row])
    span = rows["text.span"][row].tolist()
    return {
        "text": bool(rows["text.ok"][row]),
        "tokens": rows["text.tokens"].take(here).values.double().numpy(),
        "pooled": rows["text.pooled"][row].double().numpy(),
        "offsets": rows["text.offsets"].take(here).values.tolist(),
        "span": None if span[0] < 0 else span,
        "image": plain(rows, "image", row),
    }


def plain(rows, role, row):
    """A row's vector as the reference reads it, None where it is absent or the head does not read it."""
    return rows[f"{role}.pooled"][row].double().numpy() if f"{role}.ok" in rows and rows[f"{role}.ok"][row] else None


def expected(head, mentions, entities, pairs):
    """The reference's texts and edges of every list."""
    weights = {name: tensor.double().numpy() for name, tensor in head.state_dict().items()}
    found = []
    for b, row in enumerate(LISTS.tolist()):
        candidates = [
            {"text": plain(entities, "text", e), "image": plain(entities, "image", e), "listed": True}
            if e >= 0
            else {"text": None, "image": None, "listed": False}
            for e in row
        ]
        relations = {
            kind: [None if value != value else value for value in pairs[name][b].double().tolist()]
            if name in pairs
            else [None] * len(row)
            for kind, name in RELATIONS.items()
        }
        found.append(reference.texts(plain_mention(mentions, b), candidates, relations, weights, vars(head.config)))
    return found


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
def test_scores_edges_and_loss_are_the_equations(options):
    head = make(**options).eval()
    mentions, entities = sides(head)
    pairs = head_pairs(head.shapes, LISTS, 5)
    graphs = expected(head, mentions, entities, pairs)
    with torch.no_grad():
        encoded = head.encode_mentions(mentions), head.encode_entities(entities)
        scores, edges = head.score_lists(*encoded, LISTS, pairs)["score"], head.explain(*encoded, LISTS, pairs)
        loss, _ = head.loss(Batch(mentions, entities, torch.tensor(GOLD), LISTS, pairs))
    assert set(edges) == {f"edge_{kind}_{place}" for kind in head.kinds for place in range(head.config.layers)}
    for b, (mention, candidates, used) in enumerate(graphs):
        for j in (LISTS[b] >= 0).nonzero().squeeze(1).tolist():
            assert scores[b, j].item() == pytest.approx(reference.cosine(mention, candidates[j]), abs=1e-5)
            for (mention_name, entity_name), kind in reference.KINDS.items():
                for place in range(head.config.layers if kind in head.kinds else 0):
                    found, want = (
                        edges[f"edge_{kind}_{place}"][b, j].item(),
                        used[place].get(((mention_name, 0), (entity_name, j))),
                    )
                    assert np.isnan(found) if want is None else found == pytest.approx(want, rel=1e-5, abs=1e-5)
    lists = [[entity if entity >= 0 else None for entity in row] for row in LISTS.tolist()]
    without_ends = [
        ([e for e in row if e is not None], [c for e, c in zip(row, graphs[b][1], strict=True) if e is not None])
        for b, row in enumerate(lists)
    ]
    want = reference.loss(
        [(graphs[b][0], kept) for b, (_, kept) in enumerate(without_ends)],
        [row for row, _ in without_ends],
        GOLD,
        vars(head.config),
    )
    assert loss.item() == pytest.approx(want, rel=1e-5, abs=1e-6)
    assert want > 0


def score(head, mentions, entities, lists, pairs):
    with torch.no_grad():
        return head.eval().score_lists(head.encode_mentions(mentions), head.encode_entities(entities), lists, pairs)[
            "score"
        ]


@pytest.mark.parametrize("options", [{}, {"release": True}, {"neighbours": "sum"}], ids=["paper", "release", "sum"])
def test_where_the_gold_stands_in_the_list_tells_nothing(options):
    head = make(**options)
    mentions, entities = sides(head)
    pairs = head_pairs(head.shapes, LISTS, 5)
    before = score(head, mentions, entities, LISTS, pairs)
    order = torch.stack([torch.randperm(4, generator=torch.Generator().manual_seed(row)) for row in range(6)])
    after = score(
        head,
        mentions,
        entities,
        LISTS.gather(1, order),
        {name: values.gather(1, order) for name, values in pairs.items()},
    )
    real = LISTS.gather(1, order) >= 0
    torch.testing.assert_close(after[real], before.gather(1, order)[real], rtol=1e-5, atol=1e-6)


def test_nothing_but_the_list_is_known_of_the_gold():
    """Which candidate is the gold is told to the loss alone: scores for two different golds are the same bytes, and so
    are a leaked gold's neighbours."""
    head = make()
    mentions, entities = sides(head)
    pairs = head_pairs(head.shapes, LISTS, 5)
    before = score(head, mentions, entities, LISTS, pairs)
    swapped, values = LISTS.clone(), {name: tensor.clone() for name, tensor in pairs.items()}
    gold_place = 2
    swapped[0, gold_place] = -1  # the gold (entity 3) is not in the list any more, nor anything in its place
    for tensor in values.values():
        tensor[0, gold_place] = torch.nan
    without = score(head, mentions, entities, swapped, values)
    alone = score(
        head,
        mentions,
        entities.take(torch.tensor([8, 0, 5])),
        torch.tensor([[0, 1, 2]] + [[-1] * 3] * 5),
        {n: v[:, [0, 1, 3]] for n, v in pairs.items()},
    )
    others = [0, 1, 3]
    torch.testing.assert_close(without[0, others], alone[0], rtol=1e-6, atol=1e-6)  # as if the gold did not exist
    torch.testing.assert_close(without[1:], before[1:], rtol=0, atol=0)
    entities["text.pooled"][3] += 5.0  # a gold that is not listed may be anything
    torch.testing.assert_close(
        score(head, mentions, entities, swapped, values)[0, others], without[0, others], rtol=0, atol=0
    )


def test_a_candidate_swapped_for_one_without_edges_moves_no_other_score():
    """With edges that are all absent for the gold, its swap for another entity leaves the scores of the others as they
    are."""
    head = make()
    mentions, entities = sides(head)
    pairs = {name: values.clone() for name, values in head_pairs(head.shapes, LISTS, 5).items()}
    for values in pairs.values():
        values[0, 2] = torch.nan
    before = score(head, mentions, entities, LISTS, pairs)
    swapped = LISTS.clone()
    swapped[0, 2] = 7
    others = [0, 1, 3]
    torch.testing.assert_close(
        score(head, mentions, entities, swapped, pairs)[0, others], before[0, others], rtol=0, atol=0
    )


def test_a_mention_whose_gold_is_not_listed_trains_nothing():
    head = make()
    mentions, entities = sides(head)
    rows, pairs = torch.tensor([2]), {name: values[2:3] for name, values in head_pairs(head.shapes, LISTS, 5).items()}
    loss, logged = head.loss(Batch(mentions.take(rows), entities, torch.tensor([0]), LISTS[2:3], pairs))
    loss.backward()
    assert loss.item() == 0 and logged["gold listed"].item() == 0
    assert not any(parameter.grad is not None and parameter.grad.any() for parameter in head.parameters())


def test_it_is_a_miss_in_evaluation_and_training_says_how_many_were_skipped(tmp_path):
    job = job_for(
        build_job(tmp_path), "drin", {"epochs": 2, "batch_size": 32, "width": 8, "hinge": "each"}, tmp_path / "drin"
    )
    result = training.train(job)
    metrics = result.metrics["test"]
    assert set(metrics) == {"candidates", "rerank"}
    predictions = pq.read_table(job.out / "predictions.parquet").to_pylist()
    known = [row for row in predictions if row["split"] == "test" and row["gold"] not in (None, "Q-elsewhere")]
    assert 0 < metrics["candidates"]["all"]["recall"] < 1
    assert metrics["candidates"]["all"]["recall"] == pytest.approx(
        np.mean([row["rank_candidates"] > 0 for row in known])
    )
    assert metrics["candidates"]["all"]["H@1"] == pytest.approx(np.mean([row["rank_candidates"] == 1 for row in known]))
    assert all(np.isnan(row["gold_score"]) for row in known if row["rank_candidates"] == 0)
    history = json.loads((job.out / "history.json").read_text())["epochs"]
    lists, gold = (
        np.load(job.candidates)["ids"],
        pq.read_table(job.dataset / "mentions.parquet")["gold"].to_numpy(),
    )
    trained = (np.arange(len(gold)) < 96) & (gold >= 0)
    assert history[0]["gold listed"] == pytest.approx((lists == gold[:, None]).any(1)[trained].mean(), abs=1e-6)


def test_features_decide_which_edges_there_are():
    def read(available, **params):
        config = load_config("drin", params)
        return config.pairs(available), sorted({want.role for want in config.wants(available)})

    everything = ["clip_image", "clip_text", "image_pooled", "object_resnet", "objects", "text_tokens"]
    assert read(everything) == (["text_cls", "clip_ti", "clip_it", "object_relation"], ["image", "text"])
    assert read(everything, edges=["tt", "ii"]) == (["text_cls"], ["text"])
    assert read(everything, edges=["ti"]) == (["clip_ti"], ["image", "text"])
    sides = {want.side for want in load_config("drin", {"edges": ["ti"]}).wants(everything) if want.role == "image"}
    assert sides == {"entity"}
    assert read(everything, edges=["ti", "ii"], layers=1)[0] == ["clip_ti"], "one layer reaches no mention's image"
    assert read(everything, edges=["ti", "ii"])[0] == ["clip_ti", "object_relation"]
    assert read(everything, tt="phrase")[0] == ["clip_ti", "clip_it", "object_relation"]
    assert read(["text_tokens"]) == read(everything, image_feature=None, edges=["tt"]) == (["text_cls"], ["text"])
    assert read(["text_tokens", "image_pooled"]) == (["text_cls"], ["text"])
    with pytest.raises(UserError, match="text_feature = 'text_tokens': the profile has no such feature"):
        load_config("drin", {}).wants(["clip_text"])
    with pytest.raises(UserError, match="at most once"):
        load_config("drin", {"edges": ["tt", "tt"]})


def test_the_phrase_is_found_by_its_characters():
    head = make()
    mentions, _ = sides(head)
    found = head.encode_mentions(mentions)["text"]
    other = dict(mentions)
    other["text.span"] = torch.full((6, 2), -1)
    moved = (head.encode_mentions(type(mentions)(other))["text"] - found).abs().sum(1) > 1e-3
    assert (
        moved.tolist() == ((mentions["text.span"][:, 0] >= 0) & mentions["text.ok"]).tolist()
        and moved.any()
        and not moved.all()
    )


def test_the_release_has_the_parameters_of_the_published_model_and_its_scores():
    config = load_config("drin", {"release": True})
    text = {"text.pooled": (768,), "text.tokens": (768,), "text.offsets": (2,)}
    pairs = {f"pairs.{name}": () for name in RELATIONS.values() if name != "text_cls"}
    torch.manual_seed(0)
    head = make_head("drin", config, {**text, "image.pooled": (2048,), **pairs}).eval()
    vertices = 2 * (768 * 768 + 768) + 2 * (2048 * 768 + 768)  # four maps
    layer = 3 * (768 * 768 + 768) + 2 * 768  # W_h, W_u, W_v, LayerNorm
    assert head.trainable == vertices + 2 * layer == 7_875_072
    mentions, entities = sides(head)
    values = head_pairs(head.shapes, LISTS, 5)
    found = score(head, mentions, entities, LISTS, values)
    for b, (mention, candidates, _) in enumerate(expected(head, mentions, entities, values)):
        for j in (LISTS[b] >= 0).nonzero().squeeze(1).tolist():
            assert found[b, j].item() == pytest.approx(reference.cosine(mention, candidates[j]), abs=1e-5)


def test_a_stored_run_with_a_map_that_fed_nothing_scores_as_it_did(tmp_path):
    params = {"epochs": 1, "width": 8, "edges": ["tt", "ti"], "image_feature": "image_patches"}
    job = job_for(build_job(tmp_path), "drin", params, tmp_path / "drin", beside=("clip_text", "clip_image"))
    assert {one.side for one in job.inputs if one.role == "image"} == {"entity"}
    training.train(job)
    path = job.out / "model.safetensors"
    tensors, state = read_tensors(path)
    write_tensors(path, {**tensors, "mention_image.weight": torch.ones(8, 12)}, state)
    (job.out / "run.json").unlink()  # of before checksums
    head, bundle = load_run(job)
    assert bundle.shapes == head.shapes and "entity_image.weight" in tensors
    assert {name: tensor.tolist() for name, tensor in head.state_dict().items()} == {
        name: tensor.tolist() for name, tensor in tensors.items()
    }

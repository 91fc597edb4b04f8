"""DWE+ against its equations, mention by mention in float64; what its options and its ablations change."""

import json
from pathlib import Path

import dwe_reference as reference
import numpy as np
import pytest
import torch
from heads_world import build_job, head_rows, head_shapes, job_for

from foundation.errors import UserError
from heads import training
from heads.base import Batch, Ragged, make_head
from heads.config import load_config
from heads.losses import mean_shifted_contrast

SMALL = {"width": 16, "joint_width": 12, "attention_heads": 4}
VARIANTS = {
    "paper": {},
    "token states of the sentence": {"text": "tokens"},
    "whole picture": {"image": "whole"},
    "whole picture, no attributes": {"image": "whole", "units": ["image", "text"]},
    "without faces": {"units": ["identity", "image", "text"]},
    "without attributes": {"units": ["image", "text"]},
    "text": {"units": ["text"]},
    "mention only": {"units": []},
    "prose": {"contrast": "prose"},
    "prose over token states": {"contrast": "prose", "text": "tokens"},
}
EVERYTHING = ["clip_image", "clip_text", "face_attributes", "identity", "image_patches", "object_clip", "text_tokens"]


def build(options, mentions=8, entities=9, text_only=False):
    """A head with random weights everywhere (LayerNorms and biases too), features of both sides, and the reference's
    view of them."""
    config = load_config("dwe", {**SMALL, **options})
    shapes = head_shapes(config, text_only)
    torch.manual_seed(3)
    head = make_head("dwe", config, shapes).eval()
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    sides = head_rows(shapes, mentions, 1), head_rows(shapes, entities, 2)
    weights = {name: tensor.double().numpy() for name, tensor in head.state_dict().items()}
    return head, sides, weights, {**vars(config), "seen": head.seen}


def plain(features, row, columns):
    """One mention as the reference reads it."""
    result = {"phrase": features["phrase.pooled"][row].double().numpy()}
    for role, name in columns.items():
        column = features[name]
        if isinstance(column, Ragged):
            result[role] = [*column.take(torch.tensor([row])).values.double().numpy()]
        else:
            result[role] = [column[row].double().numpy()] if features[f"{role}.ok"][row] else []
    return result


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
def test_list_and_block_scores_are_the_equations(options):
    head, (mentions, entities), weights, facts = build(options)
    lists = torch.tensor([[8, 0, 3], [1, 1, 2], [4, 5, 6], [7, -1, 0], [2, 8, 1], [0, 3, 5], [6, 6, 7], [-1, -1, 4]])
    with torch.no_grad():
        encoded = head.encode_mentions(mentions), head.encode_entities(entities)
        block, listed = head.score_block(*encoded)["score"], head.score_lists(*encoded, lists)["score"]
    rows = [plain(mentions, row, head.columns) for row in range(8)]
    want = np.array(
        [
            [reference.score(row, key.double().numpy(), weights, facts) for key in entities["entity.pooled"]]
            for row in rows
        ]
    )
    np.testing.assert_allclose(block.numpy(), want, rtol=1e-5, atol=1e-5)
    real = (lists >= 0).numpy()
    np.testing.assert_allclose(
        listed.numpy()[real], np.take_along_axis(want, lists.numpy().clip(0), 1)[real], rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"contrast": "prose"},
        {"coarse": False},
        {"fine": False},
        {"alpha": 0.5, "beta": 3.0, "margin": 0.2, "temperature": 0.5},
        {"image": "whole"},
        {"units": []},
    ],
    ids=str,
)
def test_the_loss_is_equations_10_to_14(options):
    head, (mentions, entities), weights, facts = build({"in_batch_negatives": 8, **options})
    gold = [4, 2, 4, 7, 2, 4, 0, 1]
    lists = torch.tensor(
        [[4, 0, 3], [1, 1, 2], [4, 5, 6], [7, -1, 0], [-1, 8, 1], [0, 3, 5], [-1, -1, -1], [1, -1, -1]]
    )
    found, parts = head.loss(Batch(mentions, entities, torch.tensor(gold), lists))
    negatives = [
        [entity for entity in listed if entity not in (-1, own)] + [other for other in gold if other != own]
        for listed, own in zip(lists.tolist(), gold, strict=True)
    ]
    rows = [reference.mention(plain(mentions, row, head.columns), weights, facts) for row in range(8)]
    total, expected = reference.loss(rows, entities["entity.pooled"].double().numpy(), gold, negatives, weights, facts)
    assert found.item() == pytest.approx(total, rel=1e-5)
    for name, value in expected.items():
        assert parts[name].item() == pytest.approx(value, rel=1e-5, abs=1e-6) if name in parts else value == 0.0


def test_negatives_are_drawn_anew_and_never_the_gold():
    from heads.methods.dwe import _draw

    lists = torch.tensor([[3, 5, 7, -1], [5, -1, -1, -1], [1, 2, 3, 4]])
    allowed = (lists >= 0) & (lists != torch.tensor([[5], [5], [9]]))
    torch.manual_seed(0)
    drawn = [_draw(lists, allowed, 2) for _ in range(40)]
    for columns, real in drawn:
        assert real.tolist() == [[True, True], [False, False], [True, True]]
        assert set(columns[0].tolist()) == {3, 7} and len(set(columns[2].tolist())) == 2
    assert {frozenset(columns[2].tolist()) for columns, _ in drawn} == {
        frozenset(pair) for pair in ((1, 2), (1, 3), (1, 4), (2, 3), (2, 4), (3, 4))
    }


def test_the_number_of_negatives_changes_the_loss_and_only_it():
    few, many = (build({"list_negatives": count, "in_batch_negatives": count}) for count in (1, 8))
    assert all(
        torch.equal(a, b) for a, b in zip(few[0].state_dict().values(), many[0].state_dict().values(), strict=True)
    )
    lists = torch.arange(9).repeat(8, 1)
    batch = Batch(*few[1], torch.tensor([4, 2, 4, 7, 2, 4, 0, 1]), lists)
    losses = set()
    for seed in range(5):
        torch.manual_seed(seed)
        losses.add(round(few[0].loss(batch)[1]["triplet"].item(), 5))
    assert len(losses) > 1
    assert few[0].loss(batch)[1]["coarse"] == many[0].loss(batch)[1]["coarse"]


def test_contrast_of_fewer_than_two_rows_is_0_and_of_equal_rows_finite():
    one = torch.randn(1, 4, requires_grad=True)
    assert mean_shifted_contrast(one, 2 * one, 0.25) == 0 and mean_shifted_contrast(one[:0], one[:0], 0.25) == 0
    same = torch.ones(3, 4, requires_grad=True)
    loss = mean_shifted_contrast(same, same * 2, 0.25)
    loss.backward()
    assert loss.isfinite() and same.grad.abs().max() < 1e5


def test_the_others_of_a_batch_move_the_contrastive_loss_and_no_score():
    head, (mentions, entities), _, _ = build({})
    pair, whole = torch.tensor([0, 1]), torch.arange(8)
    with torch.no_grad():
        keys = head.encode_entities(entities)
        alone, together = (
            head.score_block(head.encode_mentions(mentions.take(rows)), keys)["score"] for rows in (pair, whole)
        )
    torch.testing.assert_close(alone, together[:2], rtol=1e-5, atol=1e-6)
    lists = torch.arange(9).repeat(8, 1)
    gold = torch.zeros(8, dtype=torch.int64)
    few, many = (
        head.loss(Batch(mentions.take(rows), entities, gold[rows], lists[rows]))[1]["coarse"]
        for rows in (whole[:4], whole)
    )
    assert few != many


@pytest.mark.parametrize(("unit", "role"), [("face", "faces"), ("identity", "identities"), ("image", "objects")])
def test_what_a_mention_does_not_have_adds_nothing(unit, role):
    head, (mentions, _), _, _ = build({})
    name = head.columns[role]
    emptied = mentions.copy()
    emptied[name], emptied[f"{role}.ok"] = (
        Ragged(mentions[name].values[:0], torch.zeros(8, dtype=torch.int64)),
        torch.zeros(8, dtype=torch.bool),
    )
    letter = {"face": "m_f", "identity": "m_s", "image": "m_v"}[unit]
    with torch.no_grad():
        parts, _ = head._parts(type(mentions)(emptied))
        before, _ = head._parts(mentions)
    assert parts[letter][0].abs().max() == 0 and not parts[letter][1].any()
    assert (before[letter][0].abs().sum(1) > 0).tolist() == mentions[f"{role}.ok"].tolist()
    assert all(
        torch.equal(parts[other][0], before[other][0]) for other in ("m", "m_t", "m_v", "m_f", "m_s") if other != letter
    )


def test_an_ablated_unit_takes_its_parameters_with_it():
    def named(**options):
        return {
            name.split(".")[0] if not name.startswith("maps") else name.split(".")[1]
            for name, _ in build(options)[0].named_parameters()
        }

    whole = named()
    assert whole == {
        "phrase",
        "sentence",
        "objects",
        "faces",
        "identities",
        "entity",
        "attention",
        "text_attention",
        "gate",
        "fusion",
    }
    assert whole - named(units=["identity", "image", "text"]) == {"faces"}
    assert whole - named(units=["image", "text"]) == {"faces", "identities", "gate"}
    assert named(units=["text"]) == {"phrase", "sentence", "entity", "text_attention", "fusion"}
    assert named(units=[]) == {"phrase", "entity", "fusion"}


def test_explained_attention_sums_to_one_over_what_there_is():
    head, (mentions, entities), _, _ = build({"text": "tokens"})
    with torch.no_grad():
        told = head.explain(
            head.encode_mentions(mentions), head.encode_entities(entities), torch.zeros(8, 1, dtype=torch.int64)
        )
    assert set(told) == {"attention.objects", "attention.faces", "attention.identities", "attention.sentence"}
    for name, weights in told.items():
        lengths = mentions[head.columns[name.partition(".")[2]]].lengths
        assert weights.dtype == torch.float32 and (~weights.isnan()).sum(1).tolist() == lengths.tolist()
        torch.testing.assert_close(weights.nansum(1), (lengths > 0).float())


def test_it_asks_for_what_it_reads_and_no_more():
    def wanted(available, **params):
        wants = load_config("dwe", params).wants(available)
        return {want.role: (want.side, want.feature, want.view, *want.outputs) for want in wants}

    whole = wanted(EVERYTHING)
    assert whole == {
        "phrase": ("mention", "clip_text", "mention", "pooled"),
        "sentence": ("mention", "clip_text", "sentence", "pooled"),
        "objects": ("mention", "object_clip", "image", "vectors"),
        "faces": ("mention", "clip_text", "face_attributes", "pooled"),
        "identities": ("mention", "clip_text", "identities", "pooled"),
        "entity": ("entity", "clip_text", "name_sep_attributes", "pooled"),
    }
    assert wanted(EVERYTHING, text="tokens")["sentence"][3:] == ("tokens",)
    assert [
        wanted(EVERYTHING, entity_text=kind)["entity"][2] for kind in ("static", "dynamic", "description", "name")
    ] == [
        "name_sep_static",
        "name_sep_dynamic",
        "name_sep_description",
        "name",
    ]
    assert set(wanted(["text_tokens"])) == {"phrase", "sentence", "entity"}
    assert set(wanted(["clip_text", "clip_image"])) == {"phrase", "sentence", "image", "entity"}
    assert wanted(EVERYTHING, image="whole").keys() == whole.keys() - {"objects"} | {"image"}
    assert wanted(EVERYTHING, contrast="prose").keys() == whole.keys() | {"image"}
    assert wanted(EVERYTHING, units=[], fine=False).keys() == {"phrase", "entity"}


@pytest.mark.parametrize(
    ("params", "available", "message"),
    [
        ({}, ["clip_image"], "dwe reads a text feature"),
        ({"image": "objects"}, ["clip_text"], "has no object_clip"),
        ({"contrast": "prose"}, ["clip_text", "object_clip"], "aligns sentences with pictures"),
        ({"object_feature": "object_clp"}, EVERYTHING, "did you mean 'object_clip'?"),
        ({"width": 10}, EVERYTHING, "expected a multiple of attention_heads = 8"),
        ({"units": ["face", "face"]}, EVERYTHING, "at most once"),
        ({"entity_text": "statik"}, EVERYTHING, "did you mean 'static'?"),
        ({"dropout": 1.0}, EVERYTHING, "expected less than 1"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(params, available, message):
    with pytest.raises(UserError) as error:
        load_config("dwe", params).wants(available)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_it_trains_over_a_cache_of_text_and_whole_pictures(tmp_path):
    job = build_job(tmp_path)
    config = {**SMALL, "epochs": 12, "batch_size": 32, "lr": 0.01, "dropout": 0.1}
    done = training.train(job_for(job, "dwe", config, tmp_path / "dwe"))
    assert done.metrics["test"]["full-kb"]["all"]["H@1"] > 6 / 40, "well above the chance of 1 in 40"
    history = json.loads((Path(tmp_path) / "dwe" / "history.json").read_text())["epochs"]
    assert {"triplet", "coarse", "loss"} <= set(history[0]) and history[-1]["triplet"] < history[0]["triplet"]


def test_an_entity_without_a_text_ranks_last():
    config = load_config("dwe", {"width": 16, "joint_width": 12, "attention_heads": 4, "dropout": 0.0})
    torch.manual_seed(0)
    head = make_head("dwe", config, head_shapes(config)).eval()
    mentions, entities = head_rows(head.shapes, 6, 1), head_rows(head.shapes, 9, 2)
    entities["entity.ok"] = torch.arange(9) != 4
    with torch.no_grad():
        scores = head.score_block(head.encode_mentions(mentions), head.encode_entities(entities))["score"]
    assert (
        (scores[:, 4] == -1).all()
        and (scores.min(1).values == -1).all()
        and (scores[:, torch.arange(9) != 4] > -1).all()
    )

"""Heads and metrics in corner cases whose right value a formula or a count by hand gives; the page on evaluation lists
them."""

import math

import numpy as np
import pytest
import torch
from heads_world import head_pairs, head_rows, head_shapes
from test_heads_contract import SMALL, batch_of
from test_heads_mimic import Memory

from heads.base import Batch, Ragged, Rows, make_head
from heads.config import load_config
from heads.layers import phrase_mean
from heads.losses import in_batch_cross_entropy, margin_ranking, mean_shifted_contrast
from heads.metrics import figures, rank_in_lists
from heads.scoring import Golds, Scoring


def make(method, shapes=None, **options):
    """A small head with random weights everywhere."""
    config = load_config(method, {**SMALL.get(method, {}), **options})
    torch.manual_seed(3)
    head = make_head(method, config, head_shapes(config) if shapes is None else shapes).eval()
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return head


@torch.no_grad()
def listed(head, mentions, entities, lists, pairs=None):
    pairs = head_pairs(head.shapes, lists, 5) if pairs is None else pairs
    return head.score_lists(head.encode_mentions(mentions), head.encode_entities(entities), lists, pairs)


def gelu(x):
    return np.array([value * (1 + math.erf(value / math.sqrt(2))) / 2 for value in x])


def cosine(a, b):
    return a @ b / (np.linalg.norm(a) * np.linalg.norm(b))


def weights_of(head):
    return {name: tensor.double().numpy() for name, tensor in head.state_dict().items()}


# Metrics


@pytest.mark.parametrize(
    ("gold", "other", "rank"),
    [
        (0.5, 0.5 - 5e-6, 2),
        (0.5, 0.5 - 2e-5, 1),
        (1000.0, 1000.0 - 5e-3, 2),  # 1e-5 of the gold's score, where that is larger than 1
        (1000.0, 1000.0 - 2e-2, 1),
        (-1000.0, -1000.0 - 5e-3, 2),
        (0.0, -5e-6, 2),
        (0.0, -2e-5, 1),
        (math.inf, 5.0, 1),
        (5.0, math.inf, 2),
        (-math.inf, -5.0, 2),
        (-math.inf, -math.inf, 2),
    ],
)
def test_two_scores_are_equal_within_the_tolerance_that_the_page_states(gold, other, rank):
    scores = np.array([[gold, other]], np.float32 if math.isinf(gold) or math.isinf(other) else np.float64)
    assert rank_in_lists(scores, np.array([[7, 8]]), np.array([7])).tolist() == [rank]


def test_a_head_that_scores_all_alike_has_the_worst_figures():
    """N equal scores: rank N, H@k 0 for k < N, MRR 1 / N."""
    lists = np.tile(np.arange(30), (4, 1))
    ranks = rank_in_lists(np.full((4, 30), 0.25, np.float32), lists, np.arange(4))
    found = figures(ranks, np.ones(4, bool))
    assert ranks.tolist() == [30] * 4 and found["H@20"] == 0 and found["MRR"] == pytest.approx(1 / 30)


def test_a_list_of_one_candidate_is_right_or_a_miss():
    ranks = rank_in_lists(np.array([[-3.0], [9.0]], np.float32), np.array([[4], [4]]), np.array([4, 5]))
    found = figures(ranks, ranks > 0)
    assert ranks.tolist() == [1, 0]
    assert (found["H@1"], found["MRR"], found["MR"], found["recall"]) == (0.5, 0.5, 1.0, 0.5)


def test_the_gold_listed_twice_is_no_tie_with_itself():
    scores, lists = np.array([[2.0, 2.0, 1.0, 3.0]], np.float32), np.array([[6, 6, 1, 2]])
    assert rank_in_lists(scores, lists, np.array([6])).tolist() == [2]


@pytest.mark.parametrize("method", ["clip", "mimic", "dwe"])
def test_a_knowledge_base_of_one_entity_gives_rank_1_and_of_two_equal_ones_rank_2(method):
    head = make(method)
    mentions, entities = head_rows(head.shapes, 3, 1, lengths=(2, 6)), head_rows(head.shapes, 1, 2, lengths=(2, 6))
    gold = np.zeros(3, np.int64)
    for copies, not_below in ((1, 0), (2, 1)):
        kb = entities.take(torch.zeros(copies, dtype=torch.int64))
        scoring = Scoring(head, Memory(mentions), Memory(kb))
        of_gold = scoring.lists(np.arange(3), gold[:, None])["score"][:, 0]
        found = scoring.kb(np.arange(3), Golds(gold, of_gold))
        assert found.not_below.tolist() == [not_below] * 3


# Losses


def test_a_batch_of_one_has_nothing_to_tell_apart():
    """One gold: -log(1) = 0; no negative: no hinge; one view: no contrast."""
    scores = torch.tensor([[3.7]], requires_grad=True)
    loss = in_batch_cross_entropy(scores, torch.tensor([0]))
    loss.backward()
    assert loss.item() == 0 and scores.grad.item() == 0
    assert margin_ranking(scores[0], scores, torch.zeros(1, 1, dtype=torch.bool), 0.25, True).item() == 0
    for method in ("mimic", "bert", "clip", "jmel", "dzmned", "melhi", "ghmfc"):
        head = make(method)
        batch = Batch(head_rows(head.shapes, 1, 1), head_rows(head.shapes, 1, 2), torch.tensor([0]))
        assert head.loss(batch)[0].item() == pytest.approx(0, abs=1e-6), method


def test_a_batch_of_one_gold_alone_has_no_negatives_however_many_mentions_share_it():
    for copies, value in ((False, 0.0), (True, math.log(5))):
        loss = in_batch_cross_entropy(torch.full((5, 1), 2.0), torch.zeros(5, dtype=torch.int64), copies)
        assert loss.item() == pytest.approx(value, abs=1e-6)


def test_equal_scores_cost_the_logarithm_of_their_number():
    """Cross-entropy of B equal scores is log B; every hinge of equal scores is the margin."""
    assert in_batch_cross_entropy(torch.zeros(8, 8), torch.arange(8)).item() == pytest.approx(math.log(8))
    negative = ~torch.eye(8, dtype=torch.bool)
    for of_mean in (False, True):
        assert margin_ranking(torch.zeros(8), torch.zeros(8, 8), negative, 0.25, of_mean).item() == pytest.approx(0.25)


def test_a_hinge_is_the_mean_over_the_mentions_that_have_negatives():
    """One negative, two, and none; the hinge of each negative, and of their mean."""
    positive = torch.tensor([0.5, 0.2, 0.9])
    scores = torch.tensor([[0.6, 9.0], [0.3, 0.0], [9.0, 9.0]])
    negative = torch.tensor([[True, False], [True, True], [False, False]])
    for of_mean, value in ((False, (0.2 + (0.2 + 0.0) / 2) / 2), (True, (0.2 + 0.05) / 2)):
        assert margin_ranking(positive, scores, negative, 0.1, of_mean).item() == pytest.approx(value)


def test_the_contrast_of_two_rows_is_its_closed_form():
    """Two rows seen from their centre are v and -v: with c = cos(v, w), every anchor costs
    log(exp(-1 / tau) + exp(-c / tau)) - c / tau."""
    random = torch.Generator().manual_seed(1)
    first, second = torch.randn(2, 6, generator=random), torch.randn(2, 6, generator=random)
    c, tau = cosine(*((side[0] - side[1]).double().numpy() for side in (first, second))), 0.25
    expected = math.log(math.exp(-1 / tau) + math.exp(-c / tau)) - c / tau
    assert mean_shifted_contrast(first, second, tau).item() == pytest.approx(expected, rel=1e-5)


# DRIN


@pytest.mark.parametrize("neighbours", ["mean", "sum", "list"])
def test_drin_over_one_candidate_and_one_kind_of_edge_is_four_terms(neighbours):
    """L = 1, tt alone: cos(m + GELU(a (W e + b)), e + GELU(a (W m + b))), whatever divides a sum of one."""
    head = make("drin", layers=1, edges=["tt"], neighbours=neighbours, width=5)
    mentions, entities = head_rows(head.shapes, 1, 1, lengths=(4, 5)), head_rows(head.shapes, 1, 2)
    mentions["text.span"][:] = -1  # the phrase is not found: the pooled vector stands for it
    weights, edge = weights_of(head), 0.6
    m, e = (
        weights[f"{side}_text.weight"] @ rows["text.pooled"][0].double().numpy()
        for side, rows in (("mention", mentions), ("entity", entities))
    )
    sent = {
        name: weights["layers.0.message.weight"] @ x + weights["layers.0.message.bias"]
        for name, x in (("m", m), ("e", e))
    }
    expected = cosine(m + gelu(edge * sent["e"]), e + gelu(edge * sent["m"]))
    found = listed(head, mentions, entities, torch.tensor([[0]]), {"text_cls": torch.tensor([[edge]])})["score"]
    assert found.item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("release", [False, True])
def test_drin_without_any_picture_there_is_drin_of_texts(release):
    """All pictures absent: the same scores as without image features, from the same weights of texts and layers."""
    head = make("drin", release=release)
    alone = make("drin", release=release, image_feature=None)
    own = head.state_dict()
    alone.load_state_dict({name: own[name] for name in alone.state_dict()})
    mentions, entities = head_rows(head.shapes, 5, 1), head_rows(head.shapes, 7, 2)
    for rows in (mentions, entities):
        rows["image.ok"] = torch.zeros_like(rows["image.ok"])
    lists = torch.tensor([[0, 1, 2], [3, -1, 4], [5, 6, -1], [1, 2, 3], [6, 0, 4]])
    pairs = head_pairs(head.shapes, lists, 5)
    with_none = listed(head, mentions, entities, lists, pairs)["score"]
    texts = {name: values for name, values in pairs.items() if f"pairs.{name}" in alone.shapes}
    torch.testing.assert_close(with_none, listed(alone, mentions, entities, lists, texts)["score"], rtol=0, atol=1e-6)


def test_drin_without_edges_is_a_cosine_of_two_maps():
    head = make("drin", edges=[])
    mentions, entities = head_rows(head.shapes, 1, 1, lengths=(4, 5)), head_rows(head.shapes, 3, 2, lengths=(2, 4))
    mentions["text.span"][:] = -1
    weights = weights_of(head)
    m = weights["mention_text.weight"] @ mentions["text.pooled"][0].double().numpy()
    keys = [weights["entity_text.weight"] @ row.double().numpy() for row in entities["text.pooled"]]
    found = listed(head, mentions, entities, torch.arange(3)[None, :])["score"][0]
    assert found.tolist() == pytest.approx([cosine(m, key) for key in keys], abs=1e-6)


def test_a_phrase_is_the_tokens_that_share_a_character_with_it():
    """Offsets 0-0 (special), 0-3, 3-7, 8-9; a phrase 6-8 shares characters with the third token alone, 2-4 with two."""
    offsets = Ragged(torch.tensor([[0, 0], [0, 3], [3, 7], [8, 9]] * 4).int(), torch.tensor([4] * 4))
    tokens = Ragged(torch.arange(16.0)[:, None], torch.tensor([4] * 4))
    span = torch.tensor([[6, 8], [2, 4], [7, 8], [-1, -1]])
    found = phrase_mean(tokens, offsets, span, torch.full((4, 1), 100.0)).squeeze(1)
    assert found.tolist() == [2.0, (5 + 6) / 2, 100.0, 100.0]


# MIMIC


def test_attention_to_a_single_token_is_that_token():
    """One mention token: its weight is 1 for every entity token, so S_g2l = FC(t_E) . LayerNorm(V token)."""
    head = make("mimic", units=["tglu"])
    mentions, entities = head_rows(head.shapes, 4, 1, lengths=(1, 2)), head_rows(head.shapes, 5, 2, lengths=(1, 9))
    weights = weights_of(head)

    def norm(x, name):
        scaled = (x - x.mean()) / np.sqrt(x.var() + 1e-5)
        return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    for m in range(4):
        token = norm(mentions["text.tokens"].values[m].double().numpy(), "text_local_norm")
        context = norm(weights["tglu.value.weight"] @ token, "tglu.norm")
        t_m = norm(mentions["text.pooled"][m].double().numpy(), "text_global_norm")
        for e in range(5):
            t_e = norm(entities["text.pooled"][e].double().numpy(), "text_global_norm")
            projected = weights["tglu.projection.weight"] @ t_e + weights["tglu.projection.bias"]
            found = listed(head, mentions, entities, torch.full((4, 1), e))["tglu"][m, 0].item()
            assert found == pytest.approx((t_e @ t_m + projected @ context) / 2, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("missing_image", ["null", "zero"])
def test_without_any_picture_there_the_visual_unit_says_nothing(missing_image):
    head = make("mimic", missing_image=missing_image)
    mentions, entities = head_rows(head.shapes, 4, 1), head_rows(head.shapes, 6, 2)
    for rows in (mentions, entities):
        rows["image.ok"] = torch.zeros_like(rows["image.ok"])
    found = listed(head, mentions, entities, torch.arange(6).repeat(4, 1))["vdlu"]
    torch.testing.assert_close(found, found[:1, :1].expand(4, 6), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("method", "options"), [("mimic", {"unit_length": True}), ("clip", {}), ("bert", {"projection": False})]
)
def test_pooled_vectors_of_unit_length_have_no_length_of_their_own(method, options):
    head = make(method, **options)
    mentions, entities = head_rows(head.shapes, 4, 1), head_rows(head.shapes, 6, 2)
    lists = torch.arange(6).repeat(4, 1)
    before = listed(head, mentions, entities, lists)["score"]
    scaled = [
        Rows({name: column * 7 if name.endswith(".pooled") else column for name, column in rows.items()})
        for rows in (mentions, entities)
    ]
    torch.testing.assert_close(listed(head, *scaled, lists)["score"], before, rtol=1e-5, atol=1e-5)


# DWE+, baselines, combinations


def test_dwe_of_a_mention_with_nothing_but_itself_is_one_map():
    """No sentence, object, face or name: g = (1 - eps) m W_g + b_g."""
    head = make("dwe")
    mentions, entities = head_rows(head.shapes, 1, 1, lengths=(2, 4)), head_rows(head.shapes, 3, 2, lengths=(2, 4))
    for role in ("sentence", "objects", "faces", "identities"):
        column = mentions[head.columns[role]]
        mentions[f"{role}.ok"] = torch.zeros(1, dtype=torch.bool)
        if isinstance(column, Ragged):
            mentions[head.columns[role]] = Ragged(column.values[:0], torch.zeros(1, dtype=torch.int64))
    weights = weights_of(head)

    def mapped(x, name):
        x = np.maximum(weights[f"maps.{name}.0.weight"] @ x + weights[f"maps.{name}.0.bias"], 0)
        return (x - x.mean()) / np.sqrt(x.var() + 1e-5) * weights[f"maps.{name}.2.weight"] + weights[
            f"maps.{name}.2.bias"
        ]

    m = mapped(mentions["phrase.pooled"][0].double().numpy(), "phrase") / (1 + np.exp(weights["gate"]))
    g = weights["fusion.weight"] @ m + weights["fusion.bias"]
    keys = [mapped(row.double().numpy(), "entity") for row in entities["entity.pooled"]]
    found = listed(head, mentions, entities, torch.arange(3)[None, :])["score"][0]
    assert found.tolist() == pytest.approx([cosine(g, key) for key in keys], abs=1e-5)


def attention_of_torch(part, width, heads):
    """torch's own multi-head attention with the weights of one of ours."""
    own = torch.nn.MultiheadAttention(width, heads, batch_first=True)
    with torch.no_grad():
        own.in_proj_weight.copy_(torch.cat([part.query.weight, part.key.weight, part.value.weight]))
        own.in_proj_bias.copy_(torch.cat([part.query.bias, torch.zeros(width), part.value.bias]))
        own.out_proj.weight.copy_(part.output.weight)
        own.out_proj.bias.copy_(part.output.bias)
    return own.eval()


@torch.no_grad()
def test_attention_is_that_of_torch():
    """DWE+'s over steps of different number, 0 where there is none, and GHMFC's, which adds to what it starts from."""
    random, lengths = torch.Generator().manual_seed(2), torch.tensor([3, 1, 0, 5])
    query, steps = torch.randn(4, 16, generator=random), torch.randn(9, 16, generator=random)
    rows = Ragged(steps, lengths)
    padded, absent = rows.padded(torch.arange(4), 5), torch.arange(5)[None, :] >= lengths[:, None]
    ours = make("dwe").attention
    found, weights = ours(query, rows)
    context, shares = attention_of_torch(ours, 16, 4)(query[:, None], padded, padded, key_padding_mask=absent)
    there = lengths > 0
    torch.testing.assert_close(found[there], context[there, 0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(weights.values, shares[:, 0][~absent], rtol=1e-5, atol=1e-6)
    assert not found[2].any()
    crossed = make("ghmfc").tokens_over_states
    x = torch.randn(4, 6, 16, generator=random)
    context, _ = attention_of_torch(crossed, 16, 4)(x, padded, padded, key_padding_mask=absent)
    expected = torch.where(there[:, None, None], x + context, x)
    torch.testing.assert_close(crossed(x, padded, ~absent), expected, rtol=1e-5, atol=1e-6)


def test_zero_shot_is_the_cosine_and_a_text_that_is_not_there_scores_0():
    head = make("bert", projection=False)
    mentions, entities = head_rows(head.shapes, 3, 1, lengths=(2, 4)), head_rows(head.shapes, 4, 2, lengths=(2, 4))
    entities["text.ok"][2] = False
    found = listed(head, mentions, entities, torch.arange(4).repeat(3, 1))["score"]
    for m in range(3):
        pairs = [cosine(mentions["text.pooled"][m].numpy(), row.numpy()) for row in entities["text.pooled"]]
        assert found[m].tolist() == pytest.approx([*pairs[:2], 0.0, pairs[3]], abs=1e-6)


def test_a_weighted_sum_of_one_number_orders_by_it_and_gives_the_odds():
    """`hidden: 0` and one pair feature: the loss is -log softmax of w1 z + w2 (z - max z) + w3."""
    head = make("ranker", {"pairs.retrieval": ()}, hidden=0, members=1, frequency=False, pair_features=["retrieval"])
    lists, values = torch.tensor([[0, 1, 2], [2, 0, -1]]), torch.tensor([[0.2, 0.9, 0.4], [0.1, 0.7, torch.nan]])
    head.prepare(lists, {"retrieval": values}, torch.tensor([1, 0]))
    there = values[~values.isnan()].double().numpy()
    z = (values.double().numpy() - there.mean()) / there.std()
    w = weights_of(head)["linear.weight"][0]
    level = w[0] * z + w[1] * (z - np.nanmax(z, 1, keepdims=True)) + w[2]
    expected = -np.mean(
        [level[0, 1] - np.log(np.exp(level[0]).sum()), level[1, 0] - np.log(np.exp(level[1, :2]).sum())]
    )
    loss, _ = head.loss(
        Batch(Rows(x=torch.zeros(2)), Rows(x=torch.zeros(3)), torch.tensor([1, 2]), lists, {"retrieval": values})
    )
    assert loss.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("method", ["drin", "jmel", "dzmned", "melhi"])
def test_where_no_picture_is_there_their_maps_learn_nothing(method):
    head = make(method).train()
    batch = batch_of(head, 8, 8, 1)
    for rows in (batch.mentions, batch.entities):
        rows["image.ok"] = torch.zeros_like(rows["image.ok"])
    loss, _ = head.loss(batch)
    loss.backward()
    maps = {name: parameter.grad for name, parameter in head.named_parameters() if name.endswith("image.weight")}
    assert loss.isfinite() and len(maps) in (1, 2)
    assert all(gradient is None or not gradient.any() for gradient in maps.values())

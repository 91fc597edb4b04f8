"""MIMIC against its equations, pair by pair in float64."""

import mimic_reference as reference
import numpy as np
import pytest
import torch
from heads_world import head_rows, head_shapes

from foundation.errors import UserError
from heads import scoring
from heads.base import Batch, Ragged, Rows, make_head
from heads.config import load_config

SMALL = {"d_t": 6, "d_v": 8, "d_c": 7}
VARIANTS = {
    "paper": {},
    "release": {"release": True},
    "class row": {"image_global": "class_row"},
    "text scale": {"attention_scale": "text"},
    "zeros for absent pictures": {"missing_image": "zero"},
    "padding not masked": {"mask_padding": False},
    "unit length": {"unit_length": True},
    "release, padding states": {"release": True, "padded": 12},
    "padding states alone": {"mask_padding": False, "padded": 12},
    "padding states of no use": {"padded": 12},
    "text only": {"image_feature": None},
}


class Memory:
    """A `Side` whose features are in memory."""

    device = torch.device("cpu")

    def __init__(self, features):
        self.features, self.count = features, len(features)

    def rows(self, index):
        return self.features.take(torch.from_numpy(np.asarray(index)))


def build(options, mentions=6, entities=9):
    """A head with random weights everywhere (LayerNorms and biases too), its features, and the reference's view of
    both. `padded` among the options: positions of the text feature's output of that name."""
    options = dict(options)
    positions = options.pop("padded", 0)
    config = load_config("mimic", {**SMALL, **options})
    shapes = head_shapes(config)
    if positions:
        shapes["text.padded"] = (positions, *shapes["text.tokens"])
    torch.manual_seed(3)
    head = make_head("mimic", config, shapes).eval()
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    sides = head_rows(shapes, mentions, 1), head_rows(shapes, entities, 2)
    weights = {name: tensor.double().numpy() for name, tensor in head.state_dict().items()}
    facts = {**vars(config), "image_tokens": shapes.get("image.tokens"), "image_pooled": shapes.get("image.pooled")}
    return head, sides, lambda m, e: reference.scores(plain(sides[0], m), plain(sides[1], e), weights, facts)


def plain(features, row):
    """One row as the reference reads it."""
    tokens = features["text.tokens"].take(torch.tensor([row])).values
    result = {"pooled": features["text.pooled"][row], "tokens": tokens}
    if "text.padded" in features:
        result["padded"] = features["text.padded"][row]
    if "image.tokens" in features:
        there = bool(features["image.ok"][row])
        result |= {
            f"image_{name}": features[f"image.{name}"][row] if there else None
            for name in ("tokens", "pooled")
            if f"image.{name}" in features
        }
    return {name: value if value is None else value.double().numpy() for name, value in result.items()}


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
def test_list_and_block_scores_are_the_equations(options):
    head, (mentions, entities), expected = build(options)
    lists = torch.tensor([[8, 0, 3], [1, 1, 2], [4, 5, 6], [7, -1, 0], [2, 8, 1], [0, 3, 5]])
    with torch.no_grad():
        encoded = head.encode_mentions(mentions), head.encode_entities(entities)
        block, listed = head.score_block(*encoded), head.score_lists(*encoded, lists)
    assert set(block) == {"score", *head.units}
    for m in range(6):
        pairs = [expected(m, e) for e in range(9)]
        for name, values in block.items():
            want = np.array([pair[name] for pair in pairs])
            np.testing.assert_allclose(values[m].numpy(), want, rtol=1e-5, atol=1e-5)
            real = lists[m] >= 0
            np.testing.assert_allclose(listed[name][m][real].numpy(), want[lists[m][real]], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("drawn", [[], [1, 8]], ids=["golds", "golds and drawn negatives"])
@pytest.mark.parametrize(
    "options", [{}, {"same_gold_negative": True}, {"release": True}], ids=["paper", "copies are negatives", "release"]
)
def test_the_loss_is_equations_20_to_22(options, drawn):
    head, (mentions, entities), expected = build(options)
    gold = [4, 2, 4, 7, 2, 4]
    distinct, column = np.unique([*gold, *drawn], return_inverse=True)
    column = torch.from_numpy(column)
    # of the whole batch, whichever mention drew them
    beside = column[6:][torch.arange(6) % len(drawn), None] if drawn else None
    loss, parts = head.loss(Batch(mentions, entities.take(torch.from_numpy(distinct)), column[:6], drawn=beside))
    units = ("score", "tglu", "vdlu", "cmfu")
    pairs, extra = (
        {name: np.array([[expected(m, e)[name] for e in listed] for m in range(6)]) for name in units}
        for listed in (gold, drawn)
    )
    assert loss.item() == pytest.approx(reference.loss(pairs, extra, gold, copies=bool(options)), rel=1e-5)
    assert sum(part.item() for part in parts.values()) == pytest.approx(loss.item())


def test_negatives_of_a_mention_alone_stand_in_its_own_denominator_only():
    head, (mentions, entities), expected = build({"hard_scope": "own"}, mentions=4)
    gold, drawn = (
        [4, 2, 4, 7],
        [[1, 8], [2, 1], [-1, 3], [8, 8]],
    )  # mention 1 drew its own gold, mention 2 has one negative only
    distinct = [1, 2, 3, 4, 7, 8]
    place = {entity: row for row, entity in enumerate(distinct)} | {-1: -1}
    batch = Batch(
        mentions,
        entities.take(torch.tensor(distinct)),
        torch.tensor([place[entity] for entity in gold]),
        drawn=torch.tensor([[place[entity] for entity in row] for row in drawn]),
    )
    _, parts = head.loss(batch)
    for name in ("score", "tglu", "vdlu", "cmfu"):
        terms = []
        for m in range(4):
            others = [g for i, g in enumerate(gold) if i != m and g != gold[m]] + [
                e for e in drawn[m] if e not in (-1, gold[m])
            ]
            values = np.array([expected(m, e)[name] for e in [gold[m], *others]])
            terms.append(np.log(np.exp(values - values[0]).sum()))
        assert parts[name].item() == pytest.approx(np.mean(terms), rel=1e-5)


def test_an_aligned_start_scores_likeness_and_refuses_widths_that_differ():
    def make(**widths):
        torch.manual_seed(0)
        shapes = {"text.tokens": (16,), "text.pooled": (widths.get("pooled", 16),)}
        return make_head(
            "mimic", load_config("mimic", {"image_feature": None, "d_t": 16, "tglu_start": "aligned"}), shapes
        ).eval()

    head = make()
    weights = {name: getattr(head.tglu, name).weight for name in ("query", "key", "value", "projection")}
    assert all(torch.equal(weight, weights["query"]) for weight in weights.values())
    torch.testing.assert_close(weights["query"] @ weights["query"].T, torch.eye(16))
    states = torch.randn(5, 16)
    texts = Rows(
        {
            "text.ok": torch.ones(5, dtype=torch.bool),
            "text.pooled": states,
            "text.tokens": Ragged(states, torch.ones(5, dtype=torch.int64)),
        }
    )
    with torch.no_grad():
        scores = head.score_block(head.encode_mentions(texts), head.encode_entities(texts))["score"]
    assert (scores.argmax(1) == torch.arange(5)).all(), "each text is most like itself before any training"
    with pytest.raises(UserError, match=r"aligned.*12 wide.*16"):
        make(pooled=12)


@pytest.mark.parametrize("options", [{}, {"release": True}], ids=["paper", "release"])
def test_full_kb_ranks_and_best_entities_are_those_of_the_equations(options, monkeypatch):
    head, (mentions, entities), expected = build(options, mentions=7, entities=30)
    for name, size in {"CHUNK": 4, "ENTITIES": 8, "MENTIONS": 3}.items():
        monkeypatch.setattr(scoring, name, size)
    want = np.array([[expected(m, e)["score"] for e in range(30)] for m in range(7)])
    gold = np.array([0, 29, 13, -1, 8, 7, 21])
    score = np.where(gold >= 0, want[np.arange(7), gold], 0)
    found = scoring.Scoring(head, Memory(mentions), Memory(entities)).kb(
        np.arange(7), scoring.Golds(gold, score), top=5
    )
    known = gold >= 0
    np.testing.assert_array_equal(found.not_below[known], (want > score[:, None]).sum(1)[known])
    order = np.argsort(-want, axis=1)[:, :5]
    np.testing.assert_array_equal(found.top, order)
    np.testing.assert_allclose(found.top_scores, np.take_along_axis(want, order, 1), rtol=1e-5, atol=1e-5)


def test_encodings_are_held_of_a_part_of_the_kb_at_a_time(monkeypatch):
    head, (_, entities), _ = build({"image_feature": None})
    kb = Memory(entities.take(torch.arange(1000) % 9))
    for name, size in {"CHUNK": 300, "ENTITIES": 600}.items():
        monkeypatch.setattr(scoring, name, size)
    assert [(start, len(rows)) for start, rows in scoring.entity_chunks(head, kb)] == [(0, 600), (600, 400)]


def test_scores_of_lists_are_those_of_the_equations_in_groups_of_any_size(monkeypatch):
    head, (mentions, entities), expected = build({}, mentions=7, entities=30)
    index = np.array([6, 0, 1, 2, 3, 4, 5])
    lists = np.random.default_rng(0).integers(0, 30, (7, 4))
    lists[[2, 3]] = -1  # a group of two lists without an entity
    lists[4, 1:], lists[5, 0] = -1, -1
    want = [[expected(m, e) if e >= 0 else {} for e in row] for m, row in zip(index, lists, strict=True)]
    for sizes in ({}, {"CHUNK": 4, "UNION": 9, "LISTS": 2}, {"CHUNK": 2, "UNION": 3, "LISTS": 1}):
        for name, size in sizes.items():
            monkeypatch.setattr(scoring, name, size)
        done: list[int] = []
        found = scoring.Scoring(head, Memory(mentions), Memory(entities)).lists(index, lists, watch=done.append)
        assert set(found) == {"score", "tglu", "vdlu", "cmfu"} and sum(done) == 7
        for name, values in found.items():
            wanted = np.array([[pair.get(name, -np.inf) for pair in row] for row in want])
            np.testing.assert_allclose(values, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("unit", ["tglu", "vdlu", "cmfu"])
def test_a_unit_left_out_takes_its_loss_and_its_parameters_with_it(unit):
    def make(**options):
        config = load_config("mimic", {**SMALL, **options})
        return make_head("mimic", config, head_shapes(config))

    rest = [other for other in ("tglu", "vdlu", "cmfu") if other != unit]
    whole, without, without_loss = make(), make(units=rest), make(unit_losses=rest)
    assert any(name.startswith(f"{unit}.") for name, _ in whole.named_parameters())
    assert not any(name.startswith(f"{unit}.") for name, _ in without.named_parameters())
    batch = Batch(head_rows(whole.shapes, 4, 5), head_rows(whole.shapes, 4, 6), torch.arange(4))
    assert set(whole.loss(batch)[1]) == {"score", "tglu", "vdlu", "cmfu"}
    assert set(without.loss(batch)[1]) == set(without_loss.loss(batch)[1]) == {"score", *rest}
    encoded = without.encode_mentions(batch.mentions), without.encode_entities(batch.entities)
    assert set(without.score_block(*encoded)) == {"score", *rest}


def test_release_sets_all_its_departures_and_yields_to_what_is_given_beside_it():
    config = load_config("mimic", {"release": True, "cmfu_gate": "vector"})
    assert (config.vdlu_projections, config.attention_bias, config.same_gold_negative, config.missing_image) == (
        True,
        True,
        True,
        "zero",
    )
    assert (config.mask_padding, config.eps, config.weight_decay, config.cmfu_gate) == (False, 1e-4, 1e-4, "vector")


def test_rows_without_text_or_picture_are_no_data():
    config = load_config("mimic", SMALL)
    head = make_head("mimic", config, head_shapes(config)).eval()
    texts, none = head_rows(head.shapes, 5, 1), head_rows(head.shapes, 3, 2, missing=1.0, lengths=(0, 1))
    with torch.no_grad():
        sides = head.encode_mentions(texts), head.encode_entities(none)
        assert head.score_block(*sides)["tglu"].abs().max() == 0
        assert head.score_lists(*sides, torch.tensor([[0, 1, 2]]).repeat(5, 1))["tglu"].abs().max() == 0
        assert head.score_block(head.encode_mentions(none), head.encode_entities(texts))["tglu"].abs().max() == 0
        torch.testing.assert_close(
            head.encode_entities(none)["m2e.base"], (head.absent_image - head.absent_image.mean()).expand(3, -1)
        )

"""`joint` against a float64 reference, and what it may read, keep in memory and learn."""

import math

import checkpoints
import joint_reference as reference
import numpy as np
import pytest
import torch
from heads_world import head_rows
from test_extractors import loaded

from foundation.errors import UserError
from heads.base import Batch, PerPicture
from heads.config import load_config
from heads.methods import _pair_states
from heads.methods.joint import Joint
from heads.scoring import behind
from pipeline.models import live

WIDTH, BLOCKS, HEADS = 32, 3, 4
SHAPES = {"text.states": (WIDTH,), "text.offsets": (2,), "image.tokens": (12, 20)}
LISTS = torch.tensor([[8, 0, 3, 5], [1, 7, 2, -1], [4, 5, 6, 8], [7, -1, 0, 2], [2, 8, 1, 6], [0, -1, -1, -1]])
VARIANTS = {
    "as it is": {},
    "no prior": {"prior": "none"},
    "no mark": {"mark": False},
    "text alone": {"image_feature": None},
    "one picture state": {"picture_tokens": 1},
    "more picture states than patches": {"picture_tokens": 50},
}


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    sizes = {"hidden_size": WIDTH, "num_hidden_layers": BLOCKS, "num_attention_heads": HEADS, "intermediate_size": 48}
    return checkpoints.bert(tmp_path_factory.mktemp("joint") / "bert", **sizes)


@pytest.fixture
def make(bert):
    """A function of (block, options) -> a small head with random weights everywhere."""

    def build(block=1, **options):
        config = load_config("joint", {"tune": {"text": {"block": block, "how": "whole"}}, **options})
        shapes = {name: shape for name, shape in SHAPES.items() if config.image_feature or not name.startswith("image")}
        shapes = {name: shape for name, shape in shapes.items() if config.mark or name != "text.offsets"}
        torch.manual_seed(3)
        head = Joint(config, shapes, {"text": live.for_pairs(live.Live(loaded("text_tokens", bert), block))})
        with torch.no_grad():
            for name, parameter in head.named_parameters():
                if not name.startswith("towers."):
                    parameter.add_(0.2 * torch.randn_like(parameter))
        return head.eval()

    return build


def sides(head, mentions=6, entities=9, seed=1):
    """Features of both sides, some without a picture, some with a phrase that is not in its text."""
    return head_rows(head.shapes, mentions, seed, lengths=(2, 9)), head_rows(head.shapes, entities, seed + 1)


def empty(rows, row):
    """The same rows, of which one has no text."""
    changed = type(rows)(rows)
    for name in ("text.states", "text.offsets"):
        if name in rows:
            parts = [rows[name].take(torch.tensor([at])) for at in range(len(rows[name].lengths))]
            parts[row] = _pair_states.Ragged(parts[row].values[:0], torch.zeros(1, dtype=torch.int64))
            changed[name] = _pair_states.Ragged(
                torch.cat([part.values for part in parts]), torch.cat([part.lengths for part in parts])
            )
    changed["text.ok"] = rows["text.ok"].clone()
    changed["text.ok"][row] = False
    return changed


def places(lists):
    """The pair feature `retrieval` of lists in a retriever's order."""
    reciprocal = (1 / torch.arange(1, lists.shape[1] + 1)).expand(lists.shape)
    return {
        "retrieval": torch.stack([torch.rand(lists.shape), reciprocal], -1).masked_fill(
            (lists < 0)[..., None], torch.nan
        )
    }


def plain(rows, row):
    """One record as the reference reads it."""
    here = torch.tensor([row])
    states = rows["text.states"].take(here).values.double().numpy()
    pictured = "image.ok" in rows and bool(rows["image.ok"][row])
    phrase = []
    if "text.offsets" in rows:
        start, end = rows["text.span"][row].tolist()
        offsets = rows["text.offsets"].take(here).values.tolist()
        phrase = [at for at, (a, b) in enumerate(offsets) if a < end and b > start and b > a]
    return {
        "states": states if len(states) else None,
        "patches": rows["image.tokens"][row].double().numpy() if pictured else None,
        "phrase": phrase,
    }


def expected(head, mentions, entities, lists, block=1):
    weights = {name: tensor.double().numpy() for name, tensor in head.state_dict().items()}
    model = head.towers["text"].model.state_dict()
    weights |= {name: tensor.double().numpy() for name, tensor in model.items()}
    names = [f"encoder.layer.{number}" for number in range(block, BLOCKS)]
    scores = np.full(lists.shape, np.nan)
    for b, row in enumerate(lists.tolist()):
        for j, entity in enumerate(row):
            if entity >= 0:
                laid = reference.sequence(plain(mentions, b), plain(entities, entity) | {"phrase": []}, weights, 4)
                prior = weights["prior"] * math.log(1 / (j + 1)) if "prior" in weights else 0
                scores[b, j] = reference.score(laid, weights, names, HEADS) + prior
    return scores


@torch.no_grad()
def scored(head, mentions, entities, lists, pairs=None):
    encoded = head.encode_mentions(mentions), head.encode_entities(entities)
    return head.score_lists(*encoded, lists, places(lists) if pairs is None else pairs)["score"]


def close(found, wanted, lists):
    there = (lists >= 0).numpy()
    np.testing.assert_allclose(found.double().numpy()[there], np.asarray(wanted)[there], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
@pytest.mark.parametrize("block", [0, 1, 2])
def test_scores_are_those_of_the_reference(make, options, block):
    head = make(block, **options)
    mentions, entities = sides(head)
    mentions, entities = empty(mentions, 4), empty(entities, 6)
    close(scored(head, mentions, entities, LISTS), expected(head, mentions, entities, LISTS, block), LISTS)


def test_the_order_of_candidates_changes_nothing_but_the_prior(make):
    head = make(prior="none")
    mentions, entities = sides(head)
    lists, order = torch.arange(8).expand(6, -1), torch.tensor([5, 2, 7, 0, 1, 6, 4, 3])
    together = scored(head, mentions, entities, lists)
    close(scored(head, mentions, entities, lists[:, order]), together[:, order], lists)
    prior = make()
    moved = scored(prior, mentions, entities, lists[:, order]) - scored(prior, mentions, entities, lists)[:, order]
    at = torch.arange(1, 9).log()
    close(moved, (prior.prior * (at[order] - at)).expand(6, -1).detach(), lists)


def test_one_candidate_is_scored_as_among_others(make):
    head = make()
    mentions, entities = sides(head)
    together = scored(head, mentions, entities, LISTS)
    for b in range(6):
        alone = scored(head, mentions.take(torch.tensor([b])), entities, LISTS[b : b + 1, :1])
        assert torch.allclose(alone[0, 0], together[b, 0], atol=1e-5)


def test_groups_of_pairs_do_not_change_scores(make, monkeypatch):
    head = make()
    mentions, entities = sides(head)
    expected_scores = scored(head, mentions, entities, LISTS)
    monkeypatch.setitem(_pair_states.STATES, "cpu", 60)
    laid = []
    forward = head.towers["text"].forward
    monkeypatch.setattr(
        head.towers["text"], "forward", lambda states, lengths: laid.append(states.shape) or forward(states, lengths)
    )
    close(scored(head, mentions, entities, LISTS), expected_scores, LISTS)
    assert len(laid) > 5 and all(count == 1 or count * length <= 60 for count, length, _ in laid)


def test_an_absent_picture_leaves_no_state(make):
    head = make()
    mentions, entities = sides(head)
    gone = mentions | {"image.ok": torch.zeros(6, dtype=torch.bool)}
    other = type(mentions)(gone | {"image.tokens": torch.full_like(mentions["image.tokens"], 9.0)})
    first = scored(head, type(mentions)(gone), entities, LISTS)
    close(scored(head, other, entities, LISTS), first, LISTS)
    with_pictures = scored(head, mentions, entities, LISTS)
    seen = mentions["image.ok"]
    assert not torch.allclose(with_pictures[seen], first[seen], atol=1e-4)
    close(with_pictures[~seen], first[~seen], LISTS[~seen])


def test_texts_beyond_the_encoders_positions_are_read(make):
    head = make(1, image_feature=None)
    mentions, entities = (head_rows(head.shapes, 2, seed, lengths=(50, 60)) for seed in (1, 2))
    lists = torch.tensor([[0, 1], [1, 0]])  # the model has 64 positions
    close(scored(head, mentions, entities, lists), expected(head, mentions, entities, lists), lists)


FAMILIES = {
    "Bert": {},
    "Roberta": {},
    "XLMRoberta": {},
    "Camembert": {},
    "Electra": {"embedding_size": 16},
    "DistilBert": None,
}
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
DISTIL = {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48}


@pytest.mark.parametrize("family", FAMILIES)
def test_families_read_two_texts_of_any_length_together(tmp_path, family):
    more = FAMILIES[family]
    options = {"max_position_embeddings": 40, **(DISTIL if more is None else {**SIZES, **more})}
    folder = checkpoints.text_family(tmp_path / family, family, **options)
    tower = live.for_pairs(live.Live(loaded("text_tokens", folder, max_tokens=16), 1)).eval()
    states = torch.randn(3, 60, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        together = tower(states, [60, 51, 8])["tokens"][:, 0]
        alone = torch.stack(
            [tower(states[row : row + 1, :n], [n])["tokens"][0, 0] for row, n in enumerate((60, 51, 8))]
        )
        changed = tower(states + (torch.arange(60) == 7)[None, :, None], [60, 51, 8])["tokens"][:, 0]
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)
    assert ((changed - together).abs().amax(1) > 1e-4).all()  # the last state of the shortest is seen


@pytest.mark.parametrize(
    ("family", "options", "why"),
    [
        ("MPNet", SIZES, "count places themselves"),
        ("ModernBert", SIZES, "count places themselves"),
        ("Bert", {**SIZES, "is_decoder": True}, "only what stands before them"),
    ],
)
def test_encoders_that_cannot_read_two_texts_are_refused_in_one_line(tmp_path, family, options, why):
    folder = checkpoints.text_family(tmp_path / family, family, **options)
    with pytest.raises(UserError, match=rf"^model .*{why}[^\n]*bert, roberta[^\n]*$"):
        live.for_pairs(live.Live(loaded("text_tokens", folder), 1))


def test_causal_clip_is_refused_in_one_line(saved):
    with pytest.raises(UserError, match=r"^model [^\n]*it is a [^\n]*joint reads two texts through[^\n]*$"):
        live.for_pairs(live.Live(loaded("clip_text", saved(checkpoints.hf_clip)), 1))


def batch(head, lists=LISTS, gold=(3, 1, 0, 0, 6, 0)):
    mentions, entities = sides(head)
    return Batch(mentions, entities, torch.tensor(gold), lists, places(lists))


def test_the_loss_is_the_cross_entropy_of_listed_golds(make):
    head = make()
    step = batch(head)
    value, parts = head.loss(step)
    scores = expected(head, step.mentions, step.entities, LISTS)
    losses = []
    for row, entities, gold in zip(scores, LISTS.tolist(), (3, 1, 0, 0, 6, 0), strict=True):
        if gold in entities:
            known = row[np.array(entities) >= 0]
            losses.append(np.log(np.exp(known).sum()) - row[entities.index(gold)])
    assert len(losses) == 5 and float(parts["gold listed"]) == pytest.approx(5 / 6)
    assert float(value.detach()) == pytest.approx(np.mean(losses), rel=1e-5)


def test_every_parameter_gets_a_gradient(make):
    head = make().train()
    head.loss(batch(head))[0].backward()
    without = {
        name
        for name, one in head.named_parameters()
        if one.requires_grad and (one.grad is None or one.grad.abs().max() < 1e-7)
    }
    keys = {name for name in without if name.endswith("attention.self.key.bias")}  # the same for all keys of a query
    last = {name for name in without if name.endswith(f"layer.{BLOCKS - 1}.output.LayerNorm.bias")}  # for a whole list
    assert without == keys | last


def test_a_batch_without_a_listed_gold_teaches_nothing(make):
    head = make().train()
    value, _ = head.loss(batch(head, gold=(5, 6, 0, 8, 3, 7), lists=LISTS[:, :2]))
    value.backward()
    assert float(value.detach()) == 0


def test_a_training_step_reads_the_gold_and_the_first_others(make):
    head = make(candidates=3)
    lists = np.array([[8, 0, 3, 5, 2], [1, 7, 2, -1, -1], [4, 5, 6, 8, 0], [7, 2, -1, -1, -1]])
    found = head.training_places(lists, np.array([5, 1, 3, -1]))
    assert np.take_along_axis(lists, found, 1).tolist() == [[8, 0, 5], [1, 7, 2], [4, 5, 6], [7, 2, -1]]


def test_depth_leaves_the_rest_in_the_lists_order_below(make):
    head = make(depth=2)
    lists, pairs = LISTS.numpy(), {"retrieval": places(LISTS)["retrieval"].numpy()}
    reached = head.reached(lists, pairs)
    assert reached.tolist() == [[True, True, False, False]] * 3 + [[True, False, False, False]] + [
        [True, True, False, False],
        [True, False, False, False],
    ]
    scores = behind(np.where(lists < 0, -np.inf, 5.0).astype(np.float32), reached, lists)
    assert scores[0].tolist() == [5, 5, 2, 1] and scores[3].tolist() == [5, -np.inf, 2, 1]
    given = {"retrieval": np.full((*lists.shape, 2), np.nan, np.float32)}
    assert (head.reached(lists, given) == (lists >= 0)).all()  # no retriever ordered them


def test_the_best_of_several_pictures_counts(make):
    head = make(entity_pictures="best", prior="none")
    mentions, entities = sides(head)
    counts = torch.tensor([2, 1, 3, 1, 2])
    lists = torch.tensor([[0, 2, 4], [1, -1, 3], [4, 3, -1]])
    mentions = mentions.take(torch.arange(3))
    flat = entities.take(torch.arange(9))
    found = scored(head, mentions, PerPicture(flat, counts), lists)
    starts = (counts.cumsum(0) - counts).tolist()
    for b, row in enumerate(lists.tolist()):
        for j, entity in enumerate(row):
            if entity >= 0:
                every = torch.arange(starts[entity], starts[entity] + int(counts[entity]))
                each = scored(head, mentions.take(torch.tensor([b])), flat, every[None])
                assert torch.allclose(found[b, j], each.max(), atol=1e-5)


def test_an_explanation_gives_the_tokens_shares_of_the_score(make):
    head = make(prior="none")
    mentions, entities = sides(head)
    encoded = head.encode_mentions(mentions), head.encode_entities(entities)
    with torch.no_grad():
        found = head.explain(*encoded, LISTS, places(LISTS))["tokens.entity"]
    lengths = entities["text.states"].lengths.clamp(min=1)
    for b, row in enumerate(LISTS.tolist()):
        for j, entity in enumerate(row):
            there = found[b, j][~found[b, j].isnan()]
            assert len(there) == (lengths[entity] if entity >= 0 else 0)
            assert entity < 0 or float(there.abs().sum()) == pytest.approx(1, abs=1e-5)
    entity = int(LISTS[0, 0])  # by finite differences: a state a little longer moves the score by gradient · state
    places_of = entities["text.states"].starts[entity] + torch.arange(int(lengths[entity]))
    moved = []
    for place in places_of.tolist():
        both = []
        for factor in (1.01, 0.99):
            values = (entities["text.states"].values + head.side[1]).detach().clone()
            values[place] *= factor
            rows = type(entities)(entities)
            rows["text.states"] = _pair_states.Ragged(values - head.side[1].detach(), entities["text.states"].lengths)
            both.append(float(scored(head, mentions, rows, LISTS)[0, 0]))
        moved.append((both[0] - both[1]) / 0.02)
    shares = np.array(moved) / np.abs(moved).sum()
    np.testing.assert_allclose(found[0, 0, : len(shares)].numpy(), shares, atol=5e-3)

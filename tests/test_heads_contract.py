"""What every head keeps, whatever its method: one contract over all of `methods()`."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from heads_world import head_pairs, head_rows, head_shapes, head_towers
from torch.overrides import TorchFunctionMode

from heads.base import Batch, Ragged, make_head
from heads.checkpoint import read_tensors, write_tensors
from heads.config import load_config, methods
from heads.metrics import rank_in_lists

# What makes a head small enough for a test, and the parameters that text alone leaves it.
SMALL = {
    **{name: {"width": 16} for name in ("bert", "clip", "clip_text", "dzmned", "ghmfc", "jmel", "melhi")},
    "drin": {"width": 16, "hinge": "each"},  # the hinge of the mean is content long before all are learned
    "dual": {"width": 16, "attention_width": 16, "attention_heads": 2},
    "dwe": {"width": 16, "joint_width": 12, "attention_heads": 4, "dropout": 0.0},
    "dsmip": {"d_t": 8, "d_v": 8, "d_c": 8, "gate_width": 16, "gate_dropout": 0.0},
    "fused": {
        "hidden": 192,
        "members": 2,
    },  # random numbers are learned by heart, which takes more than a real combination
    "mimic": {"d_t": 8, "d_v": 8, "d_c": 8},
    "ranker": {"hidden": 192, "members": 2},
}
IN_FP32 = {"layer_norm", "softmax", "log_softmax", "exp", "log", "pow", "norm", "cosine_similarity", "cumsum", "sum"}
IN_FP32 |= {"normalize", "cross_entropy", "softplus", "rsqrt", "cdist", "logsumexp"}
SAME_DTYPE = {"index_copy", "index_copy_", "index_add", "index_add_", "scatter", "scatter_add", "masked_scatter"}
SAME_DTYPE |= {"__setitem__"}
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
TEXT_ONLY = {
    method: {"image_feature": None}
    for method in ("clip", "drin", "dual", "dzmned", "ghmfc", "jmel", "joint", "melhi", "mimic")
}


@pytest.fixture(params=methods())
def method(request):
    return request.param


@pytest.fixture
def make(method):
    """A function of (seed, text_only) -> a small head of the method."""

    def build(seed=0, text_only=False, **options):
        config = load_config(
            method, {**SMALL.get(method, {}), **(TEXT_ONLY.get(method, {}) if text_only else {}), **options}
        )
        torch.manual_seed(seed)
        shapes = head_shapes(config, text_only)
        return make_head(method, config, shapes, towers=head_towers(config, shapes))

    return build


def features(head, n, seed, **options):
    """Random inputs of both kinds of rows for a head."""
    return head_rows(head.shapes, n, seed, **options)


def lists_of(m, r, n, seed=0):
    """(m, r) distinct entity rows per mention."""
    random = np.random.default_rng(seed)
    return torch.from_numpy(np.stack([random.permutation(n)[:r] for _ in range(m)]))


def batch(head, mentions, entities, gold, lists, seed=0):
    """A training batch; lists and pair features only for heads that read them."""
    if not head.uses_candidates:
        return Batch(mentions, entities, gold)
    return Batch(mentions, entities, gold, lists, head_pairs(head.shapes, lists, seed))


def batch_of(head, m, n, seed):
    """A training batch of m mentions over n entities."""
    lists = lists_of(m, min(4, n), n, seed)
    return batch(head, features(head, m, seed), features(head, n, seed + 1), lists[:, 0].clone(), lists, seed)


@torch.no_grad()
def score(head, mentions, entities, lists, pairs=None):
    """Scores of the lists; pair features are random but the same for lists of one shape."""
    pairs = head_pairs(head.shapes, lists, 0) if pairs is None else pairs
    return head.eval().score_lists(head.encode_mentions(mentions), head.encode_entities(entities), lists, pairs)


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=2e-5)


def test_scores_have_the_shape_of_the_pairs_and_are_fp32(make):
    head = make()
    mentions, entities, lists = features(head, 5, 1), features(head, 9, 2), lists_of(5, 4, 9)
    found = score(head, mentions, entities, lists)
    assert set(found) == {"score", *head.units}
    assert all(
        values.shape == (5, 4) and values.dtype == torch.float32 and values.isfinite().all()
        for values in found.values()
    )
    if head.scores_blocks:
        with torch.no_grad():
            block = head.score_block(head.encode_mentions(mentions), head.encode_entities(entities))
        for name, values in found.items():
            close(values, block[name].gather(1, lists))


def test_scores_do_not_depend_on_what_else_is_in_the_batch(make):
    head = make()
    mentions, entities, lists = (
        features(head, 12, 1, lengths=(1, 30)),
        features(head, 20, 2, lengths=(1, 30)),
        lists_of(12, 5, 20),
    )
    pairs = head_pairs(head.shapes, lists, 3)
    together = score(head, mentions, entities, lists, pairs)["score"]
    order = torch.randperm(12, generator=torch.Generator().manual_seed(4))
    close(
        score(
            head, mentions.take(order), entities, lists[order], {name: values[order] for name, values in pairs.items()}
        )["score"],
        together[order],
    )
    for row in range(12):
        own = {name: values[row : row + 1] for name, values in pairs.items()}
        alone = score(
            head, mentions.take(torch.tensor([row])), entities.take(lists[row]), torch.arange(5)[None, :], own
        )["score"]
        close(alone, together[row : row + 1])
    if head.scores_blocks:
        with torch.no_grad():
            parts = [
                head.score_block(
                    head.encode_mentions(mentions.take(torch.tensor(rows))), head.encode_entities(entities)
                )
                for rows in ([0, 1], [2, 11])
            ]
        close(torch.cat([part["score"] for part in parts]).gather(1, lists[[0, 1, 2, 11]]), together[[0, 1, 2, 11]])


def test_where_a_list_ends_nothing_is_read(make):
    head = make()
    mentions, entities, lists = features(head, 6, 1), features(head, 9, 2), lists_of(6, 4, 9)
    pairs = head_pairs(head.shapes, lists, 3)
    longer = torch.cat([torch.full((6, 1), -1), lists, torch.full((6, 3), -1)], 1)
    beside = {
        name: torch.cat([values[:, :1] * torch.nan, values, values[:, :3] * torch.nan], 1)
        for name, values in pairs.items()
    }
    close(
        score(head, mentions, entities, longer, beside)["score"][:, 1:5],
        score(head, mentions, entities, lists, pairs)["score"],
    )


def test_missing_features_are_not_read(make):
    head = make()
    mentions, entities, lists = features(head, 6, 1, missing=0.5), features(head, 8, 2, missing=0.5), lists_of(6, 4, 8)
    expected = score(head, mentions, entities, lists)["score"]
    for side in (mentions, entities):
        for name in [name for name in side if name.endswith(".ok")]:
            absent = ~side[name]
            for column in [column for column in side if column.startswith(name[:-2]) and column != name]:
                if isinstance(side[column], torch.Tensor) and absent.any():
                    side[column] = side[column].clone()
                    side[column][absent] = 7.0
    close(score(head, mentions, entities, lists)["score"], expected)


def test_rows_without_any_feature_have_finite_scores(make):
    head = make()
    mentions, entities = (
        features(head, 4, 1, missing=1.0, lengths=(0, 1)),
        features(head, 6, 2, missing=1.0, lengths=(0, 1)),
    )
    assert score(head, mentions, entities, lists_of(4, 3, 6))["score"].isfinite().all()
    lists = lists_of(4, 3, 6)
    loss, _ = make().loss(batch(head, mentions, entities, lists[:, 0].clone(), lists))
    loss.backward()
    assert loss.isfinite()


def test_text_alone_is_enough(make):
    head = make(text_only=True)
    assert not any(name.startswith("image.") for name in head.shapes)
    assert score(head, features(head, 3, 1), features(head, 5, 2), lists_of(3, 4, 5))["score"].isfinite().all()
    head.train().loss(batch_of(head, 3, 5, 1))[0].backward()


def test_empty_lists_and_a_batch_of_one_work(make):
    head = make()
    entities = features(head, 5, 2)
    assert score(head, features(head, 3, 1), entities, torch.zeros(3, 0, dtype=torch.int64))["score"].shape == (3, 0)
    assert score(head, features(head, 1, 1), entities, torch.tensor([[-1, 2, -1]]))["score"][0, 1].isfinite()
    loss, _ = head.train().loss(batch_of(head, 1, 4, 1))
    loss.backward()
    assert loss.isfinite()


def test_gradients_reach_every_parameter(make):
    head = make().train()
    head.loss(batch_of(head, 12, 12, 1))[0].backward()
    largest = {
        name: 0.0 if parameter.grad is None else float(parameter.grad.abs().max())
        for name, parameter in head.named_parameters()
    }
    assert not [name for name, value in largest.items() if value < 1e-7]


@pytest.mark.parametrize("device", DEVICES)
def test_loss_and_scores_are_those_of_fp32_under_autocast(make, device):
    """Where half precision meets fp32 in one tensor, dtypes are made equal before torch refuses them."""
    head = make().to(device)
    m, n = 8, 12
    lists = lists_of(m, 4, n)
    mentions, entities = (on(features(head, size, seed), device) for size, seed in ((m, 1), (n, 2)))
    plain = batch(head, mentions, entities, lists[:, 0].clone(), lists)
    plain = replace(plain, **{name: on(value, device) for name, value in vars(plain).items() if value is not None})
    found = {}
    for half in (False, True):
        with torch.autocast(device, torch.bfloat16, enabled=half), LikeCuda(half and device == "cpu"):
            torch.manual_seed(0)
            loss, parts = head.train().loss(plain)
            scores = score(head, mentions, entities, lists.to(device), on(head_pairs(head.shapes, lists, 0), device))
        loss.backward()
        assert all(value.isfinite().all() for value in (loss, *parts.values()))
        assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in head.parameters())
        found[half] = loss.item(), scores["score"].float().cpu()
    assert found[True][0] == pytest.approx(found[False][0], rel=0.1, abs=0.1)
    torch.testing.assert_close(found[True][1], found[False][1], rtol=0.1, atol=0.1)


class LikeCuda(TorchFunctionMode):
    """On the CPU, what autocast of CUDA does otherwise: it computes more operations in fp32, and makes no dtypes equal
    for copies into a tensor."""

    def __init__(self, active):
        super().__init__()
        self.active = active

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = getattr(function, "__name__", "")
        if self.active and name in IN_FP32:
            args = tuple(
                one.float() if isinstance(one, torch.Tensor) and one.is_floating_point() else one for one in args
            )
        if self.active and name in SAME_DTYPE:
            given = [one for one in (*args, *kwargs.values()) if isinstance(one, torch.Tensor)]
            dtypes = {one.dtype for one in given if one.is_floating_point()}
            assert len(dtypes) <= 1, f"{name} of {dtypes}"
        return function(*args, **kwargs)


def on(value, device):
    """A batch's part on the device."""
    if isinstance(value, Ragged):
        return Ragged(value.values.to(device), value.lengths)
    if isinstance(value, torch.Tensor):
        return value.to(device)
    return type(value)({name: on(one, device) for name, one in value.items()})


def test_it_learns_32_mentions_by_heart(make):
    head = make(lr=0.01).train()
    mentions, entities = features(head, 32, 1), features(head, 32, 2)
    optimizer = torch.optim.AdamW(head.parameters(), lr=head.config.lr)
    gold = torch.arange(32)
    lists = gold.repeat(32, 1)
    losses = []
    for _ in range(150):
        loss, _ = head.loss(batch(head, mentions, entities, gold, lists))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]
    ranks = rank_in_lists(score(head, mentions, entities, lists)["score"].numpy(), lists.numpy(), gold.numpy())
    assert (ranks == 1).mean() >= 0.95


def test_the_same_seed_gives_the_same_bytes(make):
    def trained():
        head = make(seed=5).train()
        optimizer = torch.optim.AdamW(head.parameters(), lr=1e-2)
        for seed in range(3):
            optimizer.zero_grad()
            head.loss(batch_of(head, 8, 10, seed))[0].backward()
            optimizer.step()
        return {name: tensor.numpy().tobytes() for name, tensor in head.state_dict().items()}

    first = trained()
    assert first == trained()
    assert first != {name: tensor.numpy().tobytes() for name, tensor in make(seed=5).state_dict().items()}


def test_a_checkpoint_gives_the_same_scores_back(make, tmp_path):
    head, other = make(seed=1), make(seed=2)
    mentions, entities, lists = features(head, 5, 1), features(head, 9, 2), lists_of(5, 4, 9)
    expected = score(head, mentions, entities, lists)["score"]
    assert not torch.equal(score(other, mentions, entities, lists)["score"], expected)
    write_tensors(tmp_path / "model.safetensors", head.state_dict(), {})
    other.load_state_dict(read_tensors(tmp_path / "model.safetensors")[0])
    assert torch.equal(score(other, mentions, entities, lists)["score"], expected)

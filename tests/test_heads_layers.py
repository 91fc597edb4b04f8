"""Attention at real lengths and the groups it is computed in, against the plain formulas over all pairs in float64."""

from itertools import pairwise

import pytest
import torch

from heads import layers
from heads.base import Ragged
from heads.layers import attend_block, attend_lists, fill, length_groups


def ragged(lengths, seed, width=4):
    random = torch.Generator().manual_seed(seed)
    lengths = torch.as_tensor(lengths)
    return Ragged(torch.randn(int(lengths.sum()), width, generator=random), lengths)


def dense(rows):
    """(n, L, d) in float64, and which positions are real."""
    longest = rows.longest
    padded = rows.padded(torch.arange(len(rows.lengths)), longest).double()
    return padded, torch.arange(longest)[None, :] < rows.lengths[:, None]


def attention(query, key, value):
    """`MeanPooling(softmax(Q K^T) V)` of every pair (B, N, d), eq. 9 and 10 of MIMIC; NaN where a side is empty."""
    (q, real_q), (k, real_k), (v, _) = (dense(rows) for rows in (query, key, value))
    logits = torch.einsum("nqd,bkd->bnqk", q, k).masked_fill(~real_k[:, None, None, :], -torch.inf)
    attended = torch.einsum("bnqk,bkd->bnqd", logits.softmax(-1), v)
    return (attended * real_q[None, :, :, None]).sum(2) / real_q.sum(1)[None, :, None]


@pytest.fixture(params=[None, 300], ids=["one block", "small blocks"])
def sides(request, monkeypatch):
    """Entities' queries, mentions' keys and values, so many that they fall into several groups and blocks."""
    if request.param:
        monkeypatch.setitem(layers.BLOCK, "cpu", request.param)
    random = torch.Generator().manual_seed(0)
    entities, mentions = (torch.randint(0, 9, (n,), generator=random) for n in (160, 110))
    return ragged(entities, 1), ragged(mentions, 2), ragged(mentions, 3)


def test_attention_over_all_pairs_is_the_plain_formula_and_takes_each_pair_once(sides):
    query, key, value = sides
    wanted = attention(query, key, value)
    found = torch.full(wanted.shape, torch.nan)
    times = torch.zeros(wanted.shape[:2], dtype=torch.int64)
    for mentions, entities, context in attend_block(query, key, value):
        assert context.shape == (len(mentions), len(entities), 4)
        found[mentions[:, None], entities] = context
        times[mentions[:, None], entities] += 1
    both = (key.lengths > 0)[:, None] & (query.lengths > 0)[None, :]
    assert torch.equal(times, both.long())
    torch.testing.assert_close(found[both].double(), wanted[both], rtol=1e-5, atol=1e-5)


def test_attention_over_lists_is_the_plain_formula_and_zeros_without_tokens(sides):
    query, key, value = sides
    columns = torch.randint(0, 160, (110, 7), generator=torch.Generator().manual_seed(4))
    columns[3] = columns[3, 0]
    wanted = attention(query, key, value).gather(1, columns[..., None].expand(-1, -1, 4))
    both = (key.lengths > 0)[:, None] & (query.lengths[columns] > 0)
    found = attend_lists(query, key, value, columns)
    torch.testing.assert_close(found.double(), torch.where(both[..., None], wanted, 0.0), rtol=1e-5, atol=1e-5)
    assert attend_lists(query, key, value, columns[:, :0]).shape == (110, 0, 4)
    assert attend_lists(query, key, value, columns[:0]).shape == (0, 7, 4)


def test_attention_without_any_tokens_is_nothing():
    none, some = ragged([0, 0], 1), ragged([2, 3], 2)
    for query, key in ((none, some), (some, none)):
        assert list(attend_block(query, key, key)) == []
        assert not attend_lists(query, key, key, torch.tensor([[0, 1], [1, 1]])).any()


@pytest.mark.parametrize("size", [1, 3, 64])
@pytest.mark.parametrize("least", [1, 5, 48])
def test_each_row_with_tokens_is_in_one_group_of_like_length(size, least):
    for seed, n in enumerate((1, 7, 60, 200)):
        lengths = torch.randint(0, 9, (n,), generator=torch.Generator().manual_seed(seed))
        groups = list(length_groups(lengths, size, least))
        rows = torch.cat([index for index, _ in groups]) if groups else lengths[:0]
        assert sorted(rows.tolist()) == (lengths > 0).nonzero().squeeze(1).tolist()
        for index, longest in groups:
            assert 0 < len(index) <= size and longest == lengths[index].max()
        of_groups = [lengths[index] for index, _ in groups]
        assert all(a.max() <= b.min() for a, b in pairwise(of_groups)), "neighbours in length"
        if least == 1:
            assert all((one == one[0]).all() for one in of_groups), "many rows: nothing is padded"
        if size == 64:
            assert len(groups) <= max(1, n // least) + n // 64 + 1, "few rows: few groups"
    assert list(length_groups(torch.zeros(4, dtype=torch.int64), size, least)) == []


def test_filled_rows_are_as_long_as_asked_with_zeros_at_their_end():
    rows = ragged([2, 0, 5, 4, 0, 1], 5)
    found = fill(rows, 4)
    assert found.lengths.tolist() == [4, 0, 5, 4, 0, 4]
    given = rows.values.split(rows.lengths.tolist())
    for before, after in zip(given, found.values.split(found.lengths.tolist()), strict=True):
        assert torch.equal(after[: len(before)], before) and not after[len(before) :].any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.bfloat16])
def test_rows_are_laid_out_at_their_own_precision_whatever_autocast_is_on(dtype):
    rows = ragged([2, 0, 3], 0)
    rows = Ragged(rows.values.to(dtype), rows.lengths)
    with torch.autocast("cpu", torch.bfloat16):
        laid = rows.padded(torch.arange(3), 3)
    assert laid.dtype == dtype and torch.equal(laid, rows.padded(torch.arange(3), 3))

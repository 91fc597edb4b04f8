"""Building blocks: pairings of one-sided encodings, and attention between token sequences of real length."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from heads.base import Ragged

BLOCK = {"cpu": 1 << 20, "cuda": 1 << 27, "mps": 1 << 24}
"""Attention weights held at once, by device: on a CPU a block that stays in its cache, on others one that is worth a
launch."""


def centred(x: Tensor) -> Tensor:
    """x minus its mean over the last dimension: the first half of a LayerNorm, which is linear and so can be done on
    each side alone."""
    return x - x.mean(-1, keepdim=True)


class Block:
    """Pairs every mention with every entity: pair tensors are (B, N)."""

    def dot(self, mention: Tensor, entity: Tensor) -> Tensor:
        """Inner products of mention vectors (B, d) and entity vectors (N, d)."""
        return mention @ entity.T

    def mention(self, values: Tensor) -> Tensor:
        """A number per mention (B,), to be broadcast over pairs."""
        return values[:, None]

    def entity(self, values: Tensor) -> Tensor:
        """A number per entity (N,), to be broadcast over pairs."""
        return values[None, :]


@dataclass(frozen=True)
class Lists:
    """Pairs mention b with the entities at `columns[b]` (r,): pair tensors are (B, r)."""

    columns: Tensor

    def dot(self, mention: Tensor, entity: Tensor) -> Tensor:
        """Inner products of mention vectors (B, d) and entity vectors (N, d)."""
        return torch.einsum("bd,brd->br", mention, entity[self.columns])

    def mention(self, values: Tensor) -> Tensor:
        """A number per mention (B,), to be broadcast over pairs."""
        return values[:, None]

    def entity(self, values: Tensor) -> Tensor:
        """A number per entity (N,), gathered for the pairs."""
        return values[self.columns]


Pairing = Block | Lists


def fill(rows: Ragged, length: int) -> Ragged:
    """Rows padded to `length` with zeros that count as data; empty and longer rows are unchanged."""
    lengths = torch.where(rows.lengths > 0, rows.lengths.clamp(min=length), 0)
    ends = lengths.cumsum(0)
    positions = torch.arange(int(rows.lengths.sum())) + (
        ends - lengths - rows.lengths.cumsum(0) + rows.lengths
    ).repeat_interleave(rows.lengths)
    values = rows.values.new_zeros(int(lengths.sum()), *rows.values.shape[1:])
    return Ragged(values.index_copy(0, positions.to(values.device), rows.values), lengths)


def phrase_tokens(offsets: Ragged, span: Tensor) -> Tensor:
    """(sum of lengths,) bool: which tokens share characters with their text's phrase. offsets, span: as `phrase_mean`
    has them."""
    device = offsets.values.device
    bounds = span.to(device).repeat_interleave(offsets.lengths.to(device), 0)  # (sum of lengths, 2)
    start, end = offsets.values[:, 0], offsets.values[:, 1]
    return (start < bounds[:, 1]) & (end > bounds[:, 0]) & (end > start)


def phrase_mean(tokens: Ragged, offsets: Ragged, span: Tensor, otherwise: Tensor) -> Tensor:
    """(n, d) mean of each text's token states that share characters with its phrase; `otherwise` (n, d) where there is
    no such token.

    tokens (L, d), offsets (L, 2): characters of each token, end exclusive, nothing for special tokens. span (n, 2), -1
    where the phrase is not there.
    """
    device = tokens.values.device
    lengths = tokens.lengths.to(device)
    inside = phrase_tokens(offsets, span)
    before = F.pad(inside.cumsum(0), (1, 0))  # tokens of phrases before each position
    ends = lengths.cumsum(0)
    first = before[ends - lengths]
    count = before[ends] - first
    states = tokens.values[inside].float()
    if not len(states):
        return otherwise
    mean = F.embedding_bag(torch.arange(len(states), device=device), states, first, mode="mean")
    return torch.where(count[:, None] > 0, mean, otherwise)


def until_last(rows: Ragged) -> Tensor:
    """(n, longest) float32 of ragged numbers (L,), NaN past each row's last."""
    longest = rows.longest
    padded = rows.padded(torch.arange(len(rows.lengths)), longest).float()
    past = (torch.arange(longest)[None, :] >= rows.lengths[:, None]).to(padded.device)
    return padded.masked_fill(past, float("nan"))


def length_groups(lengths: Tensor, size: int, least: int = 48) -> Iterator[tuple[Tensor, int]]:
    """Rows of like length, with the longest length among them: `(index (m,), length)`, m <= size; rows of length 0 are
    in none.

    Where there are many rows a group has one length and nothing is padded; where there are few, neighbours in length
    share a group of about `least` rows: many small operations would cost more than a little padding.
    """
    order = torch.argsort(lengths, stable=True)
    order = order[lengths[order] > 0]
    ordered = lengths[order]
    changes = ((ordered[1:] != ordered[:-1]).nonzero().squeeze(1) + 1).tolist()
    parts = max(1, len(order) // least)
    bounds = (
        [0, *changes, len(order)] if len(changes) < parts else [len(order) * part // parts for part in range(parts + 1)]
    )
    for start, end in pairwise(bounds):
        for begin in range(start, end, size):
            index = order[begin : min(begin + size, end)]
            yield index, int(lengths[index[-1]])


def _real(lengths: Tensor, length: int, device: torch.device) -> Tensor | None:
    """(m, length) bool of the positions that are no padding; None where none is."""
    if bool((lengths == length).all()):
        return None
    return (torch.arange(length)[None, :] < lengths[:, None]).to(device)


def attend_block(query: Ragged, key: Ragged, value: Ragged) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """`MeanPooling(softmax(Q K^T) V)` of eq. 9 and 10 of MIMIC for all pairs, at real lengths and without a (tokens x
    d) result per pair.

    query: entities (N), already divided by the scale; key, value: mentions (B). Yields `(mention index (b,), entity
    index (e,), context (b, e, d))` until all pairs with tokens on both sides are covered; pairs without are left out.
    The mean over entity tokens commutes with the product by V, so it is the attention weights that are pooled. Weights
    stand as (entity tokens, mention tokens, mentions): reductions then run along contiguous memory.
    """
    device = query.values.device
    budget = BLOCK[device.type]
    wide, least = (64, 48) if device.type == "cpu" else (512, 512)  # a GPU waits for launches, not for a little padding
    entities = []
    for index, length in length_groups(query.lengths, 4096, least):
        real = _real(query.lengths[index], length, device)
        share = None if real is None else real / real.sum(1, keepdim=True)  # (e, length)
        entities.append((index, length, query.padded(index, length), share))
    for mention_index, mention_length in length_groups(key.lengths, wide, least):
        keys = key.padded(mention_index, mention_length).transpose(0, 1).flatten(0, 1)  # (Lm * b, d)
        values = value.padded(mention_index, mention_length)  # (b, Lm, d)
        real = _real(key.lengths[mention_index], mention_length, device)
        padding = (
            None if real is None else torch.where(real.T.flatten(), 0.0, float("-inf")).to(keys.dtype)
        )  # (Lm * b,)
        shape = (mention_length, len(mention_index))
        for entity_index, entity_length, queries, share in entities:
            step = max(1, budget // (entity_length * len(keys)))
            pooled = []
            for start in range(0, len(queries), step):
                part = queries[start : start + step].flatten(0, 1)
                weights = part @ keys.T if padding is None else torch.addmm(padding, part, keys.T)  # (e * Le, Lm * b)
                weights = weights.view(-1, *shape).softmax(1).view(-1, entity_length, len(keys))
                pooled.append(
                    weights.mean(1)
                    if share is None
                    else torch.bmm(share[start : start + step, None, :], weights).squeeze(1)
                )
            attention = torch.cat(pooled).view(-1, *shape).permute(2, 0, 1)  # (b, e, Lm)
            yield mention_index.to(device), entity_index.to(device), torch.bmm(attention, values)


def attend_lists(query: Ragged, key: Ragged, value: Ragged, columns: Tensor) -> Tensor:
    """`attend_block` for the pairs of mention b with entities `columns[b]`: context (B, r, d), zeros where a side has
    no tokens."""
    device = query.values.device
    mentions, listed = columns.shape
    out = [value.values.new_zeros(0, listed, value.values.shape[-1])]
    longest = int(query.lengths.max()) * int(key.lengths.max()) if columns.numel() else 0
    step = max(1, 4 * BLOCK[device.type] // max(1, longest * listed)) if listed else max(1, mentions)
    for start in range(0, mentions, step):
        rows = torch.arange(start, min(start + step, mentions))
        entity_rows = columns[start : start + step].flatten().cpu()
        entity_lengths, mention_lengths = query.lengths[entity_rows], key.lengths[rows]
        le, lm = (int(lengths.max()) if lengths.numel() else 0 for lengths in (entity_lengths, mention_lengths))
        if le * lm == 0:
            out.append(value.values.new_zeros(len(rows), listed, value.values.shape[-1]))
            continue
        queries = (
            query.padded(entity_rows, le).view(len(rows), listed, le, -1).transpose(1, 2).flatten(1, 2)
        )  # (b, Le * r, d)
        weights = torch.bmm(key.padded(rows, lm), queries.transpose(1, 2))  # (b, Lm, Le * r)
        real = (torch.arange(lm)[None, :] < mention_lengths[:, None]).to(device)[:, :, None]
        weights = weights.masked_fill(~real, torch.finfo(weights.dtype).min).softmax(1) * real
        share = (torch.arange(le)[None, :] < entity_lengths[:, None]) / entity_lengths.clamp(min=1)[
            :, None
        ]  # (b * r, Le)
        share = share.to(device).view(len(rows), listed, le).transpose(1, 2)[:, None]  # (b, 1, Le, r)
        pooled = (weights.view(len(rows), lm, le, listed) * share).sum(2)  # (b, Lm, r)
        out.append(torch.bmm(pooled.transpose(1, 2), value.padded(rows, lm)))
    return torch.cat(out)

"""Training objectives that heads share."""

import torch
import torch.nn.functional as F
from torch import Tensor


def in_batch_cross_entropy(
    scores: Tensor, gold: Tensor, copies: bool = False, own: Tensor | None = None, *, mean: bool = True
) -> Tensor:
    """Cross-entropy of each mention's gold against the other mentions' golds, mean over mentions or (B,) without
    `mean`; eq. 20 and 21 of MIMIC, no temperature.

    scores (B, E) over the batch's distinct entities, gold (B,) columns of it; an entity that is nobody's gold is a
    negative of every mention. copies: whether other mentions' copies of a mention's own gold count among its negatives.
    own (B, h): scores of further negatives of each mention alone, -inf where there is none.
    """
    pairs = scores[:, gold].float()  # (B, B)
    if not copies:
        same = gold[:, None] == gold[None, :]
        pairs = pairs.masked_fill(same.fill_diagonal_(False), float("-inf"))
    drawn = torch.ones(scores.shape[1], dtype=torch.bool, device=gold.device).index_fill_(0, gold, False)
    beside = [] if own is None else [own.float()]
    return F.cross_entropy(
        torch.cat([pairs, scores[:, drawn].float(), *beside], 1),
        torch.arange(len(gold), device=gold.device),
        reduction="mean" if mean else "none",
    )


def reverse_cross_entropy(scores: Tensor, gold: Tensor) -> Tensor:
    """Cross-entropy of each mention for its own gold against the batch's other mentions, a scalar; mentions with the
    same gold are not among them.

    scores (B, E) over the batch's distinct entities, gold (B,) columns of it.
    """
    pairs = scores[:, gold].float().T  # (B, B), row b: the gold of mention b with every mention
    same = (gold[:, None] == gold[None, :]).fill_diagonal_(False)
    return F.cross_entropy(pairs.masked_fill(same, float("-inf")), torch.arange(len(gold), device=gold.device))


def divergence(teacher: Tensor, scores: Tensor) -> Tensor:
    """Kullback-Leibler divergence of the softmax of `scores` (B, n) from that of `teacher` (B, n), the mean over
    mentions, a scalar; 0 where there is none to compare.

    NaN in `teacher`: an entity that it does not score, or whose score counts at another place. Mentions whose first
    entity, the gold, has no score there are left out.
    """
    kept = ~teacher[:, 0].isnan()
    if not kept.any():
        return scores.sum() * 0.0
    absent = teacher[kept].isnan()
    ours, theirs = (
        values[kept].float().masked_fill(absent, torch.finfo(torch.float32).min).log_softmax(1)
        for values in (scores, teacher)
    )
    return (theirs.exp() * (theirs - ours)).masked_fill(absent, 0).sum(1).mean()


def mean_shifted_contrast(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """Mean-shifted contrastive loss, eq. 10 of DWE+: row i of `first` (n, d) against row i of `second` (n, d), a
    scalar; 0 for fewer than 2 rows.

    Rows are seen from the centre of their side in this batch and normalised. Each of the 2n views is an anchor; the
    denominator leaves out the anchor and its positive.
    """
    n = len(first)
    if n < 2:
        return (first.sum() + second.sum()) * 0.0
    views = torch.cat(
        [F.normalize(side.float() - side.float().mean(0), dim=-1, eps=CENTRE) for side in (first, second)]
    )  # (2n, d)
    similar = views @ views.T / temperature
    place = torch.arange(2 * n, device=views.device)
    partner = place.roll(n)
    others = similar.masked_fill((place[:, None] == place) | (partner[:, None] == place), float("-inf"))
    return (others.logsumexp(1) - similar[place, partner]).mean()


CENTRE = 1e-3
"""Rows nearer than this to the centre have no direction and are not scaled up to length 1."""


def margin_ranking(positive: Tensor, scores: Tensor, negative: Tensor, margin: float, of_mean: bool) -> Tensor:
    """`max(S_neg - S_pos + margin, 0)`, eq. 17 of DRIN, mean over the mentions that have negatives; 0 where none has.

    positive (B,): S_pos. scores (B, K), negative (B, K) bool: which of them are negatives. of_mean: S_neg is their
    mean; else a hinge for each of them, and the mean of those.
    """
    count = negative.sum(1)
    each = scores if of_mean else F.relu(scores - positive[:, None] + margin)
    mean = each.masked_fill(~negative, 0).sum(1) / count.clamp(min=1)
    hinge = F.relu(mean - positive + margin) if of_mean else mean
    kept = count > 0
    return (hinge * kept).sum() / kept.sum().clamp(min=1)

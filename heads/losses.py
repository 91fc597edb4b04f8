"""Training objectives that heads share."""

import torch
import torch.nn.functional as F
from torch import Tensor


def in_batch_cross_entropy(scores: Tensor, gold: Tensor, copies: bool = False) -> Tensor:
    """Cross-entropy of each mention's gold against the other mentions' golds, mean over mentions; eq. 20 and 21 of MIMIC, no temperature.

    scores (B, E) over the batch's distinct entities, gold (B,) columns of it; an entity that is nobody's gold is a negative of every mention.
    copies: whether other mentions' copies of a mention's own gold count among its negatives.
    """
    pairs = scores[:, gold].float()  # (B, B)
    if not copies:
        own = gold[:, None] == gold[None, :]
        pairs = pairs.masked_fill(own.fill_diagonal_(False), float("-inf"))
    drawn = torch.ones(scores.shape[1], dtype=torch.bool, device=gold.device).index_fill_(0, gold, False)
    return F.cross_entropy(torch.cat([pairs, scores[:, drawn].float()], 1), torch.arange(len(gold), device=gold.device))

"""Scores of pairs out of the scores with each picture of the entity: the best of them, or their mean.

`S(m, e) = max_p S(m, e_p)` or `mean_p S(m, e_p)`: S(m, e_p) is the head's whole score with p as the entity's only
picture, p one of its usable pictures; without any, the one score that the head gives it then.
"""

from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from heads.base import PerPicture, Ragged
from heads.config.base import EntityPictures


def of_block(
    scores: Mapping[str, Tensor], entities: PerPicture, how: EntityPictures, choices: Collection[str] = ()
) -> dict[str, Tensor]:
    """(B, n) of scores (B, P) with every row of n entities; see `of_pairs`."""
    device = scores["score"].device
    starts, counts = entities.places.starts.to(device)[None], entities.counts.to(device)[None]
    return of_pairs(scores, starts, counts, how, choices)


def shares(entities: PerPicture) -> Tensor:
    """(P,) float32: of each row of `entities.flat` its share; entities count alike, and so do all pictures of one."""
    return (1 / (entities.counts.float() * len(entities))).repeat_interleave(entities.counts)


def rows_of_lists(entities: PerPicture, columns: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """For lists of entities (B, r) the lists (B, R) of all their rows in `entities.flat`, each list's end filled with
    row 0, and for each place (B, r) its first one in the longer list and how many there are."""
    places = entities.places.take(columns.flatten())
    counts = places.lengths.view(columns.shape)
    totals = counts.sum(1)
    longest = int(totals.max()) if totals.numel() else 0
    longer = Ragged(places.values, totals).padded(torch.arange(len(totals)), longest)
    device = columns.device
    return longer.to(device), (counts.cumsum(1) - counts).to(device), counts.to(device)


def of_pairs(
    scores: Mapping[str, Tensor], starts: Tensor, counts: Tensor, how: EntityPictures, choices: Collection[str] = ()
) -> dict[str, Tensor]:
    """(B, n) of scores (B, R) by name: of the pair (b, j) the columns from `starts[b, j]` on, `counts[b, j]` of them
    (either (B, n), or (1, n) for all b).

    best: every name's value where "score" is highest, of equal ones the first. mean: the mean; of the names in
    `choices`, which are numbers of what was chosen, the most frequent, of equally frequent ones the lowest.
    """
    if how == "mean":
        return {
            name: _most_frequent(values, starts, counts) if name in choices else _mean(values, starts, counts)
            for name, values in scores.items()
        }
    best = _best(scores["score"].detach(), starts, counts)
    return {name: values.gather(1, best) for name, values in scores.items()}


def _best(scores: Tensor, starts: Tensor, counts: Tensor) -> Tensor:
    """(B, n) column of each pair's highest score. One picture after another: no (B, n, most pictures) is made."""
    best = starts.expand(len(scores), -1).clone()
    for number in range(1, int(counts.max()) if counts.numel() else 0):
        pairs = (counts > number).any(0).nonzero().squeeze(1)
        there = counts[:, pairs] > number
        at = torch.where(there, starts[:, pairs] + number, starts[:, pairs]).expand(len(scores), -1)
        before = best[:, pairs]
        best[:, pairs] = torch.where(scores.gather(1, at) > scores.gather(1, before), at, before)
    return best


def _mean(values: Tensor, starts: Tensor, counts: Tensor) -> Tensor:
    """(B, n) mean of each pair's columns."""
    total = values.gather(1, starts.expand(len(values), -1))
    for number in range(1, int(counts.max()) if counts.numel() else 0):
        pairs = (counts > number).any(0).nonzero().squeeze(1)
        there = counts[:, pairs] > number
        at = torch.where(there, starts[:, pairs] + number, starts[:, pairs]).expand(len(values), -1)
        total = total.index_add(1, pairs, values.gather(1, at) * there)
    return total / counts


def _most_frequent(values: Tensor, starts: Tensor, counts: Tensor) -> Tensor:
    """(B, n) the number that most of each pair's columns hold."""
    numbers = values.unique()
    shares = [_mean((values == number).float(), starts, counts) for number in numbers]
    return numbers[torch.stack(shares, -1).argmax(-1)] if len(numbers) else values

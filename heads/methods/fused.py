"""A learned combination of trained heads' scores, pair features and training frequency over the same candidates."""

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from heads.base import NO_PAIRS, Batch, Head, Rows
from heads.config._pairs import PairsConfig
from heads.metrics import figures, rank_in_lists

BELOW = 0.1
"""How far, in deviations, a candidate without a number is below the lowest that has it, in a start from that number."""
WEIGHTS = tuple(2.0 ** (power / 2) for power in range(-8, 11))
"""Of a number by itself, per deviation: those that a start is chosen from."""


class Fused(Head):
    """Small networks over a pair's numbers, each trained so that the softmax of its scores over a list is the chance of
    each candidate; their mean.

    Reads pair features alone. A number enters as it is (standardised), as its distance from the best in the list, and
    as whether it is there; what is not there is 0 in the first two. Each member is a weighted sum plus a network of one
    layer; members differ in their initial weights alone, which evens out what so few mentions leave to chance.
    """

    config: PairsConfig
    uses_candidates = True
    scores_blocks = False
    centre: Tensor
    scale: Tensor

    def __init__(self, config: PairsConfig, shapes: Mapping[str, tuple[int, ...]]) -> None:
        super().__init__(config, shapes)
        self.parts = {
            name.removeprefix("pairs."): math.prod(shapes[name]) for name in sorted(shapes) if name.startswith("pairs.")
        }
        numbers = sum(self.parts.values())
        self.register_buffer("centre", torch.zeros(numbers))
        self.register_buffer("scale", torch.ones(numbers))
        members = config.members
        self.linear = nn.Linear(3 * numbers, members, bias=False)  # a bias would move all of a list alike
        if config.hidden:
            self.units_of = nn.Linear(3 * numbers, members * config.hidden)
            self.weights = nn.Parameter((2 * torch.rand(members, config.hidden) - 1) / math.sqrt(config.hidden))

    def prepare(self, columns: Tensor, pairs: Mapping[str, Tensor], gold: Tensor) -> None:
        """Take the standardisation from the training mentions' lists: mean and deviation of every number over the pairs
        that have it. With `from_best`, also take the starting weights: those of the best number by itself."""
        values, there = self._numbers(columns, pairs)
        counts = there.sum((0, 1)).clamp(min=1)
        self.centre.copy_(values.sum((0, 1)) / counts)
        spread = ((values - self.centre).square() * there).sum((0, 1)) / counts
        self.scale.copy_(spread.sqrt().clamp(min=1e-6))
        if self.config.from_best:
            self._start_from_best(columns, self._levels(values, there), there, gold)

    @torch.no_grad()
    def _start_from_best(self, columns: Tensor, levels: Tensor, there: Tensor, gold: Tensor) -> None:
        """Make the scores those of one number, that which ranks the golds best: by H@1, then by MRR, then the first.

        A candidate that has no such number stands below the lowest of the training lists. The number's weight makes
        the golds likeliest. The units start at 0.
        """
        numbers = levels.shape[2]
        listed = (columns == gold[:, None]).any(1)
        columns, levels, there, gold = columns[listed], levels[listed], there[listed], gold[listed]
        lowest = levels.masked_fill(~there, torch.inf).amin((0, 1)).nan_to_num(posinf=0.0)
        scores = torch.where(there, levels - lowest + BELOW, 0)
        lists = columns.cpu().numpy()
        best, start = (-1.0, -1.0), 0
        for number in range(numbers):
            ranks = rank_in_lists(scores[:, :, number].cpu().numpy(), lists, gold.cpu().numpy())
            of_number = figures(ranks, ranks > 0)
            reached = of_number.get("H@1", 0.0), of_number.get("MRR", 0.0)
            if reached > best:
                best, start = reached, number
        own = (columns == gold[:, None]).int().argmax(1)
        likely = [
            F.cross_entropy((weight * scores[:, :, start]).masked_fill(columns < 0, -torch.inf), own).item()
            for weight in WEIGHTS
        ]
        weight = WEIGHTS[likely.index(min(likely))]
        self.linear.weight.zero_()
        self.linear.weight[:, start] = weight
        self.linear.weight[:, 2 * numbers + start] = weight * (BELOW - lowest[start])
        if self.config.hidden:
            self.weights.zero_()

    def encode_mentions(self, inputs: Rows) -> Rows:
        """Nothing: all that is read belongs to pairs."""
        return Rows()

    def encode_entities(self, inputs: Rows) -> Rows:
        """Nothing, as above."""
        return Rows()

    def score_lists(
        self, mentions: Rows, entities: Rows, columns: Tensor, pairs: Mapping[str, Tensor] = NO_PAIRS
    ) -> dict[str, Tensor]:
        """See `Head.score_lists`; differences of two scores are log odds of the two candidates."""
        return {"score": self._scores(columns, pairs).mean(-1)}

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross-entropy of the gold over its list, the sum over the members; a mention whose gold is not listed is left
        out."""
        lists = batch.candidates
        assert lists is not None
        own = lists == batch.gold[:, None]
        listed = own.any(1)
        scores = self._scores(lists, batch.pairs).masked_fill((lists < 0)[:, :, None], -torch.inf)[
            listed
        ]  # (m, r, members)
        gold = own[listed].int().argmax(1)[:, None].expand(-1, scores.shape[2])
        value = F.cross_entropy(scores, gold, reduction="sum") / listed.sum().clamp(min=1)
        return value, {"score": value}

    def _scores(self, columns: Tensor, pairs: Mapping[str, Tensor]) -> Tensor:
        """The scores of every member, (B, r, members) fp32."""
        with torch.autocast(columns.device.type, enabled=False):
            values, there = self._numbers(columns, pairs)
            level = self._levels(values, there)
            best = level.masked_fill(~there, -torch.inf).amax(1, keepdim=True) if columns.shape[1] else level
            inputs = torch.cat([level, (level - best).masked_fill(~there, 0), there.float()], -1)
            scores = self.linear(inputs)
            if self.config.hidden:
                units = F.relu(self.units_of(inputs)).unflatten(-1, self.weights.shape)  # (B, r, members, hidden)
                scores = scores + torch.einsum("brmh,mh->brm", units, self.weights)
            return scores

    def _levels(self, values: Tensor, there: Tensor) -> Tensor:
        """Standardised numbers (B, r, numbers), 0 where one is not there."""
        return ((values - self.centre) / self.scale).masked_fill(~there, 0)

    def _numbers(self, columns: Tensor, pairs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Every number of each pair (B, r, numbers), 0 where it is not there, and whether it is."""
        values = torch.cat(
            [pairs[part].float().reshape(*columns.shape, width) for part, width in self.parts.items()], -1
        )
        there = values.isfinite() & (columns >= 0)[:, :, None]
        return values.masked_fill(~there, 0), there

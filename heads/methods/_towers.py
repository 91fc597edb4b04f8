"""What the baselines share: one vector per side, compared by cosine."""

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from heads.base import Batch, Ragged, Rows
from heads.config._baseline import BaselineConfig, PretrainedConfig
from heads.layers import Pairing
from heads.losses import in_batch_cross_entropy, margin_ranking
from heads.methods._one_encoder import Sided


class TwoTowers(Sided):
    """A head whose score is the cosine of `vector(inputs, "mention")` and `vector(inputs, "entity")`, (n, d) each; a
    row of zeros scores 0."""

    config: BaselineConfig
    one_vector = True

    def vector(self, inputs: Rows, side: str) -> Tensor:
        """The vector of one side, (n, d), not normalised."""
        raise NotImplementedError

    def encode(self, inputs: Rows, side: str) -> Rows:
        """See `Sided.encode`."""
        return Rows({"vector": F.normalize(self.vector(inputs, side).float(), dim=-1)})

    def score(self, mentions: Rows, entities: Rows, pairing: Pairing) -> dict[str, Tensor]:
        """See `Sided.score`."""
        with torch.autocast(mentions.fixed("vector").device.type, enabled=False):
            return {"score": pairing.dot(mentions.fixed("vector"), entities.fixed("vector"))}

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Over the other golds of the mini-batch (and drawn entities, where there are some), see `BaselineConfig`."""
        value = self.in_batch(self.encode_mentions(batch.mentions), self.encode_entities(batch.entities), batch.gold)
        return value, {self.config.loss: value}

    def in_batch(self, mentions: Rows, entities: Rows, gold: Tensor) -> Tensor:
        """The loss of encoded mentions (B) against encoded entities (E), of which row gold[b] is mention b's."""
        scores = self.score_block(mentions, entities)["score"]  # (B, E)
        if self.config.loss == "cross_entropy":
            return in_batch_cross_entropy(scores / self.config.temperature, gold)
        positive = scores.gather(1, gold[:, None]).squeeze(1)
        negative = torch.arange(scores.shape[1], device=gold.device) != gold[:, None]
        return margin_ranking(positive, scores, negative, self.config.margin, of_mean=False)


class Pretrained(TwoTowers):
    """The encoder's own pooled vectors at length 1, those of the roles end to end, as they are (zero-shot) or through a
    Linear of each side.

    Zero-shot, an absent part is zeros and moves nothing but the length; trained, an absent picture is a learned vector.
    """

    config: PretrainedConfig
    ROLES: ClassVar[tuple[str, ...]] = ("text",)

    def __init__(self, config: PretrainedConfig, shapes: Mapping[str, tuple[int, ...]]) -> None:
        super().__init__(config, shapes)
        self.roles = [role for role in self.ROLES if f"{role}.pooled" in shapes]
        widths = {role: shapes[f"{role}.pooled"][-1] for role in self.roles}
        if config.projection:
            self.mention = nn.Linear(sum(widths.values()), config.width)
            self.entity = nn.Linear(sum(widths.values()), config.width)
            if "image" in widths:
                self.absent = absent_vector(widths["image"])

    def vector(self, inputs: Rows, side: str) -> Tensor:
        """See `TwoTowers.vector`."""
        parts = [
            F.normalize(inputs.fixed(f"{role}.pooled").float(), dim=-1) * inputs.fixed(f"{role}.ok")[:, None]
            for role in self.roles
        ]
        if not self.config.projection:
            return torch.cat(parts, 1)
        if "image" in self.roles:
            parts[-1] = torch.where(inputs.fixed("image.ok")[:, None], parts[-1], self.absent)
        linear: nn.Linear = getattr(self, side)
        return linear(torch.cat(parts, 1)) * inputs.fixed("text.ok")[:, None]


def absent_vector(width: int) -> nn.Parameter:
    """A learned vector (width) of about length 1 for what is not there."""
    return nn.Parameter(torch.randn(width) / math.sqrt(width))


def padded(rows: Ragged) -> tuple[Tensor, Tensor]:
    """Rows (n, L, *shape) and which positions are real (n, L) bool, L the longest of them and at least 1."""
    length = max(1, rows.longest)
    real = torch.arange(length)[None, :] < rows.lengths[:, None]
    return rows.padded(torch.arange(len(rows.lengths)), length), real.to(rows.values.device)


def masked_softmax(logits: Tensor, real: Tensor, dim: int) -> Tensor:
    """Softmax over `dim` of what is `real` (bool, broadcast to logits); zeros where nothing is."""
    logits = logits.float().masked_fill(~real, torch.finfo(torch.float32).min)
    return logits.softmax(dim) * real

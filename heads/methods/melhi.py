"""MEL-HI as described by DRIN (4.2) and DWE+ (5.2): only images related to their text enter the fusion; multiple
attention over the text."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from heads.base import Ragged, Rows
from heads.config.melhi import MelhiConfig
from heads.methods._towers import TwoTowers, masked_softmax, padded


class Melhi(TwoTowers):
    """Stage 1: `cos(P_t t, P_v v) > threshold`, a hard choice with the gradient of a sigmoid. Stage 2: `g = W [heads
    over the tokens; kept image]`.

    Shared by both sides but for the last map. An image that is absent or not related is zeros in stage 2, as one that
    was left out.
    """

    config: MelhiConfig

    def __init__(self, config: MelhiConfig, shapes: Mapping[str, tuple[int, ...]]) -> None:
        super().__init__(config, shapes)
        width, self.pictured = config.width, "image.pooled" in shapes
        self.weights = nn.Linear(
            shapes["text.tokens"][-1], config.attention_heads, bias=False
        )  # a bias would move no weight
        self.values = nn.Linear(shapes["text.tokens"][-1], width)
        if self.pictured:
            self.text_relation = nn.Linear(shapes["text.pooled"][-1], width)
            self.image_relation = nn.Linear(shapes["image.pooled"][-1], width)
            self.image = nn.Linear(shapes["image.pooled"][-1], width)
        self.joint = nn.ModuleDict(
            {side: nn.Linear((1 + self.pictured) * width, width) for side in ("mention", "entity")}
        )

    def vector(self, inputs: Rows, side: str) -> Tensor:
        """See `TwoTowers.vector`."""
        parts = [self._attended(inputs.ragged("text.tokens"))]
        if self.pictured:
            parts.append(self.image(inputs.fixed("image.pooled").float()) * self.kept(inputs)[:, None])
        return self.joint[side](torch.cat(parts, 1)) * inputs.fixed("text.ok")[:, None]

    def kept(self, inputs: Rows) -> Tensor:
        """(n,) 1 where the image enters, 0 where it does not; backwards it is a sigmoid."""
        similar = F.cosine_similarity(
            self.text_relation(inputs.fixed("text.pooled").float()),
            self.image_relation(inputs.fixed("image.pooled").float()),
            dim=-1,
        )
        soft = torch.sigmoid(similar - self.config.threshold)
        hard = (similar > self.config.threshold).to(soft.dtype)
        return (hard + soft - soft.detach()) * inputs.fixed("image.ok")

    def _attended(self, tokens: Ragged) -> Tensor:
        """(n, width): each head's weighted mean of its share of the tokens' values; 0 for a text without tokens."""
        values = Ragged(tokens.values.float(), tokens.lengths)
        states, real = padded(values)  # (n, L, d), (n, L)
        weights = masked_softmax(self.weights(states), real[..., None], 1)  # (n, L, heads)
        mapped = self.values(states).unflatten(-1, (self.config.attention_heads, -1)).float()
        return torch.einsum("nlh,nlhc->nhc", weights, mapped).flatten(1)

"""GHMFC as described by DRIN (4.2), MIMIC (A.2), DWE+ (5.2) and DSMIP (A.2): cross-attention between text and image,
gated fusion, contrastive training."""

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from heads.base import Batch, Rows
from heads.config.ghmfc import GhmfcConfig
from heads.methods._towers import TwoTowers, masked_softmax, padded


class CrossAttention(nn.Module):
    """`x + multi-head attention of x over y`; x alone where y has nothing."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width, bias=False)  # a bias would move no weight
        self.value = nn.Linear(width, width)
        self.output = nn.Linear(width, width)

    def forward(self, x: Tensor, y: Tensor, real: Tensor) -> Tensor:
        """x (n, X, d), y (n, Y, d), real (n, Y) bool -> (n, X, d)."""
        query, key, value = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (self.query(x), self.key(y), self.value(y))
        )  # (n, heads, ·, c)
        weights = masked_softmax(query @ key.transpose(2, 3) / math.sqrt(query.shape[-1]), real[:, None, None], -1).to(
            value.dtype
        )
        return x + self.output((weights @ value).transpose(1, 2).flatten(2)) * real.any(1)[:, None, None]


class Ghmfc(TwoTowers):
    """Word level: tokens over image states and image states over tokens; sentence level: the pooled text over what both
    left. A gate weighs the modalities.

    Two levels (tokens, sentence) stand for its hierarchy. Entities are fused as mentions are, with weights of their own
    in the last map alone.
    """

    config: GhmfcConfig

    def __init__(self, config: GhmfcConfig, shapes: Mapping[str, tuple[int, ...]]) -> None:
        super().__init__(config, shapes)
        width, heads, self.pictured = config.width, config.attention_heads, "image.tokens" in shapes
        self.tokens = nn.Linear(shapes["text.tokens"][-1], width)
        self.sentence = nn.Linear(shapes["text.pooled"][-1], width)
        self.sentence_over_tokens = CrossAttention(width, heads)
        if self.pictured:
            self.states = nn.Linear(shapes["image.tokens"][-1], width)
            self.tokens_over_states = CrossAttention(width, heads)
            self.states_over_tokens = CrossAttention(width, heads)
            self.sentence_over_states = CrossAttention(width, heads)
            self.gate = nn.Linear(2 * width, width)
        self.joint = nn.ModuleDict({side: nn.Linear(width, width) for side in ("mention", "entity")})

    def views(self, inputs: Rows) -> tuple[Tensor, Tensor | None]:
        """The text's view, guided by the image, and the image's, guided by the text, (n, d) each; an absent image
        guides nothing."""
        tokens, real = padded(inputs.ragged("text.tokens"))
        words, sentence = (
            self.tokens(tokens.float()),
            self.sentence(inputs.fixed("text.pooled").float())[:, None],
        )  # (n, L, d), (n, 1, d)
        if not self.pictured:
            return self.sentence_over_tokens(sentence, words, real)[:, 0], None
        states = self.states(inputs.fixed("image.tokens").float())  # (n, P, d)
        there = inputs.fixed("image.ok")[:, None].expand(-1, states.shape[1])
        guided = self.tokens_over_states(words, states, there)
        seen = self.states_over_tokens(states, words, real)
        return self.sentence_over_tokens(sentence, guided, real)[:, 0], self.sentence_over_states(
            sentence, seen, there
        )[:, 0]

    def vector(self, inputs: Rows, side: str) -> Tensor:
        """See `TwoTowers.vector`; `g = gate * text + (1 - gate) * image`, the text alone where there is no image."""
        return self._fuse(*self.views(inputs), inputs, side)

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss over golds, and cross-entropy between the two views of the mini-batch's mentions with images (each
        its own the right one)."""
        text, image = self.views(batch.mentions)
        mentions = Rows({"vector": F.normalize(self._fuse(text, image, batch.mentions, "mention").float(), dim=-1)})
        parts: dict[str, Tensor] = {
            self.config.loss: self.in_batch(mentions, self.encode_entities(batch.entities), batch.gold)
        }
        value = parts[self.config.loss]
        if (
            image is not None
            and self.config.contrast
            and len(pictured := batch.mentions.fixed("image.ok").nonzero().squeeze(1))
        ):
            similar = (
                F.normalize(text[pictured].float(), dim=-1)
                @ F.normalize(image[pictured].float(), dim=-1).T
                / self.config.temperature
            )
            parts["contrast"] = F.cross_entropy(similar, torch.arange(len(similar), device=similar.device))
            value = value + self.config.contrast * parts["contrast"]
        return value, parts

    def _fuse(self, text: Tensor, image: Tensor | None, inputs: Rows, side: str) -> Tensor:
        fused = text
        if image is not None:
            gate = torch.sigmoid(self.gate(torch.cat([text, image], 1)))
            fused = torch.where(inputs.fixed("image.ok")[:, None], gate * text + (1 - gate) * image, text)
        return self.joint[side](fused) * inputs.fixed("text.ok")[:, None]

"""DZMNED as described by DRIN (4.2), MIMIC (A.2) and DSMIP (A.2): attention over visual, textual and character-level
features."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from heads.base import Rows
from heads.config.dzmned import DzmnedConfig
from heads.methods._towers import TwoTowers, masked_softmax


class Dzmned(TwoTowers):
    """`f = sum_k a_k W_k x_k` with `a = softmax(W [W_1 x_1; …])` over the kinds that are there; the combined and the
    character-level vectors both match.

    The text encoder's vector of the phrase alone (of the name alone) stands for the character-level features, and the
    entity's text, name and picture, attended alike, for its embedding in a knowledge graph: none of those is in the
    cache.
    """

    config: DzmnedConfig

    def __init__(self, config: DzmnedConfig, shapes: Mapping[str, tuple[int, ...]]) -> None:
        super().__init__(config, shapes)
        self.roles = [role for role in ("text", "phrase", "image") if f"{role}.pooled" in shapes]
        maps = {
            f"{side}_{role}": nn.Linear(shapes[f"{role}.pooled"][-1], config.width)
            for side in ("mention", "entity")
            for role in self.roles
        }
        self.maps = nn.ModuleDict(maps)
        self.attention = nn.ModuleDict(
            {side: nn.Linear(len(self.roles) * config.width, len(self.roles)) for side in ("mention", "entity")}
        )

    def vector(self, inputs: Rows, side: str) -> Tensor:
        """See `TwoTowers.vector`; both halves at length 1, so that the score is the mean of their cosines where
        both are there."""
        there = torch.stack([inputs.fixed(f"{role}.ok") for role in self.roles], 1)  # (n, kinds)
        mapped = (
            torch.stack([self.maps[f"{side}_{role}"](inputs.fixed(f"{role}.pooled").float()) for role in self.roles], 1)
            * there[..., None]
        )  # (n, kinds, d)
        weights = masked_softmax(self.attention[side](mapped.flatten(1)), there, 1)
        combined = torch.einsum("nk,nkd->nd", weights, mapped.float())
        phrase = mapped[:, self.roles.index("phrase")].float()
        return torch.cat([F.normalize(combined, dim=-1), F.normalize(phrase, dim=-1)], 1)

"""JMEL as described by DRIN (4.2), MIMIC (A.2) and DSMIP (A.2): fully connected layers project text and image into one
space under a triplet loss."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from heads.base import Rows
from heads.config.jmel import JmelConfig
from heads.methods._towers import TwoTowers, absent_vector


class Jmel(TwoTowers):
    """`g = W [ReLU(W_t t); ReLU(W_v v)]`, weights of its own on each side. Pooled vectors of the text encoder stand for
    uni- and bigrams (so does MIMIC's BERT)."""

    config: JmelConfig

    def __init__(self, config: JmelConfig, shapes: Mapping[str, tuple[int, ...]]) -> None:
        super().__init__(config, shapes)
        self.roles = [role for role in ("text", "image") if f"{role}.pooled" in shapes]
        branches = {
            f"{side}_{role}": nn.Linear(shapes[f"{role}.pooled"][-1], config.width)
            for side in ("mention", "entity")
            for role in self.roles
        }
        self.branches = nn.ModuleDict(branches)
        self.joint = nn.ModuleDict(
            {side: nn.Linear(len(self.roles) * config.width, config.width) for side in ("mention", "entity")}
        )
        if "image" in self.roles:
            self.absent = absent_vector(config.width)

    def vector(self, inputs: Rows, side: str) -> Tensor:
        """See `TwoTowers.vector`; an absent picture is a learned vector."""
        parts = [
            torch.relu(self.branches[f"{side}_{role}"](inputs.fixed(f"{role}.pooled").float())) for role in self.roles
        ]
        if "image" in self.roles:
            parts[-1] = torch.where(inputs.fixed("image.ok")[:, None], parts[-1], self.absent.to(parts[-1].dtype))
        return self.joint[side](torch.cat(parts, 1)) * inputs.fixed("text.ok")[:, None]

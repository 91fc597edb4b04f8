"""The one training loop of the demo's encoders."""

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from foundation.progress import Bar

if TYPE_CHECKING:
    from torch import Tensor, nn

WARM_UP = 0.1  # share of the steps
DECAY = 0.05


class Schedule(NamedTuple):
    """How long and how fast a model learns; rate: the highest learning rate."""

    steps: int
    rate: float


def minimise(model: "nn.Module", loss_at: Callable[[int], "Tensor"], schedule: Schedule) -> float:
    """AdamW with warm-up and cosine decay over the steps of `loss_at(step)`; returns the mean loss of the last tenth.

    The model is in training mode meanwhile and in evaluation mode afterwards.
    """
    import torch

    steps, rate = schedule
    matrices = [parameter for parameter in model.parameters() if parameter.ndim >= 2]
    others = [parameter for parameter in model.parameters() if parameter.ndim < 2]
    groups = [{"params": matrices, "weight_decay": DECAY}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98))
    pace = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, rate, total_steps=steps, pct_start=WARM_UP, cycle_momentum=False
    )
    model.train()
    losses = []
    with Bar(steps, f"training {type(model).__name__}", "step") as bar:
        for step in range(steps):
            loss = loss_at(step)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            pace.step()
            losses.append(loss.item())
            bar.update()
    model.eval()
    last = losses[-max(1, steps // 10) :]
    return sum(last) / len(last)


def matching_loss(left: "Tensor", right: "Tensor", scale: "Tensor | float") -> "Tensor":
    """Symmetric InfoNCE: row i of `left` (n, d) belongs to row i of `right` (n, d), both of length 1."""
    import torch
    from torch.nn import functional

    scores = scale * left @ right.T  # (n, n)
    own = torch.arange(len(scores))
    return (functional.cross_entropy(scores, own) + functional.cross_entropy(scores.T, own)) / 2

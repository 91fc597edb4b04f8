"""Which weights of a live tower are trained, and the tower as a module that has these weights alone."""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from foundation.errors import UserError, nearest
from foundation.extras import explained
from pipeline.models import prompts
from pipeline.models.live import Live
from pipeline.models.towers import blocks

How = Literal["lora", "whole", "norms", "prompts"]
HOWS: tuple[str, ...] = get_args(How)
"""lora: low-rank adapters of attention and MLP. whole: all weights of the live blocks. norms: their normalisations and
biases. prompts: learned states in front of those that enter each live block."""


def adapt(live: Live, how: str, rank: int = 8, count: int = 4) -> None:
    """Make trainable what `how` says in the live blocks, in float32, and freeze the rest. rank: of `lora`. count: of
    the learned states of each block with `prompts`. What starts at random comes from torch's generator.

    Raises `UserError` where nothing lies above the cut, where peft is not installed, where the library computes past a
    module that would be trained, and where blocks have no place for prompts.
    """
    if how not in HOWS:
        raise UserError(f"how is {how!r:.40}{nearest(str(how), HOWS)}")
    above, reference = live_blocks(live), live.encoder.files.reference
    if not len(above):
        raise UserError(
            f"model {reference!r}: block {live.block} of {live.block}: nothing above it is tuned; choose a lower block"
        )
    live.float().requires_grad_(False)
    if how == "lora":
        with explained():
            from pipeline.models import lora

        lora.add(above, rank)
    elif how == "whole":
        above.requires_grad_(True)
    elif how == "prompts":
        live.check_prompts()
        prompts.add(above, count, live.encoder.possible()["tokens"].shape[-1])
    else:
        for parameter in _norms_and_biases(above):
            parameter.requires_grad_(True)
    if unreached := _unreached(live):
        raise UserError(
            f"model {reference!r}: `how: {how}` would not train {unreached[0]}, which its library computes past; "
            "choose `how: whole` or `norms`"
        )


def merge(live: Live) -> None:
    """Put W + B A in place of every adapter; nothing is trainable after it. Raises as `refuse_prompts` does."""
    refuse_prompts(live)
    if any(".lora_A." in name for name, _ in live.named_parameters()):
        with explained():
            from pipeline.models import lora

        lora.merge(live_blocks(live))
    live.requires_grad_(False)


def refuse_prompts(live: Live) -> None:
    """Raises `UserError` for a tower with learned prompts, which is no model of its library."""
    if prompts.own_prompts(live_blocks(live)) is not None:
        raise UserError(
            f"model {live.encoder.files.reference!r}: it was tuned with `how: prompts`; prompts are states beside its "
            "library's weights, and cannot be written as one of its models; use `how: lora`, `whole` or `norms`"
        )


def live_blocks(live: Live) -> nn.ModuleList:
    """The blocks from the cut on."""
    return nn.ModuleList(blocks(live.encoder)[live.block :])


def _norms_and_biases(above: nn.Module) -> Iterator[nn.Parameter]:
    for module in above.modules():
        norm = "Norm" in type(module).__name__  # LayerNorm and RMSNorm of torch, of transformers, of timm
        for name, parameter in module.named_parameters(recurse=False):
            if norm or name.endswith("bias"):
                yield parameter


def _trained(live: Live) -> dict[str, nn.Parameter]:
    """Trainable parameters by block and name, without the levels that peft puts between."""
    return {
        ".".join([str(number), *(part for part in name.split(".") if part not in ("base_layer", "default"))]): parameter
        for number, block in enumerate(live_blocks(live), live.block)
        for name, parameter in block.named_parameters()
        if parameter.requires_grad
    }


def _unreached(live: Live) -> list[str]:
    """Names of trainable parameters that no output depends on."""
    tokens, trained = live.encoder.possible()["tokens"], _trained(live)
    length = 4 if tokens.ragged else tokens.shape[0]
    states = torch.linspace(-1, 1, length * tokens.shape[-1]).view(1, length, -1).to(live.encoder.device)
    with torch.enable_grad():
        total = sum(values.sum() for values in live(states, [length]).values())
    gradients = torch.autograd.grad(total, list(trained.values()), allow_unused=True)
    return [name for name, gradient in zip(trained, gradients, strict=True) if gradient is None]


def _recomputed(forward: Callable[..., Any], *args: Any, **named: Any) -> Any:
    """A block that keeps its inputs alone for the backward pass, and runs once more there."""
    return (
        checkpoint(forward, *args, use_reentrant=False, **named) if torch.is_grad_enabled() else forward(*args, **named)
    )


class Tower(nn.Module):
    """An adapted `Live`, in evaluation mode at first, whose parameters and state are the trainable ones alone, as
    `blocks.3.…` by the number of their block. The frozen rest moves with it (`to`, `train`, `deepcopy`), but is neither
    saved nor counted.

    width: of the tokens it gives. pooled_shape: of a row's vector. depth: how many blocks are live.
    """

    def __init__(self, live: Live, checkpointing: bool = False) -> None:
        """checkpointing: the live blocks' inner activations are computed again for the backward pass."""
        super().__init__()
        self.live: Live
        self.__dict__["live"] = live  # outside the tree of modules
        outputs = live.encoder.possible()
        self.width, self.pooled_shape = int(outputs["tokens"].shape[-1]), outputs["pooled"].shape
        self.depth = len(live_blocks(live))
        if checkpointing:
            for block in live_blocks(live):
                block.forward = functools.partial(_recomputed, block.forward)
        self.blocks = _tree(_trained(live))
        self.eval()

    def forward(
        self, states: Tensor, lengths: Sequence[int], prompts: Tensor | None = None, keep: bool = False
    ) -> dict[str, Tensor]:
        """See `Live`; states of any floating type. Libraries do not take a batch without rows, which may come here."""
        if not len(states):
            empty = {"tokens": states.float(), "pooled": states.new_zeros(0, *self.pooled_shape).float()}
            return {**empty, "prompts": prompts[0, None, :][:0]} if keep and prompts is not None else empty
        return self.live(states.float() if states.is_floating_point() else states, lengths, prompts, keep)

    def train(self, mode: bool = True) -> "Tower":
        """Dropout of the live part follows."""
        self.live.train(mode)
        return super().train(mode)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Tower":
        self.live._apply(fn, recurse)
        self.blocks = _tree(_trained(self.live))
        return self


def _tree(parameters: dict[str, nn.Parameter]) -> nn.Module:
    """Modules that hold the parameters under their dotted names."""
    root = nn.Module()
    for name, parameter in parameters.items():
        *path, last = name.split(".")
        place = root
        for part in path:
            if part not in place._modules:
                place.add_module(part, nn.Module())
            place = place.get_submodule(part)
        place.register_parameter(last, parameter)
    return root

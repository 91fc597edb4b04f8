"""Learned states in front of those that enter the live blocks of an encoder: deep prompts (VPT-deep, Jia et al., ECCV
2022; eq. 6 to 8 of DSMIP)."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from foundation.errors import UserError
from pipeline.models.files import ModelFiles

NAME = "prompt"
"""Of the parameter (r, d) of a block that owns its prompt."""
_MASKS = ("attention_mask", "attn_mask")
_PATCHES_ALONE = ("dinov3_vit",)  # whose rotary tables are of the last states, however many stand before them
_START = 0.02  # deviation of a prompt's numbers at the start


def add(above: nn.ModuleList, count: int, width: int) -> None:
    """Give each block a prompt of `count` states of its own, from torch's generator."""
    for block in above:
        like = next(block.parameters())
        start = torch.randn(count, width) * _START
        block.register_parameter(NAME, nn.Parameter(start.to(like.device, like.dtype)))


def own_prompts(above: Iterable[nn.Module]) -> Tensor | None:
    """(n, r, d): the prompts that the blocks own; None where they own none."""
    found = [getattr(block, NAME) for block in above if hasattr(block, NAME)]
    return torch.stack(found) if found else None


def refuse_tables(files: ModelFiles, given: Mapping[str, Any]) -> None:
    """Raises `UserError` where a block is given tables of its states' places, which have none for prompts.

    given: what a block is called with, by the names of its parameters, states first.
    """
    if files.config.get("model_type") in _PATCHES_ALONE:
        return
    for name, value in list(given.items())[1:]:
        parts = value if isinstance(value, tuple | list) else [value]
        if name not in _MASKS and any(isinstance(part, Tensor) for part in parts):
            raise UserError(
                f"model {files.reference!r}: its blocks read where each state stands from a table ({name}), which has "
                "no place for prompts; choose `how: lora`, `whole` or `norms`"
            )


def enlarged(mask: Tensor, count: int, causal: bool) -> Tensor:
    """An attention mask with `count` prompts in front of its states, (…, q, L) to (…, q + count, L + count).

    mask: true where a state is seen, or added to the logits. Every state sees every prompt; prompts see one another and
    what every state sees; if `causal`, they see those before them alone.
    """
    seen, hidden = (True, False) if mask.dtype == torch.bool else (0.0, torch.finfo(mask.dtype).min)
    wider = torch.cat([mask.new_full((*mask.shape[:-1], count), seen), mask], -1)
    if mask.shape[-2] == 1 and not causal:  # one row for all states
        return wider
    rows = wider[..., :1, :].expand(*wider.shape[:-2], count, -1)
    if causal:
        ahead = torch.ones(count, wider.shape[-1], dtype=torch.bool, device=mask.device).triu(1)
        rows = torch.full_like(rows, seen).masked_fill(ahead, hidden)
    return torch.cat([rows, wider], -2)


class Prompts:
    """The prompts of one pass through the live blocks. Those of a block stand in the places of what the block before
    made of its own; behind the last that has some they are carried through."""

    def __init__(self, values: Tensor, sequence_first: bool, causal: bool, keep: bool) -> None:
        """values: (n, r, d), of the first n live blocks. sequence_first: states are (L, b, d). causal: a state sees
        those before it alone. keep: see `Live.forward`."""
        self.values, self.axis, self.causal, self.keep = values, 0 if sequence_first else 1, causal, keep
        self.count = values.shape[1]
        self.masks: tuple[Tensor, Tensor] | None = None

    def put(self, number: int, args: tuple[Any, ...], named: Mapping[str, Any]) -> tuple[tuple[Any, ...], Any]:
        """What the live block `number` is called with in place of `args` and `named`."""
        states = args[0] if args else named["hidden_states"]
        if number < len(self.values):
            own = states.narrow(self.axis, self.count, states.shape[self.axis] - self.count) if number else states
            prompt = self.values[number].unsqueeze(1 - self.axis)
            front = prompt.expand(*(-1 if axis != 1 - self.axis else size for axis, size in enumerate(own.shape)))
            states = torch.cat([front, own], self.axis)
        rest = tuple(self._mask(one) if isinstance(one, Tensor) else one for one in args[1:])
        more = {
            name: self._mask(one) if name in _MASKS and isinstance(one, Tensor) else one for name, one in named.items()
        }
        return ((states, *rest), more) if args else ((), {**more, "hidden_states": states})

    def take(self, states: Tensor) -> Tensor:
        """What leaves the last block, without prompts, or with them behind a row's own states."""
        prompts, own = states.split([self.count, states.shape[self.axis] - self.count], self.axis)
        return torch.cat([own, prompts], self.axis) if self.keep else own

    def _mask(self, mask: Tensor) -> Tensor:
        """The mask enlarged; libraries give all blocks the same."""
        if self.masks is None or self.masks[0] is not mask:
            self.masks = mask, enlarged(mask, self.count, self.causal)
        return self.masks[1]

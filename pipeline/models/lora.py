"""LoRA (Hu et al. 2021) on the blocks of an encoder, through peft (extra `tune`)."""

from typing import Any

import torch
from peft import LoraConfig
from peft.tuners.lora import LoraModel
from peft.tuners.lora.layer import LoraLayer, MultiheadAttention
from torch import Tensor, nn

_NAME = "default"  # of the one adapter, as peft calls it


class Attention(MultiheadAttention):
    """peft's adapter of `nn.MultiheadAttention` with a forward that leaves the frozen weights as they are. peft's own
    adds B A to them and subtracts it again, which moves them by a rounding error with each call, and adds that of the
    output projection twice."""

    named_modules, state_dict = nn.Module.named_modules, nn.Module.state_dict  # peft's register the weights anew

    def forward(self, query: Tensor, *args: Any, **named: Any) -> Any:
        """W + B A in place of W, for the input and the output projection."""
        base: Any = self.get_base_layer()
        weights = {
            "in_proj_weight": base.in_proj_weight + self.get_delta_weight(_NAME),
            "out_proj.base_layer.weight": base.out_proj.weight + base.out_proj.get_delta_weight(_NAME),
        }
        return torch.func.functional_call(base, weights, (query, *args), named)

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Of the input projection; the output projection is a layer of its own."""
        base: Any = self.get_base_layer()
        base.in_proj_weight.data += self.get_delta_weight(_NAME)


def targets(blocks: nn.Module) -> list[str]:
    """Names of the modules that get an adapter: attention modules of torch, whose projections are plain parameters, and
    every linear map outside them."""
    attention = [name for name, module in blocks.named_modules() if isinstance(module, nn.MultiheadAttention)]
    inside = tuple(f"{name}." for name in attention)
    return attention + [
        name for name, module in blocks.named_modules() if isinstance(module, nn.Linear) and not name.startswith(inside)
    ]


def add(blocks: nn.ModuleList, rank: int) -> None:
    """Adapters of this rank in place of every target, W + B A with B = 0, A from torch's generator; all else is
    frozen."""
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=targets(blocks))
    config._register_custom_module({nn.MultiheadAttention: Attention})
    LoraModel(blocks, config, _NAME)


def merge(blocks: nn.ModuleList) -> None:
    """Plain modules with the weights W + B A in place of the adapters."""
    for name, layer in reversed(list(blocks.named_modules())):  # an attention's output projection before the attention
        if isinstance(layer, LoraLayer):
            layer.merge()
            parent, _, child = name.rpartition(".")
            setattr(blocks.get_submodule(parent), child, layer.get_base_layer())

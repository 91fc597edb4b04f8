"""What stands above a cut, run live: the library's own forward over cached states.

A frozen lower part caches as well as a whole encoder: states are extracted once, and the blocks above them are trained.
Nothing of a model is rebuilt here: masks, position biases, rotary tables and pooling heads stay the library's.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.models.towers import Encoder, blocks, check, check_pairs, sequence_first


def _skip(block: nn.Module, wraps: bool) -> None:
    """Empty a block below the cut: it gives back what it is given, as it would its own states. What the library reads
    off it beside (its weights' type, which kind of attention it has) stays."""

    def forward(*args: Any, **named: Any) -> Any:
        states = args[0] if args else named["hidden_states"]
        return (states,) if wraps else states

    for parameter in block.parameters():
        parameter.requires_grad_(False).data = parameter.data.new_empty(0)
    block.forward = forward


class _NoPatches(nn.Module):
    """Stands where a picture's pixels were embedded: zeros of the same shape, since the states are known."""

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.weight, self.bias = convolution.weight, convolution.bias  # whose dtype some libraries look at
        self.stride, self.size, self.width = convolution.stride, convolution.kernel_size, convolution.out_channels

    def forward(self, pixels: Tensor) -> Tensor:
        height, width = (1 + (pixels.shape[-2 + axis] - self.size[axis]) // self.stride[axis] for axis in (0, 1))
        return pixels.new_zeros(1, self.width, height, width).expand(len(pixels), -1, -1, -1)


class Live(nn.Module):
    """What stands above a cut, run by the library's own forward over the states that enter block `block`.

    The encoder's model is taken over: the weights of the blocks below the cut are gone from it, and all others but
    those of the blocks above are frozen.
    """

    def __init__(self, encoder: Encoder, block: int) -> None:
        super().__init__()
        self.encoder, self.block = encoder, block
        self.model = encoder.model
        self._states: Tensor | None = None
        self.after = getattr(encoder, "layers", None)  # the pooled vector's own, of a sentence-transformers folder
        found = blocks(encoder)
        check(encoder, block)
        wraps: list[bool] = []
        handle = found[0].register_forward_hook(lambda module, args, output: wraps.append(isinstance(output, tuple)))
        try:
            with torch.no_grad():
                encoder.read(self._probe())
        finally:
            handle.remove()
        self._wraps = wraps[0]
        for number in range(block):
            _skip(found[number], wraps[0])
        if block:
            found[block - 1].register_forward_hook(self._leave)
        else:
            found[0].register_forward_pre_hook(self._enter, with_kwargs=True)
        _without_pixels(encoder.tower)
        self.requires_grad_(False)
        for parameter in self.live:
            parameter.requires_grad_(True)

    def _probe(self) -> Mapping[str, Any]:
        return self.encoder.blank(torch.zeros(1, 2, 1, device=self.encoder.device), [2])

    def _entry(self) -> Tensor:
        assert self._states is not None
        return self._states.transpose(0, 1) if sequence_first(self.encoder) else self._states

    def _leave(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        return (self._entry(),) if self._wraps else self._entry()

    def _enter(self, module: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> Any:
        return ((self._entry(), *args[1:]), named) if args else ((), {**named, "hidden_states": self._entry()})

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Live":
        super()._apply(fn, recurse)
        self.encoder.device = str(next(self.parameters()).device)
        return self

    @property
    def live(self) -> list[nn.Parameter]:
        """The parameters of the blocks from the cut on."""
        return [parameter for block in blocks(self.encoder)[self.block :] for parameter in block.parameters()]

    def forward(self, states: Tensor, lengths: Sequence[int]) -> dict[str, Tensor]:
        """What the encoder's extractor would write.

        states (b, L, d): as they enter the block, zeros past a row's length. Returns tokens (b, L, width) and pooled
        (b, …).
        """
        self._states = states
        try:
            return self.encoder.read(self.encoder.blank(states, lengths))
        finally:
            self._states = None


def for_pairs(live: Live) -> Live:
    """The tower for states of two texts laid end to end: of any length, since what its embedding would add, and limit,
    is not read. Raises `UserError` where its blocks cannot read two texts together."""
    check_pairs(live.encoder.files)

    def forward(*args: Any, **named: Any) -> Tensor:
        blank: Tensor = next(
            given for given in (*args, *named.values()) if isinstance(given, Tensor) and given.ndim == 3
        )
        return blank

    live.encoder.tower.embeddings.forward = forward
    return live


def _without_pixels(tower: nn.Module) -> None:
    """Replace the embedding of pixels, a convolution over three channels, where the tower has one."""
    for module in tower.modules():
        for name, child in module.named_children():
            if isinstance(child, nn.Conv2d) and child.in_channels == 3:
                setattr(module, name, _NoPatches(child))

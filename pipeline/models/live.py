"""What stands above a cut, run live: the library's own forward over cached states.

A frozen lower part caches as well as a whole encoder: states are extracted once, and the blocks above them are trained.
Nothing of a model is rebuilt here: masks, position biases, rotary tables and pooling heads stay the library's.
"""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.models.prompts import Prompts, own_prompts, refuse_tables
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
        self._prompts: Prompts | None = None
        self.causal: bool | None = None  # whether a state sees those before it alone, where `check_prompts` looked
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
        for number, entered in enumerate(found[block:]):
            entered.register_forward_pre_hook(functools.partial(self._put, number), with_kwargs=True)
        found[-1].register_forward_hook(self._take)
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
        if self._states is None:  # token ids, which the library has embedded
            return None
        return ((self._entry(), *args[1:]), named) if args else ((), {**named, "hidden_states": self._entry()})

    def _put(self, number: int, module: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> Any:
        return None if self._prompts is None else self._prompts.put(number, args, named)

    def _take(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        if self._prompts is None:
            return None
        states = self._prompts.take(output[0] if self._wraps else output)
        return (states, *output[1:]) if self._wraps else states

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Live":
        super()._apply(fn, recurse)
        self.encoder.device = str(next(self.parameters()).device)
        return self

    @property
    def live(self) -> list[nn.Parameter]:
        """The parameters of the blocks from the cut on."""
        return [parameter for block in blocks(self.encoder)[self.block :] for parameter in block.parameters()]

    def forward(
        self, states: Tensor, lengths: Sequence[int], prompts: Tensor | None = None, keep: bool = False
    ) -> dict[str, Tensor]:
        """What the encoder's extractor would write.

        states (b, L, d): as they enter the block, zeros past a row's length; or (b, L) ids of a `clip_text`, before its
        first block. prompts (n, r, d): learned states in front of those that enter the first n live blocks (see
        `pipeline.models.prompts`); None: the encoder's own, where it has some. keep: the library reads them above the
        blocks too, behind a row's states, which changes no vector that is the state of one place (CLIP's own).

        Returns tokens (b, L, width), pooled (b, …) and, with `keep`, prompts (b, r, width). Raises `ValueError` for
        prompts over blocks that `check_prompts` has not seen.
        """
        own = prompts if prompts is not None else own_prompts(blocks(self.encoder)[self.block :])
        inputs = self.encoder.blank(states, lengths)
        if states.is_floating_point():
            self._states = states
        else:
            inputs = {**inputs, "tokens": states}
        if own is not None:
            if self.causal is None:
                raise ValueError("prompts over blocks that check_prompts has not seen")
            self._prompts = Prompts(own, sequence_first(self.encoder), self.causal, keep)
        try:
            read = self.encoder.read(inputs)
        finally:
            self._states = self._prompts = None
        if not keep or own is None:
            return read
        length = states.shape[1]
        return {**read, "tokens": read["tokens"][:, :length], "prompts": read["tokens"][:, length:]}

    def check_prompts(self) -> None:
        """Find how the blocks see states in front of others. Raises `UserError` where they have no place for any."""
        given: dict[str, Any] = {}

        def look(module: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> None:
            bound = inspect.signature(module.forward).bind(*args, **named).arguments
            given.update({**bound, **bound.get("kwargs", {})})

        handle = blocks(self.encoder)[self.block].register_forward_pre_hook(look, with_kwargs=True)
        try:
            with torch.no_grad():
                first, other = (self._first_state(last) for last in (0.0, 1.0))
        finally:
            handle.remove()
        refuse_tables(self.encoder.files, given)
        self.causal = torch.equal(first, other)

    def _first_state(self, last: float) -> Tensor:
        """The first token's, where the last one's is raised by `last` in one number."""
        tokens = self.encoder.possible()["tokens"]
        length, width = 4 if tokens.ragged else tokens.shape[0], tokens.shape[-1]
        states = torch.linspace(-1, 1, length * width, device=self.encoder.device).view(1, length, width)
        states[0, -1, 0] += last
        return self(states.to(next(self.parameters()).dtype), [length])["tokens"][0, 0]


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

"""`HeadConfig.tune`: how the upper blocks of an encoder are trained with a head, over cached states of lower ones."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated, Literal, get_args

from annotated_types import Ge, Gt, Le

from cache.inputs import SIDES, Side
from foundation.contracts import contract

Kind = Literal["text", "image"]
KINDS: tuple[Kind, ...] = get_args(Kind)
How = Literal["lora", "whole", "norms", "prompts"]
RATES: Mapping[How, float] = {"lora": 1e-4, "whole": 2e-5, "norms": 1e-3, "prompts": 1e-3}
"""AdamW's step size where none is given."""
MADE = ("tokens", "pooled")
"""Outputs of an encoder that the blocks of a tower make."""
TUNED = "tuned"
"""Label of the run that trained the blocks (see `HeadConfig.runs`), and behind `@` in the name of a feature of them."""
TOWERS, HEAD = "towers.", "head."
"""Before the names of parameters of towers, and of the head that reads them."""


LATER = ("prompts",)
"""Options of `Tune` that came when there were runs already; at their default they name none."""


@contract
class Tune:
    """The part of an encoder that is trained. An encoder of K blocks is frozen below `block`, and its states there are
    cached; from `block` on it runs live."""

    block: Annotated[int, Ge(0), Le(999), "the first block that is trained"]
    how: Annotated[
        How,
        "lora: adapters of low rank beside the weights of attention and MLP (Hu et al., ICLR 2022); whole: all weights "
        "of the blocks; norms: their LayerNorms and biases; prompts: learned states in front of those that enter each "
        "block (Jia et al., ECCV 2022)",
    ] = "lora"
    rank: Annotated[int, Gt(0), Le(1024), "of lora's adapters"] = 8
    prompts: Annotated[int, Gt(0), Le(1024), "learned states of each block"] = 4
    feature: Annotated[str | None, "whose encoder, where a head reads several of the kind"] = None
    shared: Annotated[bool, "mentions and entities go through the same blocks; false: each side has a copy"] = True
    lr: Annotated[
        float | None, Gt(0), Le(1e9), "AdamW's step size; null: 1e-4 for lora, 2e-5 whole, 1e-3 norms and prompts"
    ] = None
    weight_decay: Annotated[float, Ge(0), Le(1e9), "on matrices alone"] = 0.01
    warmup: Annotated[float, Ge(0), Le(1), "share of all steps over which the step size rises from 0"] = 0.1
    clip_norm: Annotated[float, Ge(0), Le(1e9), "gradients of a tower are scaled down to this norm; 0: left alone"] = (
        1.0
    )
    checkpointing: Annotated[bool, "states within blocks are computed again for the gradient: less memory"] = False

    @property
    def rate(self) -> float:
        """AdamW's step size."""
        return RATES[self.how] if self.lr is None else self.lr

    def sides(self, name: str) -> tuple[Side, ...]:
        """The sides that go through the tower `name` (see `tower_name`)."""
        return SIDES if self.shared else tuple(side for side in SIDES if name.endswith(f"_{side}"))


def tower_name(kind: Kind, tune: Tune, side: Side) -> str:
    """`text` or `image`; with the side where each has a copy: `text_mention`."""
    return kind if tune.shared else f"{kind}_{side}"


def kind_of(tower: str) -> Kind:
    """`text` or `image`, of a tower's name."""
    return next(kind for kind in KINDS if tower.partition("_")[0] == kind)


def naming(tune: Mapping[str, Mapping[str, object]]) -> dict[str, dict[str, object]]:
    """The options, plain values, that name a run."""
    defaults = asdict(Tune(block=0))
    return {
        kind: {name: value for name, value in given.items() if name not in LATER or value != defaults[name]}
        for kind, given in tune.items()
    }


def in_words(tune: Mapping[str, object]) -> str:
    """`{"text": {"block": 3, "how": "lora"}}` as tables show it: `text from block 3, lora`."""
    defaults = asdict(Tune(block=0))
    parts = []
    for kind, given in tune.items():
        assert isinstance(given, Mapping)
        more = [
            f"{name} {value}"
            for name, value in given.items()
            if name not in ("block", "how") and value != defaults[name]
        ]
        parts.append(", ".join([f"{kind} from block {given['block']}", str(given.get("how", defaults["how"])), *more]))
    return "; ".join(parts)

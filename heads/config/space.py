"""Search spaces: which values of which options a search draws.

A space is `{option: entry}`, an entry `{"low": 1, "high": 4}` (with `"log": true` drawn evenly in the logarithm, or
with a `"step"`) or `{"choices": [32, 64, 128]}`.
"""

import dataclasses
import typing
from collections.abc import Mapping
from typing import Annotated, Any

from annotated_types import Gt, Len

from foundation.contracts import contract, from_json
from foundation.errors import UserError, nearest
from heads.config.base import Finite, HeadConfig, Size
from heads.tune import KINDS, Kind, Tune

MOST_CHOICES = 100
EXAMPLE = "lr: {low: 0.0001, high: 0.01, log: true}"


@contract
class Range:
    """Numbers from `low` to `high`."""

    low: Finite
    high: Finite
    log: bool = False
    step: Annotated[int | Finite, Gt(0)] | None = None

    def __post_init__(self) -> None:
        bounds = f"low = {self.low!r}, high = {self.high!r}"
        if self.low > self.high:
            raise ValueError(f"{bounds}: low is above high")
        if self.log and self.low <= 0:
            raise ValueError(f"{bounds}: with log, low must be more than 0")
        if self.log and self.step is not None:
            raise ValueError(f"{bounds}: step and log do not go together")


@contract
class WholeRange(Range):
    """Whole numbers from `low` to `high`."""

    low: int
    high: int
    step: Size | None = None


@contract
class Choices:
    """Any values, each once."""

    choices: Annotated[tuple[Any, ...], Len(1, MOST_CHOICES)]

    def __post_init__(self) -> None:
        if any(self.choices[at] in self.choices[:at] for at in range(len(self.choices))):
            raise ValueError(f"choices = {list(self.choices)}: expected each once")


Drawn = WholeRange | Range | Choices
"""What is drawn for one option."""


def check_space(kind: type[HeadConfig], space: Any, where: str) -> dict[str, Drawn]:
    """The space of plain values as types, in the order of its options.

    Raises `UserError` for an unknown option or key (with the nearest right one), and for bounds that are none. `where`
    names the space in messages.
    """
    if not isinstance(space, Mapping) or not space:
        raise UserError(f"{where}: expected options with their bounds or choices, like `{EXAMPLE}`")
    entries = sorted(space.items(), key=lambda pair: str(pair[0]))
    return {str(name): _drawn(kind, str(name), entry, f"{where}: {name}") for name, entry in entries}


def plain_space(space: Mapping[str, Drawn]) -> dict[str, dict[str, Any]]:
    """The space as plain values, every entry whole; what searches are named by."""
    return {
        name: {"choices": list(drawn.choices)}
        if isinstance(drawn, Choices)
        else {
            "kind": "int" if isinstance(drawn, WholeRange) else "float",
            "low": drawn.low,
            "high": drawn.high,
            "log": drawn.log,
            "step": drawn.step,
        }
        for name, drawn in space.items()
    }


def _drawn(kind: type[HeadConfig], name: str, entry: Any, where: str) -> Drawn:
    hints = typing.get_type_hints(kind)
    options = {field.name: hints[field.name] for field in dataclasses.fields(kind)} | of_towers()
    if name not in options:
        raise UserError(f"{where}: there is no such option{nearest(name, options)}")
    if name in kind.presets:
        raise UserError(
            f"{where}: it stands for several others at once; search those ({', '.join(kind.presets[name])}), "
            "or give it with --params"
        )
    if not isinstance(entry, Mapping):
        raise UserError(f"{where} = {entry!r:.60}: expected {{low, high}} (and log or step) or {{choices}}")
    if "choices" in entry:
        return from_json(Choices, dict(entry), where)
    if options[name] not in (int, float):
        raise UserError(f"{where}: it is no number; give its values as choices")
    if any(isinstance(entry.get(bound), str) for bound in ("low", "high", "step")):
        raise UserError(
            f"{where} = {dict(entry)!r:.60}: expected numbers (write 1e-3 as 0.001 or 1.0e-3: YAML takes it for a text)"
        )
    return from_json(WholeRange if options[name] is int else Range, dict(entry), where)


def of_towers() -> dict[str, Any]:
    """The options of `HeadConfig.tune` by name, `tune.text.lr`, and their types."""
    hints = typing.get_type_hints(Tune)
    return {f"tune.{kind}.{name}": float if name == "lr" else hints[name] for kind in KINDS for name in hints}


def tune_space(tune: Mapping[Kind, Tune]) -> dict[str, dict[str, Any]]:
    """The default search space of the towers of a configuration: step size, rank of lora, number of
    prompts."""
    space: dict[str, dict[str, Any]] = {}
    for kind, one in tune.items():
        space[f"tune.{kind}.lr"] = {"low": one.rate / 10, "high": one.rate * 10, "log": True}
        if one.how == "lora":
            space[f"tune.{kind}.rank"] = {"choices": [4, 8, 16, 32]}
        if one.how == "prompts":
            space[f"tune.{kind}.prompts"] = {"choices": [2, 4, 8, 16]}
    return space

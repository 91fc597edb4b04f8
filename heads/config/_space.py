"""Search spaces: which values of which options a search draws, as plain data, and their check.

A space is `{option: entry}`, an entry `{"low": 1, "high": 4}` (with `"log": true` drawn evenly in the logarithm, or with a `"step"`) or
`{"choices": [32, 64, 128]}`.
"""

import dataclasses
import typing
from collections.abc import Mapping
from typing import Any

from foundation.errors import UserError, nearest
from heads.config.base import HeadConfig

RANGE = ("low", "high", "log", "step")
MOST_CHOICES = 100


def checked(kind: type[HeadConfig], space: Any, where: str) -> dict[str, dict[str, Any]]:
    """The space with every entry whole, in the order of its options: `{"kind": "int" | "float", low, high, log, step}` or `{"choices"}`.

    Raises `UserError` for an unknown option or key (with the nearest right one), and for bounds that are none. `where` names the space in messages.
    """
    if not isinstance(space, Mapping) or not space:
        raise UserError(
            f"{where}: expected options with their bounds or choices, like `lr: {{low: 0.0001, high: 0.01, log: true}}`"
        )
    hints = typing.get_type_hints(kind)
    options = {option.name: hints[option.name] for option in dataclasses.fields(kind)}
    return {
        str(name): _entry(kind, str(name), options, entry, f"{where}: {name}")
        for name, entry in sorted(space.items(), key=lambda pair: str(pair[0]))
    }


def _entry(kind: type[HeadConfig], name: str, options: Mapping[str, Any], entry: Any, where: str) -> dict[str, Any]:
    if name not in options:
        raise UserError(f"{where}: there is no such option{nearest(name, options)}")
    if name in kind.presets:
        raise UserError(
            f"{where}: it stands for several others at once; search those ({', '.join(kind.presets[name])}), or give it with --params"
        )
    if not isinstance(entry, Mapping):
        raise UserError(f"{where} = {entry!r:.60}: expected {{low, high}} (and log or step) or {{choices}}")
    for key in entry:
        if key not in ("choices", *RANGE):
            raise UserError(f"{where}: unknown key {key!r}{nearest(str(key), ('choices', *RANGE))}")
    if "choices" in entry:
        return _choices(entry, where)
    if options[name] not in (int, float):
        raise UserError(f"{where}: it is no number; give its values as choices")
    return _range(entry, int if options[name] is int else float, where)


def _choices(entry: Mapping[str, Any], where: str) -> dict[str, Any]:
    if len(entry) > 1:
        raise UserError(f"{where}: choices have no {' or '.join(key for key in RANGE if key in entry)}")
    choices = entry["choices"]
    if not isinstance(choices, (list, tuple)) or not 0 < len(choices) <= MOST_CHOICES:
        raise UserError(f"{where}: choices = {choices!r:.60}: expected a list of 1 to {MOST_CHOICES} values")
    if any(choices[at] in choices[:at] for at in range(len(choices))):
        raise UserError(f"{where}: choices = {list(choices)}: expected each once")
    return {"choices": list(choices)}


def _range(entry: Mapping[str, Any], kind: type, where: str) -> dict[str, Any]:
    missing = [key for key in ("low", "high") if key not in entry]
    if missing:
        raise UserError(f"{where}: {' and '.join(missing)} missing; give both, or choices")
    low, high, log, step = entry["low"], entry["high"], entry.get("log", False), entry.get("step")
    for key, value in (("low", low), ("high", high), *([("step", step)] if step is not None else [])):
        if (
            isinstance(value, bool)
            or not isinstance(value, (int, float) if kind is float else int)
            or not abs(value) < float("inf")
        ):
            # YAML reads 1e-3 as a text; it wants 1.0e-3
            hint = " (write 1e-3 as 0.001 or 1.0e-3: YAML takes it for a text)" if isinstance(value, str) else ""
            raise UserError(f"{where}: {key} = {value!r}: expected a {'whole ' if kind is int else ''}number{hint}")
    if not isinstance(log, bool):
        raise UserError(f"{where}: log = {log!r}: expected true or false")
    if low > high or (log and low <= 0) or (step is not None and (step <= 0 or log)):
        problem = (
            "step goes with no log, and is more than 0"
            if step is not None and (step <= 0 or log)
            else "a logarithm wants more than 0"
        )
        raise UserError(f"{where}: low = {low!r}, high = {high!r}: {'low is above high' if low > high else problem}")
    return {"kind": kind.__name__, "low": kind(low), "high": kind(high), "log": log, "step": step}

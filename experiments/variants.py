"""Variants of a method: its paper's ablations, itself without pictures, its settings that differ from the defaults."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from experiments.jobs import check_heads, head_spec, parameters
from foundation.errors import UserError, nearest
from heads.config import load_config, settings_text
from heads.config.base import TEXT_ONLY
from pipeline.profiles.profile import Profile


@dataclass(frozen=True)
class Variant:
    """params: JSON for `--params`. train_fraction: where the variant sets it, else None."""

    params: str
    train_fraction: float | None = None


def ablations(
    method: str, params: str, profile: Profile, *, only: str = "", sensitivity: bool = False
) -> tuple[dict[str, Variant], dict[str, str]]:
    """Name -> variant of every ablation that the profile allows, and name -> reason of those it does not.

    sensitivity: also every other value of the parameters that the method's paper plots. only: comma-separated
    patterns of names (`without*`). Raises `UserError` for a pattern that fits nothing.
    """
    chosen = head_spec(method, params, profile)
    config = load_config(chosen.method, chosen.config)
    listed = config.ablations(list(profile.features)) | (config.variations() if sensitivity else {})
    named = _matching(listed, only)
    allowed, skipped = {}, {}
    for name in named:
        changes = dict(listed[name])
        fraction = changes.pop("train_fraction", None)
        variant = Variant(json.dumps(parameters(params) | changes), fraction)
        try:
            head_spec(method, variant.params, profile)
        except UserError as error:
            skipped[name] = str(error)
            continue
        allowed[name] = variant
    return allowed, skipped


def _matching(names: Iterable[str], only: str) -> list[str]:
    """The names that fit one of the patterns, in their order; all where there is no pattern."""
    names = list(names)
    patterns = [pattern.strip() for pattern in only.split(",") if pattern.strip()]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise UserError(f"--only {pattern!r}: no such ablation{nearest(pattern, names)}")
    return [name for name in names if not patterns or any(fnmatchcase(name, pattern) for pattern in patterns)]


def possible(methods: str, params: str, profile: Profile) -> tuple[dict[str, str], dict[str, str]]:
    """The comma-separated `methods` that the profile has the features for, and those that it has not.

    Returns method -> its parameters (JSON), and method -> the reason why not.
    params: as for `by_method`. Raises `UserError` for an unknown or repeated method, a wrong parameter, or where none
    is left.
    """
    names = [name.strip().replace("-", "_") for name in methods.split(",") if name.strip()]
    if not names or len(set(names)) != len(names):
        raise UserError(f"--methods {methods!r}: expected one or more methods, each once, like drin,mimic")
    served, skipped = {}, {}
    check_heads(profile)
    for method, given in by_method(params, names).items():
        load_config(method, {**profile.heads.get(method, {}), **json.loads(given)})
        try:
            head_spec(method, given, profile)
            served[method] = given
        except UserError as error:
            skipped[method] = str(error)
    if not served:
        raise UserError(
            f"profile {profile.name!r} serves none of the methods: "
            + "; ".join(f"{name}: {why}" for name, why in skipped.items())
        )
    return served, skipped


def text_only(method: str, params: str, profile: Profile) -> str | None:
    """Parameters of the method that read no picture; None where it reads none anyway."""
    allowed, _ = ablations(method, params, profile)
    return allowed[TEXT_ONLY].params if TEXT_ONLY in allowed else None


def settings(method: str, params: str, profile: Profile) -> str:
    """The options that differ from the method's defaults, as value and default: `d_t 32 (96), lr 0.002 (0.001)`."""
    chosen = head_spec(method, params, profile)
    return settings_text(chosen.method, chosen.config)


def by_method(text: str, methods: list[str]) -> dict[str, str]:
    """`--params` of several methods, a JSON object (or @FILE with one) of method -> parameters, as JSON for each.

    Raises `UserError` for anything else.
    """
    given = parameters(text)
    given = {method.replace("-", "_"): value for method, value in given.items()}
    for method, value in given.items():
        if method not in methods:
            raise UserError(f"--params names {method!r}, which is not among --methods{nearest(method, methods)}")
        if not isinstance(value, dict):
            raise UserError(f"--params: {method} has {value!r:.60}, expected a JSON object of its parameters")
    return {method: json.dumps(given.get(method, {})) for method in methods}

"""Variants of a method: the ablations of its paper, itself without pictures, and how its settings differ from its defaults."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from experiments.jobs import check_heads, head_spec, parameters
from foundation.errors import UserError, nearest
from heads.config import config_class, load_config, to_json
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
    """name -> variant of every ablation (and, with `sensitivity`, of every other value of a parameter) that the profile allows, and name -> reason
    of those it does not. only: comma-separated patterns of names (`without*`). Raises `UserError` for a pattern that fits nothing."""
    chosen = head_spec(method, params, profile)
    config = load_config(chosen.method, chosen.config)
    listed = config.ablations(list(profile.features)) | (config.variations() if sensitivity else {})
    named = _matching(listed, only)
    found, skipped = {}, {}
    for name in named:
        changes = dict(listed[name])
        fraction = changes.pop("train_fraction", None)
        variant = Variant(json.dumps(parameters(params) | changes), fraction)
        try:
            head_spec(method, variant.params, profile)
        except UserError as error:
            skipped[name] = str(error)
            continue
        found[name] = variant
    return found, skipped


def _matching(names: Iterable[str], only: str) -> list[str]:
    """The names that fit one of the patterns, in their order; all where there is no pattern."""
    names = list(names)
    patterns = [pattern.strip() for pattern in only.split(",") if pattern.strip()]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise UserError(f"--only {pattern!r}: no such ablation{nearest(pattern, names)}")
    return [name for name in names if not patterns or any(fnmatchcase(name, pattern) for pattern in patterns)]


def possible(methods: str, params: str, profile: Profile) -> tuple[dict[str, str], dict[str, str]]:
    """method -> its parameters (JSON) of every one of the comma-separated `methods` that the profile has the features for, and method -> reason of
    the others. params: as for `by_method`. Raises `UserError` for an unknown or repeated method, a wrong parameter, or where none is left."""
    names = [name.strip().replace("-", "_") for name in methods.split(",") if name.strip()]
    if not names or len(set(names)) != len(names):
        raise UserError(f"--methods {methods!r}: expected one or more methods, each once, like drin,mimic")
    found, skipped = {}, {}
    check_heads(profile)
    for method, given in by_method(params, names).items():
        load_config(method, {**profile.heads.get(method, {}), **json.loads(given)})
        try:
            head_spec(method, given, profile)
            found[method] = given
        except UserError as error:
            skipped[method] = str(error)
    if not found:
        raise UserError(
            f"profile {profile.name!r} serves none of the methods: "
            + "; ".join(f"{name}: {why}" for name, why in skipped.items())
        )
    return found, skipped


def text_only(method: str, params: str, profile: Profile) -> str | None:
    """Parameters of the method without anything that a picture tells; None where it reads none."""
    found, _ = ablations(method, params, profile)
    return found[TEXT_ONLY].params if TEXT_ONLY in found else None


def settings(method: str, params: str, profile: Profile) -> str:
    """The options that this profile or `params` set otherwise than the method's defaults, `d_t 32 (96), lr 0.002 (0.001)`: value and default."""
    chosen = head_spec(method, params, profile)
    defaults = to_json(config_class(chosen.method)())
    return ", ".join(
        f"{key} {_said(value)} ({_said(defaults[key])})"
        for key, value in chosen.config.items()
        if value != defaults[key]
    )


def _said(value: object) -> str:
    if isinstance(value, list):
        return "+".join(map(str, value)) or "none"
    return (
        "none"
        if value is None
        else f"{value:g}"
        if isinstance(value, float)
        else str(value).lower()
        if isinstance(value, bool)
        else str(value)
    )


def by_method(text: str, methods: list[str]) -> dict[str, str]:
    """`--params` of several methods, a JSON object method -> parameters (or @FILE with it), as JSON for each. Raises `UserError` for others."""
    given = parameters(text)
    given = {method.replace("-", "_"): value for method, value in given.items()}
    for method, value in given.items():
        if method not in methods:
            raise UserError(f"--params names {method!r}, which is not among --methods{nearest(method, methods)}")
        if not isinstance(value, dict):
            raise UserError(f"--params: {method} has {value!r:.60}, expected a JSON object of its parameters")
    return {method: json.dumps(given.get(method, {})) for method in methods}

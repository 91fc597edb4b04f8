"""Variants of a method: its paper's ablations, itself without pictures, its settings that differ from the defaults."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from experiments.jobs import check_heads, head_spec, parameters
from foundation.errors import UserError, nearest
from heads.config import config_class, load_config, settings_text
from heads.config.base import ENTITY_TEXTS, TEXT_ONLY
from pipeline.profiles.profile import Profile


@dataclass(frozen=True)
class Variant:
    """params: JSON for `--params`. train_fraction: where the variant sets it, else None."""

    params: str
    train_fraction: float | None = None


@dataclass(frozen=True)
class MethodVariant:
    """A method over one kind of entities' texts. params: JSON for `--params`."""

    method: str
    params: str
    text: str


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


def by_entity_text(
    methods: Mapping[str, str], texts: str, profile: Profile
) -> tuple[dict[str, MethodVariant], dict[str, str]]:
    """Each method over each of the comma-separated kinds of entities' texts.

    Returns name, `dwe (static)`, -> variant, and method -> reason of those that read one kind alone. methods: method ->
    its parameters (JSON), as `possible` gives them. Raises `UserError` for an unknown or repeated kind, and where no
    method is left.
    """
    kinds = [text.strip() for text in texts.split(",") if text.strip()]
    for kind in kinds:
        if kind not in ENTITY_TEXTS or kinds.count(kind) > 1:
            raise UserError(
                f"--entity-texts {texts!r}: expected kinds of texts, each once, like properties,static"
                f"{nearest(kind, ENTITY_TEXTS)}"
            )
    reading = [method for method in methods if "entity_text" in config_class(method).__dataclass_fields__]
    skipped = {
        method: "it reads properties alone (no option entity_text)" for method in methods if method not in reading
    }
    if not reading:
        raise UserError(f"--entity-texts: none of {', '.join(methods)} reads more than one kind of text of entities")
    found: dict[str, MethodVariant] = {}
    for kind in kinds:
        for method in reading:
            params = json.dumps(parameters(methods[method]) | {"entity_text": kind})
            head_spec(method, params, profile)
            found[f"{method} ({kind})"] = MethodVariant(method, params, kind)
    return found, skipped


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

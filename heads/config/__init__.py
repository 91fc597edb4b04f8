"""Hyper-parameters and wanted features of each method, found by module name; nothing here imports torch."""

import dataclasses
import importlib
import pkgutil
from collections.abc import Mapping
from typing import Any

from foundation.errors import UserError, nearest
from heads.config.base import HeadConfig, build


def methods() -> list[str]:
    """The methods there are: the modules of this package, but for `base` and those whose names start with an underscore."""
    return sorted(
        module.name
        for module in pkgutil.iter_modules(__path__)
        if module.name != "base" and not module.name.startswith("_")
    )


def config_class(method: str) -> type[HeadConfig]:
    """The configuration class of a method: the one its module defines. Raises `UserError` for an unknown method, naming the nearest."""
    if method not in methods():
        raise UserError(f"--method {method!r}: no such method{nearest(method, methods())}")
    module = importlib.import_module(f"heads.config.{method}")
    return next(
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, HeadConfig) and value.__module__ == module.__name__
    )


def load_config(method: str, params: Mapping[str, Any], where: str = "") -> HeadConfig:
    """The configuration of `method` with `params` in place of the defaults. where: what an error names as their place, else `--params`.

    Raises `UserError` for an unknown method, an unknown key (with the nearest right one), a value of the wrong type or out of range.
    """
    return build(config_class(method), params, where or f"--params of {method}")


def to_json(config: HeadConfig) -> dict[str, Any]:
    """All options as plain JSON values; `load_config(method, to_json(config))` gives the configuration back."""
    return {
        key: list(value) if isinstance(value, tuple) else value for key, value in dataclasses.asdict(config).items()
    }

"""Hyper-parameters and wanted features of each method, found by module name or among the plugins; nothing here imports
torch."""

import dataclasses
import importlib
import pkgutil
import re
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal

from annotated_types import Ge, Gt, Le, Lt

from foundation import plugins
from foundation.contracts import from_json
from foundation.errors import UserError, nearest
from heads.config.base import MOST, HeadConfig
from heads.tune import Kind, naming
from heads.tune import in_words as tune_in_words

_OTHER_MODULES = ("base", "space")
TUNE_LR = re.compile(r"tune\.(text|image)\.lr")


def own_methods() -> list[str]:
    """The methods of the package: the modules of this folder except `base`, `space` and those with a leading
    underscore."""
    names = [module.name for module in pkgutil.iter_modules(__path__)]
    return sorted(name for name in names if name not in _OTHER_MODULES and not name.startswith("_"))


def methods() -> list[str]:
    """All methods, plugins included."""
    own = own_methods()
    return sorted([*own, *plugins.find("method", own)])


def config_class(method: str, option: str = "--method") -> type[HeadConfig]:
    """The configuration class of a method: the one its module or plugin defines. option: where an error says that it
    was named.

    Raises `UserError` for an unknown method, naming the nearest, and for a plugin that gives something else.
    """
    own = own_methods()
    if method not in own:
        return _of_plugin(method, own, option)
    module = importlib.import_module(f"heads.config.{method}")
    return next(
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, HeadConfig) and value.__module__ == module.__name__
    )


def _of_plugin(method: str, own: list[str], option: str) -> type[HeadConfig]:
    outside = plugins.find("method", own)
    if method not in outside:
        raise UserError(f"{option} {method!r}: no such method{nearest(method, [*own, *outside])}")
    kind = outside[method].value
    if not (isinstance(kind, type) and issubclass(kind, HeadConfig) and kind.head_class is not HeadConfig.head_class):
        raise UserError(
            f"{outside[method].file}: `method` is {kind!r:.60}; expected a subclass of heads.config.base.HeadConfig "
            "with a head_class"
        )
    return kind


def code_digest(method: str) -> dict[str, str]:
    """`{"plugin": SHA-256 of its file}` of a method from outside the package, else empty. Other code may give other
    numbers."""
    digest = plugins.digest_of(config_class(method))
    return {"plugin": digest} if digest else {}


def load_config(method: str, params: Mapping[str, Any], where: str = "") -> HeadConfig:
    """The configuration of `method` with `params` (plain JSON values) in place of the defaults.

    where: what an error names as their place, else `--params`. Raises `UserError` for an unknown method, an unknown
    option (with the nearest right one), a value of the wrong type or out of range.
    """
    kind = config_class(method)
    presets = [defaults for option, defaults in kind.presets.items() if params.get(option) is True]
    merged = {key: value for values in (*presets, params) for key, value in values.items()}
    return from_json(kind, nested(merged), where or f"--params of {method}")


def nested(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options in which a dot leads into another (`tune.text.lr`, as searches name them), each at its place."""
    plain = {name: value for name, value in options.items() if "." not in name}
    for name in sorted(options.keys() - plain.keys()):
        *path, last = name.split(".")
        place = plain
        for step in path:
            below = place.get(step)
            place[step] = dict(below) if isinstance(below, Mapping) else {}
            place = place[step]
        place[last] = options[name]
    return plain


def option(config: HeadConfig, name: str) -> Any:
    """The value of an option; `tune.text.lr` is that of an option of a tower, the step size that it has where none is
    given."""
    value: Any = config
    for step in name.split("."):
        value = value[step] if isinstance(value, Mapping) else getattr(value, step)
    if value is None and (of_tower := TUNE_LR.fullmatch(name)):
        return config.tune[typing.cast(Kind, of_tower[1])].rate
    return value


def stored_config(method: str, config: Mapping[str, Any]) -> HeadConfig:
    """The configuration that a run was stored with. An option that it does not have came later (see `HeadConfig.later`)
    and has its default, whatever presets the run was made with; one of `HeadConfig.gone` is passed over.

    Raises `UserError` as `load_config` does.
    """
    kind = config_class(method)
    gone = kind.gone(config)
    return from_json(kind, {name: value for name, value in config.items() if name not in gone}, f"options of {method}")


def naming_options(method: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a full configuration that name a run: all but those of `HeadConfig.later` that have their default.

    So the runs of a method keep their names when it gets one more option, and when it loses one that decided nothing
    of them (see `HeadConfig.gone`).
    """
    kind = config_class(method)
    later: dict[str, Any] = {}
    for base in kind.__mro__:  # the default is that of the class to which the option came
        later |= {name: to_json(base())[name] for name in vars(base).get("later", ())}
    named = {name: value for name, value in config.items() if name not in later or value != later[name]}
    if "tune" in named:
        named["tune"] = naming(named["tune"])
    return named | {name: value for name, value in kind.gone(config).items() if value is not None}


def to_json(config: HeadConfig) -> dict[str, Any]:
    """All options as plain JSON values; `load_config(method, to_json(config))` gives the configuration back."""
    return {
        key: list(value) if isinstance(value, tuple) else value for key, value in dataclasses.asdict(config).items()
    }


def settings(method: str, config: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Options of a configuration whose value is not the method's default: name -> (value, default), plain JSON values.

    Options that the method does not have, as those of an older run, are left out. Raises `UserError` for an unknown
    method.
    """
    defaults = to_json(config_class(method)())
    changed = {name: value for name, value in config.items() if name in defaults and value != defaults[name]}
    return {name: (value, defaults[name]) for name, value in changed.items()}


def settings_text(method: str, config: Mapping[str, Any]) -> str:
    """The same in words, as value and default: `d_t 32 (96), lr 0.002 (0.001)`."""
    pairs = settings(method, config).items()
    return ", ".join(f"{name} {in_words(value)} ({in_words(default)})" for name, (value, default) in pairs)


def in_words(value: Any) -> str:
    """A plain JSON value as tables show it: `0.001`, `none`, `true`, `text+visual`."""
    if isinstance(value, list):
        return "+".join(map(str, value)) or "none"
    if isinstance(value, Mapping):
        return tune_in_words(value) or "none"
    if value is None:
        return "none"
    if isinstance(value, float):
        return f"{value:g}"
    return str(value).lower() if isinstance(value, bool) else str(value)


@dataclasses.dataclass(frozen=True)
class Option:
    """A hyper-parameter. kind, bounds: in words (`whole number`, `more than 0`; empty where there are none). default: a
    plain JSON value."""

    name: str
    kind: str
    default: Any
    bounds: str
    meaning: str


def options(method: str) -> list[Option]:
    """The hyper-parameters of a method, its own before those that every head has. Raises `UserError` for an unknown
    method."""
    kind = config_class(method)
    hints = typing.get_type_hints(kind, include_extras=True)
    defaults = to_json(kind())
    shared = [field.name for field in dataclasses.fields(HeadConfig)]
    own = [field.name for field in dataclasses.fields(kind) if field.name not in shared]
    listed = []
    for name in [*own, *shared]:
        bounds = [words for note in _notes(hints[name]) if (words := _bound(note))]
        listed.append(Option(name, _kind(hints[name]), defaults[name], ", ".join(bounds), _meaning(kind, name)))
    return listed


def _meaning(kind: type, name: str) -> str:
    """The meaning of an option, from the nearest class that states it; a class that changes only the default need not
    repeat it."""
    for base in kind.__mro__:
        for note in _notes(typing.get_type_hints(base, include_extras=True).get(name)):
            if isinstance(note, str):
                return note
    return ""


def _notes(hint: Any) -> list[Any]:
    """The annotations of a type, and of the members of a union."""
    notes = list(getattr(hint, "__metadata__", ()))
    bare = typing.get_args(hint)[0] if notes else hint
    inner = (
        typing.get_args(bare) if isinstance(bare, types.UnionType) or typing.get_origin(bare) is typing.Union else ()
    )
    return [*notes, *(note for member in inner for note in _notes(member))]


def _bound(note: Any) -> str:
    if isinstance(note, Gt):
        return f"more than {note.gt}"
    if isinstance(note, Ge):
        return f"at least {note.ge}"
    if isinstance(note, Le):
        return "" if note.le == MOST else f"at most {note.le}"
    return f"less than {note.lt}" if isinstance(note, Lt) else ""


_WORDS = {float: "number", int: "whole number", bool: "true or false", str: "text", type(None): "null"}


def _kind(hint: Any) -> str:
    """A type in words."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return _kind(arguments[0])
    if origin is Literal:
        return " or ".join(map(repr, arguments))
    if origin is tuple:
        return f"list of {_kind(arguments[0])}"
    if origin is Mapping:
        return f"mapping of {_kind(arguments[0])} to {_kind(arguments[1])}"
    if dataclasses.is_dataclass(hint):
        return f"{{{', '.join(field.name for field in dataclasses.fields(hint))}}}"
    if arguments:  # a union
        return " or ".join(map(_kind, arguments))
    return _WORDS[hint]

"""Extractors and heads from outside the package: files named by `--plugin`, and entry points of installed packages.

A file belongs to a kind where it sets the variable of that name (`extractor = MyExtractor`); it has the file's name. An
entry point of the group `mel_cache.extractors` (or `mel_cache.methods`) has its own name and points at the same value.
"""

import functools
import hashlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from foundation.errors import UserError

Kind = Literal["extractor", "method"]
VARIABLE = "MEL_PLUGINS"
"""Environment variable with the files, separated as in PATH; child processes inherit it."""
_PACKAGE = "mel_plugins"


@dataclass(frozen=True)
class Plugin:
    """name: what profiles and options call it.

    value: what the file or entry point gives. file: that defines it. digest: SHA-256 (hex) of that file.
    """

    name: str
    value: Any
    file: Path
    digest: str


def register(files: Iterable[str | Path]) -> None:
    """Use these files from now on, here and in child processes.

    Raises `UserError` for one that is not there or cannot be loaded.
    """
    listed = dict.fromkeys([*_files(), *(Path(file).expanduser().absolute() for file in files)])
    for file in listed:
        if os.pathsep in str(file):
            raise UserError(f"--plugin {file}: a path with {os.pathsep!r} cannot be handed on; rename it")
        _load(file)
    os.environ[VARIABLE] = os.pathsep.join(map(str, listed))


def find(kind: Kind, own: Iterable[str]) -> dict[str, Plugin]:
    """The plugins of a kind by name. own: the names that the package itself has.

    Raises `UserError` where a plugin cannot be loaded, or has a name that is taken.
    """
    plugins: dict[str, Plugin] = {}
    for plugin in (*_of_entry_points(kind), *_of_files(kind)):
        if plugin.name in own:
            raise UserError(f"{plugin.file}: the package's own {kind} {plugin.name!r} has this name; choose another")
        if plugin.name in plugins and plugins[plugin.name].file != plugin.file:
            raise UserError(
                f"{plugin.file}: {plugins[plugin.name].file} has the {kind} name {plugin.name!r} too; rename one"
            )
        plugins[plugin.name] = plugin
    return plugins


def digest_of(kind: type) -> str | None:
    """SHA-256 (hex) of the file that defines a class, where a plugin does; else None."""
    return _digests.get(kind.__module__)


_digests: dict[str, str] = {}


def _files() -> list[Path]:
    return [Path(file) for file in os.environ.get(VARIABLE, "").split(os.pathsep) if file]


def _of_files(kind: Kind) -> Iterable[Plugin]:
    for file in _files():
        module = _load(file)
        if hasattr(module, kind):
            yield Plugin(file.stem, getattr(module, kind), file, _digests[module.__name__])


def _load(file: Path) -> ModuleType:
    """The module in a file, run once as long as the file stays the same."""
    try:
        state = file.stat()
    except OSError as error:
        raise UserError(f"--plugin {file}: {error.strerror}; name a Python file") from None
    if file.suffix != ".py" or not file.stem.isidentifier():
        raise UserError(f"--plugin {file}: expected a Python file whose name is one word, like my_extractor.py")
    return _run(file, state.st_mtime_ns, state.st_size)


@functools.cache
def _run(file: Path, mtime: int, size: int) -> ModuleType:
    name = f"{_PACKAGE}.{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None  # the name ends with .py
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise _refused(file, error) from None
    _digests[name] = hashlib.sha256(file.read_bytes()).hexdigest()
    return module


@functools.cache
def _of_entry_points(kind: Kind) -> tuple[Plugin, ...]:
    return tuple(_of_entry_point(kind, point) for point in entry_points(group=f"mel_cache.{kind}s"))


def _of_entry_point(kind: Kind, point: EntryPoint) -> Plugin:
    try:
        value = point.load()
        module = value if isinstance(value, ModuleType) else sys.modules[value.__module__]
        file = Path(module.__file__ or "")
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
    except (Exception, SystemExit) as error:
        raise _refused(f"entry point {point.name} = {point.value}", error) from None
    _digests[module.__name__] = digest
    return Plugin(point.name, getattr(value, kind, value), file, digest)


def _refused(place: Path | str, error: BaseException) -> UserError:
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(place)]
    where = f"{place}, line {lines[-1]}" if lines else str(place)
    return UserError(f"{where}: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")

"""Profiles: which model and preprocessing stand behind each feature, and head defaults of that size."""

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from foundation.errors import UserError, nearest

FOLDER = Path(__file__).parent
SIDES = ("mention", "entity")
_FEATURE_KEYS = {"extractor", "views", "by_default"}


def names() -> list[str]:
    """Names of the profiles that come with the package."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


@dataclass(frozen=True)
class Feature:
    """One feature of a profile.

    options: the extractor's own options as written (the extractor checks them). views: side -> names of the views extracted when nobody asks
    for particular ones. by_default: whether `ExtractFeatures` without `--features` extracts it.
    """

    name: str
    extractor: str
    options: Mapping[str, Any]
    views: Mapping[str, tuple[str, ...]]
    by_default: bool


@dataclass(frozen=True)
class Profile:
    """A checked profile. path: its file. heads: head defaults as written; `experiments.jobs` checks them. threads: of each process; 0: one per core.

    Models so small that threads wait for each other longer than they compute want one; their tasks then run side by side (`--workers`).
    """

    path: Path
    features: Mapping[str, Feature]
    heads: Mapping[str, Mapping[str, Any]]
    limits: Mapping[str, int]
    threads: int

    @property
    def name(self) -> str:
        return self.path.stem

    @property
    def source(self) -> Path:
        """The folder that relative model paths start from."""
        return self.path.parent

    def feature(self, name: str) -> Feature:
        """The named feature. Raises `UserError` with the nearest right name."""
        if name not in self.features:
            raise UserError(f"profile {self.name!r} has no feature {name!r}{nearest(name, self.features)}")
        return self.features[name]


def _mapping(value: Any, where: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise UserError(f"{where}: expected a mapping of names to values, found {value!r:.60}")
    return value


def _known_keys(value: Mapping[str, Any], known: Iterable[str], where: str) -> None:
    known = set(known)
    for key in value:
        if key not in known:
            raise UserError(f"{where}: unknown key {key!r}{nearest(key, known)}")


def _feature(name: str, value: Any, where: str) -> Feature:
    entry = _mapping(value, where)
    by_default = entry.get("by_default", True)
    if not isinstance(by_default, bool):
        raise UserError(f"{where}: by_default is {by_default!r}, expected true or false")
    views = _mapping(entry.get("views"), f"{where}: views")
    _known_keys(views, SIDES, f"{where}: views")
    for side, listed in views.items():
        if not isinstance(listed, list) or not all(isinstance(view, str) for view in listed):
            raise UserError(f"{where}: views of {side} are {listed!r:.60}, expected a list of view names")
    return Feature(
        name=name,
        extractor=str(entry.get("extractor", name)),
        options={key: option for key, option in entry.items() if key not in _FEATURE_KEYS},
        views={side: tuple(listed) for side, listed in views.items()},
        by_default=by_default,
    )


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands twice in one mapping, of which the last would count; what `<<` brings along may be overridden."""

    def compose_mapping_node(self, anchor: str | None) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if (key.tag, key.value) in seen:
                    raise yaml.MarkedYAMLError(
                        problem=f"the key {key.value!r:.60} is given twice in one mapping", problem_mark=key.start_mark
                    )
                seen.add((key.tag, key.value))
        return node


def plain_yaml(text: str) -> Any:
    """`yaml.safe_load`, with a `yaml.YAMLError` also for a key given twice, for numbers and dates that there are not, and for nesting too deep."""
    try:
        return yaml.load(text, _Loader)  # noqa: S506 - a safe one
    except (ValueError, RecursionError) as error:
        problem = "nested too deeply" if isinstance(error, RecursionError) else f"a value that cannot be read: {error}"
        raise yaml.MarkedYAMLError(problem=problem) from None


@functools.lru_cache(maxsize=64)
def _content(path: Path, mtime_ns: int, size: int) -> Any:
    """The file's YAML, read once while its time and size stay: every task of a command asks for it."""
    return plain_yaml(path.read_text(encoding="utf-8"))


def load(name_or_path: str) -> Profile:
    """Read a profile by the name of a shipped one or by the path of a YAML file (safe-loaded).

    Raises `UserError` for a missing file, malformed YAML (with its position) and unknown keys (with the nearest right one).
    """
    shipped = FOLDER / f"{name_or_path}.yaml"
    if name_or_path in names():
        path = shipped
    elif name_or_path.endswith((".yaml", ".yml")):
        path = Path(name_or_path)
    else:
        raise UserError(
            f"--profile {name_or_path!r}: neither a shipped profile nor a path ending in .yaml{nearest(name_or_path, names())}"
        )
    try:
        state = path.stat()
        raw = _content(path, state.st_mtime_ns, state.st_size)
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such profile file; shipped profiles: {', '.join(names())}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as UTF-8 text ({error})") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        raise UserError(
            f"{path}{place}: malformed YAML ({getattr(error, 'problem', None) or 'not plain data'})"
        ) from error
    raw = _mapping(raw, str(path))
    _known_keys(raw, {"features", "heads", "limits", "threads"}, str(path))
    features = {
        name: _feature(name, value, f"{path}: features.{name}")
        for name, value in _mapping(raw.get("features"), f"{path}: features").items()
    }
    if not features:
        raise UserError(f"{path}: no features; name at least one under `features:` (docs/models.md shows how)")
    heads = {
        name: _mapping(value, f"{path}: heads.{name}")
        for name, value in _mapping(raw.get("heads"), f"{path}: heads").items()
    }
    limits = _mapping(raw.get("limits"), f"{path}: limits")
    _known_keys(limits, {"max_pixels", "max_bytes"}, f"{path}: limits")
    for key, value in limits.items():
        if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
            raise UserError(f"{path}: limits.{key} is {value!r}, expected a positive whole number")
    threads = raw.get("threads", 0)
    if not isinstance(threads, int) or isinstance(threads, bool) or threads < 0:
        raise UserError(f"{path}: threads is {threads!r}, expected 0 (one per core) or a positive whole number")
    return Profile(path=path, features=features, heads=heads, limits=limits, threads=threads)

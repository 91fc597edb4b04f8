"""Profiles: which model and preprocessing stand behind each feature, and head defaults of that size."""

import errno
import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from cache.inputs import Side
from foundation.contracts import message
from foundation.errors import UserError, nearest

FOLDER = Path(__file__).parent
AT_BLOCK = "@"
Cut = Literal["text_tokens", "clip_text", "image_patches", "clip_image"]
CAN_BE_CUT: tuple[Cut, ...] = get_args(Cut)
"""The extractors whose encoders `layers` reads between their blocks."""
T = TypeVar("T")


def names() -> list[str]:
    """Names of the profiles that come with the package."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


@dataclass(frozen=True)
class Feature:
    """One feature of a profile.

    options: the extractor's own options as written (the extractor checks them). views: side -> names of the views that
    are extracted where no others are named. by_default: whether `ExtractFeatures` without `--features` extracts it.
    """

    name: str
    extractor: str
    options: Mapping[str, Any]
    views: Mapping[Side, tuple[str, ...]]
    by_default: bool


@dataclass(frozen=True)
class Profile:
    """A checked profile. path: its file. heads: head defaults as written; `experiments.jobs` checks them. threads: of
    each process; 0: one per core.

    Models so small that threads wait for each other longer than they compute want one; their tasks then run side by
    side (`--workers`).
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
        """The named feature; `NAME@BLOCK` is `NAME`'s encoder at the states that enter that block (`layers`).

        Raises `UserError` with the nearest right name.
        """
        if name in self.features:
            return self.features[name]
        whole, at, block = name.rpartition(AT_BLOCK)
        if not at or whole not in self.features:
            raise UserError(f"profile {self.name!r} has no feature {name!r}{nearest(name, self.features)}")
        if not re.fullmatch(r"0|[1-9][0-9]{0,2}", block):
            raise UserError(
                f"feature {name!r}: {block!r:.20} is no number of a block; write it like {whole}{AT_BLOCK}3"
            )
        return _at_block(self.features[whole], int(block))


def _at_block(feature: Feature, block: int) -> Feature:
    """The states that enter a block of a feature's encoder, as a feature. Raises `UserError` where it has no blocks."""
    if feature.extractor not in CAN_BE_CUT:
        raise UserError(
            f"feature {feature.name}{AT_BLOCK}{block}: {feature.name} is made by {feature.extractor}; states between "
            f"blocks are read of {', '.join(CAN_BE_CUT)}"
        )
    shared = {key: feature.options[key] for key in ("model", "max_tokens", "prompts") if key in feature.options}
    options = {**shared, "encoder": feature.extractor, "block": block}
    return replace(
        feature, name=f"{feature.name}{AT_BLOCK}{block}", extractor="layers", options=options, by_default=False
    )


_EmptyIsMapping = BeforeValidator(lambda value: {} if value is None else value)
"""A name in YAML with nothing behind it stands for an empty mapping."""
_Names = dict[str, Annotated[T, _EmptyIsMapping]]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _Views(_Section):
    mention: list[str] | None = None
    entity: list[str] | None = None


class _Limits(_Section):
    max_pixels: Annotated[int, Field(gt=0)] = 1
    max_bytes: Annotated[int, Field(gt=0)] = 1


class _Feature(_Section):
    """Further keys are the extractor's options."""

    model_config = ConfigDict(extra="allow")
    extractor: str | None = None
    views: Annotated[_Views, _EmptyIsMapping] = _Views()
    by_default: bool = True


FEATURE_KEYS = tuple(_Feature.model_fields)


class _File(_Section):
    """What a profile's YAML file holds."""

    features: Annotated[_Names[_Feature], _EmptyIsMapping] = Field(default_factory=dict)
    heads: Annotated[_Names[dict[str, Any]], _EmptyIsMapping] = Field(default_factory=dict)
    limits: Annotated[_Limits, _EmptyIsMapping] = _Limits()
    threads: Annotated[int, Field(ge=0)] = 0


def _feature(name: str, value: _Feature) -> Feature:
    views: dict[Side, list[str] | None] = {"mention": value.views.mention, "entity": value.views.entity}
    return Feature(
        name=name,
        extractor=value.extractor or name,
        options=value.model_extra or {},
        views={side: tuple(listed) for side, listed in views.items() if listed is not None},
        by_default=value.by_default,
    )


MOST_BYTES, MOST_NODES = 1 << 16, 100_000
"""Of a YAML file: its bytes, and its values after every alias (`*name`) is replaced by what it stands for."""


MOST_DEPTH = 100
"""Of lists and mappings inside each other, written with brackets."""


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands twice in one mapping, of which the last would count; what `<<` brings along may be
    overridden. Refuses aliases that expand to more than `MOST_NODES` values, and nesting beyond `MOST_DEPTH`."""

    def get_single_node(self) -> yaml.Node | None:
        node = super().get_single_node()
        if node is not None and _expanded(node, {}) > MOST_NODES:
            raise yaml.MarkedYAMLError(problem=f"aliases expand to more than {MOST_NODES:,} values")
        return node

    def fetch_flow_collection_start(self, TokenClass: type[yaml.Token]) -> None:  # PyYAML's name
        if self.flow_level >= MOST_DEPTH:  # each level costs the scanner more than the one before
            raise yaml.MarkedYAMLError(problem="nested too deeply", problem_mark=self.get_mark())
        super().fetch_flow_collection_start(TokenClass)

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


def _expanded(node: yaml.Node, known: dict[int, int]) -> int:
    """Values in a node with its aliases replaced. known: of nodes by `id`; a node that holds itself has no end."""
    if id(node) not in known:
        known[id(node)] = MOST_NODES + 1  # what it counts for inside itself
        parts = node.value if isinstance(node, yaml.CollectionNode) else ()
        children = [child for part in parts for child in (part if isinstance(part, tuple) else (part,))]
        known[id(node)] = 1 + sum(_expanded(child, known) for child in children)
    return known[id(node)]


def plain_yaml(text: str) -> Any:
    """`yaml.safe_load`, with a `yaml.YAMLError` also for a key given twice, for numbers and dates that there are not,
    for nesting too deep, for more than `MOST_BYTES` and for aliases that expand without measure."""
    if len(text) > MOST_BYTES:
        raise yaml.MarkedYAMLError(problem=f"more than {MOST_BYTES:,} characters")
    try:
        return yaml.load(text, _Loader)
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        problem = "nested too deeply" if isinstance(error, RecursionError) else f"a value that cannot be read: {error}"
        raise yaml.MarkedYAMLError(problem=problem) from None


@functools.lru_cache(maxsize=64)
def _content(path: Path, mtime_ns: int, size: int) -> Any:
    """The file's YAML, read once while its time and size stay: every task of a command asks for it."""
    return yaml_file(path)


def yaml_file(path: Path) -> Any:
    """`plain_yaml` of a file. Raises `OSError` also for a pipe or a device, which may never end."""
    if not path.is_file():
        path.stat()  # `FileNotFoundError`
        raise OSError(errno.EINVAL, "not a regular file")
    return plain_yaml(path.read_text(encoding="utf-8"))


def load(name_or_path: str) -> Profile:
    """Read a profile by the name of a shipped one or by the path of a YAML file (safe-loaded).

    Raises `UserError` for a missing file, malformed YAML (with its position) and unknown keys (with the nearest right
    one).
    """
    shipped = FOLDER / f"{name_or_path}.yaml"
    if name_or_path in names():
        path = shipped
    elif name_or_path.endswith((".yaml", ".yml")):
        path = Path(name_or_path)
    else:
        raise UserError(
            f"--profile {name_or_path!r}: neither a shipped profile nor a path ending in "
            f".yaml{nearest(name_or_path, names())}"
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
    try:
        checked = _File.model_validate({} if raw is None else raw)
    except ValidationError as error:
        raise UserError(message(error, str(path), _File)) from None
    if marked := [name for name in checked.features if AT_BLOCK in name]:
        raise UserError(
            f"{path}: features.{marked[0]}: `{AT_BLOCK}` stands before the number of a block in a command; rename it"
        )
    if not checked.features:
        raise UserError(f"{path}: no features; name at least one under `features:` (docs/models.md shows how)")
    return Profile(
        path=path,
        features={name: _feature(name, value) for name, value in checked.features.items()},
        heads=checked.heads,
        limits=checked.limits.model_dump(exclude_unset=True),
        threads=checked.threads,
    )


def joined(profiles: Mapping[str, Profile]) -> Profile:
    """Features of several profiles as those of one. profiles: feature -> its profile, at least one; the first gives
    what belongs to no feature, so that relative paths of models start from where the feature's own profile lies."""
    first = next(iter(profiles.values()))
    return replace(first, features={name: profile.feature(name) for name, profile in profiles.items()})

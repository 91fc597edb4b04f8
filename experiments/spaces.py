"""What a search over one head draws: the space, checked against the head's configuration and the features it reads."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from cache.identity import identity
from experiments import jobs, towers
from experiments.contracts import SearchJob, Study
from foundation.errors import UserError
from foundation.paths import Paths
from heads.config import config_class, load_config, option
from heads.config.base import HeadConfig
from heads.config.space import Choices, Drawn, check_space, plain_space, tune_space
from heads.contracts import TrainingJob
from pipeline.profiles.profile import Profile, yaml_file

FILES = ("best.json", "trials.csv", "study.json", "history.png", "importance.png", "parallel.png")
"""What a search leaves in its folder beside the study itself."""
LARGEST = 1 << 20
"""Bytes a space file may have."""


@dataclass(frozen=True)
class SearchPlan:
    """A head and the options that are drawn for it.

    given: parameters that are not drawn: those of `--params`, and those that keep the runs which the head reads as
    they are.
    """

    head: jobs.HeadSpec
    space: Mapping[str, Drawn]
    given: Mapping[str, Any]


def plan(method: str, params: str, file: str, profile: Profile) -> SearchPlan:
    """The search over a method with `params`. file: of a space that replaces the method's own; empty: none.

    Raises `UserError` for a space that is malformed, that holds values which the head refuses, or that changes what
    the head reads: all trials share the tensors that were loaded once.
    """
    head = jobs.head_spec(method, params, profile)
    config = load_config(head.method, head.config)
    pinned = config.pinned()
    if pinned:
        head = jobs.head_spec(method, params, profile, pinned)
    if config.tune and not config.runs_towers:  # the stage whose blocks are trained is searched
        head = jobs.head_spec(method, params, profile, {**pinned, "live": True})
    where = file or f"the search space of {head.method}"
    own = _read(Path(file)) if file else {**config.searched(), **tune_space(config.tune)}
    space = check_space(config_class(head.method), own, where)
    if not file:
        space = holding(space, load_config(head.method, head.config))
    same = _reads(load_config(head.method, head.config), profile)
    for name, one in space.items():
        for value in one.choices if isinstance(one, Choices) else (one.low, one.high):
            try:
                changed = load_config(head.method, {**head.config, name: value})
                reads = _reads(changed, profile)
            except UserError as error:
                if f"{name} =" in str(error):
                    raise UserError(f"{where}: {error}") from None
                continue  # with another value of a second option it may be valid
            for what, read in reads.items():
                if read != same[what]:
                    raise UserError(
                        f"{where}: {name} = {value!r} changes {what}, which are loaded once for all trials; "
                        f"take {name} out and search once for each, with --params '{{\"{name}\": …}}'"
                    )
    return SearchPlan(head, space, {**jobs.parameters(params), **pinned})


def holding(space: Mapping[str, Drawn], config: HeadConfig) -> dict[str, Drawn]:
    """The space, widened to hold the values that the search starts from, which a profile may have set."""
    wide = dict(space)
    for name, drawn in space.items():
        value = plain(config, name)
        if isinstance(drawn, Choices):
            more = () if value in drawn.choices else (value,)
            wide[name] = replace(drawn, choices=(*drawn.choices, *more))
        elif drawn.step is None and not (drawn.log and value <= 0):
            wide[name] = replace(drawn, low=min(drawn.low, value), high=max(drawn.high, value))
    return wide


def plain(config: HeadConfig, name: str) -> Any:
    """The value of an option, as a space has it; see `heads.config.option`."""
    value = option(config, name)
    return list(value) if isinstance(value, tuple) else value


def _reads(config: HeadConfig, profile: Profile) -> dict[str, Any]:
    available = list(profile.features)
    return {
        "the features that are read": towers.wanted(config, config.inputs(available), towers.kinds(profile)),
        "the pair features that are read": config.read_pairs(available),
        "the runs that are read": config.runs(available),
    }


def _read(path: Path) -> Any:
    try:
        if path.stat().st_size > LARGEST:
            raise UserError(
                f"{path}: {path.stat().st_size:,} bytes, at most {LARGEST:,} are read; a space is a few lines"
            )
        return yaml_file(path)
    except FileNotFoundError:
        raise UserError(f"--space {path}: no such file") from None
    except OSError as error:
        raise UserError(f"--space {path}: cannot be read ({error.strerror})") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "not plain text"
        raise UserError(
            f"--space {path}{place}: malformed YAML ({problem}); "
            "write it like `lr: {low: 0.0001, high: 0.01, log: true}`"
        ) from None


def search_job(plan: SearchPlan, training: TrainingJob, label: str, paths: Paths, study: Study) -> SearchJob:
    """The job of a search. training: of the head with the values that the search starts from. label: the dataset's.

    The study is named by all that a trial depends on but the drawn options. So the same search, also on another
    machine, is one study.
    """
    depends = dict(training.depends)
    depends["config"] = without(depends["config"], plan.space)
    depends |= {"space": plain_space(plan.space), "prune": study.prune}
    digest = identity(depends)
    return SearchJob(
        training=replace(training, out=paths.sweep(label, plan.head.method, digest)),
        space=plan.space,
        given=plan.given,
        study=study,
        name=f"{label}-{plan.head.method}-{digest[:16]}",
        depends=depends,
    )


def without(config: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    """The options of a full configuration but those of some names, in which a dot leads into an option."""
    kept = {name: value for name, value in config.items() if name not in names}
    for name in names:
        first, _, inside = name.partition(".")
        if inside and isinstance(kept.get(first), Mapping):
            kept[first] = without(kept[first], [inside])
    return kept


def drawn(space: Mapping[str, Drawn], config: HeadConfig) -> dict[str, Any]:
    """The values of a configuration for the options of a space; nothing where one of them is outside of it."""
    values = {name: plain(config, name) for name in space}
    inside = all(
        values[name] in one.choices if isinstance(one, Choices) else one.low <= values[name] <= one.high
        for name, one in space.items()
    )
    return values if inside else {}

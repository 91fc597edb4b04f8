"""What a user types and writes down: profiles, search spaces, --params, every command's options, settings of Luigi."""

import functools
import json
import re
from pathlib import Path
from typing import Any

import commands
import luigi
from hypothesis import strategies as st
from luigi.configuration import get_config

import tasks  # noqa: F401  # Luigi knows the commands
from experiments import jobs, spaces
from foundation.errors import UserError
from fuzz.odd import NUMBERS, TEXTS, bytes_of, json_of, texts
from fuzz.target import Target
from heads.config import methods
from mel_cache.commands.catalogue import COMMANDS
from mel_cache.commands.shell import help
from pipeline.candidates import specs
from pipeline.extraction import wants
from pipeline.extractors import check_options
from pipeline.profiles import profile as profiles

DEMO = profiles.FOLDER / "demo.yaml"
TASKS = {name: task for group in COMMANDS.values() for name, task in group.items()}
FRAGMENTS = [
    *("&a [*a]", "*nowhere", "!!python/object:os.system x", "!!binary x", "? [a]: b", "<<: *a", "<<: 1", "- - - -"),
    *("!!timestamp 2024-99-99", "2024-13-45", "0b2", "0o9", "1:60:60", ".nan", ".inf", "~", "|\n x", "!!int 'x'"),
    *("---\na: 1\n---\nb: 2", "%YAML 9.9", "\t", "{", "'", "a: b: c", "!!set {a, a}", "!!omap [a: 1]", "!<x> y"),
    "&a [" + "0," * 99 + "0]",
]
BOMB = "a: &a [1,1,1,1,1,1,1,1,1]\n" + "".join(
    f"{name}: &{name} [{', '.join(['*' + before] * 9)}]\n"
    for before, name in zip("abcdefghi", "bcdefghij", strict=True)
)
PARAMS: dict[str, Any] = {"lr": 0.001, "epochs": 3, "batch_size": 32, "early_stopping": 2}


@functools.cache
def _profile() -> Any:
    return profiles.plain_yaml(DEMO.read_text())


SPACE = {
    "lr": {"low": 0.0001, "high": 0.01, "log": True},
    "d_t": {"choices": [32, 64]},
    "epochs": {"low": 2, "high": 9},
}


@st.composite
def _yaml(draw: st.DrawFn, value: Any) -> bytes:
    """YAML of a changed value, or with a fragment of YAML's own in it, or damaged."""
    kind = draw(st.sampled_from(("json", "json", "json", "fragment", "bytes")))
    if kind == "json":
        return draw(json_of(value)).encode("utf-8", "surrogatepass")
    text = json.dumps(value, indent=1)
    if kind == "bytes":
        return draw(bytes_of(text.encode()))
    places = [match.start() for match in re.finditer(r'(?<=: )|\n|"', text)]
    at = draw(st.sampled_from(places))
    return (text[:at] + draw(st.sampled_from(FRAGMENTS)) + text[at:]).encode()


def _read_profile(content: bytes, folder: Path) -> None:
    path = folder / "odd.yaml"
    path.write_bytes(content)
    profile = profiles.load(str(path))
    for feature in profile.features.values():
        check_options(feature, str(path))
    jobs.check_heads(profile)
    jobs.usual_wants(profile)
    wants.listed(profile, "", "", jobs.usual_wants)


def _read_space(content: bytes, folder: Path) -> None:
    path = folder / "space.yaml"
    path.write_bytes(content)
    spaces.plan("mimic", "{}", str(path), profiles.load("demo"))


def _read_params(value: tuple[str, str], folder: Path) -> None:
    method, text = value
    if text.startswith("@"):
        (folder / "params.json").write_text(text[1:], errors="surrogatepass")
        text = f"@{folder / 'params.json'}"
    jobs.head_spec(method, text, profiles.load("demo"))


def _read_lists(value: tuple[str, str], folder: Path) -> None:
    """Options that hold a list or JSON."""
    option, text = value
    if option == "wants":
        wants.parse_wants(text)
    else:
        specs.split_sources(text)
        specs.vector_features(text)


def _options() -> list[tuple[str, str]]:
    """(command, option) of every option of every command."""
    skipped = ("dry_run", "work_dir", "plugin", "json_log")
    return [(name, option) for name, task in TASKS.items() for option, _ in task.get_params() if option not in skipped]


OPTION_VALUES = st.one_of(
    st.sampled_from([*NUMBERS, *(text for text in TEXTS if len(text) < 6000)]), texts, json_of(PARAMS)
)


def _run_option(value: tuple[str, str, str], folder: Path) -> None:
    """A command with one option, as far as a dry run goes."""
    command, option, text = value
    text = text.replace("\0", "").encode("utf-8", "surrogateescape" if text.isascii() else "replace").decode()
    task = TASKS[command]
    parameter: Any = dict(task.get_params())[option]
    words = [f"{help.flag(option, parameter)}={text}"]
    if isinstance(parameter, luigi.BoolParameter) and parameter.parsing == luigi.BoolParameter.IMPLICIT_PARSING:
        words = [words[0].partition("=")[0]]
    for name, other in task.get_params():  # what must be given
        if name != option and not other.has_task_value(task.get_task_family(), name):
            words.append(f"{help.flag(name, other)}={folder / 'none'}")
    _run(command, *words, "--dry-run", "--work-dir", str(folder / "work"))


def _run(*words: str) -> None:
    code, output = commands.run(*words)
    if code:
        assert code in (2, 30), f"exit code {code}: {output[-500:]}"
        assert output.startswith("error: "), f"exit code {code}: {output[-500:]}"
        raise UserError(output.removeprefix("error: ").rstrip("\n"))
    assert "Traceback" not in output, output[-500:]


def _run_setting(value: tuple[str, str, str], folder: Path) -> None:
    """A command under a setting of luigi.cfg."""
    section, name, text = value
    config: Any = get_config()
    had = config.get(section, name, None) if config.has_option(section, name) else None
    config.set(section, name, text.replace("%", "%%"))
    try:
        _run("TrainHead", "--dry-run", "--work-dir", str(folder / "work"))
    finally:
        config.remove_option(section, name) if had is None else config.set(section, name, had)


SETTINGS = [
    *(("mel", name) for name in ("device", "precision", "dataset", "profile", "candidates", "sources", "merge")),
    *(("TrainHead", name) for name in ("method", "params", "seed", "seeds", "train_fraction")),
]

TARGETS = (
    Target(
        kind="profiles",
        readers=(
            "pipeline.profiles.profile:plain_yaml",
            "pipeline.profiles.profile:_content",
            "pipeline.profiles.profile:yaml_file",
        ),
        valid=lambda: DEMO.read_bytes(),
        odd=lambda: _yaml(_profile()),
        read=_read_profile,
        hard=lambda: (BOMB.encode(),),
        share=8,
    ),
    Target(
        kind="search spaces",
        readers=("experiments.spaces:_read",),
        valid=lambda: json.dumps(SPACE).encode(),
        odd=lambda: _yaml(SPACE),
        read=_read_space,
        hard=lambda: (BOMB.encode(),),
        share=8,
    ),
    Target(
        kind="--params",
        readers=("experiments.jobs:parameters",),
        valid=lambda: ("mimic", json.dumps({"lr": 0.01})),
        odd=lambda: st.tuples(
            st.sampled_from(methods()),
            st.one_of(json_of(PARAMS), json_of(PARAMS).map("@".__add__), st.sampled_from(NUMBERS), texts),
        ),
        read=_read_params,
        hard=lambda: (("mimic", '{"lr": ' + "9" * 400 + "}"), ("mimic", '{"epochs": ' + "9" * 5000 + "}")),
        share=8,
    ),
    Target(
        kind="lists in options",
        readers=("pipeline.extraction.wants:parse_wants",),
        valid=lambda: ("wants", '[{"side": "mention", "feature": "clip_text", "view": "sentence"}]'),
        odd=lambda: st.one_of(
            st.tuples(st.just("wants"), json_of([{"side": "mention", "feature": "clip_text", "view": "sentence"}])),
            st.tuples(st.just("sources"), texts),
        ),
        read=_read_lists,
    ),
    Target(
        kind="options of commands",
        readers=("mel_cache.commands.shell.cmdline:_begin", "mel_cache.commands.features:ExtractGroup.__init__"),
        valid=lambda: ("TrainHead", "seed", "1"),
        odd=lambda: st.tuples(st.sampled_from(_options()), OPTION_VALUES).map(lambda pair: (*pair[0], pair[1])),
        read=_run_option,
        hard=lambda: (
            ("TrainHead", "seeds", "2147483648"),
            ("TrainHead", "candidates", "2000000000"),
            ("TrainHead", "seed", "9" * 400),
        ),
        share=3,
    ),
    Target(
        kind="settings of luigi.cfg",
        readers=("mel_cache.commands.shell.cmdline:_begin",),
        valid=lambda: ("mel", "device", "cpu"),
        odd=lambda: st.tuples(st.sampled_from(SETTINGS), OPTION_VALUES).map(lambda pair: (*pair[0], pair[1])),
        read=_run_setting,
        share=1,
    ),
)

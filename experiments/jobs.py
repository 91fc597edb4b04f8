"""A head's configuration from the profile and the command line, and what it wants of extraction."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from cache.inputs import SIDES, Side, Want
from cache.store import Store
from experiments import towers
from foundation.checksums import RECORD, read_sealed
from foundation.errors import NotAsWritten, UserError, nearest
from foundation.files import parse_json, read_json
from foundation.paths import Paths
from foundation.remedies import remedy
from heads.config import load_config, methods, naming_options, to_json
from heads.config.dsmip import PROMPTED, DsmipConfig
from heads.contracts import HeadInput, HeadWant, LiveClip
from heads.tune import TUNED
from pipeline.extraction.contracts import Extraction
from pipeline.profiles.profile import Profile

FOUR = ("drin", "mimic", "dwe", "dsmip")


@dataclass(frozen=True)
class HeadSpec:
    """A method with its full configuration (plain JSON values), the features and the pair features that it reads.

    runs: the finished runs it reads, label -> (method, parameters). encoders: feature of states -> how the profile
    says that its encoder is read above them (`pooling`, …).
    """

    method: str
    config: Mapping[str, Any]
    wanted: Sequence[HeadWant]
    pairs: Sequence[str]
    runs: Mapping[str, tuple[str, dict[str, Any]]]
    encoders: Mapping[str, Any] = field(default_factory=dict)

    @property
    def learned_by(self) -> str | None:
        """The label of the run that made features for it: with DSMIP's learned prompts, or with blocks that were
        trained; None where it reads none."""
        if any(want.feature in PROMPTED.values() for want in self.wanted):
            return "multimodal"
        return TUNED if any(is_learned(want.feature) for want in self.wanted) else None

    @property
    def extracted(self) -> list[HeadWant]:
        """The wants that extraction serves; others come from a run."""
        return [want for want in self.wanted if not is_learned(want.feature)]

    @property
    def wants(self) -> list[Want]:
        """What of it is to be extracted, each once."""
        distinct = sorted({(want.side, want.feature, want.view) for want in self.extracted})
        return [Want(side=side, feature=feature, view=view) for side, feature, view in distinct]


def parameters(text: str) -> dict[str, Any]:
    """`--params`: a JSON object, or `@FILE` with one. Raises `UserError` where it is neither."""
    if text.startswith("@"):
        value = read_json(Path(text[1:]))
        _check_best(Path(text[1:]), value)
    else:
        try:
            value = parse_json(text)
        except json.JSONDecodeError as error:
            raise UserError(
                f"--params, column {error.colno}: malformed JSON ({error.msg}); write it like '{{\"lr\": 0.001}}'"
            ) from None
    if not isinstance(value, dict):
        raise UserError(f"--params is {text:.60}, expected a JSON object like '{{\"lr\": 0.001}}'")
    return value


def placed(text: str, paths: Paths) -> str:
    """`--params`, also those by method, in which a teacher that is a run, named as `Paths.find_run` takes it, is its
    method and hyper-parameters.

    Raises `UserError` as `parameters` does, and beside `teacher_params`.
    """
    given = parameters(text)
    found = _placed(given, paths) | {
        name: _placed(value, paths) for name, value in given.items() if isinstance(value, dict)
    }
    return text if found == given else json.dumps(found)


def _placed(params: dict[str, Any], paths: Paths) -> dict[str, Any]:
    named = params.get("teacher")
    if not isinstance(named, str) or named.replace("-", "_") in methods():
        return params
    try:
        folder = paths.find_run(named)
    except UserError:
        return params  # `_with_teacher` says what else it could be
    return _with_teacher({**params, "teacher": str(folder)})


def _check_best(path: Path, value: Any) -> None:
    """Raises `NotAsWritten` where a search's own best.json has other values than the study.json beside it."""
    beside = path.with_name("study.json")
    if path.name != "best.json" or not beside.is_file():
        return
    found = read_sealed(beside).get("best", {}).get("params")
    if found is not None and found != value:
        raise NotAsWritten(
            f"{path} has other values than the search found (study.json beside it); keep values of your own in a file "
            f"of another name, or {remedy(path)}"
        )


def check_heads(profile: Profile) -> None:
    """Raises `UserError` for an unknown method under the profile's `heads`, and for an option that its method lacks."""
    for method, params in profile.heads.items():
        if method not in methods():
            raise UserError(f"{profile.path}: heads.{method}: no such method{nearest(method, methods())}")
        load_config(method, params, f"{profile.path}: heads.{method}")


def head_spec(method: str, params: str, profile: Profile, last: Mapping[str, Any] = MappingProxyType({})) -> HeadSpec:
    """The method's defaults, then the profile's for it, then `--params`, then `last`.

    `clip-text` is `clip_text`: a method has the name of its module, and may be given as the papers write it. Raises
    `UserError` for an unknown method or key, wherever it stands.
    """
    check_heads(profile)
    method = method.replace("-", "_")
    config = load_config(method, _with_teacher({**profile.heads.get(method, {}), **parameters(params), **last}))
    available = list(profile.features)
    wanted = config.inputs(available)
    _check_outputs(method, wanted, profile)
    pairs = config.read_pairs(available)
    stages = {TUNED: (method, {**to_json(config), "live": True})} if config.tune and not config.runs_towers else {}
    tuned = towers.wanted(config, wanted, towers.kinds(profile))
    runs = {**config.runs(available), **stages}
    return HeadSpec(method, to_json(config), tuned, pairs, runs, towers.above(tuned, profile))


def is_learned(feature: str) -> bool:
    """Whether a feature is made by a run of a head."""
    return feature in PROMPTED.values() or feature.endswith(f"@{TUNED}")


def _with_teacher(params: dict[str, Any]) -> dict[str, Any]:
    """The parameters with a teacher that is named by its run's folder as a method and its hyper-parameters: what it is,
    not where. Raises `UserError` where the folder holds no run."""
    named = params.get("teacher")
    if not isinstance(named, str) or named.replace("-", "_") in methods():
        return params
    if not Path(named, RECORD).is_file():
        raise UserError(
            f"teacher {named!r}: neither a method{nearest(named, methods())} nor a run's folder; "
            "name the folder that TrainHead printed as `run:`"
        )
    run = read_sealed(Path(named, RECORD))
    if "teacher_params" in params:
        raise UserError(
            f"teacher_params: the run {named} has its own; leave them out, or name the method {run['method']}"
        )
    config = naming_options(run["method"], run["config"])
    return {**params, "teacher": run["method"], "teacher_params": json.dumps(config, sort_keys=True)}


def _check_outputs(method: str, wanted: Sequence[HeadWant], profile: Profile) -> None:
    """Raises `UserError` where the profile has a feature written without an output that the method reads."""
    for want in wanted:
        written = profile.features[want.feature].options.get("outputs") if want.feature in profile.features else None
        lacking = [output for output in want.outputs if written and output not in written]
        if lacking:
            raise UserError(
                f"{profile.path}: features.{want.feature}.outputs: {method} reads {', '.join(lacking)} too; "
                "add it, or leave `outputs` out"
            )


def usual_wants(profile: Profile) -> list[Want]:
    """What the four methods read with their default parameters; a method that this profile cannot serve is left out."""
    listed: list[Want] = []
    for method in (name for name in FOUR if name in methods()):
        try:
            chosen = head_spec(method, "{}", profile)
        except UserError:
            continue
        listed += [*chosen.wants, *(want for pair in chosen.pairs for want in pair_wants(pair, profile))]
    return listed


def pair_wants(name: str, profile: Profile) -> list[Want]:
    """What a pair feature is computed from.

    Raises `UserError` for an unknown pair feature, or where the profile lacks a feature.
    """
    from pipeline.pairs import registry

    return registry.wants(name, list(profile.features))


def pair_pictures(name: str, sources: str, profile: Profile) -> tuple[Side, ...]:
    """The sides whose pictures a pair feature is computed from, by the views that it reads; for a pair feature of the
    lists' own scores, by those that their `sources` compare.

    Raises `UserError` as `pair_wants` does.
    """
    from pipeline.pairs.registry import pair_function

    reads = {want.side for want in pair_wants(name, profile) if want.from_picture}
    reads |= set(list_pictures(sources, profile)) if pair_function(name).of_lists else set()
    return tuple(side for side in SIDES if side in reads)


def list_pictures(sources: str, profile: Profile) -> tuple[Side, ...]:
    """The sides whose pictures the `sources` of candidate lists compare; runs among these by their folders."""
    from pipeline.candidates.specs import runs, vector_features
    from pipeline.extraction.wants import of_feature

    reads = [want for feature in vector_features(sources) for want in of_feature(profile, feature)]
    reads += [want for folder in runs(sources) for want in _read_by(Path(folder))]
    return tuple(side for side in SIDES if any(want.side == side and want.from_picture for want in reads))


def _read_by(run: Path) -> list[Want]:
    """What a finished run was trained on."""
    depends = read_sealed(run / "config.json")
    stage = depends.get("heads", {}).get(TUNED, {})  # which read what the run's own features were made of
    columns = [column.split(".") for column in (*depends["rows"], *stage.get("rows", ()))]
    return [
        Want(side=parts[0], feature=".".join(parts[1:-1]), view=parts[-1]) for parts in columns if parts[0] in SIDES
    ]


@dataclass(frozen=True)
class Trial:
    """How a head is trained beside its configuration. label: the dataset's, which the run's folder is below."""

    label: str
    seed: int
    train_fraction: float


def head_inputs(wanted: Iterable[HeadWant], extraction: Extraction, paths: Paths) -> tuple[HeadInput, ...]:
    """What a head reads, with the place of its rows. extraction: of all these features."""

    def of(want: HeadWant) -> HeadInput:
        store = paths.cache / extraction.features[want.feature].store
        return HeadInput(
            side=want.side,
            feature=want.feature,
            view=want.view,
            role=want.role,
            outputs=want.read_of(Store.open(store).outputs) if want.optional else want.outputs,
            made=want.made,
            store=store,
            keys=paths.root / extraction.columns[want.column],
        )

    return tuple(map(of, wanted))


@dataclass(frozen=True)
class EncoderSource:
    """Where an encoder is found again. reference: the profile's name or file. demo: folder of the demo's encoders."""

    profile: Profile
    reference: str
    demo: Path


def live_clip(config: DsmipConfig, source: EncoderSource) -> LiveClip:
    """What the stage that learns prompts runs live: the CLIP behind the cached states.

    Raises `UserError` where text and picture states are of different
    models, or do not enter the block that `prompt_start` says.
    """
    names = [config.layers_text, config.layers_image]
    options = [source.profile.feature(name).options for name in names]
    if options[0].get("model") != options[1].get("model"):
        raise UserError(
            f"profile {source.profile.name!r}: {names[0]} and {names[1]} are of different models; "
            "prompts need one CLIP for both"
        )
    start, blocks = config.prompt_start, [option.get("block", 0) for option in options]
    if blocks != [start, start]:
        raise UserError(
            f"prompt_start = {start}: the profile's {names[0]} and {names[1]} have `block: {blocks[0]}` and "
            f"`block: {blocks[1]}`; make all three the same"
        )
    return LiveClip(profile=source.reference, feature=names[1], demo=source.demo, start=start)

"""Encoders whose upper blocks are trained with a head: what the head then reads, and the encoders as modules."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cache.inputs import PICTURES, SIDES
from foundation import device as devices
from foundation.errors import UserError, nearest
from heads.config import load_config
from heads.config.base import HeadConfig
from heads.contracts import HeadWant, LiveClip, LiveTower, TrainingJob
from heads.tune import KINDS, MADE, TUNED, Kind, Tune, kind_of, tower_name
from pipeline.profiles import profile as profiles
from pipeline.profiles.profile import AT_BLOCK, Feature, Profile

if TYPE_CHECKING:
    from heads.towers import Towers

OF: Mapping[str, Kind] = {"text_tokens": "text", "clip_text": "text", "image_patches": "image", "clip_image": "image"}
"""What the encoder of an extractor reads."""


def kinds(profile: Profile) -> dict[str, Kind]:
    """Feature of a profile -> what its encoder reads, of those whose upper blocks can run live."""
    return {name: OF[feature.extractor] for name, feature in profile.features.items() if feature.extractor in OF}


def wanted(config: HeadConfig, wants: Sequence[HeadWant], of: Mapping[str, Kind]) -> list[HeadWant]:
    """The wants of a head as `tune` has them: states of the encoders that run live in it; what they made of them
    (`F@tuned`) where another stage has trained them. Other outputs of such a feature are read beside.

    of: feature -> kind, see `kinds`. Raises `UserError` where `tune` names what the head does not read.
    """
    if config.live and not config.tune:
        raise UserError('live: nothing is tuned; give `tune` too, like {"text": {"block": 3}}, or leave `live` out')
    chosen = {feature: tune for kind, tune in config.tune.items() for feature in [_feature(kind, tune, wants, of)]}
    read: list[HeadWant] = []
    for want in wants:
        tune, made = chosen.get(want.feature), tuple(output for output in want.outputs if output in MADE)
        if tune is None or not made:
            read.append(want)
            continue
        if config.runs_towers:
            cut = f"{want.feature}{AT_BLOCK}{tune.block}"
            read.append(replace(want, feature=cut, outputs=("states",), optional=("real",), made=made))
        else:
            read.append(replace(want, feature=f"{want.feature}{AT_BLOCK}{TUNED}", outputs=made, optional=()))
        if rest := tuple(output for output in want.outputs if output not in MADE):
            read.append(replace(want, outputs=rest))
    return read


def above(wants: Sequence[HeadWant], profile: Profile) -> dict[str, Any]:
    """Feature of states -> the options of its encoder that the states do not depend on, where it has some: how tokens
    become a vector."""
    found: dict[str, Any] = {}
    for want in wants:
        if want.made:
            whole = profile.feature(want.feature.rpartition(AT_BLOCK)[0]).options
            cut = profile.feature(want.feature).options
            found[want.feature] = {name: value for name, value in whole.items() if name not in cut}
    return {feature: rest for feature, rest in found.items() if rest}


def _feature(kind: Kind, tune: Tune, wants: Sequence[HeadWant], of: Mapping[str, Kind]) -> str:
    """The feature whose encoder is tuned. Raises `UserError` where none is read, or several."""
    where = f"tune.{kind}"
    read = sorted({want.feature for want in wants if of.get(want.feature) == kind and set(want.outputs) & {*MADE}})
    if tune.feature is not None:
        if tune.feature not in read:
            listed = f"it reads {', '.join(read) or 'none that can be tuned'}{nearest(tune.feature, read)}"
            raise UserError(f"{where}.feature = {tune.feature!r}: the head does not read it as {kind}; {listed}")
        return tune.feature
    if len(read) != 1:
        raise UserError(
            f"{where}: the head reads tokens and vectors of several features ({', '.join(read)}); name one, "
            f'{{"{kind}": {{"feature": "{read[0]}", …}}}}'
            if read
            else f"{where}: the head reads no {kind} feature whose encoder has blocks that could be tuned "
            f"({', '.join(name for name, value in OF.items() if value == kind)})"
        )
    return read[0]


def live_towers(config: HeadConfig, wants: Sequence[HeadWant], profile: str, demo: Path) -> dict[str, LiveTower]:
    """The encoders that run live in a head, by `heads.tune.tower_name`; none where none does.

    wants: as `wanted` gave them. profile: where they are named. demo: folder of the demo's encoders.
    """
    found: dict[str, LiveTower] = {}
    cuts = [want for want in wants if want.made]
    for kind, tune in config.tune.items() if config.runs_towers else ():
        pictures = kind == "image"
        own = [want for want in cuts if (want.view in PICTURES) == pictures]
        if not own:
            continue
        feature = own[0].feature.rpartition(AT_BLOCK)[0]
        for side in SIDES:
            roles = {want.role: want.made for want in own if want.side == side}
            name = tower_name(kind, tune, side)
            reads = {**(found[name].reads if name in found else {}), side: roles}
            found[name] = LiveTower(profile=profile, feature=feature, demo=demo, reads=reads)
    return found


def depth(feature: str, profile: Profile, demo: Path) -> int:
    """The number of blocks of a feature's encoder. Raises `UserError` where its files are not there, or do not say."""
    from pipeline.extractors import build as extractor
    from pipeline.models.towers import depth as blocks

    chosen = profile.feature(feature)
    files = extractor(chosen, profile.source, demo, fetch=False).files
    assert files is not None  # an encoder's
    return blocks(files, OF[chosen.extractor])


def build(job: TrainingJob) -> "Towers":
    """The live encoders of a job as modules that start as `how` says; none where it has none.

    Raises `UserError` where an encoder cannot be cut there, or the extra [tune] is not installed.
    """
    from heads.towers import NONE, Towers

    if job.live:
        return of_clip(job.live, devices.choose(job.compute.device))
    if not job.towers:
        return NONE
    import torch

    from pipeline.extractors import build as extractor
    from pipeline.models.adapt import Tower, adapt
    from pipeline.models.live import Live, for_pairs

    config = load_config(job.method, job.config)
    modules = {}
    for name, one in sorted(job.towers.items()):
        tune = config.tune[kind_of(name)]
        profile = profiles.load(one.profile)
        encoder: Any = extractor(profile.feature(one.feature), profile.source, one.demo)
        encoder.load(devices.choose(job.compute.device))
        torch.manual_seed(job.seed)
        live = Live(encoder, tune.block)
        if config.stays_live:
            for_pairs(live)
        adapt(live, tune.how, tune.rank, tune.prompts)
        modules[name] = Tower(live, tune.checkpointing)
    return Towers(modules, job.towers)


def of_clip(clip: LiveClip, device: str) -> "Towers":
    """Both towers of a CLIP, frozen, for a head that owns their prompts. Raises `UserError` as `build` does."""
    from heads.towers import Towers
    from pipeline.extractors import build as extractor
    from pipeline.models.adapt import Tower
    from pipeline.models.live import Live

    profile, model = profiles.load(clip.profile), None
    modules: dict[str, Any] = {}
    options = {"model": profile.feature(clip.feature).options["model"]}
    for kind in KINDS:
        encoder: Any = extractor(Feature(f"clip_{kind}", f"clip_{kind}", options, {}, False), profile.source, clip.demo)
        if model is None:
            encoder.load(device)
            model = encoder.model.float()
        encoder.model, encoder.device = model, device
        live = Live(encoder, clip.start).requires_grad_(False)
        live.check_prompts()
        modules[kind] = Tower(live)
    return Towers(modules, {})

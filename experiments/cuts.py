"""A method with its encoders cut at several blocks: where the frozen part ends, as a curve."""

import json
from collections.abc import Callable, Mapping
from typing import Any

from experiments import towers
from experiments.jobs import head_spec, parameters
from experiments.variants import Variant
from foundation.errors import UserError, nearest
from heads.config import load_config, nested
from heads.config.base import HeadConfig
from heads.tune import MADE, Kind
from pipeline.profiles.profile import Profile

FROZEN = "frozen"
"""The cut above the last block: the head over the encoder's own features."""
HELP = "like text:0,3,6 or text:0,3;image:0,6, blocks from 0, or 0,0.5,1, shares of each encoder's depth"


def cuts(method: str, params: str, text: str, profile: Profile, depth: Callable[[str], int]) -> dict[str, Variant]:
    """Name -> variant for each cut, as they are listed; `FROZEN` is the cut above all blocks.

    text: see `HELP`. Each list of blocks has as many entries, and encoders are cut together. Other options of `tune`
    in `params` hold for every cut; they need no `block`. depth: feature -> the number of its encoder's blocks.
    Raises `UserError` for cuts that are none.
    """
    given = _with_blocks(nested(parameters(params)))
    spec = head_spec(method, json.dumps(given), profile)
    config = load_config(spec.method, spec.config)
    base = spec.config["tune"]
    features = _features(config, profile)
    if not features:
        raise UserError(f"--cuts: {method} reads no feature whose encoder has blocks that could be tuned")
    by_kind = _shares(text, features, depth) if ":" not in text else _blocks(text, features, depth)
    found: dict[str, Variant] = {}
    for at in range(len(next(iter(by_kind.values())))):
        tune = {
            kind: {**base.get(kind, {}), "block": blocks[at]}
            for kind, blocks in by_kind.items()
            if blocks[at] < depth(features[kind])
        }
        name = ", ".join(f"{kind} from block {one['block']}" for kind, one in tune.items()) or FROZEN
        if not tune and config.stays_live:
            raise UserError(f"--cuts {text!r:.60}: {method} has no frozen form: it reads pairs through its blocks")
        chosen = json.dumps({**given, "tune": tune})
        head_spec(method, chosen, profile)
        found[name] = Variant(chosen)
    return found


def _with_blocks(given: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters whose `tune` needs no block, since the cuts are its blocks."""
    tune = given.get("tune")
    if not isinstance(tune, Mapping):
        return dict(given)
    return {
        **given,
        "tune": {kind: {"block": 0, **one} if isinstance(one, Mapping) else one for kind, one in tune.items()},
    }


def _features(config: HeadConfig, profile: Profile) -> dict[Kind, str]:
    """By kind, the feature whose encoder is cut: the one that `tune` names, else the only one that is read."""
    of = towers.kinds(profile)
    read: dict[Kind, dict[str, None]] = {}
    for want in config.inputs(list(profile.features)):
        if want.feature in of and set(want.outputs) & {*MADE}:
            read.setdefault(of[want.feature], {})[want.feature] = None
    found: dict[Kind, str] = {}
    for kind, features in read.items():
        named = config.tune[kind].feature if kind in config.tune else None
        if (named or len(features) == 1) and (kind in config.tune or not config.stays_live):
            found[kind] = named or next(iter(features))
    return found


def _shares(text: str, features: Mapping[Kind, str], depth: Callable[[str], int]) -> dict[Kind, list[int]]:
    """Blocks by kind, of shares of each encoder's depth."""
    try:
        shares = sorted({float(part) for part in text.split(",")})
    except ValueError:
        raise UserError(f"--cuts {text!r:.60}: expected cuts {HELP}") from None
    if not all(0 <= share <= 1 for share in shares):
        raise UserError(f"--cuts {text!r:.60}: a share of an encoder's depth is 0 to 1; write blocks like text:0,3")
    return {kind: [round(share * depth(feature)) for share in shares] for kind, feature in features.items()}


def _blocks(text: str, features: Mapping[Kind, str], depth: Callable[[str], int]) -> dict[Kind, list[int]]:
    """Blocks by kind, as they are named."""
    found: dict[Kind, list[int]] = {}
    where = f"--cuts {text!r:.60}"
    for part in text.split(";"):
        name, _, listed = (piece.strip() for piece in part.partition(":"))
        kind = next((kind for kind in features if kind == name), None)
        if kind is None or kind in found:
            known = f"expected each of {', '.join(features)} at most once{nearest(name, features)}"
            raise UserError(f"{where}: {name!r}: {known}")
        count = depth(features[kind])
        try:
            found[kind] = [count if block.strip() == FROZEN else int(block) for block in listed.split(",")]
        except ValueError:
            raise UserError(f"{where}: expected cuts {HELP}") from None
        if not all(0 <= block <= count for block in found[kind]):
            raise UserError(f"{where}: {features[kind]} has {count} blocks; expected 0 to {count} ({FROZEN})")
    if len({len(blocks) for blocks in found.values()}) != 1:
        raise UserError(f"{where}: expected as many cuts of each encoder, since they are cut together")
    return found

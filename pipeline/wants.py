"""Wants: which feature under which view of which side; from profiles and heads to extraction groups."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cache.errors import UserError
from pipeline import models
from pipeline.extractors import check_options, extractor_class
from pipeline.paths import Paths
from pipeline.profile import Profile
from pipeline.views import IMAGE

DENSE_VIEWS = {"text": {"mention": "mention_sep_sentence", "entity": "name_sep_attributes"}, "image": {"mention": IMAGE, "entity": IMAGE}}


def of_feature(profile: Profile, name: str) -> list[dict[str, str]]:
    """The wants of one feature when nobody asks for particular views: the profile's, or the usual ones of its kind."""
    feature = profile.feature(name)
    usual = DENSE_VIEWS[extractor_class(feature.extractor).reads]
    listed = feature.views or {side: (view,) for side, view in usual.items()}
    return [{"side": side, "feature": name, "view": view} for side in sorted(listed) for view in listed[side]]


def groups(profile: Profile, features: str, wants: str) -> list[list[dict[str, str]]]:
    """Wants that are extracted together: each text feature by itself, all picture features at once (a picture is decoded once).

    features: comma-separated names; empty: the profile's default ones. wants: a JSON list that stands in their place.
    """
    if wants:
        listed = json.loads(wants)
    else:
        names = [name.strip() for name in features.split(",") if name.strip()] or [name for name, feature in profile.features.items() if feature.by_default]
        listed = [want for name in names for want in of_feature(profile, name)]
    by_group: dict[str, list[dict[str, str]]] = {}
    for want in listed:
        feature = profile.feature(want["feature"])
        check_options(feature, f"profile {profile.name!r}")
        group = IMAGE if extractor_class(feature.extractor).reads == "image" else want["feature"]
        by_group.setdefault(group, []).append({key: want[key] for key in ("side", "feature", "view")})
    return [sorted(group, key=lambda want: (want["feature"], want["side"], want["view"])) for _, group in sorted(by_group.items())]


def request(profile: Profile, listed: Sequence[Mapping[str, str]], demo: Path | None) -> dict[str, Any]:
    """What of the profile decides the wanted features: their options and the state of their models' files."""
    names = sorted({want["feature"] for want in listed})
    where = f"profile {profile.name!r}"

    def stamps(name: str) -> list[Any]:
        feature = profile.feature(name)
        found = [models.stamp(reference, profile.source, demo) for reference in extractor_class(feature.extractor).references(check_options(feature, where))]
        return found[0] if len(found) == 1 else found

    return {
        "limits": dict(profile.limits),
        "features": {
            name: {"extractor": profile.feature(name).extractor, "options": dict(profile.feature(name).options)} for name in names
        },
        "models": {name: stamps(name) for name in names},
    }


def describe(receipt: Mapping[str, Any]) -> str:
    """A table of an extraction's result: rows and verdicts by feature, and where each lies."""
    lines = [f"{'feature':<16}{'rows':>10}  {'verdicts':<34}store"]
    for name, feature in sorted(receipt["result"]["features"].items()):
        verdicts = ", ".join(f"{count:,} {verdict}" for verdict, count in feature["verdicts"].items())
        lines.append(f"{name:<16}{feature['rows']:>10,}  {verdicts:<34}{feature['store']}")
    cut = {name: count for name, count in receipt["result"]["cut"].items() if count}
    lines += [f"{count:,} texts of {name} were cut to fit" for name, count in sorted(cut.items())]
    return "\n".join(lines)


def candidate_sources(sources: str, scorer: str, extraction: Mapping[str, Any], paths: Paths) -> list[dict[str, Any]]:
    """`name,dense:clip_text` → the sources as `pipeline.candidates.build` takes them. Raises `UserError` for an unknown kind."""
    from pipeline.units import column_name

    listed: list[dict[str, Any]] = []
    for source in filter(None, (part.strip() for part in sources.split(","))):
        kind, _, feature = source.partition(":")
        if source in ("name", "name-of-type"):
            listed.append({"kind": source, "scorer": scorer})
        elif source == "given":
            listed.append({"kind": source})
        elif kind == "dense" and feature:
            columns = extraction["columns"]
            found = {side: next((c for c in sorted(columns) if c.startswith(column_name(side, feature, ""))), None) for side in ("mention", "entity")}
            if None in found.values():
                raise UserError(f"--sources {source}: the profile extracts {feature!r} for one side only; give it views of both sides")
            listed.append({
                "kind": "dense", "feature": feature, "output": "pooled", "store": str(paths.cache / extraction["features"][feature]["store"]),
                "mention_keys": str(paths.root / columns[found["mention"]]), "entity_keys": str(paths.root / columns[found["entity"]]),
            })
        else:
            raise UserError(f"--sources {source!r}: expected `name`, `name-of-type`, `given` or `dense:FEATURE`, separated by commas")
    return listed

"""Wants: which feature under which view of which side; from profiles and heads to extraction groups and their order."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cache.identity import RULES
from foundation.errors import UserError
from foundation.paths import Paths
from pipeline import extractors
from pipeline.extraction import views
from pipeline.extraction.views import FROM_FEATURES, IMAGE, IMAGES
from pipeline.models import references
from pipeline.profiles.profile import Profile

USUAL_TEXTS = {"mention": "mention_sep_sentence", "entity": "name_sep_attributes"}
USUAL_PICTURES = {"mention": IMAGE, "entity": IMAGE}

Want = dict[str, str]


def of_feature(profile: Profile, name: str) -> list[Want]:
    """The wants of one feature when nobody asks for particular views: the profile's, or the usual ones of its kind."""
    feature = profile.feature(name)
    usual = USUAL_TEXTS if _reads(profile, name) == "text" else USUAL_PICTURES
    listed = feature.views or {side: (view,) for side, view in usual.items()}
    return [{"side": side, "feature": name, "view": view} for side in sorted(listed) for view in listed[side]]


def plans(profile: Profile, listed: Sequence[Want]) -> list[dict[str, Any]]:
    """The wants and all they need, as groups that are extracted together: `{"wants": […], "after": [plans of the groups they read]}`.

    One group for all features that read whole pictures (a picture is decoded once), one for those that cut the same boxes, one for all texts (one
    process is started), and one for each other feature; texts made of what was found in pictures are apart from those that need not wait for it.
    """
    closed: dict[tuple[str, str, str], list[Want]] = {}

    def close(want: Want) -> None:
        if _key(want) not in closed:
            closed[
                _key(want)
            ] = []  # set before going on, so that features which read each other end in an error below, not in a loop
            closed[_key(want)] = needed = requirements(profile, want)
            for each in needed:
                close(each)

    for want in listed:
        close({key: want[key] for key in ("side", "feature", "view")})
    groups: dict[str, list[tuple[str, str, str]]] = {}
    for key in sorted(closed, key=lambda key: (key[1], key[0], key[2])):
        groups.setdefault(_group(profile, key), []).append(key)
    made: dict[str, dict[str, Any]] = {}

    def make(name: str, above: tuple[str, ...] = ()) -> dict[str, Any]:
        if name in above:
            raise UserError(
                f"profile {profile.name!r}: features read each other: {' → '.join([*above, name])}; mend `of:`"
            )
        if name not in made:
            after = sorted({_group(profile, _key(want)) for key in groups[name] for want in closed[key]})
            wants = [{"side": side, "feature": feature, "view": view} for side, feature, view in groups[name]]
            made[name] = {"wants": wants, "after": [make(other, (*above, name)) for other in after]}
        return made[name]

    return [make(name) for name in sorted(groups)]


def requirements(profile: Profile, want: Want) -> list[Want]:
    """The wants whose rows `want` is made from."""
    side, name, view = _key(want)
    if _reads(profile, name) == "text":
        if side == "mention" and view in FROM_FEATURES:
            return [{"side": side, "feature": FROM_FEATURES[view], "view": IMAGE}]
        return []
    kind = extractors.extractor_kind(profile.feature(name), _where(profile))
    if kind.reads not in ("crops", "rows"):
        return []
    parent = parent_of(profile, name)
    needed = [{"side": side, "feature": parent, "view": view}]
    if kind.needs_kb:
        needed.append({"side": "entity", "feature": parent, "view": IMAGES})
    return needed


def parent_of(profile: Profile, name: str) -> str:
    """The feature that a derived one reads. Raises `UserError` where the profile has no such feature, or it reads text."""
    parent = extractors.check_options(profile.feature(name), _where(profile)).of
    if _reads(profile, parent) == "text":
        raise UserError(
            f"profile {profile.name!r}: features.{name}: `of: {parent}` is a text feature; expected one that reads pictures"
        )
    return parent


def _reads(profile: Profile, name: str) -> str:
    return extractors.reads(profile.feature(name), _where(profile))


def _where(profile: Profile) -> str:
    return f"profile {profile.name!r}"


def _key(want: Mapping[str, str]) -> tuple[str, str, str]:
    return want["side"], want["feature"], want["view"]


def _group(profile: Profile, key: tuple[str, str, str]) -> str:
    side, name, view = key
    reads = _reads(profile, name)
    if reads == "image":
        return "image"
    if reads == "crops":
        return f"crops of {parent_of(profile, name)}"
    if reads == "text":
        return "text of features" if side == "mention" and view in FROM_FEATURES else "text"
    return name


def features_of(plan: Mapping[str, Any]) -> list[str]:
    """Names of the features that a plan extracts."""
    return sorted({want["feature"] for want in plan["wants"]})


def enhanced(listed: Sequence[Mapping[str, str]]) -> list[str]:
    """`static`, `dynamic`: the texts by EnhanceEntities that these wants read."""
    return sorted({mode for want in listed if (mode := views.enhanced(want["side"], want["view"]))})


def request(profile: Profile, listed: Sequence[Mapping[str, str]], demo: Path | None) -> dict[str, Any]:
    """What decides the wanted features: their options, the state of their models' files, and the versions of our own code."""
    names = sorted({want["feature"] for want in listed})
    kinds = {name: extractors.extractor_kind(profile.feature(name), _where(profile)) for name in names}

    def stamps(name: str) -> list[Any]:
        options = extractors.check_options(profile.feature(name), _where(profile))
        named = kinds[name].references(options)
        found = [references.stamp(reference, profile.source, demo) for reference in named]
        return found[0] if len(found) == 1 else found

    return {
        "limits": dict(profile.limits),
        "features": {
            name: {
                "extractor": profile.feature(name).extractor,
                "version": [RULES, kinds[name].VERSION],
                "options": dict(profile.feature(name).options),
            }
            for name in names
        },
        "models": {name: stamps(name) for name in names},
    }


def within(own: Mapping[str, Any], wider: Mapping[str, Any]) -> bool:
    """Whether a group's request wants nothing that another's does not, of the same dataset and by the same models and options."""
    mine, theirs = own["features"], wider["features"]
    return (
        all(own.get(key) == wider.get(key) for key in ("dataset", "descriptions"))
        and all(want in wider["wants"] for want in own["wants"])
        and mine["limits"] == theirs["limits"]
        and all(theirs[key].get(name) == found for key in ("features", "models") for name, found in mine[key].items())
    )


def same_rows(own: Mapping[str, Any], wider: Mapping[str, Any]) -> bool:
    """Whether what a group reads of others is among what another group has read: the same rows of the same features (results as `merged` gives them)."""
    identities = {name: feature["identity"] for name, feature in own["features"].items()}
    theirs = {name: feature["identity"] for name, feature in wider["features"].items()}
    return identities.items() <= theirs.items() and own["columns"].items() <= wider["columns"].items()


def part_of(receipt: Mapping[str, Any], listed: Sequence[Want]) -> dict[str, Any]:
    """What a wider group's receipt says of these wants, as `pipeline.extraction.stage.main` answers when nothing was missing; paths as in the receipt."""
    from pipeline.extraction.units import column_name

    result, columns = receipt["result"], [column_name(*_key(want)) for want in listed]
    features = {want["feature"]: {**result["features"][want["feature"]], "extracted": 0} for want in listed}
    stores = {feature["store"] for feature in features.values()}
    return {
        "features": features,
        "columns": {name: result["columns"][name] for name in columns},
        "files": [entry["path"] for entry in receipt["files"] if Path(entry["path"]).parent.name in stores],
        "cut": {name: result["cut"][name] for name in columns},
        "without": {name: result["without"][name] for name in columns if name in result["without"]},
        "run": {"model_loads": [], "rows": dict.fromkeys(features, 0)},
    }


def merged(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The results of several groups as one. The rows of a feature that was extracted in two groups are added up."""
    result: dict[str, dict[str, Any]] = {"features": {}, "columns": {}, "cut": {}, "without": {}}
    for part in parts:
        for name in ("columns", "cut", "without"):
            result[name] |= part.get(name, {})
        for name, feature in part["features"].items():
            known = result["features"].get(name)
            if known is not None:
                both = {
                    verdict: known["verdicts"].get(verdict, 0) + feature["verdicts"].get(verdict, 0)
                    for verdict in {**known["verdicts"], **feature["verdicts"]}
                }
                feature = feature | {
                    "rows": known["rows"] + feature["rows"],
                    "extracted": known["extracted"] + feature["extracted"],
                    "verdicts": both,
                }
            result["features"][name] = feature
    return result


def describe(receipt: Mapping[str, Any]) -> str:
    """A table of an extraction's result: rows and verdicts by feature, and where each lies."""
    width = max([16, *(len(name) + 1 for name in receipt["result"]["features"])])
    lines = [f"{'feature':<{width}}{'rows':>10}  {'verdicts':<34}store"]
    for name, feature in sorted(receipt["result"]["features"].items()):
        verdicts = ", ".join(f"{count:,} {verdict}" for verdict, count in feature["verdicts"].items())
        lines.append(f"{name:<{width}}{feature['rows']:>10,}  {verdicts:<34}{feature['store']}")
    for name, feature in sorted(receipt["result"]["features"].items()):
        if feature.get("crops", {}).get("lost"):
            lines.append(
                f"{feature['crops']['lost']:,} of {feature['crops']['boxes']:,} boxes gave {name} no row (outside the picture, no area, or the model failed)"
            )
    cut = {name: count for name, count in receipt["result"]["cut"].items() if count}
    lines += [f"{count:,} texts of {name} were cut to fit" for name, count in sorted(cut.items())]
    without = {name: count for name, count in receipt["result"].get("without", {}).items() if count}
    lines += [f"{count:,} entities have no text in {name}" for name, count in sorted(without.items())]
    return "\n".join(lines)


def candidate_sources(sources: str, scorer: str, extraction: Mapping[str, Any], paths: Paths) -> list[dict[str, Any]]:
    """`name,dense:clip_text` → the sources as `pipeline.candidates.stage.build` takes them. Raises `UserError` for an unknown kind."""
    from pipeline.extraction.units import column_name

    listed: list[dict[str, Any]] = []
    for source in filter(None, (part.strip() for part in sources.split(","))):
        kind, _, feature = source.partition(":")
        if source in ("name", "name-of-type"):
            listed.append({"kind": source, "scorer": scorer})
        elif source == "given":
            listed.append({"kind": source})
        elif kind == "dense" and feature:
            columns = extraction["columns"]
            found = {
                side: next((c for c in sorted(columns) if c.startswith(column_name(side, feature, ""))), None)
                for side in ("mention", "entity")
            }
            if None in found.values():
                raise UserError(
                    f"--sources {source}: the profile extracts {feature!r} for one side only; give it views of both sides"
                )
            listed.append(
                {
                    "kind": "dense",
                    "feature": feature,
                    "output": "pooled",
                    "store": str(paths.cache / extraction["features"][feature]["store"]),
                    "mention_keys": str(paths.root / columns[found["mention"]]),
                    "entity_keys": str(paths.root / columns[found["entity"]]),
                }
            )
        else:
            raise UserError(
                f"--sources {source!r}: expected `name`, `name-of-type`, `given` or `dense:FEATURE`, separated by commas"
            )
    return listed


def listed(profile: Profile, features: str, wants: str, usual: Callable[[Profile], Sequence[Want]]) -> list[Want]:
    """The wants of a command: `features` (comma-separated names), or `wants` (a JSON list) in their place, or else what `usual` says that the
    methods read of a profile, and every feature of it that is extracted by default."""
    if wants:
        return json.loads(wants)
    names = [name.strip() for name in features.split(",") if name.strip()]
    if names:
        return [want for name in names for want in of_feature(profile, name)]
    return [
        *usual(profile),
        *(
            want
            for name, feature in profile.features.items()
            if feature.by_default
            for want in of_feature(profile, name)
        ),
    ]

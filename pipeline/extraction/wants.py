"""Wants: which feature under which view of which side; from profiles and heads to extraction groups and their order."""

import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cache.identity import RULES
from cache.inputs import FROM_FEATURES, IMAGE, IMAGES, SIDES, Side, Want
from foundation import plugins
from foundation.contracts import from_json
from foundation.errors import UserError
from foundation.files import parse_json
from foundation.tables import as_text, text_table
from pipeline import extractors
from pipeline.extraction import parts, views
from pipeline.extraction.base import Extractor
from pipeline.extraction.contracts import CutTexts, Extraction, FeatureRows, Plan
from pipeline.imported.contracts import IMPORTED, RECORD_VIEW
from pipeline.models import files as model_files
from pipeline.profiles.profile import Profile

WINDOWS = 2
"""Raised when the same texts are cut in another way, so that they are cut again; rows are found by what is left."""
USUAL_TEXTS: Mapping[Side, str] = {"mention": "mention_sep_sentence", "entity": "name_sep_attributes"}
USUAL_PICTURES: Mapping[Side, str] = {"mention": IMAGE, "entity": IMAGE}
_USUAL: Mapping[str, Mapping[Side, str]] = {
    "text": USUAL_TEXTS,
    IMPORTED: {"mention": RECORD_VIEW, "entity": RECORD_VIEW},
}


def of_feature(profile: Profile, name: str) -> list[Want]:
    """The wants of one feature when no views are named: the profile's views, or the usual ones of its kind."""
    feature = profile.feature(name)
    usual = _USUAL.get(_reads(profile, name), USUAL_PICTURES)
    listed: Mapping[Side, tuple[str, ...]] = feature.views or {side: (view,) for side, view in usual.items()}
    return [Want(side=side, feature=name, view=view) for side in sorted(listed) for view in listed[side]]


def exported(profile: Profile, name: str, side: Side | None, view: str) -> list[Want]:
    """The wants of a feature that are exported, one view of each side. side: None: both. view: "": the profile's.

    Raises `UserError` where several views are possible, or none.
    """
    sides = SIDES if side is None else (side,)
    usual = [want for want in of_feature(profile, name) if want.side in sides]
    if view:
        return [Want(side=one, feature=name, view=view) for one in sides]
    for one in sides:
        views = [want.view for want in usual if want.side == one]
        if len(views) > 1:
            raise UserError(f"--view: {name} has {', '.join(views)} of the {one} side; name one")
    if not usual:
        raise UserError(f"--side {side}: the profile has no view of {name} there; name one with --view")
    return usual


def plans(profile: Profile, listed: Sequence[Want]) -> list[Plan]:
    """The wants and all they need, as groups that are extracted together.

    One group for all features that read whole pictures (a picture is decoded once), one for those that cut the same
    boxes, one for all texts (one process is started), and one for each other feature; texts about what was detected in
    pictures are apart from those that need not wait for it. Raises `UserError` where features read each other.
    """
    needed: dict[Want, list[Want]] = {}

    def close(want: Want) -> None:
        if want not in needed:
            needed[want] = []  # set before going on: features that read each other end in an error below, not in a loop
            needed[want] = requirements(profile, want)
            for each in needed[want]:
                close(each)

    for want in listed:
        close(want)
    groups: dict[str, list[Want]] = {}
    for want in sorted(needed, key=lambda want: (want.feature, want.side, want.view)):
        groups.setdefault(_group(profile, want), []).append(want)
    planned: dict[str, Plan] = {}

    def plan(name: str, above: tuple[str, ...] = ()) -> Plan:
        if name in above:
            raise UserError(
                f"profile {profile.name!r}: features read each other: {' → '.join([*above, name])}; mend `of:`"
            )
        if name not in planned:
            after = sorted({_group(profile, each) for want in groups[name] for each in needed[want]})
            planned[name] = Plan(wants=tuple(groups[name]), after=tuple(plan(other, (*above, name)) for other in after))
        return planned[name]

    return [plan(name) for name in sorted(groups)]


def requirements(profile: Profile, want: Want) -> list[Want]:
    """The wants whose rows `want` is made from."""
    if _reads(profile, want.feature) == "text":
        if want.side == "mention" and want.view in FROM_FEATURES:
            return [Want(side=want.side, feature=FROM_FEATURES[want.view], view=IMAGE)]
        return []
    kind = extractors.extractor_kind(profile.feature(want.feature), _where(profile))
    if kind.reads not in ("crops", "rows"):
        return []
    parent = parent_of(profile, want.feature)
    needed = [Want(side=want.side, feature=parent, view=want.view)]
    if kind.needs_kb:
        needed.append(Want(side="entity", feature=parent, view=IMAGES))
    return needed


def parent_of(profile: Profile, name: str) -> str:
    """The feature that a derived one reads.

    Raises `UserError` where the profile has no such feature, or it reads text.
    """
    parent = extractors.check_options(profile.feature(name), _where(profile)).of
    if _reads(profile, parent) == "text":
        raise UserError(
            f"profile {profile.name!r}: features.{name}: `of: {parent}` is a text feature; expected one that reads "
            "pictures"
        )
    return parent


def _reads(profile: Profile, name: str) -> str:
    return extractors.reads(profile.feature(name), _where(profile))


def _where(profile: Profile) -> str:
    return f"profile {profile.name!r}"


def _group(profile: Profile, want: Want) -> str:
    """The name of the group that a want is extracted in."""
    reads = _reads(profile, want.feature)
    if reads == "image":
        return "image"
    if reads == "crops":
        return f"crops of {parent_of(profile, want.feature)}"
    if reads == "text":
        return "text of features" if want.side == "mention" and want.view in FROM_FEATURES else "text"
    return want.feature


def features_of(listed: Iterable[Want]) -> list[str]:
    """Names of the features of these wants, each once, sorted."""
    return sorted({want.feature for want in listed})


def is_text(want: Want) -> bool:
    """Whether the want is of a text, of the record or about what a feature found, which may be cut."""
    return want.view in views.known(want.side) or (want.side == "mention" and want.view in FROM_FEATURES)


def imported(profile: Profile, listed: Iterable[Want]) -> list[str]:
    """Names of the features of these wants whose rows were imported, sorted."""
    return [name for name in features_of(listed) if _reads(profile, name) == IMPORTED]


def enhanced(listed: Iterable[Want]) -> list[str]:
    """`static`, `dynamic`: the texts by EnhanceEntities that these wants read."""
    return sorted({mode for want in listed if (mode := views.enhanced(want.side, want.view))})


def request(profile: Profile, listed: Iterable[Want], demo: Path | None) -> dict[str, Any]:
    """What decides the wanted features, as JSON: their options, the state of their models' files, and the versions of
    our own code."""
    names = features_of(listed)
    kinds = {name: extractors.extractor_kind(profile.feature(name), _where(profile)) for name in names}

    def stamps(name: str) -> list[Any]:
        options = extractors.check_options(profile.feature(name), _where(profile))
        named = kinds[name].references(options)
        states = [model_files.stamp(reference, profile.source, demo) for reference in named]
        configurations = [model_files.configuration(reference, profile.source, demo) for reference in named]
        if any(kinds[name].revised(options, config) for config in configurations):
            states[0].append("revised")
        return states[0] if len(states) == 1 else states

    return {
        "limits": dict(profile.limits),
        "features": {
            name: {
                "extractor": profile.feature(name).extractor,
                "version": [RULES, kinds[name].VERSION, *filter(None, _code(kinds[name]))],
                "options": dict(profile.feature(name).options),
            }
            for name in names
        },
        "models": {name: stamps(name) for name in names},
    }


def _code(kind: type[Extractor]) -> tuple[str | None, dict[str, int]]:
    """Our own code behind an extractor, besides its version: the digest of the plugin that defines it, and those of its
    possible parts whose version was ever raised."""
    return plugins.digest_of(kind), parts.raised(parts.possible(kind) | kind.parts_of_runner())


def within(own: Mapping[str, Any], wider: Mapping[str, Any]) -> bool:
    """Whether `own` asks for a subset of what `wider` extracted, of the same dataset and by the same models and options
    (both: requests of groups)."""
    mine, theirs = own["features"], wider["features"]
    return (
        all(own.get(key) == wider.get(key) for key in ("dataset", "descriptions", "windows", IMPORTED))
        and all(want in wider["wants"] for want in own["wants"])
        and mine["limits"] == theirs["limits"]
        and all(theirs[key].get(name) == value for key in ("features", "models") for name, value in mine[key].items())
    )


def same_rows(own: Extraction, wider: Extraction) -> bool:
    """Whether `wider` holds all rows of `own`: the same features of the same units."""
    identities = {name: feature.identity for name, feature in own.features.items()}
    theirs = {name: feature.identity for name, feature in wider.features.items()}
    return identities.items() <= theirs.items() and own.columns.items() <= wider.columns.items()


def part_of(wider: Extraction, listed: Iterable[Want]) -> Extraction:
    """What an extraction holds of these wants, as if it were done again and nothing were missing."""
    columns = [want.column for want in listed]
    return Extraction(
        features={want.feature: dataclasses.replace(wider.features[want.feature], extracted=0) for want in listed},
        columns={name: wider.columns[name] for name in columns},
        cut={name: wider.cut[name] for name in columns},
        texts={name: wider.texts[name] for name in columns if name in wider.texts},
        without={name: wider.without[name] for name in columns if name in wider.without},
        accepted={name: wider.accepted[name] for name in columns if name in wider.accepted},
    )


def merged(parts: Iterable[Extraction]) -> Extraction:
    """The results of several groups as one. The rows of a feature that was extracted in two groups are added up."""
    parts = list(parts)
    features: dict[str, FeatureRows] = {}
    for part in parts:
        for name, feature in part.features.items():
            features[name] = _added(features[name], feature) if name in features else feature
    return Extraction(
        features=features,
        columns={name: path for part in parts for name, path in part.columns.items()},
        cut={name: count for part in parts for name, count in part.cut.items()},
        texts={name: texts for part in parts for name, texts in part.texts.items()},
        without={name: count for part in parts for name, count in part.without.items()},
        accepted={name: lines for part in parts for name, lines in part.accepted.items()},
    )


def _added(one: FeatureRows, other: FeatureRows) -> FeatureRows:
    verdicts = dict.fromkeys((*one.verdicts, *other.verdicts), 0)
    return dataclasses.replace(
        other,
        rows=one.rows + other.rows,
        extracted=one.extracted + other.extracted,
        empty=None if one.empty is None or other.empty is None else one.empty + other.empty,
        verdicts={name: one.verdicts.get(name, 0) + other.verdicts.get(name, 0) for name in verdicts},
    )


def describe(extraction: Extraction, width: int | None = None) -> str:
    """A table of an extraction's result: rows and verdicts by feature, and where each lies. width: of the terminal."""
    features = sorted(extraction.features.items())
    rows = [
        [
            name,
            f"{feature.rows:,}",
            ", ".join(f"{count:,} {verdict}" for verdict, count in feature.verdicts.items()),
            feature.store,
        ]
        for name, feature in features
    ]
    lines = [as_text(text_table(["feature", "rows", "verdicts", "store"], rows, words=["verdicts"]), width=width)]
    lines += [
        f"{feature.crops.lost:,} of {feature.crops.boxes:,} boxes gave {name} no row "
        "(outside the picture, no area, or the model failed)"
        for name, feature in features
        if feature.crops and feature.crops.lost
    ]
    lines += [
        f"{name} found nothing in any of {feature.empty:,} pictures"
        for name, feature in features
        if feature.empty and feature.empty == feature.verdicts.get("ok")
    ]
    lines += [_cut(name, count, extraction.texts.get(name)) for name, count in sorted(extraction.cut.items()) if count]
    lines += [
        f"{count:,} entities have no text in {name}" for name, count in sorted(extraction.without.items()) if count
    ]
    lines += [f"kept although {line}" for _, kept in sorted(extraction.accepted.items()) for line in kept]
    return "\n".join(lines)


def _cut(column: str, count: int, texts: CutTexts | None) -> str:
    """What was cut off the texts of a view. texts: None in a receipt that an earlier version wrote."""
    if texts is None:
        return f"{count:,} texts of {column} were cut to fit"
    return (
        f"{count:,} of {texts.texts:,} texts of {column} ({count / texts.texts:.1%}) were cut to {texts.limit} tokens: "
        f"{texts.lost:,} of {texts.tokens:,} tokens ({texts.lost / texts.tokens:.1%}) are lost"
    )


def listed(profile: Profile, features: str, wants: str, usual: Callable[[Profile], Sequence[Want]]) -> list[Want]:
    """The wants of a command.

    features: comma-separated names. wants: a JSON list of {side, feature, view} in their place. usual: what the methods
    read of a profile, which is extracted besides every feature of it that is extracted by default where neither is
    given. Raises `UserError` where `wants` is no such list.
    """
    if wants:
        return list(parse_wants(wants))
    names = [name.strip() for name in features.split(",") if name.strip()]
    if names:
        return [want for name in names for want in of_feature(profile, name)]
    return [
        *usual(profile),
        *(
            want
            for name, feature in profile.features.items()
            if feature.by_default and feature.extractor != IMPORTED
            for want in of_feature(profile, name)
        ),
    ]


def parse_wants(text: str) -> tuple[Want, ...]:
    """The wants of `--wants`. Raises `UserError` where it is no JSON list of them."""
    try:
        return from_json(tuple[Want, ...], parse_json(text), "--wants")
    except json.JSONDecodeError as error:
        raise UserError(f"--wants, column {error.colno}: malformed JSON ({error.msg})") from None

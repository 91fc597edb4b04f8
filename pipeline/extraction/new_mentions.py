"""Features of mentions that came later: the same models into the same cache, loaded once and kept for one chunk of mentions after another."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cache.identity import identity
from cache.store import Store
from foundation.errors import UserError
from pipeline.datasets.images import Limits
from pipeline.extraction import stage, units, wants
from pipeline.extraction.base import Extractor
from pipeline.extraction.parents import Parent
from pipeline.extraction.runner import Feature, Runner
from pipeline.extraction.views import FROM_FEATURES, IMAGE, IMAGES
from pipeline.extractors import build
from pipeline.profiles.profile import Profile

Want = tuple[str, str]  # feature, view


@dataclass(frozen=True)
class Known:
    """What was extracted already. stores: feature -> its store; columns: column name -> file of the KB's keys; entities: their ids and names."""

    stores: Mapping[str, Store]
    columns: Mapping[str, Path]
    entities: Mapping[str, list[str]]


@dataclass
class _Group:
    wants: list[Want]
    runner: Runner


class Fresh:
    """Extracts `listed` (feature, view) of mentions, and all that they are made from.

    place: cache, memo, rates (paths), device, precision, batch_size, shard_rows. Raises `UserError` where the profile's models now give a feature
    of another identity than the one that is known.
    """

    def __init__(
        self, profile: Profile, demo: Path | None, listed: Sequence[Want], known: Known, place: Mapping[str, Any]
    ) -> None:
        self.profile, self.known = profile, known
        asked = [{"side": "mention", "feature": feature, "view": view} for feature, view in listed]
        self.limits, self.loaded = Limits(**profile.limits), list[str]()
        self.groups = [_Group(group, self._runner(place)) for group in _ordered(wants.plans(profile, asked))]
        self.extractors: dict[str, Extractor] = {}
        self.specs: dict[str, dict[str, Any]] = {}
        for name in sorted({feature for group in self.groups for feature, _ in group.wants}):
            self.extractors[name] = build(profile.feature(name), profile.source, demo)
            self.specs[name] = self._spec(name, Path(place["memo"]))

    def _runner(self, place: Mapping[str, Any]) -> Runner:
        rest = {name: place[name] for name in ("device", "precision", "batch_size", "shard_rows")}
        return Runner(limits=self.limits, loaded=self.loaded, rates=Path(place["rates"]), **rest)

    def _spec(self, name: str, memo: Path) -> dict[str, Any]:
        """The feature's spec. Raises `UserError` where it is not of the known identity."""
        extractor, parents = self.extractors[name], {}
        if extractor.needs_kb:
            column = self.known.columns[units.column_name("entity", extractor.options.of, IMAGES)]
            parents = {
                ("entity", extractor.options.of, IMAGES): Parent.read(self.known.stores[extractor.options.of], column)
            }
        records = units.Records({"entity": dict(self.known.entities)}, {}, parents)
        spec = stage.spec_of(extractor, records, dict(self.known.stores), self.limits, memo)
        now, store = identity(spec), self.known.stores[name]
        if now != store.identity:
            raise UserError(
                f"feature {name}: the run reads {store.identity[:16]}, and profile {self.profile.name!r} with its models now gives {now[:16]}; put back "
                "the profile and weights that the run was trained with, or train it on these (TrainHead)"
            )
        return spec

    def columns(self, table: Mapping[str, list], root: Path) -> dict[Want, units.Column]:
        """Key columns of all that is extracted for the mentions of `table` (columns as in mentions.parquet), their rows in the cache by then.

        root: folder that the pictures' paths start from. Raises `PassingError` where a picture cannot be read now.
        """
        made: dict[Want, units.Column] = {}
        for group in self.groups:
            parents = {("mention", *want): self._parent(made, want) for want in self._reads(group.wants)}
            records = units.Records({"mention": dict(table)}, {"mention": root}, parents)
            own = {want: units.column("mention", want[1], records, self.extractors[want[0]]) for want in group.wants}
            features = []
            for name in dict.fromkeys(feature for feature, _ in group.wants):
                wanted = units.distinct([column for (feature, _), column in own.items() if feature == name])
                store = self.known.stores[name]
                features.append(
                    Feature(name, self.extractors[name], self.specs[name], store, wanted, store.missing(wanted.keys))
                )
            group.runner.run(features)
            made |= own
        return made

    def _parent(self, made: Mapping[Want, units.Column], want: Want) -> Parent:
        column = made[want]
        return Parent.of(self.known.stores[want[0]], column.keys, column.present, column.counts)

    def _reads(self, listed: Sequence[Want]) -> list[Want]:
        """The columns whose rows these are made from."""
        found = []
        for feature, view in listed:
            extractor = self.extractors[feature]
            if view in FROM_FEATURES and extractor.reads == "text":
                found.append((FROM_FEATURES[view], IMAGE))
            elif extractor.reads in ("crops", "rows"):
                found.append((extractor.options.of, view))
        return list(dict.fromkeys(found))


def _ordered(plans: Sequence[Mapping[str, Any]]) -> Iterator[list[Want]]:
    """The mention's wants of each group once, those before it that it reads."""
    seen: set[tuple[Want, ...]] = set()

    def walk(plan: Mapping[str, Any]) -> Iterator[list[Want]]:
        for before in plan["after"]:
            yield from walk(before)
        own = [(want["feature"], want["view"]) for want in plan["wants"] if want["side"] == "mention"]
        if own and tuple(own) not in seen:
            seen.add(tuple(own))
            yield own

    for plan in plans:
        yield from walk(plan)

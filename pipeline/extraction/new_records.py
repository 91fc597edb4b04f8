"""Features of new mentions and entities, by the same models into the same cache; models stay loaded from one to the
next."""

import functools
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cache.identity import identity
from cache.inputs import IMAGES, Side, Want
from cache.keys import KeyColumn
from cache.store import Store
from foundation.errors import UserError
from foundation.paths import Paths
from pipeline.datasets.images import Limits
from pipeline.datasets.prepared import Columned
from pipeline.extraction import guard, planning, units, wants
from pipeline.extraction.base import DerivedOptions, Extractor
from pipeline.extraction.chunks import chunks, pending
from pipeline.extraction.contracts import Plan, Runtime
from pipeline.extraction.parents import Parent
from pipeline.extraction.runner import Runner, Target
from pipeline.extractors import build
from pipeline.profiles.profile import Profile, joined


@dataclass(frozen=True)
class Known:
    """The features that a run reads, already extracted.

    work: the work folder. demo: folder of the demo's encoders. profiles: feature -> the profiles that it may have been
    extracted with. limits: of pictures. stores: feature -> its store. columns: column name -> file of the run's keys.
    entities: the KB's ids and names. accepted: columns whose rows were kept although they are wrong.
    """

    work: Path
    demo: Path | None
    profiles: Mapping[str, Sequence[Profile]]
    limits: Limits
    stores: Mapping[str, Store]
    columns: Mapping[str, Path]
    entities: Columned
    accepted: Collection[str] = ()


@dataclass
class _Group:
    wants: list[Want]
    runner: Runner


class RecordExtractor:
    """Extracts the wants `listed`, all of one side, of records, and all that they are made from, into the cache of the
    known features.

    beside: one that has loaded models already. Raises `UserError` where the profile's models now give a feature of
    another identity than the known one.
    """

    def __init__(
        self, listed: Sequence[Want], known: Known, runtime: Runtime, beside: "RecordExtractor | None" = None
    ) -> None:
        self.known, paths = known, Paths(known.work)
        self.side: Side = listed[0].side
        self.extractors: dict[str, Extractor] = beside.extractors if beside else {}
        self.loaded: list[str] = beside.loaded if beside else []
        self._profiles: dict[str, Profile] = beside._profiles if beside else {}
        for name in wants.features_of(self._closed(listed)):
            if name not in self._profiles:
                self._profiles[name] = self._build(name, paths.memo)
        self.profile = joined(self._profiles)
        self.groups = [
            _Group(group, Runner(runtime, known.limits, paths.rates, loaded=self.loaded))
            for group in _ordered(wants.plans(self.profile, listed), self.side)
        ]

    def _closed(self, listed: Sequence[Want]) -> list[Want]:
        """The wants, and those of their side that they are made from."""
        closed = dict.fromkeys(listed)
        waiting = [*closed]
        while waiting:
            want = waiting.pop()
            for parent in wants.requirements(self.known.profiles[want.feature][0], want):
                if parent.side == self.side and parent not in closed:
                    closed[parent] = None
                    waiting.append(parent)
        return [*closed]

    def _build(self, name: str, memo: Path) -> Profile:
        """The profile by which the feature has the known identity; its extractor is built by it.

        Raises `UserError` where there is none.
        """
        store, given = self.known.stores[name], []
        for profile in self.known.profiles[name]:
            extractor = build(profile.feature(name), profile.source, self.known.demo)
            if isinstance(extractor.options, DerivedOptions) and extractor.options.of not in self.known.stores:
                continue  # made of a feature that the run does not read
            given.append((identity(self._spec(extractor, memo)), profile))
            if given[-1][0] == store.identity:
                self.extractors[name] = extractor
                return profile
        now = (
            f"profile {given[0][1].name!r} with its models now gives {given[0][0][:16]}" if given else "no profile does"
        )
        raise UserError(
            f"feature {name}: the run reads {store.identity[:16]}, and {now}; put back the profile and weights that "
            "the run was trained with, or train it on these (TrainHead)"
        )

    def _spec(self, extractor: Extractor, memo: Path) -> dict[str, Any]:
        """All that decides an extractor's numbers, over the known KB."""
        parents = {}
        if extractor.needs_kb and isinstance(extractor.options, DerivedOptions):
            parent = Want(side="entity", feature=extractor.options.of, view=IMAGES)
            parents = {
                parent: Parent.of(self.known.stores[parent.feature], KeyColumn.load(self.known.columns[parent.column]))
            }
        records = units.Records({"entity": dict(self.known.entities)}, {}, parents)
        return planning.spec_of(extractor, records, self.known.stores, self.known.limits, memo)

    def columns(self, table: Mapping[str, list], root: Path) -> dict[Want, units.UnitColumn]:
        """Key columns of all that is extracted for the records of `table` (columns as in mentions.parquet or
        entities.parquet), their rows in the cache by then.

        root: folder that the pictures' paths start from. Raises `PassingError` where a picture cannot be read now, and
        `UserError` where the rows of `guard.FEW` records or more are all equal, all zero or hardly differ, unless the
        run's own do.
        """
        columns: dict[Want, units.UnitColumn] = {}
        for group in self.groups:
            parents = {
                parent: Parent.of(self.known.stores[parent.feature], columns[parent])
                for want in group.wants
                for parent in wants.requirements(self.profile, want)
                if parent.side == self.side
            }
            records = units.Records({self.side: dict(table)}, {self.side: root}, parents)
            own = {want: units.column(want, records, self.extractors[want.feature]) for want in group.wants}
            features = pending(own, self.extractors, self.known.stores)
            targets = [Target(feature.name, feature.extractor, feature.store) for feature in features]
            group.runner.run(targets, chunks(features, group.runner.runtime.shard_rows))
            columns |= own
        lines = [line for want, column in columns.items() for line in self._wrong(want, column)]
        if lines:
            raise UserError(*lines)
        return columns

    def _wrong(self, want: Want, column: units.UnitColumn) -> Iterator[str]:
        """What is wrong with these rows, a line per output."""
        if want.column in self.known.accepted or len(np.unique(column.keys[column.present], axis=0)) < guard.FEW:
            return
        extractor, store = self.extractors[want.feature], self.known.stores[want.feature]
        for line in guard.problems(want, column, store, extractor, self.known.limits):
            yield f"{line}; the run's own rows differ; {guard.remedy(extractor)}, and run `luigi --module tasks Doctor`"

    def unlike(self, columns: Mapping[Want, KeyColumn]) -> np.ndarray:
        """(m,) bool: which of the mentions with these columns have a row that is zero, or lies outside the spread of
        the run's own rows."""
        marks = [
            guard.unlike(columns[want], self.known.stores[want.feature], known) for want, known in self.spreads.items()
        ]
        return np.any(marks, 0) if marks else np.zeros(next(iter(columns.values())).records, bool)

    @functools.cached_property
    def spreads(self) -> dict[Want, dict[str, guard.Spread]]:
        """Of each want of the mentions that the run has rows of."""
        return {
            want: guard.spreads(
                KeyColumn.load(self.known.columns[want.column]),
                self.known.stores[want.feature],
                self.extractors[want.feature].writes,
            )
            for group in self.groups
            for want in group.wants
            if want.column in self.known.columns and want.column not in self.known.accepted
        }


def _ordered(plans: Sequence[Plan], side: Side) -> Iterator[list[Want]]:
    """A side's wants of each group once, those before it that it reads."""
    seen: set[tuple[Want, ...]] = set()

    def walk(plan: Plan) -> Iterator[list[Want]]:
        for before in plan.after:
            yield from walk(before)
        own = tuple(want for want in plan.wants if want.side == side)
        if own and own not in seen:
            seen.add(own)
            yield list(own)

    for plan in plans:
        yield from walk(plan)

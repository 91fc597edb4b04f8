"""Shards of other caches, taken into one by their names: linked where both lie on one file system, else copied."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from cache import layout, listing
from cache.contracts import Merge, MergedFeature, MergeJob
from cache.identity import identity
from cache.shard import Shard
from cache.store import SPEC, Store, folder_name
from foundation import layers, logs
from foundation.errors import PassingError, UserError
from foundation.files import explained, free_bytes, link_new
from foundation.paths import Paths
from foundation.processes import temporary_name
from foundation.progress import Bar

PROBE_TOLERANCE = 0.02
"""On a probe's values, which are scaled to unit length: far above half precision's rounding, far below another model's
difference."""
KEPT_FREE = 64 << 20  # bytes, where shards must be copied


def probe_differs(one: Any, other: Any) -> str | None:
    """The first output whose probe is another in `other` than in `one`; None where there is none.

    Both: output -> values, as `Store.set_probe` keeps them.
    """
    for name, values in one.items():
        expected = other.get(name, [])
        if len(expected) != len(values) or np.abs(np.subtract(values, expected)).max(initial=0) > PROBE_TOLERANCE:
            return str(name)
    return None


def merge(job: MergeJob) -> Merge:
    """Take the shards of every feature in the sources into the cache of a work folder.

    A shard is checked whole before it is taken, and never replaces another: its name is a hash of its keys. Raises
    `UserError`, before anything is written, for a source that holds no feature.
    """
    cache = Paths(job.work).cache
    stores = [store for source in job.sources for store in _stores(source, cache)]
    for place in dict.fromkeys(folder.parent for folder in stores):
        if beneath := layers.read(place):
            logs.notice(
                f"--from {place} reads {', '.join(map(str, beneath))} beneath itself: rows that lie there alone are "
                "not taken; name those folders too where they are wanted"
            )
    features, problems = dict[str, MergedFeature](), list[str]()
    shards = sum(len(listing.listing(folder).stamps) for folder in stores)
    with Bar(shards, "merging", "shard") as bar:
        for folder in stores:
            try:
                taken = _take(_Source.of(folder), cache, problems, bar)
            except UserError as error:
                problems.append(str(error))
                continue
            before = features.get(taken.folder)
            features[taken.folder] = _added(before, taken) if before else taken
    return Merge(features=tuple(features[name] for name in sorted(features)), problems=tuple(problems))


def _added(one: MergedFeature, other: MergedFeature) -> MergedFeature:
    counts = {name: getattr(one, name) + getattr(other, name) for name in ("linked", "copied", "known", "rows")}
    return replace(one, **counts)


def _stores(source: Path, cache: Path) -> Iterator[Path]:
    """The folders of the features in a source."""
    if not source.is_dir():
        raise UserError(f"--from {source}: no such folder; name a work folder, or its folder cache/")
    place = source / "cache" if (source / "cache").is_dir() else source
    found = [place] if (place / SPEC).is_file() else sorted(path.parent for path in place.glob(f"*/{SPEC}"))
    if not found:
        raise UserError(
            f"--from {source}: holds no features; expected a work folder, its folder cache/, or "
            f"<feature>-<identity>/{SPEC} in it"
        )
    if any(_same(folder.parent, cache) for folder in found):
        raise UserError(f"--from {source}: is the cache that is merged into; name another folder")
    yield from found


def _same(one: Path, other: Path) -> bool:
    return other.exists() and os.path.samefile(one, other)


@dataclass(frozen=True)
class _Source:
    """A feature of another cache, its description checked."""

    store: Store

    @classmethod
    def of(cls, folder: Path) -> "_Source":
        store = Store.open(folder)
        if identity(store.spec) != store.identity or folder_name(store.feature, store.identity) != folder.name:
            raise UserError(
                f"{folder / SPEC}: describes {folder_name(store.feature, identity(store.spec))}, not the feature of "
                f"its folder {folder.name}; nothing of it was taken"
            )
        return cls(store)

    def problem(self, name: str) -> str | None:
        """Why a shard is not taken."""
        path = self.store.folder / name
        wrong = _wrong(self.store, path, name)
        return f"{wrong if str(path) in wrong else f'shard {path}: {wrong}'}; it was not taken" if wrong else None


def _wrong(store: Store, path: Path, name: str) -> str | None:
    """What is wrong with a file that is to be the shard `name` of a store."""
    try:
        wrong = layout.damage(path)
        shard = Shard(path)
        if wrong is None and shard.identity != store.identity:
            wrong = f"holds rows of the identity {shard.identity[:16]}"
        wrong = wrong or shard.unfit(store.outputs) or shard.misfilled(store.outputs)
        if wrong is None and Store.shard_name(np.asarray(shard.keys)) != name:
            wrong = "its name is not that of its rows"
    except (UserError, PassingError) as error:
        return str(error)
    return wrong


def put(store: Store, name: str, data: bytes) -> None:
    """Give the bytes of a shard, which another machine has written, their place in a store; they are checked as those
    of other caches. Raises `UserError` where they are not a shard of that name and feature, or cannot be written."""
    final = store.folder / name
    temporary = temporary_name(final)
    with explained(final):
        try:
            with open(temporary, "xb") as handle:
                handle.write(data)
                handle.flush()
                os.fsync(handle.fileno())
            if wrong := _wrong(store, temporary, name):
                raise UserError(f"shard {final}, from another machine: {wrong}; run the same command again")
            link_new(temporary, final)
        finally:
            temporary.unlink(missing_ok=True)
    store.refresh()


def _take(source: _Source, cache: Path, problems: list[str], bar: Bar) -> MergedFeature:
    """Take the shards of one feature. Raises `UserError` where the two were made by models that give other numbers."""
    theirs, own = source.store, Store.planned(cache, source.store.feature, source.store.spec)
    if own.probe and theirs.probe and (output := probe_differs(theirs.probe, own.probe)):
        raise UserError(
            f"{theirs.folder}: its probe is another than that of {own.folder} (output {output!r}): the two were "
            "extracted with libraries that give other numbers; nothing of it was taken"
        )
    own.make()
    if theirs.probe and not own.probe:
        own.set_probe(theirs.probe)
    linked, copied, known, rows = 0, 0, 0, 0
    for stray in (found := listing.listing(theirs.folder)).strays:
        problems.append(f"{stray.path} {stray.problem}; it was not taken")
    for name in sorted(found.stamps):
        bar.update()
        if own.has_shard(name):
            known += 1
            continue
        if problem := source.problem(name):
            problems.append(problem)
            continue
        new = len(own.missing(np.asarray(Shard(theirs.folder / name).keys), layers=False))
        if not new:
            known += 1
            continue
        is_linked = _place(theirs.folder / name, own.folder / name)
        linked, copied, rows = linked + is_linked, copied + (not is_linked), rows + new
        own.refresh()
    return MergedFeature(folder=own.folder.name, linked=linked, copied=copied, known=known, rows=rows)


def _place(source: Path, final: Path) -> bool:
    """Give a shard its name in another folder; whether it was linked there. Raises `UserError` for a copy that is not
    what was read, or does not fit."""
    temporary = temporary_name(final)
    with explained(final):
        try:
            with contextlib.suppress(OSError):
                os.link(source, temporary)
                link_new(temporary, final)
                return True
            if source.stat().st_size + KEPT_FREE > free_bytes(final.parent):
                raise UserError(f"no space to copy {source} to {final.parent}; free some, or choose another --work-dir")
            shutil.copyfile(source, temporary)
            with open(temporary, "rb") as handle:
                os.fsync(handle.fileno())
            if layout.damage(temporary):
                raise UserError(f"{final}: the copy of {source} is not what was read; run the same command again")
            link_new(temporary, final)
            return False
        finally:
            temporary.unlink(missing_ok=True)

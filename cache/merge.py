"""Puts the small shards of a store together: many runs that add a few rows each leave many files otherwise."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cache import layout, shard
from cache.claims import TTL, take
from cache.identity import Output
from cache.index import as_void
from cache.listing import listing
from cache.shard import NewRows, Shard
from foundation.errors import PassingError, UserError
from foundation.files import fault_point, sync_folder
from foundation.processes import temporary_name
from foundation.progress import Bar
from foundation.successors import Successors

if TYPE_CHECKING:
    from cache.store import Store

SMALL = 1 << 20  # bytes of a file below which a shard is small
MANY = 64
"""Small shards that a store may have; so many are merged, and most of what was merged is small no more."""
MERGED = 32 << 20  # bytes of the rows that are put together at most
MAPPED = 2048  # shards that are put together at most: all are mapped meanwhile
_MOST_CAUSES = 255  # of one shard
_CLAIM = "merge"


def merge_small(store: "Store") -> int:
    """Put the small shards of a store together where there are many; returns how many went into others.

    Killed at any point, no row is lost: the new shard is on disk before the list of successors names it, and in that
    list before the old ones are removed. A damaged shard stays as it is, for VerifyCache to find. Nothing is done while
    another process merges, nor where the disk is full or read-only: every shard is still read then.
    """
    if len(small(store.folder)) < MANY:
        return 0
    try:
        place = store.claim_file(_CLAIM)
        claim = take(place.parent, place.name, TTL)  # not `store.claim`: a store that holds its rows claims nothing
        if claim is None:
            return 0
        with claim:
            store.refresh()
            names = small(store.folder)
            if len(names) < MANY:
                return 0
            with Bar(len(names), f"merging {store.feature}", "shard") as bar:
                merged = 0
                for group in _groups(store.folder, names):
                    if not claim.held:  # this process was stopped, and another one merges
                        break
                    merged += _merge(store, group)
                    bar.update(len(group))
            store.refresh()
            return merged
    except (UserError, PassingError, OSError):
        return 0


def small(folder: Path) -> list[str]:
    """The names of the small shards in a folder, sorted; none is opened."""
    return sorted(name for name, (_, size, _) in listing(folder).stamps.items() if size < SMALL)


def _groups(folder: Path, names: Iterable[str]) -> Iterator[list[Shard]]:
    """Sound shards that go into one."""
    group, size, causes = list[Shard](), 0, set[str]()
    for name in names:
        try:
            broken = layout.seal_broken(folder / name)
            if broken or (broken is None and layout.damage(folder / name)):
                continue
            part = Shard(folder / name)
        except (UserError, PassingError):
            continue
        full = size + part.nbytes > MERGED or len(causes | set(part.causes)) > _MOST_CAUSES or len(group) == MAPPED
        if group and full:
            yield group
            group, size, causes = [], 0, set()
        group.append(part)
        size += part.nbytes
        causes |= set(part.causes)
    yield group


def _merge(store: "Store", parts: Sequence[Shard]) -> int:
    """Put shards into one and remove them; returns how many were removed."""
    if len(parts) < 2:
        return 0
    rows = joined(parts, store.outputs)
    name = store.shard_name(rows.keys)
    path = store.folder / name
    if shard.write(path, store.feature, store.identity, store.outputs, rows) is None and layout.seal_broken(path):
        return 0  # the work of another that was killed, and damaged since
    fault_point("merge-written")
    gone = [part.name for part in parts if part.name != name]
    try:
        listed = Successors.read(store.folder)
    except UserError:  # damaged: receipts that need it are made again
        listed = Successors()
    listed.with_merged(gone, path).write(store.folder, temporary_name(path))
    for part in gone:
        fault_point("merge-remove")
        (store.folder / part).unlink(missing_ok=True)
    sync_folder(store.folder)
    return len(gone)


def joined(parts: Sequence[Shard], outputs: Mapping[str, Output]) -> NewRows:
    """The rows of some shards one after another; of a key in several of them that in the first."""
    keys = np.concatenate([np.asarray(part.keys) for part in parts])
    first = np.sort(np.unique(as_void(keys), return_index=True)[1])
    number = np.repeat(np.arange(len(parts)), [len(part) for part in parts])[first]
    row = np.concatenate([np.arange(len(part)) for part in parts])[first]
    places = list(zip(number.tolist(), row.tolist(), strict=True))
    causes = [part.causes for part in parts]
    return NewRows(
        keys[first],
        np.array([parts[part].status[at] for part, at in places], np.uint8),
        [causes[part][int(parts[part].cause[at])] for part, at in places],
        {name: _column(parts, name, places, output.ragged) for name, output in outputs.items()},
    )


def _column(parts: Sequence[Shard], output: str, places: Sequence[tuple[int, int]], ragged: bool) -> list[Any]:
    """The rows of an output at (part, row) each; views of the mapped shards."""
    if not ragged:
        arrays = [part.fixed(output) for part in parts]
        return [arrays[part][at] for part, at in places]
    columns = [part.ragged(output) for part in parts]
    ends = [np.asarray(offsets) for _, offsets in columns]
    return [columns[part][0][ends[part][at] : ends[part][at + 1]] for part, at in places]

"""Contracts of the cache: jobs and results. No torch."""

from pathlib import Path

from foundation.contracts import contract


@contract
class MergeJob:
    """Caches whose shards are taken into another.

    work: the work folder that they are taken into. sources: work folders, cache folders, or folders of single features.
    """

    work: Path
    sources: tuple[Path, ...]


@contract
class MergedFeature:
    """What was taken of one feature.

    folder: its name. linked, copied: shards that were. known: shards whose rows were all there. rows: that are new.
    """

    folder: str
    linked: int
    copied: int
    known: int
    rows: int


@contract
class Merge:
    """What was taken of each feature, and what was not. problems: damaged or foreign files, a line each."""

    features: tuple[MergedFeature, ...]
    problems: tuple[str, ...]

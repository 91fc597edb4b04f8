"""Extraction jobs over the small world, for the tests of ways to run them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import small_world

from cache.inputs import Side, Want
from foundation.paths import Paths
from pipeline.datasets.contracts import PrepareJob
from pipeline.datasets.prepare import prepare
from pipeline.extraction.contracts import ExtractionJob, Runtime

SIDES: tuple[Side, ...] = ("mention", "entity")


def prepared(root: Path) -> Path:
    """Write the small world, unless a test has written its own there, and prepare it; gives the profile."""
    if not (root / "data").exists():
        small_world.write(root / "data")
    prepare(PrepareJob(name="small", data_dir=root / "data", out=root / "prepared"))
    return small_world.profile(root)


def texts(feature: str) -> list[Want]:
    """A feature of the texts of both sides."""
    views = ("mention_sep_sentence", "name_sep_attributes")
    return [Want(side=side, feature=feature, view=view) for side, view in zip(SIDES, views, strict=True)]


def pictures(*features: str) -> list[Want]:
    """Features of the pictures of both sides."""
    return [Want(side=side, feature=name, view="image") for side in SIDES for name in features]


def job(root: Path, wants: Sequence[Want], work: str = "calm", **runtime: Any) -> ExtractionJob:
    """The extraction of `wants` from the world in `root`, on a CPU, into its folder `work`."""
    return ExtractionJob(
        profile=str(small_world.profile(root)),
        dataset=root / "prepared",
        images=dict.fromkeys(SIDES, root / "data"),
        wants=tuple(wants),
        work=root / work,
        columns=root / work / "columns",
        runtime=Runtime(device="cpu", precision="fp32", **runtime),
    )


def shards(work: Path) -> dict[str, bytes]:
    """The shards in a work folder's cache: path in the cache to bytes."""
    cache = Paths(work).cache
    return {path.relative_to(cache).as_posix(): path.read_bytes() for path in sorted(cache.glob("*/*.h5"))}

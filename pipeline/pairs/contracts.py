"""Contracts of pair features: job and result. No torch."""

from pathlib import Path

from cache.inputs import Input
from foundation.contracts import contract


@contract
class PairInput(Input):
    """Rows that serve a role of a pair function. role: its name, see `pipeline.pairs.roles`. output: of the feature."""

    role: str
    output: str


@contract
class PairJob:
    """One pair feature to compute.

    name: of the pair function. dataset: prepared folder (mentions.parquet, entities.parquet). candidates: .npz of ids
    (M, k) and scores (M, k). inputs: one for each role of the function. out: .npz file to write. digest: what names
    the numbers in everything made from them. workers: threads, -1 for one per core.
    """

    name: str
    dataset: Path
    candidates: Path
    out: Path
    digest: str
    inputs: tuple[PairInput, ...] = ()
    workers: int = -1


@contract
class PairFeature:
    """A pair feature on disk.

    file: .npz with values, float32 of `shape`, and names. In a receipt its path is relative to the work folder.
    shape: (M, k) for M mentions with k candidates, or (M, k, S) for S numbers with `names`.
    listed: candidates in all lists. present: the share of them whose (first) number is not NaN.
    """

    file: Path
    digest: str
    name: str
    shape: tuple[int, ...]
    names: tuple[str, ...]
    listed: int
    present: float
    seconds: float

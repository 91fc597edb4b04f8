"""What reports are given and give back. No torch."""

from collections.abc import Mapping
from dataclasses import field
from pathlib import Path

from cache.inputs import Input
from foundation.contracts import contract
from heads.contracts import Compute, TrainingJob
from pipeline.datasets.contracts import Limits

RESAMPLES = 10_000
"""Draws of the bootstrap."""
DETECTIONS = ("objects", "faces", "face_attributes", "identity")
"""Features whose rows are drawn on a mention's picture."""


@contract
class NamedRun:
    """A run under the name that a report gives it. folder: of one run, or of the mean over several seeds.

    settings: options that differ from the method's defaults, in words. group: runs of one group are compared with each
    other alone, under its name.
    """

    name: str
    folder: Path
    settings: str = ""
    group: str = ""


@contract
class AverageJob:
    """The mean over runs that differ in their seeds alone. out: the folder to write, beside the runs' folders."""

    runs: tuple[Path, ...]
    seeds: tuple[int, ...]
    out: Path


@contract
class AverageResult:
    """table: the averages as text."""

    table: str


@contract
class TablesJob:
    """The runs and splits that the tables of a leaderboard are made of.

    dataset: its label. text_only: the same methods without pictures, under the names of those they belong to.
    reference: the name that the others are compared with ("": the best of each table). entity_texts: whether the groups
    are of runs over the same texts of entities, which DWE+ publishes figures for. skipped: name -> reason, of
    what was left out. splits: the tables by part are those of the last. drop_pictures: shares of the mentions' pictures
    to mask, where each run has its `heads.contracts.MASKED`. lists_of_pictures: whether the candidate lists were made
    with mentions' pictures. cuts: whether the runs are of one method whose encoders are cut at several blocks.
    """

    dataset: str
    runs: tuple[NamedRun, ...]
    text_only: tuple[NamedRun, ...] = ()
    reference: str = ""
    entity_texts: bool = False
    skipped: Mapping[str, str] = field(default_factory=dict)
    splits: tuple[str, ...] = ("test",)
    resamples: int = RESAMPLES
    drop_pictures: tuple[float, ...] = ()
    lists_of_pictures: bool = False
    cuts: bool = False


@contract
class LeaderboardJob:
    """A leaderboard to write. out: folder of its files."""

    tables: TablesJob
    out: Path


@contract
class LeaderboardResult:
    """text: the leaderboard as a terminal shows it. files: what was written."""

    text: str
    files: tuple[Path, ...]


@contract
class ComparisonJob:
    """Two runs to test against each other. protocol: "" for the first that both were measured under. seed: of the
    bootstrap."""

    first: NamedRun
    second: NamedRun
    split: str = "test"
    protocol: str = ""
    resamples: int = RESAMPLES
    seed: int = 0


@contract
class Difference:
    """A paired difference, first minus second. low, high: percentile interval of the bootstrap. p: two-sided."""

    mean: float
    low: float
    high: float
    p: float


@contract
class McNemar:
    """Mentions that both methods get right, only the first, only the second, neither. p: two-sided, exact."""

    both: int
    first: int
    second: int
    neither: int
    p: float


@contract
class ComparisonResult:
    """Two runs compared over the same mentions. differences: figure ("H@1", "MRR") -> difference. mcnemar: a test of
    H@1 for each pair of seeds, none where the numbers of seeds differ. t_tests: figure -> p of a paired t-test over the
    seeds that both have, none where there are fewer than two. text: all of it as a table."""

    protocol: str
    mentions: int
    differences: Mapping[str, Difference]
    mcnemar: tuple[McNemar, ...]
    text: str
    t_tests: Mapping[str, float] = field(default_factory=dict)


@contract
class CasesJob:
    """The mentions that a page shows one by one. prepared: folder of the prepared dataset.

    images: side -> folder of its pictures. limits: of pictures that are decoded. detections:
    rows that detectors and recognisers left beside the mentions. most: the most cases. picture_bytes: the most bytes of
    small pictures. trainings: name of a run -> the job of the head that explains its cases; without one, none does.
    compute: where those heads run.
    """

    prepared: Path
    images: Mapping[str, Path]
    limits: Limits = Limits()
    detections: tuple[Input, ...] = ()
    most: int = 300
    picture_bytes: int = 40_000_000
    trainings: Mapping[str, TrainingJob] = field(default_factory=dict)
    compute: Compute = Compute()


@contract
class PageJob:
    """A page to write. tables: its leaderboard. out: the HTML file. command: what the page says it was made by."""

    tables: TablesJob
    cases: CasesJob
    out: Path
    command: str = ""


@contract
class PageResult:
    """file: the page. cases, pictures: how many it shows. left_out: pictures there was no room for. bytes: its size."""

    file: Path
    cases: int
    pictures: int
    left_out: int
    bytes: int


@contract
class ServeJob:
    """A page to serve over a run. source: the dataset's own folder. host, port: where it listens (port 0: a free one).
    split: the mentions that are shown. token_file: see `linking.service.contracts.ServiceJob`."""

    run: Path
    source: Path
    host: str = "127.0.0.1"
    port: int = 8080
    split: str = "test"
    token_file: Path | None = None
    compute: Compute = Compute()


@contract
class ManifestJob:
    """run: its folder. to: the file to write; check: the manifest to compare with. One of the two."""

    run: Path
    to: Path | None = None
    check: Path | None = None


@contract
class ManifestResult:
    """text: what the command prints. differences: in what was evaluated, a line each."""

    text: str
    differences: tuple[str, ...] = ()

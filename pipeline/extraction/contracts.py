"""Contracts of extraction: jobs and results. No torch."""

from collections.abc import Iterable, Mapping
from dataclasses import field
from pathlib import Path
from typing import Any

from cache.inputs import Input, Side, Want
from foundation.contracts import contract, from_json, to_json
from foundation.paths import Paths


@contract
class Plan:
    """Wants that are extracted together. after: plans of the groups whose rows these are made from."""

    wants: tuple[Want, ...]
    after: tuple["Plan", ...] = ()


@contract
class Runtime:
    """How models run.

    device: auto, cpu, cuda, cuda:N or mps. devices: where several processes extract, that of each. ray: address of a
    Ray cluster that extracts, `auto` for one of this machine; empty: none. precision: auto, fp32, fp16 or bf16.
    batch_size: rows per batch, 0: chosen by device. decoders: processes that decode pictures for each device; 0:
    threads do. shard_rows: most rows in one shard. accept: features whose rows are kept though something is wrong with
    them, see `pipeline.extraction.guard`.
    """

    device: str = "auto"
    devices: tuple[str, ...] = ()
    ray: str = ""
    precision: str = "auto"
    batch_size: int = 0
    decoders: int = 0
    shard_rows: int = 4096
    accept: tuple[str, ...] = ()


@contract
class ExtractionJob:
    """One group of features to extract.

    profile: name or path. dataset: prepared folder (mentions.parquet, entities.parquet). images: folder of each side's
    pictures. work: the work folder, which holds the cache. columns: folder inside it that the key columns are written
    to. demo: folder of the demo's encoders. upstream: the rows that the wanted ones are made from. beside: further
    features, none of whose models may be missing either.
    """

    profile: str
    dataset: Path
    images: Mapping[Side, Path]
    wants: tuple[Want, ...]
    work: Path
    columns: Path
    demo: Path | None = None
    upstream: tuple[Input, ...] = ()
    beside: tuple[str, ...] = ()
    runtime: Runtime = Runtime()


@contract
class PartJob:
    """One of several parts of an extraction. part: its number, from 1. parts: how many there are."""

    extraction: ExtractionJob
    part: int = 1
    parts: int = 1


@contract
class PartResult:
    """What a part did.

    chunks: of the part. all_chunks: that were planned. left: whether the cache still lacks wanted rows, of other parts.
    """

    chunks: int
    all_chunks: int
    left: bool
    account: "Account"


@contract
class EstimateJob:
    """Extractions to estimate together; their result is one table."""

    extractions: tuple[ExtractionJob, ...]


@contract
class Crops:
    """Rows made of the boxes of another feature. lost: boxes that gave no row."""

    boxes: int
    lost: int


@contract
class CutTexts:
    """What of a view's texts was cut to fit, counted by record.

    texts: that there are. cut: those that were shortened. tokens: of all texts before, special ones included. lost:
    those of the words that were left out. limit: the most tokens that a text may have.
    """

    texts: int
    cut: int
    tokens: int
    lost: int
    limit: int


@contract
class FeatureRows:
    """One feature after an extraction.

    store: its folder's name in the cache. rows: distinct units wanted. extracted: those added by this run. verdicts:
    number of rows by verdict (`ok`, `missing`, …). empty: rows that are ok and hold nothing, of a feature that may find
    several things in a picture; None of others.
    """

    identity: str
    store: str
    rows: int
    extracted: int
    verdicts: Mapping[str, int]
    crops: Crops | None = None
    empty: int | None = None


@contract
class Extraction:
    """The result of an extraction, as its receipt keeps it.

    features: name -> rows. columns: column name (`Want.column`) -> file of the key column, relative to the work folder.
    cut: column -> number of texts that were cut to fit. texts: column of texts -> what that cost; earlier versions did
    not count it. without: column -> entities that have no text there. accepted: column ->
    what is wrong with its rows, which were kept, a line per output. profile, demo: of the group that ran, where one
    did.
    """

    features: Mapping[str, FeatureRows] = field(default_factory=dict)
    columns: Mapping[str, str] = field(default_factory=dict)
    cut: Mapping[str, int] = field(default_factory=dict)
    without: Mapping[str, int] = field(default_factory=dict)
    texts: Mapping[str, CutTexts] = field(default_factory=dict)
    accepted: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    profile: str | None = None
    demo: str | None = None

    @classmethod
    def of_receipt(cls, result: Mapping[str, Any]) -> "Extraction":
        """The `result` of a receipt of ExtractGroup or ExtractFeatures."""
        kept = result.get("accepted", {})
        if isinstance(kept, list):  # earlier versions wrote lines that begin with the column, and end with a remedy
            lines = [(line.partition(",")[0], line.partition("; ")[0]) for line in kept]
            kept = {column: [line for other, line in lines if other == column] for column, _ in lines}
        return from_json(cls, {**result, "accepted": kept}, "a receipt's result")

    def inputs(self, wants: Iterable[Want], paths: Paths) -> tuple[Input, ...]:
        """The wants with the place of their rows in the work folder."""
        return tuple(
            Input(
                side=want.side,
                feature=want.feature,
                view=want.view,
                store=paths.cache / self.features[want.feature].store,
                keys=paths.root / self.columns[want.column],
            )
            for want in wants
        )

    def to_receipt(self) -> dict[str, Any]:
        """The result for a receipt: JSON without what is None, and without `texts` and `accepted` where there are
        none."""
        whole = _without_none(to_json(self))
        for name in ("texts", "accepted"):
            if not whole[name]:
                del whole[name]
        return {**whole, "features": {name: _without_none(rows) for name, rows in whole["features"].items()}}


@contract
class Account:
    """What an extraction did.

    rows: feature -> rows added. model_loads: features whose model was loaded. stages: `read`, `model`, `write` ->
    seconds. seconds: all of it.
    """

    rows: Mapping[str, int]
    model_loads: tuple[str, ...] = ()
    device: str | None = None
    stages: Mapping[str, float] | None = None
    seconds: float | None = None

    def to_receipt(self) -> dict[str, Any]:
        """The account for a receipt: JSON without what is None."""
        return _without_none(to_json(self))


@contract
class ExtractionResult:
    """What an extraction gives back.

    extraction: for the receipt. files: the shards and specs behind the wanted rows, relative to the work folder.
    account: of this run.
    """

    extraction: Extraction
    files: tuple[str, ...]
    account: Account


@contract
class FeatureEstimate:
    """What an extraction would add of one feature.

    wanted: distinct units. rows: those that are not in the cache. bytes: that they will take (an upper bound where
    pictures are broken). seconds: at the last measured rate, None where none was measured.
    """

    feature: str
    wanted: int
    rows: int
    bytes: int
    seconds: float | None


@contract
class Estimate:
    """What an extraction would add. free_bytes: on the cache's disk."""

    features: tuple[FeatureEstimate, ...]
    free_bytes: int

    @property
    def bytes(self) -> int:
        """All that is to come."""
        return sum(feature.bytes for feature in self.features)


@contract
class CleanJob:
    """A search for features that no profile asks for.

    work: the work folder whose cache is cleaned. profiles: names or paths of further profiles whose features are kept.
    demo: folder of the demo's encoders. remove: whether the stale features are deleted.
    """

    work: Path
    profiles: tuple[str, ...] = ()
    demo: Path | None = None
    remove: bool = False


@contract
class StaleFeature:
    """A feature in the cache that no profile in use asks for. folder: its name."""

    feature: str
    rows: int
    bytes: int
    folder: str


@contract
class Cleaning:
    """The features that no profile in use asks for, and what could not be decided.

    gone: profiles that features were extracted with and that do not exist any more. kept: features that are kept
    because their identity cannot be computed. problems: damaged feature folders, a line each; they stay.
    """

    stale: tuple[StaleFeature, ...]
    gone: tuple[str, ...]
    kept: tuple[str, ...]
    problems: tuple[str, ...]


def _without_none(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}

"""What extraction is given and gives back. No torch."""

from collections.abc import Mapping
from dataclasses import field

from cache.inputs import Want
from foundation.contracts import contract


@contract
class Crops:
    """Rows made of the boxes of another feature. lost: boxes that gave no row."""

    boxes: int
    lost: int


@contract
class FeatureRows:
    """One feature after an extraction. store: its folder's name in the cache. rows: distinct units wanted. extracted: those added by this run.
    verdicts: number of rows by verdict (`ok`, `missing`, …)."""

    identity: str
    store: str
    rows: int
    extracted: int
    verdicts: Mapping[str, int]
    crops: Crops | None = None


@contract
class Extraction:
    """The result of an extraction, as its receipt keeps it.

    features: name -> rows. columns: column name (`Want.column`) -> file of the key column, relative to the work folder. cut: column -> texts that
    were cut to fit. without: column -> entities that have no text there. profile, demo: of the group that ran, where one did.
    """

    features: Mapping[str, FeatureRows] = field(default_factory=dict)
    columns: Mapping[str, str] = field(default_factory=dict)
    cut: Mapping[str, int] = field(default_factory=dict)
    without: Mapping[str, int] = field(default_factory=dict)
    profile: str | None = None
    demo: str | None = None


@contract
class Plan:
    """Wants that are extracted together. after: plans of the groups whose rows these are made from."""

    wants: tuple[Want, ...]
    after: tuple["Plan", ...] = ()

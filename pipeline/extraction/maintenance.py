"""Upkeep of the cache: estimate, clean."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from cache import verify as checks
from cache.identity import identity
from foundation.checksums import read_sealed
from foundation.errors import UserError
from foundation.paths import Paths
from foundation.tables import as_text, text_table
from pipeline.datasets.images import Limits
from pipeline.extraction import stage, wants
from pipeline.extraction.base import DerivedOptions
from pipeline.extraction.contracts import (
    Cleaning,
    CleanJob,
    Estimate,
    EstimateJob,
    Extraction,
    ExtractionJob,
    StaleFeature,
)
from pipeline.extractors import build
from pipeline.imported import stage as imported
from pipeline.imported.contracts import IMPORTED
from pipeline.profiles import profile as profiles


def estimate(job: EstimateJob) -> Estimate:
    """What several extractions would add to the cache; nothing is extracted or written. Raises `UserError`."""
    estimates = [_estimate(one) for one in job.extractions]
    return Estimate(
        features=tuple(feature for one in estimates for feature in one.features),
        free_bytes=estimates[-1].free_bytes if estimates else 0,
    )


def _estimate(job: ExtractionJob) -> Estimate:
    of_import = wants.imported(profiles.load(job.profile), job.wants)
    return imported.estimate(job) if of_import else stage.estimate(job)


def describe(estimate: Estimate, later: Sequence[str] = ()) -> str:
    """The estimate as a table. later: features whose rows cannot be counted yet."""
    rows = []
    for feature in estimate.features:
        time = "-" if not feature.rows else "not measured" if feature.seconds is None else f"{feature.seconds:,.0f} s"
        counts = f"{feature.wanted:,}", f"{feature.rows:,}", f"{feature.bytes / 1e6:,.1f}"
        rows.append([feature.feature, *counts, time])
    lines = [as_text(text_table(["feature", "rows wanted", "to do", "megabytes", "time"], rows))]
    if later:
        lines.append(f"not known before what they are made from is extracted: {', '.join(later)}")
    lines.append(
        f"to come: {estimate.bytes / 1e6:,.1f} MB; free: {estimate.free_bytes / 1e6:,.0f} MB. "
        "Time is at the rate last measured here; nothing was extracted"
    )
    return "\n".join(lines)


def clean(job: CleanJob) -> Cleaning:
    """List, and with `remove` delete, the features that no profile in use asks for.

    In use: every profile that extraction was run with in this work folder and that still exists, and those of the job.
    A feature that no receipt knows is kept.
    Where a profile's model is not on this machine any more, what its receipts list is kept. Raises `UserError` where a
    profile of the job does not exist.
    """
    paths = Paths(job.work)
    extractions = _extractions(paths)
    used = {extraction.profile for extraction in extractions if extraction.profile}
    gone = {name for name in used - set(job.profiles) if name not in profiles.names() and not Path(name).is_file()}
    identities: set[str] = set()
    kept = []
    for name in sorted((used | set(job.profiles)) - gone):
        profile = profiles.load(name)
        own = [extraction.features for extraction in extractions if extraction.profile == name]
        cut = {feature for features in own for feature in features if profiles.AT_BLOCK in feature}
        for feature in (*profile.features, *sorted(cut)):
            if feature.rpartition(profiles.AT_BLOCK)[0] not in ("", *profile.features):
                continue  # at a block of an encoder that the profile has no more
            if profile.feature(feature).extractor == IMPORTED:
                continue
            try:
                identities.add(_identity(profile, profile.feature(feature), job))
            except UserError:
                extracted = {features[feature].identity for features in own if feature in features}
                identities |= extracted
                kept += [f"{feature} of profile {profile.name}"] if extracted else []
    usage, problems = checks.usage(paths.cache)
    identities |= {read_sealed(path)["identity"] for path in paths.root.glob(f"datasets/*/{IMPORTED}/*.json")}
    known = {rows.identity for extraction in extractions for rows in extraction.features.values()}
    stale = [entry for entry in usage if entry.identity in known - identities]
    problems += [
        f"{entry.folder}: no receipt says which profile it was extracted with; delete the folder if you do not need it"
        for entry in usage
        if entry.identity not in known | identities
    ]
    for entry in stale if job.remove else ():
        checks.remove(entry.folder)
    return Cleaning(
        stale=tuple(
            StaleFeature(feature=entry.feature, rows=entry.rows, bytes=entry.bytes, folder=entry.folder.name)
            for entry in stale
        ),
        gone=tuple(sorted(gone)),
        kept=tuple(kept),
        problems=tuple(problems),
    )


def _extractions(paths: Paths) -> list[Extraction]:
    """What the receipts of extractions hold. Raises `NotAsWritten` where one is damaged: it may name a profile."""
    receipts = [read_sealed(path) for path in sorted(paths.receipts.glob("ExtractGroup-*.json"))]
    return [Extraction.of_receipt(receipt["result"]) for receipt in receipts]


def _identity(profile: profiles.Profile, feature: profiles.Feature, job: CleanJob) -> str:
    """The identity that a feature of a profile has now.

    Raises `UserError` where its model, or a KB that it depends on, is not at hand.
    """
    extractor = build(feature, profile.source, job.demo, fetch=False)
    parents = {}
    if isinstance(extractor.options, DerivedOptions):
        if extractor.needs_kb:
            raise UserError(f"{feature.name} depends on a knowledge base")
        parent = wants.parent_of(profile, feature.name)
        parents = {parent: _identity(profile, profile.feature(parent), job)}
    memo = Paths(job.work).memo / "weights.json"
    return identity(extractor.spec(memo, asdict(Limits(**profile.limits)), parents))

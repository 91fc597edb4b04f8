"""Looking after the cache: verify, estimate, clean."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cache import verify as checks
from cache.identity import identity
from foundation.errors import UserError
from foundation.files import read_json
from foundation.tables import as_text, text_table
from pipeline.datasets.images import Limits
from pipeline.extraction import stage, wants
from pipeline.extraction.base import DerivedOptions
from pipeline.extraction.contracts import Estimate, EstimateJob
from pipeline.extractors import build
from pipeline.profiles import profile as profiles


def verify(job: dict[str, Any]) -> dict[str, Any]:
    """Check every checksum of the cache and of what learned prompts have made; with `repair`, remove what is bad.

    job: root (the work folder), cache, prompted (the folders of runs' own features), repair. Returns the text to print and the number of bad files.
    """
    root, cache = Path(job["root"]), Path(job["cache"])
    found = checks.verify(cache)
    prompted = [finding for folder in job["prompted"] for finding in checks.verify(Path(folder))]
    lines = [f"bad: {finding.path.relative_to(root)}: {finding.problem}" for finding in (*found, *prompted)]
    if not lines:
        rows = sum(entry.rows for folder in (cache, *job["prompted"]) for entry in checks.usage(Path(folder))[0])
        lines = [f"cache {cache}: every checksum of {rows:,} rows holds"]
    elif job["repair"]:
        lines.append(f"removed {len(checks.repair([*found, *prompted]))} bad file(s)")
        lines += (
            ["`luigi --module tasks ExtractFeatures` makes again exactly what is bad or gone in the cache"]
            if found
            else []
        )
        lines += (
            [
                "`luigi --module tasks TrainHead --method dsmip`, with a run's options, makes again what is bad or gone in it"
            ]
            if prompted
            else []
        )
    return {"text": "\n".join(lines), "bad": len(found) + len(prompted)}


def estimate(job: EstimateJob) -> Estimate:
    """What several extractions would add to the cache; nothing is extracted or written. Raises `UserError`."""
    estimates = [stage.estimate(one) for one in job.extractions]
    return Estimate(
        features=tuple(feature for one in estimates for feature in one.features),
        free_bytes=estimates[-1].free_bytes if estimates else 0,
    )


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


def _receipts(folder: Path) -> list[dict[str, Any]]:
    return [
        receipt
        for path in sorted(folder.glob("ExtractGroup-*.json"))
        if (receipt := read_json(path))["result"].get("profile")
    ]


def _asked_for(job: dict[str, Any]) -> tuple[set[str], list[str]]:
    """Identities that the profiles in use give now, and notes on features that could not be told.

    In use: every profile that extraction was run with here and that still exists, and those named in the job. Where a profile's model is not on
    this machine any more, what its receipts list is kept. Raises `UserError` where a profile of the job does not exist.
    """
    receipts = _receipts(Path(job["receipts"]))
    used = {receipt["result"]["profile"] for receipt in receipts}
    asked, notes = set(), []
    for name in sorted(used | set(job["profiles"])):
        if name not in job["profiles"] and name not in profiles.names() and not Path(name).is_file():
            notes.append(
                f"the profile {name}, which features were extracted with, is gone and keeps none; --profiles names it where it lies now"
            )
            continue
        profile = profiles.load(name)
        for feature in profile.features.values():
            try:
                asked.add(_identity(profile, feature, job))
            except UserError:
                kept = {
                    r["result"]["features"][feature.name]["identity"]
                    for r in receipts
                    if r["result"]["profile"] == name and feature.name in r["result"]["features"]
                }
                asked |= kept
                if kept:
                    notes.append(
                        f"{feature.name} of profile {profile.name} is kept: its identity cannot be told without its model, or without a dataset"
                    )
    return asked, notes


def _identity(profile: profiles.Profile, feature: profiles.Feature, job: dict[str, Any]) -> str:
    """What a feature of a profile is called now, by what it reads down to the pictures. Raises `UserError` where that cannot be told."""
    extractor = build(feature, profile.source, Path(job["demo"]), fetch=False)
    parents = {}
    if isinstance(extractor.options, DerivedOptions):
        if extractor.needs_kb:
            raise UserError(f"{feature.name} depends on a knowledge base")
        parent = wants.parent_of(profile, feature.name)
        parents = {parent: _identity(profile, profile.feature(parent), job)}
    return identity(extractor.spec(Path(job["memo"]) / "weights.json", asdict(Limits(**profile.limits)), parents))


def clean(job: dict[str, Any]) -> dict[str, Any]:
    """List, and with `remove` delete, the features that no profile in use asks for any more."""
    asked, notes = _asked_for(job)
    found, problems = checks.usage(Path(job["cache"]))
    notes += [f"left as it is: {problem}" for problem in problems]
    stale = [entry for entry in found if entry.identity not in asked]
    rows = [[entry.feature, f"{entry.rows:,}", f"{entry.bytes / 1e6:,.1f}", entry.folder.name] for entry in stale]
    lines = [as_text(text_table(["feature", "rows", "megabytes", "folder"], rows))]
    for entry in stale if job["remove"] else ():
        checks.remove(entry.folder)
    if not stale:
        lines = [f"every {'other ' if problems else ''}feature in the cache is asked for by a profile in use"]
    elif job["remove"]:
        lines.append(f"removed {len(stale)} feature(s), {sum(entry.bytes for entry in stale) / 1e6:,.1f} MB")
    else:
        lines.append(
            "nothing was removed; add --remove to delete these, or --profiles FILE.yaml to keep those of a further profile"
        )
    return {"text": "\n".join(lines + notes)}

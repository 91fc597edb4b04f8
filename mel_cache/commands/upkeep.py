"""Tasks that look after the cache: checks, estimates, cleaning."""

import os
from pathlib import Path

import luigi

from cache.contracts import Merge, MergeJob
from foundation import child, logs
from foundation.errors import UserError
from foundation.tables import as_text, text_table
from mel_cache.commands.dataset import DemoEncoders, DemoWorld
from mel_cache.commands.features import ExtractFeatures, OnProfile
from mel_cache.commands.parameters import RenamedFiles
from mel_cache.commands.task import Task, Tool
from mel_cache.contracts import Verification, VerifyJob
from pipeline.extraction import wants
from pipeline.extraction.contracts import Cleaning, CleanJob, Estimate, EstimateJob
from pipeline.extraction.maintenance import describe

LISTED = 5
"""Commands that are named for what is bad; of more only the number is given."""


class VerifyCache(Tool):
    """Checks every file of the work folder whose checksum is known, and says what makes the bad ones again.

    Of features, datasets, candidate lists, pair features, runs, searches, reports and receipts. --repair removes the
    bad files.
    """

    repair = luigi.BoolParameter(default=False, description="remove what is bad")
    skip_shards = luigi.BoolParameter(
        default=False, description="leave out the shards of features, which take the longest"
    )

    def brief(self) -> str:
        what = "every file but shards" if self.skip_shards else "every file"
        return f": check {what} in {self.paths.root}{', remove bad ones' if self.repair else ''}"

    def act(self) -> None:
        job = VerifyJob(work=self.paths.root, repair=self.repair, shards=not self.skip_shards)
        verification: Verification = child.run("mel_cache.verification:verify", job, Verification)
        logs.say("\n".join([verified(verification, job), *_layers(verification)]))
        if verification.in_layers and (self.repair or not verification.bad):
            raise UserError(
                f"{len(verification.in_layers)} bad file(s) in folders that this cache only reads; nothing is removed "
                "there: ask their owners to run VerifyCache --repair, or leave the folders out (--cache-path)"
            )
        if verification.bad and not self.repair:
            raise UserError(
                f"{len(verification.bad)} bad or missing file(s) under {self.paths.root}; "
                f"`luigi --module tasks VerifyCache --repair --work-dir {self.paths.root}` removes what is bad and "
                "says what makes it again"
            )


def _layers(verification: Verification) -> list[str]:
    """The layers of the cache, and what is bad there, a line each."""
    lines = [f"layer {folder}: {rows:,} rows of features" for folder, rows in verification.layers.items()]
    lines += [f"bad, in a layer: {one.path}: {one.problem}" for one in verification.in_layers]
    return [*lines, *dict.fromkeys(one.maker for one in verification.in_layers)]


def verified(verification: Verification, job: VerifyJob) -> str:
    """The bad files, a line each, and what makes them again."""
    if not verification.bad:
        rows = f"{verification.rows:,} rows of features and " if job.shards else ""
        lines = [f"{job.work}: every checksum of {rows}{verification.files:,} files holds"]
        if not job.shards:
            lines.append("shards of features were left out")
        if verification.unlisted:
            lines.append(f"{verification.unlisted:,} files of an earlier version have their size, and no checksum")
        return "\n".join(lines)
    lines = [f"bad: {one.path}: {one.problem}" for one in verification.bad]
    makers = list(dict.fromkeys(one.maker for one in verification.bad))
    if job.repair:
        removed = sum(one.removed for one in verification.bad)
        lines.append(f"removed {removed} bad file(s)")
        lines += [
            f"{one.path} is a folder; remove it yourself"
            for one in verification.bad
            if not one.removed and os.path.isdir(job.work / one.path)
        ]
    lines += [f"{one} makes {'them' if len(makers) == 1 else 'some of them'} again" for one in makers[:LISTED]]
    return "\n".join([*lines, *([f"and {len(makers) - LISTED} more commands"] if len(makers) > LISTED else [])])


class EstimateCache(Tool, OnProfile):
    """Says what ExtractFeatures would add: rows, bytes, and time at the last measured rate. Extracts nothing."""

    features = ExtractFeatures.features

    def requires(self) -> list[Task]:
        return [] if self.dry_run else self.needs_of_profile()

    def act(self) -> None:
        groups = self.clone(ExtractFeatures).groups()
        ready = [group for group in groups if all(needed.done() for needed in group.upstream())]
        later = wants.features_of(want for group in groups if group not in ready for want in group.planned.wants)
        job = EstimateJob(extractions=tuple(group.job() for group in ready))
        logs.say(describe(child.run("pipeline.extraction.maintenance:estimate", job, Estimate), later))


class MergeCache(Tool):
    """Takes the shards of other caches into this one: --from FOLDER,FOLDER.

    A FOLDER is a work folder, its folder cache/, or one feature in it. Shards are linked where that is possible, else
    copied; each is checked, and named by its content, so nothing is replaced. The folders stay as they are.
    """

    from_folders = RenamedFiles("--from", description="folders, with commas between them; the option may be repeated")

    def brief(self) -> str:
        return f": take what is in {self.from_folders} into {self.paths.cache}"

    def act(self) -> None:
        sources = tuple(
            Path(name.strip()).expanduser().absolute() for name in self.from_folders.split(",") if name.strip()
        )
        merged = child.run("cache.union:merge", MergeJob(work=self.paths.root, sources=sources), Merge)
        rows = [
            [one.folder, f"{one.rows:,}", f"{one.linked:,}", f"{one.copied:,}", f"{one.known:,}"]
            for one in merged.features
        ]
        header = ["feature", "new rows", "shards linked", "copied", "known before"]
        logs.say(as_text(text_table(header, rows)))
        if merged.problems:
            more = f" (and {len(merged.problems) - LISTED} more)" if len(merged.problems) > LISTED else ""
            *first, last = merged.problems[:LISTED]
            raise UserError(*first, last + more)


class CleanCache(Tool):
    """Lists the features that no profile asks for; --remove deletes them."""

    demo_seed = DemoWorld.demo_seed
    profiles = luigi.Parameter(default="", description="comma-separated further profile files whose features are kept")
    remove = luigi.BoolParameter(default=False, description="delete what is listed")

    def brief(self) -> str:
        return f": {'delete' if self.remove else 'list'} what no profile in use asks for in {self.paths.cache}"

    def act(self) -> None:
        job = CleanJob(
            work=self.paths.root,
            profiles=tuple(name for name in self.profiles.split(",") if name),
            demo=self.clone(DemoEncoders).place,
            remove=self.remove,
        )
        logs.say(self.text(child.run("pipeline.extraction.maintenance:clean", job, Cleaning)))

    def text(self, cleaning: Cleaning) -> str:
        """The stale features as a table, what was done with them, and those whose identity is unknown."""
        rows = [
            [stale.feature, f"{stale.rows:,}", f"{stale.bytes / 1e6:,.1f}", stale.folder] for stale in cleaning.stale
        ]
        lines = [as_text(text_table(["feature", "rows", "megabytes", "folder"], rows))]
        if not rows:
            other = "other " if cleaning.problems else ""
            lines = [f"every {other}feature in the cache is asked for by a profile in use"]
        elif self.remove:
            megabytes = sum(stale.bytes for stale in cleaning.stale) / 1e6
            lines.append(f"removed {len(rows)} feature(s), {megabytes:,.1f} MB")
        else:
            lines.append(
                "nothing was removed; add --remove to delete these, or --profiles FILE.yaml to keep those of a "
                "further profile"
            )
        lines += [
            f"the profile {name}, which features were extracted with, is gone and keeps none; --profiles names it "
            "where it lies now"
            for name in cleaning.gone
        ]
        lines += [
            f"{feature} is kept: its identity cannot be computed without its model, or without a dataset"
            for feature in cleaning.kept
        ]
        lines += [f"left as it is: {problem}" for problem in cleaning.problems]
        return "\n".join(lines)

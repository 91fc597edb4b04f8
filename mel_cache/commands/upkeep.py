"""Tasks that look after the cache: checks, estimates, cleaning."""

import luigi

from foundation import child, logs
from foundation.errors import UserError
from foundation.tables import as_text, text_table
from mel_cache.commands.dataset import DemoEncoders, DemoWorld
from mel_cache.commands.features import ExtractFeatures, OnProfile
from mel_cache.commands.task import Task, Tool
from pipeline.extraction import wants
from pipeline.extraction.contracts import Cleaning, CleanJob, Estimate, EstimateJob, Verification, VerifyJob
from pipeline.extraction.maintenance import describe


class VerifyCache(Tool):
    """Checks every checksum of the cache and of the features that runs have made for themselves; lists bad files.

    --repair removes the bad files; the next run writes exactly these again.
    """

    repair = luigi.BoolParameter(default=False, description="remove what is bad")

    def brief(self) -> str:
        return f": check every shard in {self.paths.cache}{', remove bad ones' if self.repair else ''}"

    def act(self) -> None:
        job = VerifyJob(work=self.paths.root, repair=self.repair)
        verification: Verification = child.run("pipeline.extraction.maintenance:verify", job, Verification)
        logs.say(self.text(verification))
        if verification.bad and not self.repair:
            raise UserError(
                f"{len(verification.bad)} bad or missing file(s) under {self.paths.root}; "
                "`luigi --module tasks VerifyCache --repair` removes what is bad and says what makes it again"
            )

    def text(self, verification: Verification) -> str:
        """The bad files, a line each, and what makes them again."""
        if not verification.bad:
            return f"cache {self.paths.cache}: every checksum of {verification.rows:,} rows holds"
        lines = [f"bad: {bad.path}: {bad.problem}" for bad in verification.bad]
        if not self.repair:
            return "\n".join(lines)
        lines.append(f"removed {verification.removed} bad file(s)")
        if not all(bad.prompted for bad in verification.bad):
            lines.append("`luigi --module tasks ExtractFeatures` makes again exactly what is bad or gone in the cache")
        if any(bad.prompted for bad in verification.bad):
            lines.append(
                "`luigi --module tasks TrainHead --method dsmip`, with a run's options, makes again what is bad or "
                "gone in it"
            )
        return "\n".join(lines)


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

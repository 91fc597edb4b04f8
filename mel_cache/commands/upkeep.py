"""Tasks that look after the cache: checks, estimates, cleaning."""

import luigi

from foundation import child, logs
from foundation.errors import UserError
from mel_cache.commands.dataset import DemoEncoders, DemoWorld
from mel_cache.commands.features import ExtractFeatures, OnProfile
from mel_cache.commands.task import Task, Tool
from pipeline.extraction import wants
from pipeline.extraction.contracts import Estimate, EstimateJob
from pipeline.extraction.maintenance import describe


class VerifyCache(Tool):
    """Checks every checksum of the cache, and of the features that runs have made for themselves, and names what is bad or gone.

    --repair removes what is bad, and the next run makes exactly that again.
    """

    repair = luigi.BoolParameter(default=False, description="remove what is bad")

    def brief(self) -> str:
        return f": check every shard in {self.paths.cache}{', remove bad ones' if self.repair else ''}"

    def act(self) -> None:
        job = {
            "root": str(self.paths.root),
            "cache": str(self.paths.cache),
            "prompted": list(map(str, self.paths.prompted())),
            "repair": self.repair,
        }
        found = child.run("pipeline.extraction.maintenance:verify", job)
        logs.say(found["text"])
        if found["bad"] and not self.repair:
            raise UserError(
                f"{found['bad']} bad or missing file(s) under {self.paths.root}; `luigi --module tasks VerifyCache --repair` removes what is bad "
                "and says what makes it again"
            )


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
    """Lists the features that no profile asks for any more; --remove deletes them."""

    demo_seed = DemoWorld.demo_seed
    profiles = luigi.Parameter(default="", description="comma-separated further profile files whose features are kept")
    remove = luigi.BoolParameter(default=False, description="delete what is listed")

    def brief(self) -> str:
        return f": {'delete' if self.remove else 'list'} what no profile in use asks for in {self.paths.cache}"

    def act(self) -> None:
        job = {
            "cache": str(self.paths.cache),
            "receipts": str(self.paths.receipts),
            "memo": str(self.paths.memo),
            "profiles": [name for name in self.profiles.split(",") if name],
            "demo": str(self.clone(DemoEncoders).place),
            "remove": self.remove,
        }
        logs.say(child.run("pipeline.extraction.maintenance:clean", job)["text"])

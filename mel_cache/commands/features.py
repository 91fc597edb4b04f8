"""Tasks that extract features, and the parameters that everything that runs models shares."""

import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import luigi

from cache.inputs import Want
from experiments import jobs
from foundation import child, receipts
from foundation import device as devices
from foundation.contracts import from_json, to_json
from foundation.errors import UserError
from foundation.files import parse_json
from foundation.tables import terminal_width
from mel_cache.commands.dataset import DemoEncoders, OnDataset, PrepareDataset
from mel_cache.commands.parameters import DEVICE, PRECISION, Whole
from mel_cache.commands.task import Task, setting, stop
from pipeline.enhance import output
from pipeline.extraction import wants
from pipeline.extraction.contracts import Account, Extraction, ExtractionJob, ExtractionResult, Plan, Runtime
from pipeline.profiles import profile


class OnProfile(OnDataset):
    """Parameters of everything that runs models."""

    profile = PrepareDataset.profile
    device = DEVICE
    precision = PRECISION
    extract_batch = setting(
        "extract_batch", 0, "rows per extraction batch; 0: chosen by device", Whole, least=0, significant=False
    )
    shard_rows = setting("shard_rows", 4096, "most rows in one shard", Whole, least=1, significant=False)
    on_device = False  # whether the task puts models on the device

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        try:
            devices.check(self.device, self.precision)
            self.profile_content = profile.load(self.profile)
        except UserError as error:
            stop(error)

    @property
    def resources(self) -> dict[str, int]:  # type: ignore[override]  # Luigi only reads it
        """Tasks that put models on the device run one at a time, unless the profile says that its models are small."""
        return {"device": 1} if self.on_device and not self.profile_content.threads else {}

    def run_child(self, target: str, job: Any, result: Any = None) -> Any:
        """`child.run` with the profile's number of threads."""
        return child.run(target, job, result, self.profile_content.threads)

    def needs_of_profile(self) -> list[Task]:
        """The dataset and, where the profile's models come from the demo, its encoders."""
        uses_demo = any(
            str(feature.options.get("model", "")).startswith("demo:")
            for feature in self.profile_content.features.values()
        )
        return [self.clone(PrepareDataset), *([self.clone(DemoEncoders)] if uses_demo else [])]

    def demo_encoders(self) -> Path:
        return self.clone(DemoEncoders).place


class ExtractGroup(OnProfile):
    """Extracts one group of features that are read together (all texts, say, or all whole pictures): ExtractFeatures
    makes these."""

    plan = luigi.Parameter(
        description="JSON {wants: list of {side, feature, view}, after: plans of the groups whose rows these are "
        "made from}"
    )
    beside = luigi.Parameter(
        default="", significant=False, description="comma-separated features whose models must be there too"
    )
    on_device = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        try:
            self.planned = from_json(Plan, parse_json(self.plan), "--plan")
        except (UserError, json.JSONDecodeError) as error:
            stop(UserError(f"--plan: {error}") if isinstance(error, json.JSONDecodeError) else error)

    def upstream(self) -> list["ExtractGroup"]:
        """The groups whose rows this one reads."""
        return [self.clone(ExtractGroup, plan=json.dumps(to_json(plan))) for plan in self.planned.after]

    def needs(self) -> list[Task]:
        return [*self.needs_of_profile(), *self.upstream()]

    def brief(self) -> str:
        return " " + ", ".join(wants.features_of(self.planned.wants))

    def request(self) -> dict[str, Any] | None:
        prepared, upstream = self.clone(PrepareDataset).content(), [group.digest() for group in self.upstream()]
        if prepared is None or not all(upstream):
            return None
        features = wants.request(self.profile_content, self.planned.wants, self.demo_encoders())
        written = {
            mode: output.stamp(self.paths.descriptions(self.dataset, prepared, mode), mode)
            for mode in wants.enhanced(self.planned.wants)
        }
        return {
            "dataset": prepared,
            "wants": [to_json(want) for want in self.planned.wants],
            "features": features,
            "upstream": upstream,
            **({"descriptions": written} if written else {}),
        }

    def result(self) -> Extraction:
        """The result of this group, which is done. Raises `UserError` where it is not."""
        return Extraction.of_receipt(self.resolved())

    def above(self) -> Extraction:
        """What this group reads of others. Raises `UserError` where one of them is not extracted yet."""
        return wants.merged(group.result() for group in self.upstream())

    def job(self) -> ExtractionJob:
        """Raises `UserError` while a group that this one reads is not extracted."""
        dataset = self.clone(PrepareDataset).resolved()
        prepared = self.folder(dataset["folder"])
        return ExtractionJob(
            profile=self.profile,
            dataset=prepared,
            images={side: self.source / dataset[f"{side}_images"] for side in ("mention", "entity")},
            wants=self.planned.wants,
            work=self.paths.root,
            columns=prepared / f"columns-{self.digest()[:12]}",
            demo=self.demo_encoders(),
            upstream=self.above().inputs(
                (want for group in self.upstream() for want in group.planned.wants), self.paths
            ),
            beside=tuple(name for name in self.beside.split(",") if name),
            runtime=Runtime(
                device=self.device,
                precision=self.precision,
                batch_size=self.extract_batch,
                shard_rows=self.shard_rows,
            ),
        )

    def extracted(self) -> ExtractionResult:
        """This group's rows: from a wider group that has done the same, else extracted now, in a process of its own."""
        wider = self._wider()
        if wider is None:
            return self.run_child("pipeline.extraction.stage:extract", self.job(), ExtractionResult)
        extraction = wants.part_of(Extraction.of_receipt(wider["result"]), self.planned.wants)
        stores = {feature.store for feature in extraction.features.values()}
        files = (entry["path"] for entry in wider["files"])
        return ExtractionResult(
            extraction=extraction,
            files=tuple(path for path in files if Path(path).parent.name in stores),
            account=Account(rows=dict.fromkeys(extraction.features, 0)),
        )

    def _wider(self) -> dict[str, Any] | None:
        """The standing receipt of another group that holds all that this one wants: of the same dataset, by the same
        models, from the same rows."""
        request, above, family = self.request(), self.above(), self.get_task_family()

        def standing(path: Path) -> dict[str, Any] | None:
            return receipts.standing(self.paths.root, path)

        for path in sorted(self.paths.receipts.glob(f"{family}-*.json")):
            receipt = standing(path)
            if request is None or receipt is None or not wants.within(request, receipt["request"]):
                continue
            read = [standing(self.paths.receipt(family, digest)) for digest in receipt["request"]["upstream"]]
            results = [Extraction.of_receipt(one["result"]) for one in read if one]
            if len(results) == len(read) and wants.same_rows(above, wants.merged(results)):
                return receipt
        return None

    def make(self) -> dict[str, Any]:
        result = self.extracted()
        extraction = dataclasses.replace(
            result.extraction,
            profile=self.profile if self.profile in profile.names() else str(Path(self.profile).absolute()),
            demo=self.paths.relative(self.demo_encoders()) if len(self.needs_of_profile()) > 1 else None,
        )
        return {
            "result": extraction.to_receipt(),
            "files": [self.folder(path) for path in (*extraction.columns.values(), *result.files)],
            "run": result.account.to_receipt(),
        }

    def summary(self, receipt: dict[str, Any]) -> str:
        return wants.describe(Extraction.of_receipt(receipt["result"]), terminal_width())


class ExtractFeatures(OnProfile):
    """Runs the pretrained models once over everything that is not in the cache yet; leaves shards under
    artifacts/cache/.

    Without --features: all that DRIN, MIMIC, DWE+ and DSMIP read of this profile, and every feature that is not marked
    `by_default: false`.
    """

    features = luigi.Parameter(
        default="", description="comma-separated features (what they are made from comes along); empty: everything"
    )
    wants = luigi.Parameter(
        default="", description="JSON list of {side, feature, view} instead of --features; heads use it"
    )

    def groups(self) -> list[ExtractGroup]:
        try:
            jobs.check_heads(self.profile_content)
            wanted = wants.listed(self.profile_content, self.features, self.wants, jobs.usual_wants)
            plans = wants.plans(self.profile_content, wanted)
            beside = ",".join(wants.features_of(want for plan in plans for want in plan.wants))
            return [self.clone(ExtractGroup, plan=json.dumps(to_json(plan)), beside=beside) for plan in plans]
        except UserError as error:
            stop(error)
            raise

    def needs(self) -> list[Task]:
        return [*self.groups()]

    def request(self) -> dict[str, Any] | None:
        digests = [group.digest() for group in self.groups()]
        return {"groups": digests} if all(digests) else None

    def result(self) -> Extraction:
        """The result of all groups, which are done. Raises `UserError` where they are not."""
        return Extraction.of_receipt(self.resolved())

    def make(self) -> dict[str, Any]:
        return {"result": wants.merged(group.result() for group in self.groups()).to_receipt(), "files": []}

    def summary(self, receipt: dict[str, Any]) -> str:
        return (
            wants.describe(Extraction.of_receipt(receipt["result"]), terminal_width()) + f"\ncache: {self.paths.cache}"
        )


def wants_json(wants: Iterable[Want]) -> str:
    """`--wants` of ExtractFeatures."""
    return json.dumps([to_json(want) for want in wants])

"""Tasks that extract features, and the parameters that everything that runs models shares."""

import json
from collections.abc import Iterable
from typing import Any, TypeVar

import luigi

from cache.inputs import Want
from experiments import jobs
from foundation import child, extras, logs
from foundation import device as devices
from foundation.contracts import from_json, to_json
from foundation.errors import UserError
from foundation.files import parse_json
from foundation.tables import terminal_width
from mel_cache import parts, steps
from mel_cache.commands.dataset import DemoEncoders, OnDataset, PrepareDataset
from mel_cache.commands.parameters import DEVICE, PRECISION, Whole
from mel_cache.commands.task import ON_DEVICE, Task, Tool, finished, setting
from mel_cache.steps import Done, Step
from pipeline.extraction import wants
from pipeline.extraction.contracts import Extraction, ExtractionJob, Plan, Runtime
from pipeline.profiles import profile

T = TypeVar("T")


class OnProfile(OnDataset):
    """Parameters of everything that runs models."""

    profile = PrepareDataset.profile
    device = DEVICE
    devices = setting(
        "devices", "", "extract in several processes: cuda:0,cuda:1, or cpu:2 for two on the CPU", significant=False
    )
    ray = setting(
        "ray",
        "",
        "extract, train and search on a Ray cluster: its address, or auto for the one of this machine",
        significant=False,
    )
    precision = PRECISION
    extract_batch = setting(
        "extract_batch", 0, "rows per extraction batch; 0: chosen by device", Whole, least=0, significant=False
    )
    decoders = setting(
        "decoders",
        0,
        "processes that decode pictures, for each device; 0: threads of one process",
        Whole,
        least=0,
        most=256,
        significant=False,
    )
    shard_rows = setting("shard_rows", 4096, "most rows in one shard", Whole, least=1, significant=False)
    accept = setting(
        "accept",
        "",
        "comma-separated features whose rows are kept though they are all equal or zero, hardly vary or are not finite",
        significant=False,
    )
    on_device = False  # whether the task puts models on the device

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        devices.check(self.device, self.precision)
        self.several = devices.several(self.devices)
        if self.ray and self.several:
            raise UserError("--devices and --ray: choose one; on a Ray cluster every device is used")
        if self.ray:
            extras.require("ray")
        self.profile_content = profile.load(self.profile)
        self.accepted = tuple(name for name in map(str.strip, self.accept.split(",")) if name)

    @property
    def resources(self) -> dict[str, int]:  # type: ignore[override]  # Luigi only reads it
        """Tasks that put models on the device run one at a time, unless the profile says that its models are small."""
        return ON_DEVICE if self.on_device and not self.profile_content.threads else {}

    def run_child(self, target: str, job: Any, result: type[T]) -> T:
        """`child.run` with the profile's number of threads."""
        return child.run(target, job, result, self.profile_content.threads)

    def setup(self) -> steps.Setup:
        """Where and with which models this command works."""
        runtime = Runtime(
            device=self.device,
            devices=self.several,
            ray=self.ray,
            precision=self.precision,
            batch_size=self.extract_batch,
            decoders=self.decoders,
            shard_rows=self.shard_rows,
            accept=self.accepted,
        )
        demo = self.clone(DemoEncoders).place
        return steps.Setup(self.paths, self.profile, self.profile_content, demo, runtime)

    def needs_of_profile(self) -> list[Task]:
        """The dataset and, where the profile's models come from the demo, its encoders."""
        return [self.clone(PrepareDataset), *([self.clone(DemoEncoders)] if self.setup().uses_demo else [])]

    def prepared(self) -> steps.Prepared:
        """The prepared dataset. Raises `UserError` while it is not done."""
        return self.clone(PrepareDataset).prepared()


class ExtractGroup(OnProfile):
    """Extracts one group of features that are read together, all texts or all pictures; part of ExtractFeatures."""

    plan = luigi.Parameter(
        description="JSON {wants: list of {side, feature, view}, after: plans of the groups that they are made from}"
    )
    beside = luigi.Parameter(
        default="", significant=False, description="comma-separated features whose models must be there too"
    )
    on_device = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        try:
            self.planned = from_json(Plan, parse_json(self.plan), "--plan")
        except json.JSONDecodeError as error:
            raise UserError(f"--plan: {error}") from None

    def upstream(self) -> list["ExtractGroup"]:
        """The groups whose rows this one reads."""
        return [self.clone(ExtractGroup, plan=json.dumps(to_json(plan))) for plan in self.planned.after]

    def needs(self) -> list[Task]:
        return [*self.needs_of_profile(), *self.upstream()]

    def brief(self) -> str:
        return " " + ", ".join(wants.features_of(self.planned.wants))

    def group(self) -> steps.Group:
        """What this task extracts. Raises `UserError` while a group that it reads is not extracted."""
        above = [group.finished() for group in self.upstream()]
        return steps.Group(self.planned, above, tuple(name for name in self.beside.split(",") if name))

    def step(self) -> Step:
        return steps.extract_group(self.setup(), self.prepared(), self.group())

    def finished(self) -> Done[Extraction]:
        """This group, which is done."""
        return finished(self, Extraction.of_receipt)

    def job(self) -> ExtractionJob:
        """The job that extracts it. Raises `UserError` while a group that this one reads is not extracted."""
        return steps.extraction_job(self.setup(), self.prepared(), self.group())

    def summary(self, receipt: dict[str, Any]) -> str:
        return wants.describe(Extraction.of_receipt(receipt["result"]), terminal_width())


class ExtractFeatures(OnProfile):
    """Runs the pretrained models over everything that is not in the cache yet; leaves shards under artifacts/cache/.

    Without --features: all that DRIN, MIMIC, DWE+ and DSMIP read of this profile, and every feature that is not
    marked `by_default: false`.
    """

    features = luigi.Parameter(
        default="", description="comma-separated features (what they are made from comes along); empty: everything"
    )
    wants = luigi.Parameter(
        default="", description="JSON list of {side, feature, view} instead of --features; heads use it"
    )

    def groups(self) -> list[ExtractGroup]:
        jobs.check_heads(self.profile_content)
        wanted = wants.listed(self.profile_content, self.features, self.wants, jobs.usual_wants)
        plans = wants.plans(self.profile_content, wanted)
        beside = ",".join(wants.features_of(want for plan in plans for want in plan.wants))
        return [self.clone(ExtractGroup, plan=json.dumps(to_json(plan)), beside=beside) for plan in plans]

    def needs(self) -> list[Task]:
        return [*self.groups()]

    def step(self) -> Step:
        return steps.extract_features(self.paths, [group.finished() for group in self.groups()])

    def receipt(self) -> dict[str, Any] | None:
        """The standing receipt; not one of before receipts listed key columns where such a column is gone."""
        receipt = super().receipt()
        columns = receipt["result"]["columns"].values() if receipt else ()
        return receipt if all(self.folder(path).is_file() for path in columns) else None

    def finished(self) -> Done[Extraction]:
        """All groups as one, which are done."""
        return finished(self, Extraction.of_receipt)

    def summary(self, receipt: dict[str, Any]) -> str:
        return (
            wants.describe(Extraction.of_receipt(receipt["result"]), terminal_width()) + f"\ncache: {self.paths.cache}"
        )


class ExtractPart(Tool, OnProfile):
    """Computes one of n parts of what ExtractFeatures extracts, for batch systems: --part 1/4 … 4/4.

    Parts with a work folder of their own are put together by MergeCache. ExtractFeatures does what is left, and leaves
    the receipts.
    """

    part = luigi.Parameter(description="i/n: every n-th chunk, from the i-th on")
    features = ExtractFeatures.features
    wants = ExtractFeatures.wants
    on_device = True

    def check(self) -> None:
        parts.Part.parse(self.part)

    def requires(self) -> list[Task]:
        return [] if self.dry_run else self.needs_of_profile()

    def brief(self) -> str:
        return f" {self.part}"

    def act(self) -> None:
        part = parts.Part.parse(self.part)
        plans = [group.planned for group in self.clone(ExtractFeatures).groups()]
        done = parts.extract_part(self.setup(), self.prepared(), plans, part, self.run_child)
        logs.say(parts.describe(done, part))


def wants_json(wants: Iterable[Want]) -> str:
    """`--wants` of ExtractFeatures."""
    return json.dumps([to_json(want) for want in wants])

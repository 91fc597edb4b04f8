"""The command that checks whether this machine has what a profile needs."""

import platform
from collections.abc import Iterator
from dataclasses import dataclass

from foundation import child, extras, layers, logs
from foundation.errors import UserError
from foundation.files import free_bytes
from foundation.machine import check_folder
from foundation.tables import as_text, terminal_width, text_table
from mel_cache.commands.features import ExtractFeatures, OnProfile
from mel_cache.commands.task import Tool
from pipeline.extraction.checkup import Checkup, CheckupJob
from pipeline.extraction.contracts import Estimate, EstimateJob

OPENCV = ("opencv-python", "opencv-contrib-python-headless")
"""Distributions that write the same files: ultralytics wants the first, deepface the second."""


@dataclass(frozen=True)
class Finding:
    """kind and name: of what was looked at. problem: whether a command of the profile would fail over it."""

    kind: str
    name: str
    text: str
    problem: bool = False


class Doctor(Tool, OnProfile):
    """Shows what is installed and what is missing: packages, the profile's models, devices, disk, the work folder.

    Exits with 0 where everything that the profile needs is here, else as a task that failed. An extra that no model of
    the profile needs is named and is no problem. Nothing is fetched.
    """

    def act(self) -> None:
        job = CheckupJob(profile=self.profile, demo=self.setup().demo)
        checkup = child.run("pipeline.extraction.checkup:examine", job, Checkup)
        findings = [*_packages(checkup), *_models(checkup), *self._devices(checkup), *self._disk()]
        rows = [(found.kind, found.name, f"{'PROBLEM: ' * found.problem}{found.text}") for found in findings]
        title = f"{extras.DISTRIBUTION} {extras.version()}, Python {platform.python_version()}, profile {self.profile}"
        table = text_table(["what", "which", "finding"], rows, title, words=["which", "finding"])
        logs.say(as_text(table, width=terminal_width()))
        if problems := sum(finding.problem for finding in findings):
            raise UserError(f"{problems} problem(s), named above; mend them, then run Doctor again")

    def _devices(self, checkup: Checkup) -> Iterator[Finding]:
        for device in checkup.devices:
            memory = f", {device.total / 1e9:,.1f} GB of memory" if device.total else ""
            free = f", {device.free / 1e9:,.1f} GB free" if device.free is not None else ""
            yield Finding("device", device.name, f"{device.description}{memory}{free}")
        names = [device.name for device in checkup.devices]
        if self.device != "auto" and not {self.device, f"{self.device}:0"} & set(names):
            yield Finding("device", self.device, "not on this machine, or not seen by torch", problem=True)

    def _disk(self) -> Iterator[Finding]:
        root = self.paths.root
        try:
            check_folder(root)
            yield Finding("disk", "work folder", f"{root} can be written and mapped")
        except UserError as error:
            yield Finding("disk", "work folder", str(error), problem=True)
        for layer in layers.read(self.paths.cache):
            there = layer.is_dir()
            text = f"{layer}: a layer of the cache, which is only read"
            lacks = f"{layer} is not there; mount it, or add {layers.without(self.paths.cache, layer)}"
            yield Finding("disk", "layer", text if there else lacks, problem=not there)
        free, problem = free_bytes(root), False
        try:
            estimate = self._estimate()
            coming = "what ExtractFeatures will write is known after PrepareDataset"
            if estimate is not None:
                coming = f"ExtractFeatures will write at least {estimate.bytes / 1e6:,.1f} MB"
                problem = estimate.bytes > free
        except UserError as error:
            coming = f"what ExtractFeatures will write is not known: {error}"
        yield Finding("disk", "space", f"{free / 1e9:,.1f} GB free; {coming}", problem)

    def _estimate(self) -> Estimate | None:
        """What ExtractFeatures would write, as far as it is known; None before its dataset and models are there."""
        if not all(task.done() for task in self.needs_of_profile()):
            return None
        groups = [group for group in self.clone(ExtractFeatures).groups() if all(up.done() for up in group.upstream())]
        job = EstimateJob(extractions=tuple(group.job() for group in groups))
        return child.run("pipeline.extraction.maintenance:estimate", job, Estimate)


def _packages(checkup: Checkup) -> Iterator[Finding]:
    needed = {name for model in checkup.models for name in model.extras}
    for name, extra in extras.EXTRAS.items():
        lacking = extras.lacking(name)
        install = f"lacks {', '.join(lacking)}: pip install '{extras.DISTRIBUTION}[{name}]' (for {extra.purpose})"
        yield Finding("extra", name, install if lacking else "installed", problem=bool(lacking) and name in needed)
    if all(extras.installed(name) for name in OPENCV):
        unite = f"pip uninstall -y {' '.join(OPENCV)}; pip install --no-deps {OPENCV[1]}"
        yield Finding("extra", "OpenCV", f"{' and '.join(OPENCV)} overwrite each other's files: {unite}")


def _models(checkup: Checkup) -> Iterator[Finding]:
    for model in checkup.models:
        more = f" and {len(model.features) - 1} more" if len(model.features) > 1 else ""
        text = model.problem or f"{model.reference}: {model.place or 'not there yet, DemoEncoders makes it'}"
        yield Finding("model", f"{model.features[0]}{more}", text, problem=bool(model.problem))

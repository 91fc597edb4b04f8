"""What a profile needs before it can extract: the models it names, and the packages that run them.

Nothing is fetched.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from foundation import machine
from foundation.contracts import contract
from foundation.errors import UserError
from pipeline import extractors
from pipeline.imported.contracts import IMPORTED
from pipeline.models.files import ModelFiles
from pipeline.profiles import profile as profiles

_EXTRA = {
    "deepface": "faces",
    "facenet_pytorch": "faces",
    "mtcnn": "faces",
    "onnx": "faces",
    "ultralytics": "yolo",
    "yolo": "yolo",
}
"""The extra that runs a library's models, where it is not `extract`."""


@contract
class CheckupJob:
    """profile: name or path. demo: the folder of the demo's encoders, which need not be there yet."""

    profile: str
    demo: Path


@contract
class Model:
    """A model of the profile. features: that read it. place: where it lies, None where it is not there; then `problem`
    says why, unless the demo's encoders are still to be made. extras: whose packages run it."""

    reference: str
    features: tuple[str, ...]
    place: Path | None
    problem: str
    extras: tuple[str, ...]


@contract
class Checkup:
    devices: tuple[machine.Device, ...]
    models: tuple[Model, ...]


def examine(job: CheckupJob) -> Checkup:
    """The devices of this machine, and the models of a profile. Raises `UserError` for a profile that is refused."""
    profile = profiles.load(job.profile)
    features: dict[tuple[str, Path | None, str, tuple[str, ...]], list[str]] = {}
    for feature in profile.features.values():
        where = f"profile {profile.name!r}"
        kind, options = extractors.extractor_kind(feature, where), extractors.check_options(feature, where)
        if kind.reads == IMPORTED:
            continue
        place, problem, needed = None, "", {"extract"}
        try:
            files = list(_model_files(kind.find(options, profile.source, job.demo, False)))
            place = files[0].folder if files else None
            needed = {_EXTRA.get(file.library, "extract") for file in files}
        except UserError as error:
            demo = all(reference.startswith("demo:") for reference in kind.references(options))
            problem = "" if demo and not job.demo.exists() else str(error)
        if references := ", ".join(kind.references(options)):
            key = references, place, problem, tuple(sorted(needed))
            features.setdefault(key, []).append(feature.name)
    models = tuple(
        Model(reference=reference, features=tuple(names), place=place, problem=problem, extras=needed)
        for (reference, place, problem, needed), names in features.items()
    )
    return Checkup(devices=machine.devices(), models=models)


def _model_files(found: Any) -> Iterator[ModelFiles]:
    """The files in what an extractor's `find` returned."""
    if isinstance(found, ModelFiles):
        yield found
    elif isinstance(found, Mapping):
        yield from found.values()
    elif isinstance(found, tuple):
        yield found[0]

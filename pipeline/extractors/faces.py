"""`faces`: the faces in a picture, in the picture's own pixels."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cache.identity import Output
from foundation.errors import UserError, nearest
from pipeline.extraction import base
from pipeline.extraction.detections import Detecting
from pipeline.models.detectors import mtcnn, yolo
from pipeline.models.references import ModelFiles

_BACKENDS = ("mtcnn", "yolo")


@dataclass(frozen=True)
class Options(base.Options):
    """backend: `mtcnn`, or `yolo`: one class of any YOLO. k: the most faces kept. min_confidence: the least (None: the detector's own).

    mtcnn: min_size, pixels of the smallest face looked for; thresholds of its three nets; max_side: larger pictures are scaled down to it first
    (None: never; faces below min_size after that are lost). yolo: face_class, the class's name; iou and image_size as in `objects`.
    """

    model: str = mtcnn.OWN
    backend: str = "mtcnn"
    k: int = 16
    min_confidence: float | None = None
    min_size: int = 20
    thresholds: tuple[float, ...] = (0.6, 0.7, 0.7)
    max_side: int | None = None
    face_class: str = "face"
    iou: float | None = None
    image_size: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.backend not in _BACKENDS:
            raise ValueError(f"backend is {self.backend!r}, expected one of {', '.join(_BACKENDS)}")
        bounds = {"k": (1, 1000), "min_size": (12, 4096), "max_side": (32, 1 << 16), "image_size": (32, 4096)}
        for name, (low, high) in bounds.items():
            value = getattr(self, name)
            if value is None and name in ("max_side", "image_size"):
                continue
            if type(value) is not int or not low <= value <= high:
                raise ValueError(f"{name} is {value!r}, expected a whole number from {low} to {high}")
        if not isinstance(self.thresholds, tuple) or len(self.thresholds) != 3:
            raise ValueError(f"thresholds are {self.thresholds!r}, expected three numbers from 0 to 1")
        shares = [("thresholds", value) for value in self.thresholds]
        shares += [(name, getattr(self, name)) for name in ("min_confidence", "iou") if getattr(self, name) is not None]
        for name, value in shares:
            if type(value) not in (int, float) or not 0 <= value <= 1:
                raise ValueError(f"{name} has {value!r}, expected a number from 0 to 1")


class Faces(Detecting):
    """boxes (n, 4): x1 y1 x2 y2 in pixels of the picture, clipped to it · landmarks (n, 5, 2), mtcnn alone: x y of left and right eye (as seen),
    nose, left and right corner of the mouth · confidences (n,). The best come first; no face at all is a row of length 0."""

    VERSION = 1
    Options = Options

    def __init__(self, options: Options, files: ModelFiles) -> None:
        super().__init__(options, files)
        if options.backend == "mtcnn":
            self.detector = mtcnn.Detector(
                files,
                options.k,
                float(options.min_confidence or 0),
                options.min_size,
                options.thresholds,
                options.max_side,
            )
        else:
            least = 0.25 if options.min_confidence is None else float(options.min_confidence)
            self.detector = yolo.Detector(files, options.k, least, options.iou, options.image_size)

    @classmethod
    def find(cls, options: Options, base: Path, demo: Path | None, fetch: bool) -> ModelFiles:
        return (
            mtcnn.find(options.model, base, demo)
            if options.backend == "mtcnn"
            else yolo.find(options.model, base, demo, fetch)
        )

    def possible(self) -> dict[str, Output]:
        outputs = [Output("boxes", (4,), "float32", ragged=True), Output("confidences", (), "float32", ragged=True)]
        if self.options.backend == "mtcnn":
            outputs.insert(1, Output("landmarks", (5, 2), "float32", ragged=True))
        return {output.name: output for output in outputs}

    def preprocessing(self) -> dict[str, Any]:
        of_class = {"face_class": self.options.face_class} if self.options.backend == "yolo" else {}
        return {"backend": self.options.backend, "k": self.options.k, **of_class, **self.detector.preprocessing()}

    def load(self, device: str) -> None:
        if self.options.backend == "yolo":
            names, wanted = self.detector.names(), self.options.face_class
            if wanted not in names:
                raise UserError(
                    f"model {self.options.model!r} has no class {wanted!r} to take for faces{nearest(wanted, names)}; set `face_class:`"
                )
            self.only = names.index(wanted)
        super().load(device)

    def __call__(self, batch: Sequence[Any]) -> dict[str, list[np.ndarray]]:
        if self.options.backend == "mtcnn":
            boxes, confidences, landmarks = zip(*self.detector(batch), strict=True)
            rows = {"boxes": boxes, "landmarks": landmarks, "confidences": confidences}
        else:
            boxes, confidences, _ = zip(*self.detector(batch, self.only), strict=True)
            rows = {"boxes": boxes, "confidences": confidences}
        return {name: list(rows[name]) for name in self.writes}


extractor = Faces

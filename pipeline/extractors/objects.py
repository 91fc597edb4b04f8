"""`objects`: what a detector finds in a picture, in the picture's own pixels."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cache.identity import Output
from pipeline.extraction import base
from pipeline.extraction.detections import Detecting
from pipeline.models.detectors import torchvision, yolo
from pipeline.models.references import ModelFiles


@dataclass(frozen=True)
class Options(base.Options):
    """k: the most boxes kept. min_confidence: the least. iou: overlap from which the weaker of two boxes of a class goes (None: the library's own).
    image_size: pixels the model sees, of YOLO's longer side or torchvision's shorter one (None: what the model was trained with)."""

    k: int = 3
    min_confidence: float = 0.25
    iou: float | None = None
    image_size: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        whole = {"k": (self.k, 1, 1000), "image_size": (32 if self.image_size is None else self.image_size, 32, 4096)}
        for name, (value, low, high) in whole.items():
            if type(value) is not int or not low <= value <= high:
                raise ValueError(f"{name} is {value!r}, expected a whole number from {low} to {high}")
        for name, value in {
            "min_confidence": self.min_confidence,
            "iou": 0.5 if self.iou is None else self.iou,
        }.items():
            if type(value) not in (int, float) or not 0 <= value <= 1:
                raise ValueError(f"{name} is {value!r}, expected a number from 0 to 1")


class Objects(Detecting):
    """boxes (n, 4): x1 y1 x2 y2 in pixels of the picture, clipped to it · confidences (n,) · labels (n,): numbers of the class names in the store's
    spec. The best come first; none at all is a row of length 0."""

    VERSION = 1
    Options = Options

    def __init__(self, options: Options, files: ModelFiles) -> None:
        super().__init__(options, files)
        kind = torchvision.Detector if files.library == "torchvision" else yolo.Detector
        self.detector = kind(files, options.k, float(options.min_confidence), options.iou, options.image_size)

    @classmethod
    def find(cls, options: Options, base: Path, demo: Path | None, fetch: bool) -> ModelFiles:
        return yolo.find(options.model, base, demo, fetch)

    def possible(self) -> dict[str, Output]:
        outputs = [
            Output("boxes", (4,), "float32", ragged=True),
            Output("confidences", (), "float32", ragged=True),
            Output("labels", (), "int32", ragged=True),
        ]
        return {output.name: output for output in outputs}

    def labels(self) -> dict[str, list[str]]:
        """Output → the class names behind its numbers."""
        return {"labels": self.detector.names()} if "labels" in self.writes else {}

    def preprocessing(self) -> dict[str, Any]:
        return {"k": self.options.k, **self.detector.preprocessing()}

    def __call__(self, batch: Sequence[Any]) -> dict[str, list[np.ndarray]]:
        boxes, confidences, labels = zip(*self.detector(batch), strict=True)
        rows = {"boxes": boxes, "confidences": confidences, "labels": labels}
        return {name: list(rows[name]) for name in self.writes}


extractor = Objects

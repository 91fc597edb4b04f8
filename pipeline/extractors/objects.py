"""`objects`: what a detector finds in a picture, in the picture's own pixels."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from cache.identity import Output
from foundation.contracts import contract
from pipeline.extraction import base
from pipeline.extraction.detection import DetectorExtractor
from pipeline.models.detectors import torchvision, yolo
from pipeline.models.files import ModelFiles


@contract
class Options(base.Options):
    """k: the most boxes kept. min_confidence: the least. iou: overlap from which the weaker of two boxes of a class
    goes (None: the library's own). image_size: pixels the model sees, of YOLO's longer side or torchvision's shorter
    one (None: what the model was trained with)."""

    k: Annotated[int, Field(ge=1, le=1000)] = 3
    min_confidence: base.Share = 0.25
    iou: base.Share | None = None
    image_size: Annotated[int, Field(ge=32, le=4096)] | None = None


class Objects(DetectorExtractor):
    """boxes (n, 4): x1 y1 x2 y2 in pixels of the picture, clipped to it · confidences (n,) · labels (n,): numbers of
    the class names in the store's spec. The best come first; none at all is a row of length 0."""

    VERSION = 1
    options: Options

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

    def preprocessing(self) -> Mapping[str, Any]:
        return {"k": self.options.k, **self.detector.preprocessing()}

    def __call__(self, batch: Sequence[Any]) -> base.Outputs:
        boxes, confidences, labels = zip(*self.detector(batch), strict=True)
        rows = {"boxes": boxes, "confidences": confidences, "labels": labels}
        return {name: list(rows[name]) for name in self.writes}


extractor = Objects

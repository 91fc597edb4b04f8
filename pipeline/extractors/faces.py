"""`faces`: the faces in a picture, in the picture's own pixels."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from cache.identity import Output
from foundation.contracts import contract
from foundation.errors import UserError, nearest
from pipeline.extraction import base
from pipeline.extraction.detection import DetectorExtractor
from pipeline.models.detectors import mtcnn, yolo
from pipeline.models.files import ModelFiles


@contract
class Options(base.Options):
    """backend: `mtcnn`, or `yolo`: one class of any YOLO. k: the most faces kept. min_confidence: the least (None: the
    detector's own).

    mtcnn: min_size, pixels of the smallest face looked for; thresholds of its three nets; max_side: larger pictures are
    scaled down to it first (None: never; faces below min_size after that are lost). yolo: face_class, the class's name;
    iou and image_size as in `objects`.
    """

    model: str = mtcnn.OWN
    backend: Literal["mtcnn", "yolo"] = "mtcnn"
    k: Annotated[int, Field(ge=1, le=1000)] = 16
    min_confidence: base.Share | None = None
    min_size: Annotated[int, Field(ge=12, le=4096)] = 20
    thresholds: tuple[base.Share, base.Share, base.Share] = (0.6, 0.7, 0.7)
    max_side: Annotated[int, Field(ge=32, le=1 << 16)] | None = None
    face_class: str = "face"
    iou: base.Share | None = None
    image_size: Annotated[int, Field(ge=32, le=4096)] | None = None


class Faces(DetectorExtractor):
    """boxes (n, 4): x1 y1 x2 y2 in pixels of the picture, clipped to it · landmarks (n, 5, 2), mtcnn alone: x y of left
    and right eye (as seen), nose, left and right corner of the mouth · confidences (n,). The best come first; no face
    at all is a row of length 0."""

    VERSION = 1
    options: Options

    def __init__(self, options: Options, files: ModelFiles) -> None:
        super().__init__(options, files)
        if options.backend == "mtcnn":
            settings = mtcnn.Settings(
                k=options.k,
                min_confidence=float(options.min_confidence or 0),
                min_size=options.min_size,
                thresholds=options.thresholds,
                max_side=options.max_side,
            )
            self.detector = mtcnn.Detector(files, settings)
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

    def preprocessing(self) -> Mapping[str, Any]:
        of_class = {"face_class": self.options.face_class} if self.options.backend == "yolo" else {}
        return {"backend": self.options.backend, "k": self.options.k, **of_class, **self.detector.preprocessing()}

    def load(self, device: str) -> None:
        if self.options.backend == "yolo":
            names, wanted = self.detector.names(), self.options.face_class
            if wanted not in names:
                raise UserError(
                    f"model {self.options.model!r} has no class {wanted!r} to take for "
                    f"faces{nearest(wanted, names)}; set `face_class:`"
                )
            self.only = names.index(wanted)
        super().load(device)

    def __call__(self, batch: Sequence[Any]) -> base.Outputs:
        if self.options.backend == "mtcnn":
            boxes, confidences, landmarks = zip(*self.detector(batch), strict=True)
            rows = {"boxes": boxes, "landmarks": landmarks, "confidences": confidences}
        else:
            boxes, confidences, _ = zip(*self.detector(batch, self.only), strict=True)
            rows = {"boxes": boxes, "confidences": confidences}
        return {name: list(rows[name]) for name in self.writes}


extractor = Faces

"""`face_embedding`: a vector of unit length per found face, from facenet-pytorch's InceptionResnetV1 or any ONNX
recogniser."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from cache.identity import Output
from foundation.contracts import contract
from foundation.errors import UserError
from pipeline.extraction import base
from pipeline.models.files import ModelFiles
from pipeline.models.recognisers import inception, onnx
from pipeline.models.recognisers.align import TEMPLATE, Alignment, Margin

_Positive = Annotated[float, Field(gt=0)]


@contract
class Options(base.DerivedOptions):
    """How an ONNX recogniser wants its faces; InceptionResnetV1 (`model` ends otherwise than in .onnx) needs none of
    it.

    size: pixels of a side, 0 as the file says. colour: `rgb` or `bgr`. A pixel x from 0 to 255 becomes `(x / scale −
    mean) / std`, mean and std in the order of `colour`. alignment: `landmarks` (five landmarks on the usual places of a
    112 × 112 face, scaled to the size) or `box`; empty: `landmarks` for ONNX, `box` for InceptionResnetV1. margin:
    share of its size by which a box is widened on each side (alignment `box` alone).
    """

    size: Annotated[int, Field(ge=0, le=1024)] = 0
    colour: Literal["rgb", "bgr"] = "rgb"
    scale: _Positive = 255.0
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[_Positive, _Positive, _Positive] = (0.5, 0.5, 0.5)
    alignment: Literal["", "landmarks", "box"] = ""
    margin: base.Margin = 0.0

    def __post_init__(self) -> None:
        if not self.model:
            raise ValueError("`model` is missing; name the weight file of InceptionResnetV1 or an .onnx file")


class FaceEmbedding(base.CropExtractor):
    """vectors (d): of unit length."""

    VERSION = 1
    options: Options

    def __init__(self, options: Options, files: ModelFiles) -> None:
        super().__init__(options, files)
        self.onnx = onnx.Recogniser(files) if files.library == "onnx" else None
        self.network = None if self.onnx else inception.Network(files, classify=False)
        self.alignment = options.alignment or ("landmarks" if self.onnx else "box")
        self.cutting = Alignment() if self.alignment == "landmarks" else Margin(options.margin)

    @classmethod
    def find(cls, options: Options, base: Path, demo: Path | None, fetch: bool) -> ModelFiles:
        if options.model.endswith(".onnx"):
            return onnx.find(options.model, base, demo)
        return inception.find(options.model, base, demo)

    @property
    def size(self) -> int:
        """Pixels of a side. Raises `UserError` where profile and file disagree, or neither says."""
        if not self.onnx:
            return self.options.size or inception.SIZE
        own = self.onnx.size
        if own is None and not self.options.size:
            raise UserError(
                f"model {self.options.model!r}: the file leaves its input's size open; set `size:` in the profile"
            )
        if own is not None and self.options.size not in (0, own):
            raise UserError(
                f"model {self.options.model!r} takes pictures of {own} × {own}, `size: {self.options.size}` in the "
                "profile; mend or drop it"
            )
        return own or self.options.size

    def possible(self) -> dict[str, Output]:
        return {"vectors": Output("vectors", (self.onnx.width if self.onnx else inception.WIDTH,), ragged=True)}

    def preprocessing(self) -> Mapping[str, Any]:
        options = self.options
        values: dict[str, Any] = {"size": self.size, "alignment": self.alignment}
        values |= (
            {"template": TEMPLATE.tolist()} if self.alignment == "landmarks" else {"margin": float(options.margin)}
        )
        if self.onnx:
            values |= {"colour": options.colour, "scale": float(options.scale)}
            values |= {"mean": [float(value) for value in options.mean], "std": [float(value) for value in options.std]}
        return values

    def cut(self, image: Any, parent: Mapping[str, np.ndarray]) -> list[tuple[int, Any]]:
        if isinstance(self.cutting, Margin):
            return super().cut(image, self.cutting.widened(parent))
        if "landmarks" not in parent:
            raise UserError(
                f"{self.options.of} has no landmarks to align faces by; set `alignment: box`, or detect faces with "
                "mtcnn"
            )
        faces = [
            (number, self.cutting.face(image, points, self.size)) for number, points in enumerate(parent["landmarks"])
        ]
        return [(number, np.asarray(face)) for number, face in faces if face is not None]

    def prepare(self, image: Any) -> np.ndarray:
        return np.asarray(image.resize((self.size, self.size), 2))  # bilinear

    def load(self, device: str) -> None:
        self.device = device
        model = self.onnx or self.network
        assert model is not None  # one of the two
        model.load(device)

    def _vectors(self, crops: np.ndarray) -> np.ndarray:
        if self.network:
            return base.to_array(self.network(crops))
        assert self.onnx is not None
        pixels = crops[..., ::-1] if self.options.colour == "bgr" else crops
        scaled = (
            pixels.astype(np.float32) / np.float32(self.options.scale) - np.array(self.options.mean, np.float32)
        ) / np.array(self.options.std, np.float32)
        return self.onnx(scaled)

    def __call__(self, batch: np.ndarray) -> base.Outputs:
        def unit(crops: np.ndarray) -> np.ndarray:
            vectors = self._vectors(crops)
            with np.errstate(
                divide="ignore", invalid="ignore"
            ):  # a vector of zeros has no direction: that crop is left out
                return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

        return {"vectors": base.rows_or_none(unit, batch)}


extractor = FaceEmbedding

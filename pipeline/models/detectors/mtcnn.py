"""facenet-pytorch's MTCNN: faces in photographs, with five landmarks each."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from foundation.errors import UserError
from pipeline.models.detectors.boxes import best_boxes
from pipeline.models.files import ModelFiles, load_state_dict, locate

OWN = "package:facenet_pytorch/data"  # the weights come with the library
NETS = ("pnet", "rnet", "onet")


def find(reference: str, base: Path, demo: Path | None) -> ModelFiles:
    """The folder's `pnet.pt`, `rnet.pt` and `onet.pt`.

    Nothing is fetched. Raises `UserError` naming the one that is missing, and its place.
    """
    try:
        folder = locate(reference, base, demo, fetch=False)
    except UserError:
        if reference.startswith("package:"):
            raise
        folder = None
    if folder is None:
        raise UserError(
            f"model {reference!r}: no such folder; set `model:` in the profile to {OWN}, or to a folder with "
            f"{', '.join(NETS)} (.pt)"
        )
    files = tuple(folder / f"{name}.pt" for name in NETS)
    for file in files:
        if not file.is_file():
            raise UserError(
                f"model {reference!r}: {file} is missing; MTCNN needs {', '.join(NETS)} (.pt), which "
                f"facenet-pytorch brings: {OWN}"
            )
    return ModelFiles(reference, folder, "facenet_pytorch", {}, files, ())


@dataclass(frozen=True)
class Settings:
    """k: the most faces kept. min_confidence: the least. min_size: pixels of the smallest face looked for. thresholds:
    of the three nets. max_side: larger pictures are scaled down to it first; None: never."""

    k: int
    min_confidence: float = 0.0
    min_size: int = 20
    thresholds: tuple[float, ...] = (0.6, 0.7, 0.7)
    max_side: int | None = None


class Detector:
    """MTCNN on pictures of any size, one picture at a time: its suppression of overlaps adds offsets to the boxes of a
    batch's pictures, whose rounding would make what is found depend on the batch. On a CPU several pictures run side by
    side instead, a thread each: faster than a batch."""

    VERSION = 1

    def __init__(self, files: ModelFiles, settings: Settings) -> None:
        self.files, self.settings = files, settings
        self.thresholds = [float(value) for value in settings.thresholds]

    def preprocessing(self) -> dict[str, Any]:
        return {
            "min_confidence": self.settings.min_confidence,
            "min_size": self.settings.min_size,
            "thresholds": self.thresholds,
            "max_side": self.settings.max_side,
        }

    def load(self, device: str) -> None:
        from facenet_pytorch import MTCNN

        self.model = MTCNN(
            min_face_size=self.settings.min_size, thresholds=self.thresholds, keep_all=True, select_largest=False
        )
        for name, file in zip(NETS, self.files.weights, strict=True):
            try:
                getattr(self.model, name).load_state_dict(load_state_dict(file, self.files.reference))
            except RuntimeError as error:
                raise UserError(
                    f"model {self.files.reference!r}: {file} is no MTCNN {name}: "
                    f"{str(error).splitlines()[1].strip()[:160]}"
                ) from None
        self.model = self.model.eval().to(device)
        self.model.device = self.device = device

    def prepare(self, image: Image.Image) -> tuple[np.ndarray, tuple[int, int]]:
        """RGB picture → its pixels (H, W, 3) uint8, scaled down to `max_side` where that is set, and its own (width,
        height)."""
        size = image.size
        if self.settings.max_side is not None and max(size) > self.settings.max_side:
            image = image.resize(
                [max(1, round(side * self.settings.max_side / max(size))) for side in size], Image.Resampling.BILINEAR
            )
        return np.array(image), size

    def _one(self, item: tuple[np.ndarray, tuple[int, int]]) -> tuple[np.ndarray, ...]:
        pixels, size = item
        nothing = np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros((0, 5, 2), np.float32)
        if (
            min(pixels.shape[:2]) < self.settings.min_size
        ):  # no face of that size fits, and MTCNN has no scale to look at
            return nothing
        boxes, confidences, landmarks = self.model.detect(pixels, landmarks=True)
        if boxes is None:
            return nothing
        scale = np.array([size[0] / pixels.shape[1], size[1] / pixels.shape[0]], np.float32)
        confidences = np.asarray(confidences, np.float32)
        sure = confidences >= self.settings.min_confidence
        boxes, landmarks = np.asarray(boxes, np.float32) * np.tile(scale, 2), np.asarray(landmarks, np.float32) * scale
        return best_boxes(size, self.settings.k, boxes[sure], confidences[sure], landmarks[sure])

    def inside(self, item: tuple[np.ndarray, tuple[int, int]]) -> np.ndarray:
        """What the first net says of one row of places in the picture, (4 × places,)."""
        import torch

        with torch.autocast(self.device.partition(":")[0], enabled=False):
            pixels = torch.from_numpy(item[0]).to(self.device).permute(2, 0, 1)[None].float()
            return self.model.pnet((pixels - 127.5) / 128)[0][0, :, 0].flatten().cpu().numpy()

    def __call__(self, items: Sequence[tuple[np.ndarray, tuple[int, int]]]) -> list[tuple[np.ndarray, ...]]:
        """Per picture boxes (n, 4), confidences (n,) and landmarks (n, 5, 2), all float32 and in its own pixels, best
        first."""
        import torch

        threads = torch.get_num_threads()
        if self.device != "cpu" or threads == 1 or len(items) == 1:
            with torch.autocast(self.device.partition(":")[0], enabled=False):
                return [self._one(item) for item in items]
        try:
            with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
                return list(pool.map(self._one, items))
        finally:
            torch.set_num_threads(threads)  # what threads to come start with

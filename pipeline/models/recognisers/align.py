"""Cutting faces out of pictures: with a margin around the box, or turned and scaled so that five landmarks fall on the
usual places."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from PIL import Image

# Eyes, nose and corners of the mouth in a face of 112 × 112 pixels, as the recognisers of the ArcFace family are
# trained on.
TEMPLATE = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)
TEMPLATE_SIZE = 112


@dataclass(frozen=True)
class Margin:
    """Widens boxes on each side by `share` × their own width and height."""

    VERSION: ClassVar[int] = 1
    share: float

    def widened(self, parent: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The row of a detector with its `boxes` (L, 4) wider."""
        boxes = np.asarray(parent["boxes"], np.float32).reshape(-1, 4)
        by = self.share * (boxes[:, 2:] - boxes[:, :2])
        return {**parent, "boxes": np.concatenate([boxes[:, :2] - by, boxes[:, 2:] + by], 1)}


def similarity(points: np.ndarray, targets: np.ndarray) -> np.ndarray | None:
    """(2, 3) matrix of the turn, scale and shift that brings `points` (n, 2) nearest to `targets` (least squares); None
    where all points are one."""
    here, there = points.mean(0), targets.mean(0)
    a, b = points - here, targets - there
    spread = float((a**2).sum())
    if not np.isfinite(points).all() or spread < 1e-6:
        return None
    cosine, sine = float((a * b).sum()) / spread, float((a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]).sum()) / spread
    turn = np.array([[cosine, -sine], [sine, cosine]])
    if abs(np.linalg.det(turn)) < 1e-12:
        return None
    return np.concatenate([turn, (there - turn @ here)[:, None]], 1)


class Alignment:
    """Turns and scales faces so that their landmarks fall on the places of `TEMPLATE`."""

    VERSION = 1

    def face(self, image: Image.Image, landmarks: Sequence[Sequence[float]], size: int) -> Image.Image | None:
        """The face of `landmarks` (5, 2) in pixels as a (size, size) picture, bilinear; None where the landmarks give
        no face.

        A face much larger than `size` is first halved until it is not, so that no pixel is skipped. Outside the picture
        is black.
        """
        points = np.asarray(landmarks, np.float64).reshape(-1, 2)
        if points.shape != TEMPLATE.shape:
            return None
        forward = similarity(points, TEMPLATE * (size / TEMPLATE_SIZE))
        if forward is None:
            return None
        turn = np.linalg.inv(forward[:, :2])
        back = np.concatenate([turn, -turn @ forward[:, 2:]], 1)  # pixels of the face → pixels of the picture
        scale = float(np.hypot(*turn[:, 0]))  # pixels of the picture per pixel of the face
        factor = 1
        while scale / factor >= 2:
            factor *= 2
        if factor > 1:
            corners = back[:, :2] @ np.array([[0, size, 0, size], [0, 0, size, size]]) + back[:, 2:]
            left, top = (int(max(0, np.floor(side.min()) - factor)) for side in corners)
            right, bottom = (
                int(min(image.width, np.ceil(corners[0].max()) + factor)),
                int(min(image.height, np.ceil(corners[1].max()) + factor)),
            )
            if right - left < factor or bottom - top < factor:
                return None
            image = image.crop((left, top, right, bottom)).reduce(factor)
            back = np.concatenate([back[:, :2], back[:, 2:] - [[left], [top]]], 1) / factor
        return image.transform((size, size), Image.Transform.AFFINE, tuple(back.ravel()), Image.Resampling.BILINEAR)

"""What detectors share: boxes clipped to the picture and sorted, and pictures of equal shapes grouped."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

VERSION = 1  # raised by hand when the same detections give other rows


def best_boxes(
    size: tuple[int, int], k: int, boxes: np.ndarray, confidences: np.ndarray, *others: np.ndarray
) -> tuple[np.ndarray, ...]:
    """At most k of the boxes, best first, with their confidences and the `others`.

    size: (width, height) of the picture in pixels. boxes: (n, 4) x1 y1 x2 y2 in pixels; they are clipped to the
    picture, and those without area are dropped. confidences: (n,). others: arrays with a row per box.
    """
    width, height = size
    boxes = np.asarray(boxes, np.float32).reshape(-1, 4)
    boxes = np.clip(boxes, 0, np.array([width, height, width, height], np.float32))
    kept = np.flatnonzero((boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1]))
    kept = kept[np.argsort(-np.asarray(confidences)[kept], kind="stable")][:k]
    return tuple(np.asarray(values)[kept] for values in (boxes, confidences, *others))


def equal_shapes(shapes: Sequence[Any], pixels: int) -> Iterator[list[int]]:
    """Positions of equal (height, width, …) shapes, a group at a time.

    A group has at least one picture, and more while the sum of height × width is at most `pixels`.
    """
    groups: dict[Any, list[int]] = {}
    for position, shape in enumerate(shapes):
        groups.setdefault(tuple(shape), []).append(position)
    for (height, width, *_), positions in groups.items():
        size = max(1, pixels // max(height * width, 1))
        for start in range(0, len(positions), size):
            yield positions[start : start + size]

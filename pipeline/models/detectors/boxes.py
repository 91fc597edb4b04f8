"""Found boxes, put in order: clipped to the picture, without area dropped, best first; and pictures of one shape put
together."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np


def best_boxes(
    size: tuple[int, int], k: int, boxes: np.ndarray, confidences: np.ndarray, *others: np.ndarray
) -> tuple[np.ndarray, ...]:
    """Boxes (n, 4) xyxy in pixels of a picture of (width, height) → at most k, clipped, with area, best first; what
    stands beside each box with it."""
    width, height = size
    boxes = np.asarray(boxes, np.float32).reshape(-1, 4)
    boxes = np.clip(boxes, 0, np.array([width, height, width, height], np.float32))
    kept = np.flatnonzero((boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1]))
    kept = kept[np.argsort(-np.asarray(confidences)[kept], kind="stable")][:k]
    return tuple(np.asarray(values)[kept] for values in (boxes, confidences, *others))


def equal_shapes(shapes: Sequence[Any], pixels: int) -> Iterator[list[int]]:
    """Positions of equal (height, width, …) shapes, together as far as `pixels` (height × width summed, at least one
    picture) allows."""
    groups: dict[Any, list[int]] = {}
    for position, shape in enumerate(shapes):
        groups.setdefault(tuple(shape), []).append(position)
    for (height, width, *_), positions in groups.items():
        size = max(1, pixels // max(height * width, 1))
        for start in range(0, len(positions), size):
            yield positions[start : start + size]

"""What the demo's detector is worth on fresh drawings, read as the extractors read it."""

import random
from pathlib import Path

from pipeline.demo.drawing import draw_boxed
from pipeline.demo.pen import Box
from pipeline.demo.pretext import things
from pipeline.demo.world import SIZES
from pipeline.models.detectors import yolo

TESTED = 400  # drawings
CONFIDENT, OVERLAP = 0.25, 0.5


def evaluate(folder: Path, seed: int) -> dict[str, float]:
    """In percent: drawn figures and faces that a box of the right class covers (IoU of at least 0.5), faces alone, and
    boxes that cover nothing.
    """
    import torch

    rng = random.Random(f"held out yolo {seed}")
    detector = yolo.Detector(
        yolo.find(str(folder), folder, None, fetch=False), k=10, min_confidence=CONFIDENT, iou=None, image_size=None
    )
    detector.load("cpu")
    names = detector.names()
    drawn = [draw_boxed(thing.kind, thing.traits, rng, rng.choice(SIZES)) for thing in things(TESTED, rng)]
    with torch.inference_mode():
        detections = detector([detector.prepare(image) for image, _ in drawn])
    covered: list[tuple[str, bool]] = []
    idle = total = 0
    for (_, there), (boxes, _, labels) in zip(drawn, detections, strict=True):
        seen = [(names[label], tuple(box)) for box, label in zip(boxes.tolist(), labels.tolist(), strict=True)]
        covered += [
            (name, any(name == other and overlap(box, place) >= OVERLAP for other, place in seen))
            for name, box in there.items()
        ]
        idle += sum(name not in there or overlap(there[name], place) < OVERLAP for name, place in seen)
        total += len(seen)
    faces = [right for name, right in covered if name == "face"]
    shares = {
        "found": sum(right for _, right in covered) / len(covered),
        "faces found": sum(faces) / len(faces),
        "boxes beside": idle / max(total, 1),
    }
    return {figure: round(100 * share, 1) for figure, share in shares.items()}


def overlap(one: Box, other: Box) -> float:
    """Intersection over union."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    common = max(width, 0) * max(height, 0)
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return common / (areas - common) if areas > common else 0.0

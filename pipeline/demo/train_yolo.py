"""Trains the demo's detector: ultralytics' YOLOv8, an eighth as wide, on drawings whose boxes the pen knows."""

import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from pipeline.demo.drawing import draw_boxed
from pipeline.demo.learning import Schedule, minimise
from pipeline.demo.looks import KINDS
from pipeline.demo.pen import Box
from pipeline.demo.pretext import SIZE, things
from pipeline.models.detectors import yolo

if TYPE_CHECKING:
    from torch import Tensor

OBJECTIVE = (
    "ultralytics' detection loss (boxes, distances, classes) on drawings of one figure each: eight kinds, and people's "
    "faces"
)
NAMES = (*KINDS, "face")
DRAWINGS, BATCH = 3000, 32
SCALE = [0.33, 0.125, 1024]  # depth, width, most channels; YOLOv8n has width 0.25


def train(folder: Path, schedule: Schedule, seed: int) -> dict[str, Any]:
    """Write `folder/yolo/{yolo.json, model.safetensors}`; returns the training's part of the report."""
    import torch

    torch.manual_seed(seed)
    rng = random.Random(f"yolo {seed}")
    model = build()
    pixels, targets = _drawings(rng)

    def loss_at(step: int) -> "Tensor":
        rows = rng.sample(range(DRAWINGS), BATCH)
        images = pixels[rows].float() / 255
        boxed = torch.cat(
            [
                torch.cat([torch.full((len(targets[row]), 1), place), targets[row]], dim=1)
                for place, row in enumerate(rows)
            ]
        )
        if step % 2:
            images = images.flip(-1)
            boxed[:, 2] = 1 - boxed[:, 2]
        return (
            model({"img": images, "batch_idx": boxed[:, 0], "cls": boxed[:, 1], "bboxes": boxed[:, 2:]})[0].sum()
            / BATCH
        )

    loss = minimise(model, loss_at, schedule)
    yolo.save(model, folder / "yolo", SIZE)
    return {"objective": OBJECTIVE, "steps": schedule.steps, "loss": round(loss, 4)}


def build() -> Any:
    """The detector, freshly initialised, with the settings its loss reads."""
    tasks = yolo.library()
    import ultralytics
    from ultralytics.cfg import get_cfg

    # Read here and not by ultralytics, which would prefer a file of that name in the current folder.
    described = Path(ultralytics.__file__).parent / "cfg" / "models" / "v8" / "yolov8.yaml"
    architecture = yaml.safe_load(described.read_text(encoding="utf-8")) | {
        "nc": len(NAMES),
        "scales": {"n": SCALE},
        "scale": "n",
    }
    model = tasks.DetectionModel(architecture, nc=len(NAMES), verbose=False)
    model.names = dict(enumerate(NAMES))
    model.args = get_cfg()
    return model


def _drawings(rng: random.Random) -> tuple["Tensor", list["Tensor"]]:
    """Pictures (n, 3, SIZE, SIZE) uint8, and of each its boxes (m, 5): class, centre, width and height as shares of the
    picture.
    """
    import torch

    pixels, targets = [], []
    for thing in things(DRAWINGS, rng):
        image, boxes = draw_boxed(thing.kind, thing.traits, rng, SIZE)
        pixels.append(np.asarray(image))
        targets.append(torch.tensor([[NAMES.index(name), *_centred(box)] for name, box in boxes.items()]))
    return torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2), targets


def _centred(box: Box) -> list[float]:
    left, top, right, bottom = (side / SIZE for side in box)
    return [(left + right) / 2, (top + bottom) / 2, right - left, bottom - top]

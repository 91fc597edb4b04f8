"""Extractors of crops over small checkpoints, and pictures with boxes and landmarks to cut."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from pipeline.extractors import build
from pipeline.models.recognisers.align import TEMPLATE
from pipeline.profiles.profile import Feature

LIMITS = {"max_pixels": 1, "max_bytes": 1}


def extractor(name, model, **options):
    if name == "face_attributes" and "attributes" in options and "classifiers" not in options:
        options["classifiers"], model = {options["attributes"][0]: str(model)}, ""
    if options.get("backend") == "inception" and "labels" not in options:
        names = Path(model).with_name("names.txt")
        names.write_text("".join(f"Person {i}\n" for i in range(7)))
        options["labels"] = str(names)
    options = {"of": "faces", **({"model": str(model)} if model else {}), **options}
    return build(Feature(name, name, options, {}, True), Path("."), None)


def loaded(name, model, **options):
    made = extractor(name, model, **options)
    made.load("cpu")
    return made


def picture(seed=0, size=(90, 70)):
    generator = np.random.default_rng(seed)
    coarse = Image.fromarray(generator.integers(0, 255, (7, 9, 3), dtype=np.uint8))
    return coarse.resize(size, Image.Resampling.BICUBIC)


def face(left, top, size):
    """Five upright landmarks in a box of this size."""
    return TEMPLATE * (size / 112) + [left, top]


def parent(*boxes, landmarks=True):
    row = {"boxes": np.array(boxes, np.float32).reshape(-1, 4), "confidences": np.ones(len(boxes), np.float32)}
    if landmarks:
        row["landmarks"] = np.array([face(x0, y0, max(x1 - x0, 1)) for x0, y0, x1, y1 in boxes], np.float32).reshape(
            -1, 5, 2
        )
    return row


def call(made, items):
    with torch.inference_mode():
        return made(made.collate(items))

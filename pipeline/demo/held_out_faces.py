"""What the demo's face models are worth on fresh faces, read with their libraries' own loaders."""

import random
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.demo.faces import Celebrity, faces, someone
from pipeline.demo.looks import ON_FACES

TESTED = 500  # faces of strangers
EACH = 4  # faces of each celebrity
SURE = 0.5  # a name counts as recognised above this


def evaluate(folder: Path, known: list[Celebrity], seed: int) -> dict[str, float]:
    """In percent: each attribute right, celebrities recognised by their name and by another's, strangers taken for a
    celebrity, and people whose second face is the nearest of all others' to their first. known: the celebrities the
    classifier was trained for, in its order."""
    rng = random.Random(f"held out faces {seed}")
    people = [someone(rng) for _ in range(TESTED)]
    first, second = faces(people, rng), faces(people, rng)
    figures = {}
    for slot in ON_FACES:
        names, chances = _classify(folder / f"face_{slot}", first)
        figures[slot] = np.mean(
            [names[best] == traits[slot] for best, traits in zip(chances.argmax(1), people, strict=True)]
        )
    names, chances = _classify(
        folder / "face_celebrities", faces([one.entity.traits for one in known for _ in range(EACH)], rng)
    )
    right = np.array([names[best] for best in chances.argmax(1)]) == np.repeat([one.label for one in known], EACH)
    sure = chances.max(1) > SURE
    figures |= {"celebrities recognised": np.mean(right & sure), "celebrities mistaken": np.mean(~right & sure)}
    figures["strangers mistaken"] = np.mean(_classify(folder / "face_celebrities", first)[1].max(1) > SURE)
    cosines = (
        _embed(folder / "face_recogniser" / "recogniser.onnx", first)
        @ _embed(folder / "face_recogniser" / "recogniser.onnx", second).T
    )
    figures[f"right face of {TESTED}"] = np.mean(cosines.argmax(1) == np.arange(TESTED))
    return {figure: round(100 * float(share), 1) for figure, share in figures.items()}


def _classify(folder: Path, pixels: np.ndarray) -> tuple[dict[int, str], np.ndarray]:
    """Class names, and probabilities (n, classes) of faces (n, SIDE, SIDE, 3) uint8."""
    import torch
    from transformers import AutoModelForImageClassification

    model = AutoModelForImageClassification.from_pretrained(folder).eval()
    with torch.inference_mode():
        return model.config.id2label, model(pixel_values=torch.from_numpy(_scaled(pixels))).logits.softmax(-1).numpy()


def _embed(path: Path, pixels: np.ndarray) -> np.ndarray:
    """Vectors (n, d) of length 1."""
    vectors: Any = _session(path).run(None, {"input": _scaled(pixels)})[0]
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _session(path: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _scaled(pixels: np.ndarray) -> np.ndarray:
    """(n, H, W, 3) uint8 → (n, 3, H, W) float32 in [-1, 1]."""
    return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2), dtype=np.float32) / 127.5 - 1

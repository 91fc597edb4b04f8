"""Any Hugging Face image classifier: probabilities of its own classes for a crop."""

from typing import Any

import numpy as np

from foundation.errors import UserError
from pipeline.models import preprocess
from pipeline.models.files import ModelFiles, load_transformers


class Classifier:
    """labels: names of the classes in the order of the probabilities.

    prepare: see `Preprocess`. Weights are loaded by `load`.
    """

    VERSION = 1

    def __init__(self, files: ModelFiles) -> None:
        names = files.config.get("id2label")
        if files.library != "transformers" or not isinstance(names, dict) or not names:
            raise UserError(
                f"model {files.reference!r}: {files.folder} is no image classifier of transformers (its "
                "config.json has no id2label)"
            )
        try:
            ordered = sorted((int(number), str(name)) for number, name in names.items())
        except ValueError:
            raise UserError(
                f"model {files.reference!r}: id2label of its config.json does not count its classes from 0; save "
                "the model again"
            ) from None
        if [number for number, _ in ordered] != list(range(len(ordered))):
            raise UserError(
                f"model {files.reference!r}: id2label of its config.json does not count its classes from 0; save "
                "the model again"
            )
        self.files = files
        self.labels = [name for _, name in ordered]
        self.prepare = preprocess.from_transformers(files.preprocessor(), f"model {files.reference!r}")

    def load(self, device: str) -> None:
        """Raises `UserError` where the folder holds no image classifier or lacks parameters."""
        self.model = load_transformers(self.files, "AutoModelForImageClassification", device, unused=())
        self.device = device

    def __call__(self, crops: np.ndarray) -> np.ndarray:
        """(b, H, W, 3) uint8 → probabilities (b, classes) float32."""
        import torch

        pixels = torch.from_numpy(np.ascontiguousarray(crops)).to(self.device).permute(0, 3, 1, 2).float().div_(255)
        mean, std = (
            torch.tensor(values, device=self.device).view(1, 3, 1, 1)
            for values in (self.prepare.mean, self.prepare.std)
        )
        return self.model(pixel_values=(pixels - mean) / std).logits.float().softmax(1).cpu().numpy()


def midpoints(labels: list[str], reference: str) -> np.ndarray:
    """The number each label of an age classifier stands for: `20-29` → 24.5, `more than 70` → 70.

    Raises `UserError` for one without a number.
    """
    import re

    numbers_of = [[float(number) for number in re.findall(r"\d+", label)] for label in labels]
    if not all(numbers_of):
        raise UserError(
            f"model {reference!r} as classifier of age: its class {labels[numbers_of.index([])]!r} has no number in "
            "it; choose another model"
        )
    return np.array([sum(numbers) / len(numbers) for numbers in numbers_of], np.float32)


def summary(value: Any) -> str:
    """The first line of an error of another library."""
    return next(iter(str(value).strip().splitlines()), "")[:160]

"""DeepFace's demography models on its PyTorch backend, built by its own loader from weight files on this machine."""

import contextlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from foundation.errors import UserError
from pipeline.models.files import ModelFiles, locate
from pipeline.models.recognisers.classifier import summary

HOME = "deepface"  # `model: deepface` means the folder that DeepFace itself would use
SIZE = 224
# Attribute → DeepFace's name of the model, its weight file, its classes in the order of its numbers.
MODELS: Mapping[str, tuple[str, str, tuple[str, ...]]] = {
    "age": ("Age", "age_model_weights.pth", ()),
    "gender": ("Gender", "gender_model_weights.pth", ("Woman", "Man")),
    "race": (
        "Race",
        "race_model_single_batch.pth",
        ("asian", "indian", "black", "white", "middle eastern", "latino hispanic"),
    ),
    "emotion": (
        "Emotion",
        "facial_expression_model_weights.pth",
        ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral"),
    ),
}


def place(reference: str) -> str:
    """The reference as a path where it means DeepFace's own folder."""
    return (
        str(Path(os.environ.get("DEEPFACE_HOME") or Path.home()) / ".deepface" / "weights")
        if reference == HOME
        else reference
    )


def weights_folder(reference: str, base: Path, demo: Path | None) -> Path:
    """Where the weight files are looked for: the named folder, its `.deepface/weights`, or, for `deepface`, DeepFace's
    own place."""
    if reference == HOME:
        return Path(place(reference))
    folder = locate(reference, base, demo, fetch=False)
    if folder is None or not folder.is_dir():
        raise UserError(
            f"model {reference!r}: no such folder; expected the one that holds DeepFace's weight files, or "
            "`deepface` for DEEPFACE_HOME"
        )
    inner = folder / ".deepface" / "weights"
    return inner if inner.is_dir() else folder


def find(attribute: str, reference: str, base: Path, demo: Path | None) -> ModelFiles:
    """The weight file of an attribute.

    Raises `UserError` naming it and its place where it is missing; nothing is ever fetched.
    """
    folder = weights_folder(reference, base, demo)
    path = folder / MODELS[attribute][1]
    if not path.is_file():
        raise UserError(
            f"model {reference!r}: {path.name} (DeepFace's {attribute}) is not in {folder}; "
            "download it from the releases of deepface_models and put it there"
        )
    return ModelFiles(reference, folder, "deepface", {"model": MODELS[attribute][0]}, (path,), ())


@contextlib.contextmanager
def _home_of(path: Path) -> Iterator[None]:
    """DeepFace's home folder for the time of loading: one in which its weight file is in place, so that it has nothing
    to download."""
    before = os.environ.get("DEEPFACE_HOME")
    with tempfile.TemporaryDirectory(prefix="deepface-") as home:
        place = Path(home) / ".deepface" / "weights"
        place.mkdir(parents=True)
        (place / path.name).symlink_to(path.absolute())
        os.environ["DEEPFACE_HOME"] = home
        try:
            yield
        finally:
            os.environ.pop("DEEPFACE_HOME") if before is None else os.environ.update(DEEPFACE_HOME=before)


class Demography:
    """DeepFace's model of one attribute.

    It sees (224, 224, 3) float32 in BGR from 0 to 1, black bars at the sides, see `prepare`.
    """

    VERSION = 1

    def __init__(self, attribute: str, files: ModelFiles) -> None:
        self.attribute, self.files = attribute, files

    def load(self, device: str) -> None:
        """Raises `UserError` where the file is refused."""
        self.client = _client(self.attribute, self.files, device)

    @staticmethod
    def prepare(image: Any) -> np.ndarray:
        """What the models of all attributes see of a crop, by DeepFace's own resizing."""
        from deepface.modules.preprocessing import resize_image

        pixels = np.asarray(image, np.float32)[:, :, ::-1] / 255
        return resize_image(np.ascontiguousarray(pixels), (SIZE, SIZE))[0]

    def __call__(self, crops: np.ndarray) -> np.ndarray:
        """(b, 224, 224, 3) → (b,) years of age, or probabilities (b, classes).

        DeepFace drops the first axis of a batch of one.
        """
        values = np.asarray(self.client.predict(crops), np.float32)
        return values.reshape(len(crops)) if self.attribute == "age" else values.reshape(len(crops), -1)


def _client(attribute: str, files: ModelFiles, device: str) -> Any:
    """DeepFace's client of the attribute, its network on `device`. Raises `UserError` where the file is refused."""
    os.environ["DEEPFACE_BACKEND_ENGINE"] = "pytorch"
    os.environ.setdefault("DEEPFACE_LOG_LEVEL", "40")
    from deepface.commons import backend_utils
    from deepface.modules import modeling

    if not backend_utils.is_pytorch():
        raise UserError(
            "DeepFace is already running on another backend in this process; set DEEPFACE_BACKEND_ENGINE=pytorch"
        )
    import torch

    try:
        with _home_of(files.weights[0]):
            client = modeling.get_model_class("facial_attribute", MODELS[attribute][0])()
    except Exception as error:
        raise UserError(
            f"model {files.reference!r}: {files.weights[0]} is refused by DeepFace: {summary(error)}"
        ) from None
    client.device = torch.device(device)
    client.model = client.model.to(client.device)
    return client

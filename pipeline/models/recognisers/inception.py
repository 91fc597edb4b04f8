"""facenet-pytorch's InceptionResnetV1 from a state dict on this machine; its own download is never used."""

from pathlib import Path
from typing import Any

import numpy as np

from foundation.errors import UserError
from pipeline.models.files import ModelFiles, find_file, load_state_dict

WIDTH = 512
SIZE = 160
SUFFIXES = (".pt", ".pth", ".safetensors")


def find(reference: str, base: Path, demo: Path | None) -> ModelFiles:
    """The state dict's file. Raises `UserError` with its name where it is missing."""
    return find_file(reference, base, demo, "facenet_pytorch InceptionResnetV1", SUFFIXES)


class Network:
    """InceptionResnetV1. classify: whether it gives logits of the classes in the file, else vectors (b, 512) of unit
    length."""

    VERSION = 1

    def __init__(self, files: ModelFiles, classify: bool) -> None:
        self.files, self.classify = files, classify

    def load(self, device: str) -> None:
        """Raises `UserError` where the file holds another network, or no classes where they are needed."""
        self.model, self.device = _load(self.files, device, self.classify), device

    @property
    def classes(self) -> int:
        """Classes of the loaded network."""
        return int(self.model.logits.out_features)

    def __call__(self, crops: np.ndarray) -> Any:
        """(b, H, W, 3) uint8 → tensor (b, 512), or (b, classes) of logits; pixels as the network was trained on,
        `(x − 127.5) / 128`."""
        import torch

        pixels = torch.from_numpy(np.ascontiguousarray(crops)).to(self.device).permute(0, 3, 1, 2)
        return self.model(pixels.float().sub_(127.5).div_(128))


def _load(files: ModelFiles, device: str, classify: bool) -> Any:
    from facenet_pytorch import InceptionResnetV1

    path = files.weights[0]
    state = load_state_dict(path, files.reference)
    head = state.get("logits.weight")
    classes = len(head) if head is not None and head.ndim == 2 else None
    if classify and classes is None:
        raise UserError(
            f"model {files.reference!r}: {path.name} has no classes (logits.weight), it gives vectors alone; use "
            "it for face_embedding"
        )
    model = InceptionResnetV1(classify=classify, num_classes=classes if classify else None)
    if not classify:
        state = {name: value for name, value in state.items() if not name.startswith("logits.")}
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        first = next((line.strip() for line in str(error).splitlines()[1:]), "")
        raise UserError(
            f"model {files.reference!r}: {path.name} is no InceptionResnetV1 of facenet-pytorch: {first[:160]}"
        ) from None
    return model.eval().to(device)

"""Any face recogniser exported to ONNX, run by onnxruntime."""

import os
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from foundation.errors import UserError
from pipeline.models.files import ModelFiles, find_file
from pipeline.models.recognisers.classifier import summary

SUFFIXES = (".onnx",)


def find(reference: str, base: Path, demo: Path | None) -> ModelFiles:
    """The ONNX file. Raises `UserError` with its name where it is missing."""
    return find_file(reference, base, demo, "onnx", SUFFIXES)


class Recogniser:
    """One picture input, vectors out. Its shapes are read from the file itself.

    size: pixels of a side, as the file says, None where it leaves that open. channels_last: (b, H, W, 3) instead of (b,
    3, H, W). fixed: the batch the file insists on, None where it takes any.
    """

    VERSION = 1

    def __init__(self, files: ModelFiles) -> None:
        self.files = files
        self.device = "cpu"

    def load(self, device: str) -> None:
        """Open the file for `device`. Raises `UserError` where it is refused."""
        if device != self.device:
            self.device = device
            self.__dict__.pop("session", None)
        self.session  # noqa: B018

    def _refuse(self, problem: str, remedy: str) -> UserError:
        return UserError(f"model {self.files.reference!r}: {self.files.weights[0].name} {problem}; {remedy}")

    @cached_property
    def session(self) -> Any:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = int(os.environ.get("OMP_NUM_THREADS") or 0)
        options.add_session_config_entry(
            "session.intra_op.allow_spinning", "0"
        )  # waiting threads leave the cores to the decoders
        wanted = ["CUDAExecutionProvider"] if self.device.startswith("cuda") else []
        providers = [
            *(name for name in wanted if name in onnxruntime.get_available_providers()),
            "CPUExecutionProvider",
        ]
        try:
            return onnxruntime.InferenceSession(self.files.weights[0], options, providers=providers)
        except Exception as error:
            raise self._refuse(f"cannot be loaded ({summary(error)})", "download or export it again") from None

    @cached_property
    def _input(self) -> Any:
        inputs = self.session.get_inputs()
        shapes = ", ".join(f"{entry.name} {entry.shape} {entry.type}" for entry in inputs)
        shape = inputs[0].shape if inputs else []
        if (
            len(inputs) != 1
            or len(shape) != 4
            or 3 not in (shape[1], shape[3])
            or inputs[0].type not in ("tensor(float)", "tensor(float16)")
        ):
            wanted = "expected one input of float pictures, (batch, 3, height, width) or (batch, height, width, 3)"
            raise self._refuse(f"takes {shapes or 'nothing'}", wanted)
        return inputs[0]

    @property
    def channels_last(self) -> bool:
        return self._input.shape[1] != 3

    @property
    def fixed(self) -> int | None:
        batch = self._input.shape[0]
        return batch if isinstance(batch, int) else None

    @property
    def size(self) -> int | None:
        sides = [
            side if isinstance(side, int) else None
            for side in (self._input.shape[1:3] if self.channels_last else self._input.shape[2:])
        ]
        if sides[0] != sides[1]:
            raise self._refuse(f"takes pictures of {self._input.shape}", "expected a square")
        return sides[0]

    @cached_property
    def width(self) -> int:
        """Numbers of a vector."""
        output = self.session.get_outputs()[0]
        if len(output.shape) == 2 and isinstance(output.shape[1], int):
            return output.shape[1]
        size = self.size or 112
        vectors = self(np.zeros((1, size, size, 3), np.float32))
        return vectors.shape[1]

    def __call__(self, crops: np.ndarray) -> np.ndarray:
        """(b, H, W, 3) float32, normalised → (b, width) float32 as the model gives them."""
        batch = np.ascontiguousarray(crops if self.channels_last else crops.transpose(0, 3, 1, 2))
        if self._input.type == "tensor(float16)":
            batch = batch.astype(np.float16)
        step = self.fixed or len(batch)
        rows = []
        for start in range(0, len(batch), step):
            part = batch[start : start + step]
            padded = np.concatenate([part, np.repeat(part[:1], step - len(part), 0)]) if len(part) < step else part
            rows.append(self.session.run(None, {self._input.name: padded})[0][: len(part)])
        vectors = np.concatenate(rows).astype(np.float32)
        if vectors.ndim != 2:
            raise self._refuse(
                f"gives {vectors.shape[1:]} for a picture",
                "expected one vector; its first output must be the embedding",
            )
        return vectors

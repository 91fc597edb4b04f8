"""ultralytics YOLO: imported without a trace, loaded from tensors or in safe mode, called on pictures of any size."""

import atexit
import copy
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from PIL import Image

from foundation.errors import UserError
from pipeline.models import files as model_files
from pipeline.models.detectors.boxes import best_boxes, equal_shapes
from pipeline.models.files import ModelFiles

CONFIG = "yolo.json"
IMAGE_SIZE = 640  # ultralytics' own, for checkpoints that name none
IOU = 0.7  # ultralytics' own
MOST = 300  # boxes that suppression keeps, ultralytics' own
PIXELS = 8 << 20  # of one forward pass: 20 pictures of 640 × 640
_FORCED = {"ULTRALYTICS_SAFE_LOAD": "1", "YOLO_AUTOINSTALL": "false", "YOLO_OFFLINE": "true", "YOLO_VERBOSE": "false"}


def library() -> ModuleType:
    """`ultralytics.nn.tasks`, imported such that it unpickles no unknown object, installs nothing, connects nowhere
    (not even to see whether it could) and keeps its settings in a temporary folder, unless `YOLO_CONFIG_DIR` names
    another.

    Raises `UserError` where the process has imported ultralytics in another mode before.
    """
    if "ultralytics" not in sys.modules:
        _import()
    from ultralytics import utils
    from ultralytics.nn import tasks

    if not utils.SAFE_LOAD or not tasks._SafeLoad.SUPPORTED or utils.AUTOINSTALL or utils.ONLINE:
        raise UserError(
            f"ultralytics was imported before {', '.join(f'{key}={value}' for key, value in _FORCED.items())} were "
            "set; set them and run again"
        )
    return tasks


def _import() -> None:
    import cv2
    import torch

    threads, save, printing, open_image = (
        os.environ.get("OMP_NUM_THREADS"),
        torch.save,
        np.get_printoptions(),
        Image.open,
    )
    cv_threads = cv2.getNumThreads()
    if "YOLO_CONFIG_DIR" not in os.environ:
        os.environ["YOLO_CONFIG_DIR"] = tempfile.mkdtemp(prefix="ultralytics-")
        atexit.register(shutil.rmtree, os.environ["YOLO_CONFIG_DIR"], ignore_errors=True)
    os.environ.update(_FORCED)
    import ultralytics.nn.tasks  # noqa: F401
    from ultralytics.utils import LOGGER

    # What the import changes for the whole process is put back.
    LOGGER.setLevel("ERROR")
    torch.save, Image.open = save, open_image
    torch.set_printoptions(profile="default")
    np.set_printoptions(**printing)
    cv2.setNumThreads(cv_threads)
    if threads is None:
        os.environ.pop("OMP_NUM_THREADS", None)


def find(reference: str, base: Path, demo: Path | None, fetch: bool) -> ModelFiles:
    """The files of a detector: a `.pt` file, or a folder (or hub id) with `yolo.json` or `torchvision.json`."""
    if reference.endswith(".pt"):
        return model_files.find_file(reference, base, demo, "ultralytics", (".pt",))
    return model_files.find(reference, base, demo, fetch)


def save(model: Any, folder: Path, image_size: int) -> None:
    """Write an ultralytics detection model (not fused) as `model.safetensors` and `yolo.json`: architecture, class
    names and picture size.

    What `find` and `load` read; unlike ultralytics' own `.pt`, nothing in it is pickled.
    """
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    state = {name: value.detach().cpu().contiguous().clone() for name, value in model.state_dict().items()}
    save_file(
        {name: value.float() if value.is_floating_point() else value for name, value in state.items()},
        folder / "model.safetensors",
    )
    architecture = {key: value for key, value in model.yaml.items() if key != "yaml_file"}
    names = [model.names[number] for number in sorted(model.names)]
    (folder / CONFIG).write_text(
        json.dumps({"architecture": architecture, "names": names, "image_size": image_size}, indent=1) + "\n"
    )


def load(files: ModelFiles) -> tuple[Any, list[str], int]:
    """Model (on the CPU, in evaluation mode), class names, and the picture size it was trained at.

    A `.pt` goes through ultralytics' own safe mode: `weights_only`, with the layer classes of ultralytics and torch
    alone allowed. Raises `UserError` where the file is refused, damaged, or no detector with upright boxes.
    """
    tasks = library()
    where = f"model {files.reference!r}"
    if files.library == "ultralytics":
        model, size = _load_pickled(tasks, files)
    else:
        model, size = _load_folder(tasks, files)
    if type(model) is not tasks.DetectionModel or type(model.model[-1]).__name__ not in ("Detect", "v10Detect"):
        raise UserError(
            f"{where} is ultralytics' {type(model).__name__}, expected a detection model (task `detect`); choose "
            "such a checkpoint"
        )
    names = [str(model.names[number]) for number in sorted(model.names)]
    if len(names) != model.model[-1].nc:
        raise UserError(f"{where} has {model.model[-1].nc} classes and {len(names)} names; mend `names` in {CONFIG}")
    return model.eval(), names, size


def _described(files: ModelFiles) -> tuple[dict[str, Any], list[str], int]:
    """Architecture, class names and picture size that `yolo.json` states."""
    config, where = files.config, f"model {files.reference!r}: {CONFIG}"
    architecture, names, size = config.get("architecture"), config.get("names"), config.get("image_size", IMAGE_SIZE)
    if (
        not isinstance(architecture, dict)
        or not isinstance(names, list)
        or not names
        or not all(isinstance(name, str) for name in names)
    ):
        raise UserError(
            f"{where} lacks `architecture` (the content of an ultralytics model yaml) or `names` (a list); save "
            "the model again"
        )
    if not isinstance(size, int) or not 32 <= size <= 4096:
        raise UserError(f"{where}: image_size is {size!r}, expected a whole number from 32 to 4096")
    return architecture, names, size


def _load_folder(tasks: ModuleType, files: ModelFiles) -> tuple[Any, int]:
    architecture, names, size = _described(files)
    state = model_files.load_state_dict(files.weights[0], files.reference)
    try:
        model = tasks.DetectionModel(
            copy.deepcopy(architecture), ch=architecture.get("channels", 3), nc=len(names), verbose=False
        )
        model.load_state_dict(state)
    except Exception as error:
        raise model_files.refused(files, error) from error
    model.names = dict(enumerate(names))
    return model, size


def _load_pickled(tasks: ModuleType, files: ModelFiles) -> tuple[Any, int]:
    # Under a plain name in a folder of its own: ultralytics renames some checkpoints (`yolov5n` to `yolov5nu`), drops
    # quotes from
    # paths, and goes looking on the network for what it then does not find.
    with tempfile.TemporaryDirectory(prefix="ultralytics-") as folder:
        link = Path(folder) / "checkpoint.pt"
        link.symlink_to(files.weights[0].resolve())
        try:
            model, checkpoint = tasks.load_checkpoint(link)
        except Exception as error:
            raise UserError(
                f"model {files.reference!r}: {files.weights[0]} is refused: {type(error).__name__}; ultralytics' "
                "safe mode reads checkpoints that hold its own "
                "models alone (weights_only)"
            ) from error
    trained = checkpoint.get("train_args")
    size = trained.get("imgsz") if isinstance(trained, dict) else None
    return model, size if isinstance(size, int) and size >= 32 else IMAGE_SIZE


class Detector:
    """A YOLO on pictures of any size. Each is scaled to `image_size` and padded to its own smallest rectangle of whole
    strides, as ultralytics does for one picture; only pictures with the same rectangle share a forward pass, so a
    picture's boxes do not depend on its batch."""

    VERSION = 1

    def __init__(
        self, files: ModelFiles, k: int, min_confidence: float, iou: float | None, image_size: int | None
    ) -> None:
        self.files, self.k, self.min_confidence, self.iou, self.image_size = (
            files,
            k,
            min_confidence,
            IOU if iou is None else iou,
            image_size,
        )
        self._names: list[str] | None = None
        if files.library not in ("yolo", "ultralytics"):
            raise UserError(
                f"model {files.reference!r}: {files.folder} holds no detector; a folder with {CONFIG} or "
                "torchvision.json, or an ultralytics .pt file is expected"
            )

    def names(self) -> list[str]:
        """Class names. Of a `.pt` the whole file is loaded for them."""
        if self._names is None:
            self._names = _described(self.files)[1] if self.files.library == "yolo" else load(self.files)[1]
        return self._names

    def preprocessing(self) -> dict[str, Any]:
        return {"image_size": self.image_size, "min_confidence": self.min_confidence, "iou": self.iou}

    def load(self, device: str) -> None:
        model, self._names, size = load(self.files)
        self.device, self.model = device, model.fuse(verbose=False).to(device)
        self.model.set_head_attr(max_det=max(MOST, self.k))
        self.stride = int(max(self.model.stride.max().item(), 32))
        size = self.image_size or size
        self.size = -(-size // self.stride) * self.stride

    def prepare(self, image: Image.Image) -> tuple[np.ndarray, tuple[int, int]]:
        """RGB picture → its letterbox (H, W, 3) uint8 and its own (width, height)."""
        from ultralytics.data.augment import LetterBox

        letterbox: Any = LetterBox((self.size, self.size), auto=True, stride=self.stride)
        return letterbox(image=np.asarray(image)), image.size

    def _pixels(self, letterboxes: Sequence[np.ndarray]) -> Any:
        import torch

        return torch.from_numpy(np.stack(letterboxes)).to(self.device).permute(0, 3, 1, 2).float().div_(255)

    def inside(self, item: tuple[np.ndarray, tuple[int, int]]) -> np.ndarray:
        """Means over all places of what the model predicts, found or not: (4 + classes,), or (6,) where the model
        suppresses overlaps itself."""
        import torch

        with torch.autocast(self.device.partition(":")[0], enabled=False):
            predictions = self.model(self._pixels([item[0]]))[0][0]
        return predictions.mean(0 if self.model.end2end else 1).cpu().numpy()

    def __call__(
        self, items: Sequence[tuple[np.ndarray, tuple[int, int]]], only: int | None = None
    ) -> list[tuple[np.ndarray, ...]]:
        """Per picture boxes (n, 4) float32 in its own pixels, confidences (n,) float32 and labels (n,) int32, best
        first. only: one class's number."""
        import torch
        from ultralytics.utils import nms, ops

        per_picture: list[Any] = [None] * len(items)
        for group in equal_shapes([pixels.shape for pixels, _ in items], PIXELS):
            pixels = self._pixels([items[position][0] for position in group])
            with torch.autocast(
                self.device.partition(":")[0], enabled=False
            ):  # half precision would move boxes by pixels
                predictions = self.model(pixels)
                # Without a time limit: with one, what is found would depend on the machine and on the batch.
                kept = nms.non_max_suppression(
                    predictions,
                    self.min_confidence,
                    self.iou,
                    classes=None if only is None else [only],
                    max_det=max(MOST, self.k),
                    max_time_img=float("inf"),
                    end2end=self.model.end2end,
                )
            for position, rows in zip(group, kept, strict=True):
                width, height = items[position][1]
                scaled: Any = ops.scale_boxes(pixels.shape[2:], rows[:, :4], (height, width))
                boxes = scaled.cpu().numpy()
                confidences, labels = rows[:, 4].float().cpu().numpy(), rows[:, 5].cpu().numpy().astype(np.int32)
                per_picture[position] = best_boxes((width, height), self.k, boxes, confidences, labels)
        return per_picture

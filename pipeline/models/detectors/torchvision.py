"""torchvision's detectors (Faster R-CNN, RetinaNet, FCOS, SSD …), called on pictures of any size."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from foundation.errors import UserError, nearest
from pipeline.models.detectors.boxes import best_boxes, equal_shapes
from pipeline.models.files import ModelFiles, load_state_dict

CLASSES = 91  # of torchvision's own builders: COCO's numbers
PIXELS = 4 << 20  # of one forward pass: 4 pictures of 800 × 1333


def build(files: ModelFiles) -> Any:
    """The builder named in `torchvision.json` (`fasterrcnn_resnet50_fpn` …) with its `kwargs`, without weights. Nothing
    is downloaded.

    Raises `UserError` for a builder that is no detector or arguments it does not take.
    """
    import torchvision.models as zoo

    name, kwargs, where = (
        files.config.get("architecture"),
        dict(files.config.get("kwargs", {})),
        f"model {files.reference!r}",
    )
    builders = zoo.list_models(module=zoo.detection)
    if name not in builders:
        raise UserError(
            f"{where}: torchvision.json names {name!r}, which is no torchvision detector{nearest(str(name), builders)}"
        )
    try:
        model = zoo.get_model(name, **{"num_classes": CLASSES, **kwargs, "weights": None, "weights_backbone": None})
    except (TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{where}: torchvision.json describes no {name}: {kwargs!r} ({error})") from None
    return model


def categories(files: ModelFiles) -> list[str]:
    """Class names by number (0 is the background); plain numbers where `torchvision.json` names none.

    Raises `UserError` for a list of another length.
    """
    count = files.config.get("kwargs", {}).get("num_classes", CLASSES)
    names = files.config.get("categories", [str(number) for number in range(count)])
    if not isinstance(names, list) or len(names) != count or not all(isinstance(name, str) for name in names):
        count_found = len(names) if isinstance(names, list) else repr(names)[:40]
        raise UserError(
            f"model {files.reference!r}: torchvision.json has {count_found} categories, expected {count} (num_classes, "
            "the background first)"
        )
    return names


class Detector:
    """A torchvision detector on pictures of any size. Each is scaled as the model itself does; only pictures that are
    padded to the same rectangle alone share a forward pass, so a picture's boxes do not depend on its batch."""

    VERSION = 1

    def __init__(
        self, files: ModelFiles, k: int, min_confidence: float, iou: float | None, image_size: int | None
    ) -> None:
        self.files, self.k, self.min_confidence, self.iou, self.image_size = files, k, min_confidence, iou, image_size
        if files.library != "torchvision":
            raise UserError(
                f"model {files.reference!r}: {files.folder} holds no torchvision detector; a folder with "
                "torchvision.json is expected"
            )

    def names(self) -> list[str]:
        return categories(self.files)

    def preprocessing(self) -> dict[str, Any]:
        return {"image_size": self.image_size, "min_confidence": self.min_confidence, "iou": self.iou}

    def load(self, device: str) -> None:
        import torch

        model = build(self.files)
        self.names()
        try:
            model.load_state_dict(load_state_dict(self.files.weights[0], self.files.reference))
        except RuntimeError as error:
            reason = str(error).splitlines()[1].strip()[:160]
            raise UserError(
                f"model {self.files.reference!r}: {self.files.weights[0].name} does not fit torchvision.json: {reason}"
            ) from None
        epsilon = self.files.config.get("batch_norm_eps")
        if epsilon is not None:
            for module in model.modules():
                if isinstance(module, torch.nn.BatchNorm2d):
                    module.eps = float(epsilon)
        if self.image_size:
            scale = self.image_size / model.transform.min_size[-1]
            model.transform.min_size, model.transform.max_size = (
                (self.image_size,),
                round(model.transform.max_size * scale),
            )
        heads = getattr(model, "roi_heads", model)
        heads.score_thresh, heads.nms_thresh = self.min_confidence, heads.nms_thresh if self.iou is None else self.iou
        heads.detections_per_img = max(heads.detections_per_img, self.k)
        # Pictures come scaled: large ones in the decoding threads already, so that a batch of photographs fits into
        # memory.
        self._normalize, model.transform.normalize = model.transform.normalize, lambda image: image
        self._resize, model.transform.resize = model.transform.resize, lambda image, target=None: (image, target)
        self.transform, self.model, self.device = model.transform, model.eval().to(device), device

    def _scaled_size(self, height: int, width: int) -> tuple[int, int]:
        if self.transform.fixed_size is not None:
            return self.transform.fixed_size[1], self.transform.fixed_size[0]
        scale = min(self.transform.min_size[-1] / min(height, width), self.transform.max_size / max(height, width))
        return math.floor(height * scale), math.floor(width * scale)

    def _scaled(self, pixels: np.ndarray, device: str) -> Any:
        """(H, W, 3) uint8 → (3, h, w) float32, normalised and resized as the model itself does."""
        import torch

        return self._resize(
            self._normalize(torch.from_numpy(np.array(pixels)).to(device).permute(2, 0, 1).float().div_(255))
        )[0]

    def prepare(self, image: Image.Image) -> tuple[Any, tuple[int, int], tuple[int, int]]:
        """RGB picture → its pixels (uint8, or scaled already), the (height, width) that the model sees, and its own
        (width, height)."""
        pixels, size = np.asarray(image), self._scaled_size(image.height, image.width)
        if min(size) > 0 and pixels.nbytes > 12 * size[0] * size[1]:
            return self._scaled(pixels, "cpu"), size, image.size
        return pixels, size, image.size

    def _padded(self, size: tuple[int, int]) -> tuple[int, int]:
        step = self.transform.size_divisible
        return -(-size[0] // step) * step, -(-size[1] // step) * step

    def _on_device(self, pixels: Any) -> Any:
        return self._scaled(pixels, self.device) if isinstance(pixels, np.ndarray) else pixels.to(self.device)

    def inside(self, item: tuple[Any, tuple[int, int], tuple[int, int]]) -> np.ndarray:
        """Means over the first map of the backbone, (channels,)."""
        import torch

        with torch.autocast(self.device.partition(":")[0], enabled=False):
            maps = self.model.backbone(self.transform([self._on_device(item[0])])[0].tensors)
        return next(iter(maps.values()))[0].mean((1, 2)).cpu().numpy()

    def __call__(self, items: Sequence[tuple[Any, tuple[int, int], tuple[int, int]]]) -> list[tuple[np.ndarray, ...]]:
        """Per picture boxes (n, 4) float32 in its own pixels, confidences (n,) float32 and labels (n,) int32, best
        first.

        Nothing is found in a picture so thin that the model's scale leaves no pixel of it.
        """
        import torch

        nothing = np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int32)
        rows: list[Any] = [nothing] * len(items)
        seen = [position for position, (_, size, _) in enumerate(items) if min(size) > 0]
        for group in equal_shapes([self._padded(items[position][1]) for position in seen], PIXELS):
            group = [seen[position] for position in group]
            with torch.autocast(
                self.device.partition(":")[0], enabled=False
            ):  # half precision would move boxes by pixels
                detections = self.model([self._on_device(items[position][0]) for position in group])
            for position, detected in zip(group, detections, strict=True):
                _, (height, width), own = items[position]
                boxes = detected["boxes"].cpu().numpy() * np.array([own[0] / width, own[1] / height] * 2, np.float32)
                labels = detected["labels"].cpu().numpy().astype(np.int32)
                rows[position] = best_boxes(own, self.k, boxes, detected["scores"].float().cpu().numpy(), labels)
        return rows

"""Resizing, cropping and normalising pictures as the model's own library would, stated as plain numbers."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from PIL import Image

from foundation.errors import UserError

_INTERPOLATION = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3, "box": 4, "hamming": 5}
_STRIP = 32  # sides
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Preprocess:
    """size: (height, width) the model sees.

    resize: pixels of the shorter side before the centre crop; None: squash to `size` at once. squash: (height, width)
    to squash to before the centre crop. centre: how half a pixel is rounded where the crop begins, `even` (torchvision)
    or `down` (transformers).
    """

    VERSION: ClassVar[int] = 1
    size: tuple[int, int]
    resize: int | None
    interpolation: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    squash: tuple[int, int] | None = None
    centre: Literal["even", "down"] = "even"

    def to_json(self) -> dict[str, Any]:
        """All that decides the numbers; options that came later, only where they are not at their defaults."""
        later = {"squash": None, "centre": "even"}
        return {name: value for name, value in asdict(self).items() if name not in later or value != later[name]}

    def __call__(self, image: Image.Image) -> np.ndarray:
        """RGB picture → (H, W, 3) uint8."""
        height, width = self.size
        resample = _INTERPOLATION[self.interpolation]
        if self.squash is not None:
            return self._centre(image.resize(self.squash[::-1], resample))
        if self.resize is None:
            return np.asarray(image.resize((width, height), resample))
        # Of a strip, a thousand times as long as wide, the middle that is kept at the end is cut first: the rest would
        # fill the memory.
        longest = _STRIP * min(image.size)
        if max(image.size) > longest:
            left, top = (max(0, (side - longest) // 2) for side in image.size)
            image = image.crop((left, top, min(image.width, left + longest), min(image.height, top + longest)))
        scale = self.resize / min(image.size)
        shorter = min(image.size)
        across, down = (max(int(side * scale), 1) if side != shorter else self.resize for side in image.size)
        scaled = (across, down)
        if image.size != scaled:
            image = image.resize(scaled, resample)
        return self._centre(image)

    def _centre(self, image: Image.Image) -> np.ndarray:
        """The centre crop; one larger than the picture is filled with black, as torchvision does."""
        height, width = self.size
        halves = (image.width - width) / 2, (image.height - height) / 2
        left, top = (round(half) if self.centre == "even" else math.floor(half) for half in halves)
        return np.asarray(image.crop((left, top, left + width, top + height)))


@dataclass(frozen=True)
class AnyShape:
    """SigLIP 2's NaFlex: a picture keeps its shape, in as many whole patches as fit; a batch is padded to the most.

    patch: its side in pixels. patches: the most of one picture.
    """

    VERSION: ClassVar[int] = 1
    patch: int
    patches: int
    interpolation: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def __call__(self, image: Image.Image) -> np.ndarray:
        """RGB picture → (H, W, 3) uint8, H and W multiples of `patch`."""
        from transformers.models.siglip2.image_processing_siglip2 import get_image_size_for_max_num_patches

        height, width = get_image_size_for_max_num_patches(image.height, image.width, self.patch, self.patches)
        return np.asarray(image.resize((width, height), _INTERPOLATION[self.interpolation]))

    def inputs(self, batch: Sequence[np.ndarray]) -> tuple[dict[str, np.ndarray], list[int]]:
        """What transformers' model takes of these pictures, and how many patches each has."""
        mean, std = np.array(self.mean, np.float32), np.array(self.std, np.float32)
        shapes = np.array([[pixels.shape[0] // self.patch, pixels.shape[1] // self.patch] for pixels in batch])
        lengths = [int(rows * columns) for rows, columns in shapes]
        values = np.zeros((len(batch), self.patches, self.patch * self.patch * 3), np.float32)
        mask = np.zeros((len(batch), self.patches), np.int32)
        for place, (pixels, (rows, columns), length) in enumerate(zip(batch, shapes, lengths, strict=True)):
            scaled = (pixels.astype(np.float32) / 255 - mean) / std
            cut = scaled.reshape(rows, self.patch, columns, self.patch, 3).transpose(0, 2, 1, 3, 4)
            values[place, :length], mask[place, :length] = cut.reshape(length, -1), 1
        return {"pixel_values": values, "pixel_attention_mask": mask, "spatial_shapes": shapes}, lengths


def any_shape(config: Mapping[str, Any], where: str) -> AnyShape:
    """From `ModelFiles.preprocessor` of a SigLIP 2 that keeps a picture's shape."""
    return AnyShape(
        patch=int(config["patch_size"]),
        patches=int(config["max_num_patches"]),
        interpolation=_interpolation(config["resample"], where),
        mean=_triple(config["image_mean"], where),
        std=_triple(config["image_std"], where),
    )


def _pair(value: Any, where: str) -> tuple[int, int]:
    if isinstance(value, int):
        return value, value
    if isinstance(value, Mapping) and {"height", "width"} <= set(value):
        return int(value["height"]), int(value["width"])
    if isinstance(value, Mapping) and "shortest_edge" in value:
        return int(value["shortest_edge"]), int(value["shortest_edge"])
    if isinstance(value, Sequence) and len(value) == 2:
        return int(value[0]), int(value[1])
    raise UserError(f"{where}: picture size is {value!r}, expected a number, [height, width] or {{height, width}}")


def _triple(value: Any, where: str) -> tuple[float, float, float]:
    if not isinstance(value, Sequence) or len(value) != 3:
        raise UserError(f"{where}: mean and std are three numbers, found {value!r}")
    return float(value[0]), float(value[1]), float(value[2])


def _interpolation(value: Any, where: str) -> str:
    name = {number: name for name, number in _INTERPOLATION.items()}.get(value, value)
    if name not in _INTERPOLATION:
        raise UserError(f"{where}: interpolation is {value!r}, expected one of {', '.join(_INTERPOLATION)}")
    return name


def from_open_clip(config: Mapping[str, Any], image_size: Any, where: str) -> Preprocess:
    """From `preprocess_cfg` of an open_clip configuration (its defaults where a key is missing)."""
    mode = config.get("resize_mode", "shortest")
    if mode not in ("shortest", "squash"):
        raise UserError(f"{where}: resize_mode {mode!r} is not supported; expected `shortest` or `squash`")
    size = _pair(config.get("size", image_size), where)
    return Preprocess(
        size=size,
        resize=min(size) if mode == "shortest" else None,
        interpolation=_interpolation(config.get("interpolation", "bicubic"), where),
        mean=_triple(config.get("mean", (0.48145466, 0.4578275, 0.40821073)), where),
        std=_triple(config.get("std", (0.26862954, 0.26130258, 0.27577711)), where),
    )


def from_transformers(config: Mapping[str, Any], where: str) -> Preprocess:
    """From `ModelFiles.preprocessor` of a transformers model (shortest edge and centre crop, plain resize, or
    ConvNeXt's crop fraction)."""
    usual_steps = {"do_resize": True, "do_rescale": True, "rescale_factor": 1 / 255}
    usual_steps |= {"do_flip_channel_order": False, "include_top": False}  # of MobileViT, of EfficientNet
    for key, usual in usual_steps.items():
        if key in config and config[key] != usual and not (key == "rescale_factor" and abs(config[key] - usual) < 1e-6):
            raise UserError(
                f"{where}: preprocessor_config.json says {key} {config[key]!r}, which is not supported; expected "
                f"{usual!r}"
            )
    size, cropped = config["size"], bool(config.get("do_center_crop"))
    target = _pair(config.get("crop_size", size) if cropped else size, where)
    resize: int | None = None
    squash: tuple[int, int] | None = None
    if config.get("crop_pct") is not None and isinstance(size, Mapping) and "shortest_edge" in size:
        # ConvNeXt's rule: from 384 pixels on, the picture is squashed and nothing is cut off.
        resize = int(min(target) / float(config["crop_pct"])) if min(target) < 384 else None
    elif config.get("crop_pct") is not None and min(target) < 384:
        resize = int(min(target) / float(config["crop_pct"]))
    elif isinstance(size, Mapping) and "shortest_edge" in size:
        resize = int(size["shortest_edge"])
    elif cropped and isinstance(size, int):
        resize = size
    elif cropped and _pair(size, where) != target:
        squash = _pair(size, where)
    return Preprocess(
        size=target,
        resize=resize,
        interpolation=_interpolation(config["resample"], where),
        mean=_triple(config["image_mean"] if config.get("do_normalize", True) else (0, 0, 0), where),
        std=_triple(config["image_std"] if config.get("do_normalize", True) else (1, 1, 1), where),
        squash=squash,
        centre="even" if resize is None and squash is None else "down",
    )


def from_torchvision(config: Mapping[str, Any], where: str) -> Preprocess:
    """From `preprocess` of a `torchvision.json`: crop_size, resize_size, interpolation, mean, std, named as in
    torchvision's own presets."""
    size = _pair(config.get("crop_size", 224), where)
    resize = config.get("resize_size", min(size))
    return Preprocess(
        size=size,
        resize=None if resize is None else int(resize),
        interpolation=_interpolation(config.get("interpolation", "bilinear"), where),
        mean=_triple(config.get("mean", IMAGENET_MEAN), where),
        std=_triple(config.get("std", IMAGENET_STD), where),
    )

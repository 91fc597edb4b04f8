"""torchvision's own weights by name: where the file lies, and what torchvision says of it."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from foundation.errors import UserError, nearest

SCHEME = "torchvision:"
# Their COCO_V1 weights were trained with batch norms that add nothing to the variance; torchvision sets that only where
# it loads the file itself.
_NO_EPSILON = {
    "fasterrcnn_resnet50_fpn",
    "maskrcnn_resnet50_fpn",
    "keypointrcnn_resnet50_fpn",
    "retinanet_resnet50_fpn",
}


def _weights(architecture: str, name: str, where: str) -> Any:
    """torchvision's entry for `architecture` and `name` (empty: the first it lists)."""
    import torchvision.models as builders

    if architecture not in builders.list_models():
        raise UserError(
            f"{where}: torchvision has no model {architecture!r}{nearest(architecture, builders.list_models())}"
        )
    entries = {entry.name: entry for entry in builders.get_model_weights(architecture)}
    if not entries or (name and name not in entries):
        raise UserError(
            f"{where}: torchvision has no weights {name!r} of {architecture}; it has: {', '.join(entries) or 'none'}"
        )
    return entries[name or next(iter(entries))]


def completed(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A `torchvision.json` that names torchvision's own `weights`, with what torchvision says of them: `preprocess`,
    `categories`, `batch_norm_eps`.

    What the file itself says stays. Raises `UserError` for a model or weights that torchvision does not know.
    """
    architecture, name = str(config.get("architecture")), str(config["weights"])
    entry = _weights(architecture, name, where)
    known: dict[str, Any] = {}
    if "categories" in entry.meta:
        known["categories"] = list(entry.meta["categories"])
    if name == "COCO_V1" and architecture in _NO_EPSILON:
        known["batch_norm_eps"] = 0.0
    transforms = entry.transforms()
    if hasattr(transforms, "crop_size"):
        known["preprocess"] = {
            "crop_size": transforms.crop_size[0],
            "resize_size": transforms.resize_size[0],
            "interpolation": transforms.interpolation.value,
            "mean": list(transforms.mean),
            "std": list(transforms.std),
        }
    return {**known, **config}


def offline() -> bool:
    """Whether `HF_HUB_OFFLINE` says that there is no connection, read as the hub's own library reads it."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def find(reference: str, fetch: bool) -> tuple[dict[str, Any], Path]:
    """`torchvision:BUILDER[@WEIGHTS]` → its configuration and weight file, from torchvision's download folder or
    fetched into it.

    Raises `UserError` naming the file and its place where it is not there and cannot be had. `HF_HUB_OFFLINE` stands
    for no connection here too.
    """
    import torch

    architecture, _, name = reference.removeprefix(SCHEME).partition("@")
    where = f"model {reference!r}"
    entry = _weights(architecture, name, where)
    config = completed({"architecture": architecture, "weights": entry.name}, where)
    file = Path(torch.hub.get_dir()) / "checkpoints" / entry.url.rpartition("/")[2]
    if file.is_file():
        return config, file
    unconnected = offline()
    try:
        if unconnected or not fetch:
            raise OSError("no connection was tried")
        file.parent.mkdir(parents=True, exist_ok=True)
        digest = file.stem.rpartition("-")[2]
        torch.hub.download_url_to_file(entry.url, str(file), digest, progress=False)
    except Exception as error:
        raise UserError(
            f"{where}: {file} is not there and could not be "
            f"fetched{' (HF_HUB_OFFLINE is set)' if unconnected else ''}: {type(error).__name__}; on a connected "
            f"machine download {entry.url} and copy it to that place"
        ) from None
    return config, file

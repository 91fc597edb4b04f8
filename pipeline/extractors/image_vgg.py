"""`image_vgg`: the 4096 wide fully connected feature of a VGG."""

from dataclasses import dataclass

import numpy as np

from cache.identity import Output
from foundation.errors import UserError
from pipeline.extraction import backbones, base

_UP_TO = {"fc6": 2, "fc7": 5}  # modules of torchvision's classifier, up to and with the ReLU


@dataclass(frozen=True)
class Options(base.Options):
    """layer: which of the two fully connected layers before the classes, after its ReLU; `fc7` is the second."""

    layer: str = "fc7"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.layer not in _UP_TO:
            raise ValueError(f"layer is {self.layer!r}, expected 'fc6' or 'fc7'")


class ImageVGG(backbones.Backbone):
    """pooled (4096): the feature of DSMIP's gate (paper: "the 4096-dimensional visual feature extracted by VGG")."""

    VERSION = 1
    Options = Options

    def __init__(self, options, files) -> None:
        if files.library != "torchvision":
            raise UserError(
                f"model {options.model!r}: {files.folder} holds no VGG; a torchvision VGG is expected (docs/models.md)"
            )
        super().__init__(options, files)

    def possible(self) -> dict[str, Output]:
        import torch
        from torchvision.models import VGG

        with torch.device("meta"):
            model = backbones.torchvision_model(self.files)
        if not isinstance(model, VGG):
            raise UserError(f"model {self.options.model!r}: torchvision.json names no VGG but {type(model).__name__}")
        return {"pooled": Output("pooled", (model.classifier[0 if self.options.layer == "fc6" else 3].out_features,))}

    def preprocessing(self) -> dict:
        return {**super().preprocessing(), "layer": self.options.layer}

    def __call__(self, batch: np.ndarray) -> dict[str, np.ndarray]:
        pixels = self.normalised(batch, self.preprocess.mean, self.preprocess.std)
        maps = self.model.avgpool(self.model.features(pixels)).flatten(1)
        return {"pooled": base.to_array(self.model.classifier[: _UP_TO[self.options.layer]](maps))}


extractor = ImageVGG

"""`image_vgg`: the 4096 wide fully connected feature of a VGG."""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from cache.identity import Output
from foundation.contracts import contract
from foundation.errors import UserError
from pipeline.extraction import base, pictures
from pipeline.models import vision
from pipeline.models.files import ModelFiles

_UP_TO = {"fc6": 2, "fc7": 5}  # modules of torchvision's classifier, up to and with the ReLU


@contract
class Options(base.Options):
    """layer: which of the two fully connected layers before the classes, after its ReLU; `fc7` is the second."""

    layer: Literal["fc6", "fc7"] = "fc7"


class ImageVGG(pictures.Backbone):
    """pooled (4096): the feature of DSMIP's gate (paper: "the 4096-dimensional visual feature extracted by VGG")."""

    VERSION = 1
    options: Options

    def __init__(self, options: Options, files: ModelFiles) -> None:
        if files.library != "torchvision":
            raise UserError(
                f"model {options.model!r}: {files.folder} holds no VGG; a torchvision VGG is expected (docs/models.md)"
            )
        super().__init__(options, files)

    def possible(self) -> dict[str, Output]:
        import torch
        from torchvision.models import VGG

        with torch.device("meta"):
            model = vision.torchvision_model(self.files)
        if not isinstance(model, VGG):
            raise UserError(f"model {self.options.model!r}: torchvision.json names no VGG but {type(model).__name__}")
        return {"pooled": Output("pooled", (model.classifier[0 if self.options.layer == "fc6" else 3].out_features,))}

    def preprocessing(self) -> Mapping[str, Any]:
        return {**super().preprocessing(), "layer": self.options.layer}

    def __call__(self, batch: np.ndarray) -> base.Outputs:
        pixels = self.normalised(batch, self.preprocess.mean, self.preprocess.std)
        maps = self.model.avgpool(self.model.features(pixels)).flatten(1)
        return {"pooled": base.to_array(self.model.classifier[: _UP_TO[self.options.layer]](maps))}


extractor = ImageVGG

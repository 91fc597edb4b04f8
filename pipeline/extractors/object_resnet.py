"""`object_resnet`: the pooled last stage of a ResNet for every detected object."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from cache.identity import Output
from pipeline.extraction import base
from pipeline.extractors.image_pooled import ImagePooled
from pipeline.models.files import ModelFiles


class ObjectResnet(base.CropExtractor):
    """vectors (d). A picture in which nothing was detected is its own one object (DRIN's object edges)."""

    VERSION = 1
    loads_first = False
    whole_if_none = True

    def __init__(self, options: base.DerivedOptions, files: ModelFiles) -> None:
        super().__init__(options, files)
        self.backbone = ImagePooled(base.Options(model=options.model, outputs=("pooled",)), files)

    def possible(self) -> dict[str, Output]:
        return {"vectors": Output("vectors", self.backbone.possible()["pooled"].shape, ragged=True)}

    def preprocessing(self) -> Mapping[str, Any]:
        return self.backbone.preprocessing()

    def prepare(self, image: Any) -> np.ndarray:
        return self.backbone.prepare(image)

    def load(self, device: str) -> None:
        self.backbone.load(device)
        self.device = device

    def __call__(self, batch: np.ndarray) -> base.Outputs:
        return {"vectors": self.backbone(batch)["pooled"]}


extractor = ObjectResnet

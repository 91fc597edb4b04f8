"""`object_clip`: the pooled, projected vector of a CLIP image tower for every detected object."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from cache.identity import Output
from pipeline.extraction import base
from pipeline.extractors.clip_image import ClipImage
from pipeline.models.files import ModelFiles


class ObjectClip(base.CropExtractor):
    """vectors (d): not normalised. A picture in which nothing was detected is its own one object (DWE+, section 3)."""

    VERSION = 1
    loads_first = False
    whole_if_none = True

    def __init__(self, options: base.DerivedOptions, files: ModelFiles) -> None:
        super().__init__(options, files)
        self.tower = ClipImage(base.Options(model=options.model, outputs=("pooled",)), files)

    def possible(self) -> dict[str, Output]:
        return {"vectors": Output("vectors", self.tower.possible()["pooled"].shape, ragged=True)}

    def preprocessing(self) -> Mapping[str, Any]:
        return self.tower.preprocessing()

    def prepare(self, image: Any) -> np.ndarray:
        return self.tower.prepare(image)

    def collate(self, items: Any) -> Any:
        return self.tower.collate(items)

    def load(self, device: str) -> None:
        self.tower.load(device)
        self.device = device

    def __call__(self, batch: Any) -> base.Outputs:
        return {"vectors": self.tower(batch)["pooled"]}


extractor = ObjectClip

"""`object_clip`: the pooled, projected vector of a CLIP image tower for every detected object."""

from typing import Any

import numpy as np

from cache.identity import Output
from pipeline.extraction import base
from pipeline.extractors.clip_image import ClipImage


class ObjectClip(base.CropExtractor):
    """vectors (d): not normalised. A picture in which nothing was detected is its own one object (DWE+, section 3)."""

    VERSION = 1
    loads_first = False
    whole_if_none = True

    def __init__(self, options, files) -> None:
        super().__init__(options, files)
        self.tower = ClipImage(base.Options(options.model, ("pooled",)), files)

    def possible(self) -> dict[str, Output]:
        return {"vectors": Output("vectors", self.tower.possible()["pooled"].shape, ragged=True)}

    def preprocessing(self) -> dict:
        return self.tower.preprocessing()

    def prepare(self, image: Any) -> np.ndarray:
        return self.tower.prepare(image)

    def load(self, device: str) -> None:
        self.tower.load(device)
        self.device = device

    def __call__(self, batch: np.ndarray) -> dict[str, np.ndarray]:
        return {"vectors": self.tower(batch)["pooled"]}


extractor = ObjectClip

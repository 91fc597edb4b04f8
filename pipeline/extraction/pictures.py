"""Base class of extractors that run one backbone on whole pictures."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from pipeline.extraction import base
from pipeline.models import vision
from pipeline.models.files import ModelFiles


class Backbone(base.ImageExtractor):
    """Runs the backbone on the picture, preprocessed as the model's folder states."""

    loads_first = False

    def __init__(self, options: base.Options, files: ModelFiles) -> None:
        super().__init__(options, files)
        self.preprocess = vision.preprocessing(files)

    def preprocessing(self) -> Mapping[str, Any]:
        return self.preprocess.to_json()

    def prepare(self, image: Image.Image) -> np.ndarray:
        return self.preprocess(image)

    def load(self, device: str) -> None:
        self.model, self.device = vision.load(self.files, device), device

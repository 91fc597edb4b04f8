"""Base class of extractors that run one detector on whole pictures."""

from collections.abc import Sequence
from typing import Any

from PIL import Image

from pipeline.extraction import base


class DetectorExtractor(base.ImageExtractor):
    """Runs `detector`, one of `pipeline.models.detectors`, which `__init__` sets, on pictures of any size."""

    detector: Any

    def load(self, device: str) -> None:
        self.detector.load(device)
        self.device = device

    def prepare(self, image: Image.Image) -> Any:
        return self.detector.prepare(image)

    def collate(self, items: Sequence[Any]) -> list[Any]:
        return list(items)

    def probe(self, batch: Sequence[Any]) -> base.Outputs:
        return {"inside": [self.detector.inside(batch[0])]}

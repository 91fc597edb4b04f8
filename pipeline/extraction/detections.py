"""What extractors of boxes share: a detector does the work, on pictures of any size."""

from collections.abc import Sequence
from typing import Any

from PIL import Image

from pipeline.extraction import base


class Detecting(base.ImageExtractor):
    """An extractor around `detector`, one of `pipeline.models.detectors`, which `__init__` sets."""

    detector: Any

    def load(self, device: str) -> None:
        self.detector.load(device)
        self.device = device

    def prepare(self, image: Image.Image) -> Any:
        return self.detector.prepare(image)

    def collate(self, items: Sequence[Any]) -> list[Any]:
        return list(items)

    def probe(self, batch: Sequence[Any]) -> dict[str, Any]:
        return {"inside": [self.detector.inside(batch[0])]}

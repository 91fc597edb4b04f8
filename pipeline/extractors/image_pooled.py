"""`image_pooled`: the pooled last stage of a ResNet, and on request its grid."""

import numpy as np

from cache.identity import Output
from foundation.errors import UserError
from pipeline.extraction import base, pictures
from pipeline.models import vision


class ImagePooled(pictures.Backbone):
    """pooled (d): global average of the last stage · grid (49, d) for 224 pixels: its cells row by row, only where
    `outputs` names it."""

    VERSION = 1

    def _width(self) -> int:
        if self.files.library == "transformers" and self.files.config.get("model_type") == "resnet":
            return self.files.config["hidden_sizes"][-1]
        if self.files.library == "torchvision":
            import torch

            with torch.device("meta"):
                model = vision.torchvision_model(self.files)
            if hasattr(model, "layer4") and hasattr(model, "fc"):
                return model.fc.in_features
        raise UserError(
            f"model {self.options.model!r}: {self.files.folder} holds no ResNet; a torchvision or transformers "
            "ResNet is expected"
        )

    def possible(self) -> dict[str, Output]:
        width = self._width()
        cells = -(-self.preprocess.size[0] // 32) * -(-self.preprocess.size[1] // 32)
        return {"pooled": Output("pooled", (width,)), "grid": Output("grid", (cells, width))}

    def usual(self) -> tuple[str, ...]:
        return ("pooled",)

    def __call__(self, batch: np.ndarray) -> base.Outputs:
        pixels = self.normalised(batch, self.preprocess.mean, self.preprocess.std)
        if self.files.library == "torchvision":
            stage = vision.capture(self.model, self.model.layer4, pixels)
        else:
            stage = self.model(pixel_values=pixels).last_hidden_state
        grid = stage.flatten(2).transpose(1, 2)  # (b, cells, d)
        rows = {"pooled": base.to_array(grid.mean(1)), "grid": base.to_array(grid)}
        return {name: rows[name] for name in self.writes}


extractor = ImagePooled

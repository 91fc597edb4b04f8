"""`image_patches`: class and patch states of a Vision Transformer."""

import numpy as np

from cache.identity import Output
from foundation.errors import UserError
from pipeline.extraction import base, pictures
from pipeline.models import vision


class ImagePatches(pictures.Backbone):
    """tokens (P + 1, width): class token, then patches, after the last LayerNorm · pooled (width): the class token's
    state."""

    VERSION = 1

    def _shape(self) -> tuple[int, int]:
        """Tokens and width."""
        config = self.files.config
        if self.files.library == "transformers" and {"patch_size", "hidden_size"} <= set(config):
            patch, width = config["patch_size"], config["hidden_size"]
        elif self.files.library == "torchvision":
            import torch

            with torch.device("meta"):
                model = vision.torchvision_model(self.files)
            if not hasattr(model, "encoder") or not hasattr(model, "patch_size"):
                raise UserError(f"model {self.options.model!r}: torchvision.json names no Vision Transformer")
            patch, width = model.patch_size, model.hidden_dim
        else:
            raise UserError(
                f"model {self.options.model!r}: {self.files.folder} holds no Vision Transformer; a torchvision or "
                "transformers ViT is expected"
            )
        height, wide = self.preprocess.size
        return (height // patch) * (wide // patch) + 1, width

    def possible(self) -> dict[str, Output]:
        tokens, width = self._shape()
        return {"tokens": Output("tokens", (tokens, width)), "pooled": Output("pooled", (width,))}

    def __call__(self, batch: np.ndarray) -> base.Outputs:
        pixels = self.normalised(batch, self.preprocess.mean, self.preprocess.std)
        if self.files.library == "torchvision":
            states = vision.capture(self.model, self.model.encoder, pixels)
        else:
            states = self.model(pixel_values=pixels).last_hidden_state
        rows = {"tokens": base.to_array(states), "pooled": base.to_array(states[:, 0])}
        return {name: rows[name] for name in self.writes}


extractor = ImagePatches

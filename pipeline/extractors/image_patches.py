"""`image_patches`: the states of a Vision Transformer's patches, with its class and register tokens."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cache.identity import Output
from foundation.errors import UserError
from pipeline.extraction import base, pictures
from pipeline.extraction.own_shapes import OwnShapes
from pipeline.models import towers, vision
from pipeline.models.files import ModelFiles


class ImagePatches(OwnShapes, pictures.Backbone):
    """tokens (P, width): class token, registers and other tokens that the tower has, then patches, after the last
    LayerNorm (of CLIP before it) · pooled (width): the class token's state, the model's own pooling head (SigLIP,
    CLIP), or the mean over the patches of a tower with neither.

    `prefix` and `pooled` of the preprocessing name them where they are not one class token and its state. Of a SigLIP 2
    that keeps a picture's shape, tokens are ragged, and written only where `outputs` names them.
    """

    VERSION = 1

    def __init__(self, options: base.Options, files: ModelFiles) -> None:
        self.layout = vision.tower(files) if files.library == "transformers" else None
        if self.layout is not None and self.layout.any_shape:
            base.ImageExtractor.__init__(self, options, files)
            self.keep_shapes()
        else:
            super().__init__(options, files)

    def _layout(self) -> vision.StateLayout:
        """The layout of the tower's states. Raises `UserError` where it is no Vision Transformer."""
        if self.layout is not None:
            return self.layout
        if self.files.library == "torchvision":
            import torch

            with torch.device("meta"):
                model = vision.torchvision_model(self.files)
            if not hasattr(model, "encoder") or not hasattr(model, "patch_size"):
                raise UserError(f"model {self.options.model!r}: torchvision.json names no Vision Transformer")
            return vision.StateLayout(model.patch_size, model.hidden_dim)
        raise UserError(
            f"model {self.options.model!r}: {self.files.folder} holds no Vision Transformer; a torchvision or "
            "transformers ViT is expected"
        )

    def possible(self) -> dict[str, Output]:
        layout = self._layout()
        tokens = self.tokens(0 if self.any_shape else layout.positions(self.preprocess.size), layout.width)
        return {"tokens": tokens, "pooled": Output("pooled", (layout.width,))}

    def preprocessing(self) -> Mapping[str, Any]:
        return {**(self.any_shape or self.preprocess).to_json(), **(self.layout.to_json() if self.layout else {})}

    def load(self, device: str) -> None:
        super().load(device)
        if self.layout is not None:
            size = (self.layout.patch,) * 2 if self.any_shape else self.preprocess.size
            inputs, _ = self.inputs(self.collate([np.zeros((*size, 3), np.uint8)]))
            expected = self.any_shape.patches if self.any_shape else self.layout.positions(size)
            vision.check_states(self.files, self.model, self.layout, inputs, expected)

    def inputs(self, batch: Any) -> tuple[Mapping[str, Any], list[int]]:
        """What a transformers tower takes, and the patches of each picture where they differ; see
        `pipeline.models.towers.Encoder`."""
        if self.any_shape:
            return self.shaped(batch)
        return {"pixel_values": self.normalised(batch, self.preprocess.mean, self.preprocess.std)}, []

    @property
    def tower(self) -> Any:
        """See `pipeline.models.towers.Encoder`."""
        if self.any_shape:
            raise towers.refused(self.files, "its pictures keep their own shape")
        if self.layout is None:
            return self.model
        if (family := self.files.config.get("model_type")) not in towers.PICTURES:
            raise towers.refused(self.files, f"it is a {family}")
        return vision.image_tower(self.model)

    def blank(self, states: Any, lengths: Sequence[int]) -> Mapping[str, Any]:
        """See `pipeline.models.towers.Encoder`."""
        return {"pixel_values": states.new_zeros(1, 3, *self.preprocess.size).expand(len(states), -1, -1, -1)}

    def read(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """tokens (b, P, width) and pooled (b, width)."""
        if self.layout is not None:
            states, pooled = vision.states(self.model, self.layout, inputs)
            return {"tokens": states, "pooled": pooled}
        states = vision.capture(self.model, self.model.encoder, inputs["pixel_values"])
        return {"tokens": states, "pooled": states[:, 0]}

    def __call__(self, batch: Any) -> base.Outputs:
        inputs, lengths = self.inputs(batch)
        read = self.read(inputs)
        tokens = base.to_rows(read["tokens"], lengths) if self.any_shape else base.to_array(read["tokens"])
        rows: dict[str, Any] = {"tokens": tokens, "pooled": base.to_array(read["pooled"])}
        return {name: rows[name] for name in self.writes}


extractor = ImagePatches

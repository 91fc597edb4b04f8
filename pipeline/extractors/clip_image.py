"""`clip_image`: class and patch states and the pooled projected vector of a CLIP or SigLIP image tower."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cache.identity import Output
from pipeline.extraction import base
from pipeline.extraction.own_shapes import OwnShapes
from pipeline.models import clip, preprocess, towers
from pipeline.models.files import ModelFiles


class ClipImage(OwnShapes):
    """tokens (P + 1, width): class token, then patches, before the last LayerNorm · pooled (projection): not
    normalised.

    Of SigLIP and of towers by timm: tokens (P, width) as they are pooled, after the last LayerNorm, with the class and
    register tokens that the tower has (`prefix` of the preprocessing names them). Of a SigLIP 2 that keeps a picture's
    shape they are ragged, and written only where `outputs` names them.
    """

    VERSION = 1
    loads_first = False

    def __init__(self, options: base.Options, files: ModelFiles) -> None:
        super().__init__(options, files)
        clip.check(files)
        self.widths = clip.widths(files)
        where = f"model {options.model!r}"
        if clip.takes_any_shape(files):
            self.keep_shapes()
            self.positions, self.width, self.prefix = 0, self.widths["vision"], tuple[str, ...]()
            return
        if files.library == "open_clip":
            self.preprocess = preprocess.from_open_clip(
                files.config.get("preprocess_cfg", {}), self.widths["image_size"], where
            )
        else:
            self.preprocess = preprocess.from_transformers(files.preprocessor(), where)
        self.positions, self.width, self.prefix = clip.image_positions(files, self.widths, self.preprocess.size)

    def possible(self) -> dict[str, Output]:
        tokens = self.tokens(self.positions, self.width)
        return {"tokens": tokens, "pooled": Output("pooled", (self.widths["projection"],))}

    def preprocessing(self) -> Mapping[str, Any]:
        stated = (self.any_shape or self.preprocess).to_json()
        return stated if self.prefix == ("class",) else {**stated, "prefix": list(self.prefix)}

    def load(self, device: str) -> None:
        self.model, self.device = clip.load(self.files, device), device

    def __call__(self, batch: Any) -> base.Outputs:
        if self.any_shape:
            return self._of_any_shape(batch)
        read = self.read(self.inputs(batch)[0])
        return {name: base.to_array(read[name]) for name in self.writes}

    def inputs(self, batch: Any) -> tuple[Mapping[str, Any], list[int]]:
        """See `pipeline.models.towers.Encoder`."""
        return {"pixels": self.normalised(batch, self.preprocess.mean, self.preprocess.std)}, []

    @property
    def tower(self) -> Any:
        """See `pipeline.models.towers.Encoder`."""
        if self.any_shape:
            raise towers.refused(self.files, "its pictures keep their own shape")
        if self.files.library != "open_clip":
            return self.model.vision_model
        return self.model.visual.trunk if clip.is_timm(self.files) else self.model.visual

    def blank(self, states: Any, lengths: Sequence[int]) -> Mapping[str, Any]:
        """See `pipeline.models.towers.Encoder`."""
        return {"pixels": states.new_zeros(1, 3, *self.preprocess.size).expand(len(states), -1, -1, -1)}

    def read(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """tokens (b, P, width) and pooled (b, projection) of pixels (b, 3, H, W)."""
        pixels = inputs["pixels"]
        if self.files.library != "open_clip":
            output = self.model.vision_model(pixel_values=pixels)
            pooled = output.pooler_output
            pooled = pooled if clip.is_siglip(self.files) else self.model.visual_projection(pooled)
            return {"tokens": output.last_hidden_state, "pooled": pooled}
        tower, kept = self.model.visual, []
        if clip.is_timm(self.files):
            features = tower.trunk.forward_features(pixels)
            pooled = tower.head(tower.trunk.forward_head(features))
            return {"tokens": clip.rows_of_grid(tower.trunk, features), "pooled": pooled}
        handle = tower.transformer.register_forward_hook(lambda module, inputs, output: kept.append(output))
        try:
            pooled = tower(pixels)
        finally:
            handle.remove()
        return {"tokens": kept[0], "pooled": pooled[0] if isinstance(pooled, tuple) else pooled}  # CoCa: and tokens

    def _of_any_shape(self, batch: Sequence[np.ndarray]) -> base.Outputs:
        inputs, lengths = self.shaped(batch)
        output = self.model.vision_model(**inputs)
        rows: dict[str, Any] = {
            "tokens": base.to_rows(output.last_hidden_state, lengths),
            "pooled": base.to_array(output.pooler_output),
        }
        return {name: rows[name] for name in self.writes}


extractor = ClipImage

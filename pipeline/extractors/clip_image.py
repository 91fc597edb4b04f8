"""`clip_image`: class and patch states and the pooled projected vector of a CLIP image tower."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from cache.identity import Output
from pipeline.extraction import base
from pipeline.models import clip, preprocess
from pipeline.models.files import ModelFiles


class ClipImage(base.ImageExtractor):
    """tokens (P + 1, width): class token, then patches, before the last LayerNorm · pooled (projection): not
    normalised."""

    VERSION = 1
    loads_first = False

    def __init__(self, options: base.Options, files: ModelFiles) -> None:
        super().__init__(options, files)
        clip.check(files)
        self.widths = clip.widths(files)
        where = f"model {options.model!r}"
        if files.library == "open_clip":
            self.preprocess = preprocess.from_open_clip(
                files.config.get("preprocess_cfg", {}), self.widths["image_size"], where
            )
        else:
            self.preprocess = preprocess.from_transformers(files.preprocessor(), where)

    def possible(self) -> dict[str, Output]:
        outputs = [
            Output("tokens", (self.widths["patches"] + 1, self.widths["vision"])),
            Output("pooled", (self.widths["projection"],)),
        ]
        return {output.name: output for output in outputs}

    def preprocessing(self) -> Mapping[str, Any]:
        return self.preprocess.to_json()

    def prepare(self, image: Image.Image) -> np.ndarray:
        return self.preprocess(image)

    def load(self, device: str) -> None:
        self.model, self.device = clip.load(self.files, device), device

    def __call__(self, batch: np.ndarray) -> base.Outputs:
        pixels = self.normalised(batch, self.preprocess.mean, self.preprocess.std)
        if self.files.library == "open_clip":
            kept = []
            handle = self.model.visual.transformer.register_forward_hook(
                lambda module, inputs, output: kept.append(output)
            )
            try:
                pooled = self.model.visual(pixels)
            finally:
                handle.remove()
            states = kept[0]
        else:
            output = self.model.vision_model(pixel_values=pixels)
            states, pooled = output.last_hidden_state, self.model.visual_projection(output.pooler_output)
        rows = {"tokens": base.to_array(states), "pooled": base.to_array(pooled)}
        return {name: rows[name] for name in self.writes}


extractor = ClipImage

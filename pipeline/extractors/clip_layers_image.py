"""`clip_layers_image`: the states of `layers` for the image tower of a CLIP, whose prompts DSMIP learns."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from cache.identity import Output
from foundation.contracts import contract
from pipeline.extraction import base
from pipeline.extractors.clip_image import ClipImage
from pipeline.models import clip, towers
from pipeline.models.files import ModelFiles


@contract
class Options(base.Options):
    """block: number of the transformer block, from 0: its states are the embedded patches after `ln_pre`, where DSMIP's
    prompts go in."""

    block: int = 0


class ClipLayersImage(ClipImage):
    """states (P + 1, width): class token, then patches, as they enter the block."""

    VERSION = 1
    options: Options

    def __init__(self, options: Options, files: ModelFiles) -> None:
        super().__init__(options, files)
        clip.check_block(files, "vision", options.block)

    def possible(self) -> dict[str, Output]:
        return {"states": Output("states", (self.widths["patches"] + 1, self.widths["vision"]))}

    def preprocessing(self) -> Mapping[str, Any]:
        return {**super().preprocessing(), "block": self.options.block}

    def __call__(self, batch: np.ndarray) -> base.Outputs:
        states = towers.entering(self, self.options.block, self.inputs(batch)[0])
        return {"states": base.to_array(states)}


extractor = ClipLayersImage

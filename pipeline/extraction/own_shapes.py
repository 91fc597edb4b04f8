"""Base class of extractors whose pictures may keep their own shape."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from cache.identity import Output
from pipeline.extraction import base
from pipeline.models.files import ModelFiles
from pipeline.models.preprocess import AnyShape, Preprocess, any_shape


class OwnShapes(base.ImageExtractor):
    """A tower whose pictures are preprocessed as its folder states, or keep their own shape (a SigLIP 2, NaFlex): the
    states of their patches are then ragged, and written only where `outputs` names them."""

    files: ModelFiles
    preprocess: Preprocess
    any_shape: AnyShape | None = None

    def keep_shapes(self) -> None:
        """Let pictures keep their own shape from now on. Raises `UserError` where the folder states other values than
        a SigLIP 2's."""
        stated = {"patch_size": 16, "max_num_patches": 256, **self.files.preprocessor()}
        self.any_shape = any_shape(stated, f"model {self.options.model!r}")

    def tokens(self, positions: int, width: int) -> Output:
        """The output of the states, of as many positions unless pictures keep their shape."""
        return Output("tokens", (width,), ragged=True) if self.any_shape else Output("tokens", (positions, width))

    def usual(self) -> tuple[str, ...]:
        return ("pooled",) if self.any_shape else super().usual()

    def prepare(self, image: Image.Image) -> np.ndarray:
        return (self.any_shape or self.preprocess)(image)

    def collate(self, items: Sequence[Any]) -> Any:
        return list(items) if self.any_shape else super().collate(items)

    def shaped(self, batch: Sequence[np.ndarray]) -> tuple[dict[str, Any], list[int]]:
        """What a tower takes of pictures of their own shapes, on its device, and the patches of each."""
        import torch

        assert self.any_shape is not None
        arrays, lengths = self.any_shape.inputs(batch)
        return {name: torch.from_numpy(values).to(self.device) for name, values in arrays.items()}, lengths

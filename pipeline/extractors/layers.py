"""`layers`: the states that enter a chosen block of a text or image encoder, for whatever goes on from there."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from cache.identity import Output
from cache.inputs import Side
from foundation.contracts import contract
from foundation.errors import UserError
from pipeline.extraction import base
from pipeline.extractors import clip_text, text_tokens
from pipeline.extractors.clip_image import ClipImage
from pipeline.extractors.image_patches import ImagePatches
from pipeline.models import towers
from pipeline.models.files import ModelFiles
from pipeline.profiles.profile import Cut

_POOLING = ("pooling", "layers", "pooled")
"""What an encoder's preprocessing says of its vector, which no state depends on."""


@contract
class Options(base.Options):
    """encoder: the extractor that reads the whole model. block: number of the transformer block, from 0; the number of
    blocks means what leaves the last. max_tokens, prompts: of a text, as the encoder's own extractor has them.
    dtype: in which states are stored; those of some models pass the range of float16.
    """

    encoder: Cut
    block: Annotated[int, Field(ge=0)]
    max_tokens: Annotated[int, Field(ge=16)] | None = None
    prompts: Mapping[Side, str] | None = None
    dtype: Literal["float16", "float32"] = "float16"


class Layers(base.Extractor):
    """states (L, width) of a text's tokens, special ones included, or (context, width) where the encoder reads padding
    too (SigLIP); there also real (2,) int32: the first of the text's own tokens, and behind the last. · (P, width) of a
    picture, class and register tokens first. As they enter the block.

    encoder: the extractor of the whole model, which `pipeline.models.live` runs on from these states. VERSION: also of
    `pipeline.models.towers`, which makes the cut.
    """

    VERSION = 1
    options: Options
    encoder: Any

    @classmethod
    def kind(cls, options: Options) -> type[base.Extractor]:
        """See `Extractor.kind`."""
        return TextLayers if options.encoder in ("text_tokens", "clip_text") else ImageLayers

    def possible(self) -> dict[str, Output]:
        whole: Output = self.encoder.possible()["tokens"]
        if not getattr(self.encoder, "whole", False):
            return {"states": Output("states", whole.shape, self.options.dtype, ragged=whole.ragged)}
        shape = (self.encoder.widths["context"], *whole.shape)
        return {"states": Output("states", shape, self.options.dtype), "real": Output("real", (2,), "int32")}

    def preprocessing(self) -> Mapping[str, Any]:
        stated = {key: value for key, value in self.encoder.preprocessing().items() if key not in _POOLING}
        return {**stated, "encoder": self.options.encoder, "block": self.options.block}

    def load(self, device: str) -> None:
        self.encoder.load(device)
        self.model, self.device = self.encoder.model, device
        towers.check(self.encoder, self.options.block)

    def __call__(self, batch: Any) -> base.Outputs:
        inputs, lengths = self.encoder.inputs(batch)
        states = towers.entering(self.encoder, self.options.block, inputs)
        largest = float(states.detach().abs().max())
        if self.options.dtype == "float16" and largest > float(np.finfo(np.float16).max):
            raise UserError(
                f"model {self.options.model!r}: states of {largest:.0f} pass the range of float16; set `dtype: float32`"
            )
        if self.writes["states"].ragged:
            return {"states": base.to_rows(states, lengths)}
        rows = {"states": base.to_array(states)}
        if "real" in self.writes:
            rows["real"] = np.array(self.encoder.own(self.encoder.count(batch)), np.int32)
        return rows


class TextLayers(Layers, base.TextExtractor):
    """`Layers` of a text encoder."""

    reads = "text"

    def __init__(self, options: Options, files: ModelFiles) -> None:
        super().__init__(options, files)
        kind = clip_text.ClipText if options.encoder == "clip_text" else text_tokens.TextTokens
        given = {key: value for key in ("max_tokens", "prompts") if (value := getattr(options, key)) is not None}
        known = {field.name for field in dataclasses.fields(kind.options_class())}
        if not known.issuperset(given):
            raise UserError(f"model {options.model!r}: prompts are put before texts of text_tokens alone")
        self.encoder = kind(kind.options_class()(model=options.model, **given), files)  # type: ignore[arg-type]

    @property
    def limit(self) -> int:
        limit: int = self.encoder.limit
        return limit

    def count(self, strings: Sequence[str]) -> list[int]:
        counts: list[int] = self.encoder.count(strings)
        return counts

    def prompt(self, side: str) -> str:
        prompt: str = self.encoder.prompt(side)
        return prompt


class ImageLayers(Layers, base.ImageExtractor):
    """`Layers` of an image encoder."""

    reads = "image"
    loads_first = False

    def __init__(self, options: Options, files: ModelFiles) -> None:
        super().__init__(options, files)
        for name in ("max_tokens", "prompts"):
            if getattr(options, name) is not None:
                raise UserError(f"model {options.model!r}: {name} is of texts, and {options.encoder} reads pictures")
        kind = ClipImage if options.encoder == "clip_image" else ImagePatches
        self.encoder = kind(base.Options(model=options.model), files)

    def prepare(self, image: Any) -> Any:
        return self.encoder.prepare(image)

    def collate(self, items: Sequence[Any]) -> Any:
        return self.encoder.collate(items)


extractor = Layers

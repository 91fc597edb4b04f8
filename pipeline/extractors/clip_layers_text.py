"""`clip_layers_text`: the states of `layers` for a CLIP text tower, and the mean token embedding; before the first
block the token ids say all."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cache.identity import Output
from foundation.contracts import contract
from foundation.errors import UserError
from pipeline.extraction import base
from pipeline.extractors import clip_text
from pipeline.models import clip, towers
from pipeline.models.files import ModelFiles


@contract
class Options(clip_text.Options):
    """block: number of the transformer block, from 0: its states are token embeddings plus positions, so token ids are
    written instead."""

    block: int = 0


class ClipLayersText(clip_text.ClipText):
    """ids (L,) int32: from the start to the end token · states (L, width): as they enter the block · embedding (width):
    mean token embedding, without positions and special tokens (DSMIP's gate). Usual: ids and embedding for block 0,
    states and embedding for a later one."""

    VERSION = 1
    options: Options

    def __init__(self, options: Options, files: ModelFiles) -> None:
        super().__init__(options, files)
        clip.check_block(files, "text", options.block)
        if options.pad_to is not None:
            raise UserError(f"model {options.model!r}: pad_to belongs to clip_text; inner states are never padded")

    def possible(self) -> dict[str, Output]:
        width = self.widths["text"]
        outputs = [
            Output("ids", (), "int32", ragged=True),
            Output("states", (width,), ragged=True),
            Output("embedding", (width,)),
        ]
        return {output.name: output for output in outputs}

    def usual(self) -> tuple[str, ...]:
        return ("states" if self.options.block else "ids", "embedding")

    def preprocessing(self) -> Mapping[str, Any]:
        return {**super().preprocessing(), "block": self.options.block}

    def __call__(self, batch: Sequence[str]) -> base.Outputs:
        inputs, lengths = self.inputs(batch)
        tokens = inputs["tokens"]
        ids = tokens.cpu().numpy().astype(np.int32)
        rows: dict[str, Any] = {"ids": [row[:length] for row, length in zip(ids, lengths, strict=True)]}
        if "states" in self.writes:
            rows["states"] = base.to_rows(towers.entering(self, self.options.block, inputs), lengths)
        rows["embedding"] = base.to_array(self._mean_embedding(tokens, lengths))
        return {name: rows[name] for name in self.writes}

    def _mean_embedding(self, tokens, lengths: Sequence[int]):
        """(b, width): the mean over each text's own tokens; over start and end token where it has no others."""
        import torch

        table = (
            getattr(self.model, "text", self.model).token_embedding
            if self.files.library == "open_clip"
            else self.model.text_model.embeddings.token_embedding
        )
        end = torch.tensor(lengths, device=self.device)[:, None]
        place = torch.arange(tokens.shape[1], device=self.device)[None, :]
        own = torch.where(end > 2, (place > 0) & (place < end - 1), place < end)
        return (table(tokens) * own[:, :, None]).sum(1) / own.sum(1, keepdim=True)


extractor = ClipLayersText

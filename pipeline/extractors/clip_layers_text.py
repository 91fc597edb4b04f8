"""`clip_layers_text`: the states that enter a chosen block of a CLIP text tower; before the first block the token ids
say all."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cache.identity import Output
from foundation.contracts import contract
from foundation.errors import UserError
from pipeline.extraction import base
from pipeline.extractors import clip_text
from pipeline.models import clip
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
        ids, tokens = self.encoded(batch)
        rows: dict[str, Sequence[base.OutputRow] | np.ndarray] = {"ids": [np.array(row, np.int32) for row in ids]}
        if "states" in self.writes:
            width = tokens.shape[1]
            if self.files.library == "open_clip":
                tower = getattr(self.model, "text", self.model)
                embedded = tower.token_embedding(tokens) + tower.positional_embedding[:width]
                blocks, batch_first = tower.transformer.resblocks, tower.transformer.batch_first
                states = clip.entering(
                    blocks[self.options.block],
                    lambda: tower.transformer(embedded, attn_mask=tower.attn_mask[:width, :width]),
                )
                states = states if batch_first else states.transpose(0, 1)
            else:
                # Attention is causal: what follows the end token changes nothing before it, so no mask is needed.
                tower = self.model.text_model
                states = clip.entering(tower.encoder.layers[self.options.block], lambda: tower(input_ids=tokens))
            rows["states"] = base.to_rows(states, [len(row) for row in ids])
        rows["embedding"] = base.to_array(self._mean_embedding(tokens, [len(row) for row in ids]))
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

"""`text_tokens`: token states, a pooled vector and character offsets from any Hugging Face text encoder."""

from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from cache.identity import Output
from foundation.contracts import contract
from foundation.errors import UserError
from pipeline.extraction import base
from pipeline.models.files import load_tokenizer, load_transformers

# Architectures whose first position stands behind that of the padding token: RoBERTa's 514 positions hold 512 tokens.
_COUNTED_FROM_PADDING = {
    "camembert",
    "data2vec-text",
    "ibert",
    "longformer",
    "luke",
    "mpnet",
    "roberta",
    "roberta-prelayernorm",
    "xlm-roberta",
    "xlm-roberta-xl",
    "xmod",
}


@contract
class Options(base.Options):
    """max_tokens: the longest text its view may yield.

    pooling: `cls` (state of the first token) or `mean` (over all real tokens).
    """

    max_tokens: Annotated[int, Field(ge=16)] = 128
    pooling: Literal["cls", "mean"] = "cls"


class TextTokens(base.TextExtractor):
    """tokens (L, d): last hidden states · pooled (d) · offsets (L, 2) int32: each token's characters in the string, end
    exclusive."""

    VERSION = 2
    options: Options

    def possible(self) -> dict[str, Output]:
        if self.files.library != "transformers":
            raise UserError(
                f"model {self.options.model!r}: {self.files.folder} holds a model of {self.files.library}; a "
                "Hugging Face text encoder is expected"
            )
        width = self.files.config.get("hidden_size") or self.files.config.get("dim") or self.files.config.get("d_model")
        if not isinstance(width, int):
            raise UserError(
                f"model {self.options.model!r}: its config.json names no hidden_size; a Hugging Face text encoder "
                "is expected"
            )
        outputs = [
            Output("tokens", (width,), ragged=True),
            Output("pooled", (width,)),
            Output("offsets", (2,), "int32", ragged=True),
        ]
        return {output.name: output for output in outputs}

    def preprocessing(self) -> dict[str, str]:
        return {"pooling": self.options.pooling}

    @property
    def limit(self) -> int:
        config = self.files.config
        positions = config.get("max_position_embeddings")
        if not isinstance(positions, int):
            return self.options.max_tokens
        unused = config.get("pad_token_id", 1) + 1 if config.get("model_type") in _COUNTED_FROM_PADDING else 0
        return min(self.options.max_tokens, positions - unused)

    @property
    def tokenizer(self):
        if not hasattr(self, "_tokenizer"):
            self._tokenizer = load_tokenizer(self.files)
            self._tokenizer.padding_side = "right"  # a row's states are its first ones
            if not self._tokenizer.is_fast:
                raise UserError(
                    f"model {self.options.model!r}: its tokenizer gives no character offsets; a fast tokenizer "
                    "(tokenizer.json) is needed"
                )
        return self._tokenizer

    def count(self, strings: Sequence[str]) -> list[int]:
        if not strings:
            return []
        return [
            len(ids) for ids in self.tokenizer(list(strings), verbose=False, return_attention_mask=False)["input_ids"]
        ]

    def load(self, device: str) -> None:
        model = load_transformers(self.files, "AutoModel", device)
        self.model, self.device = model.get_encoder() if self.files.config.get("is_encoder_decoder") else model, device

    def __call__(self, batch: Sequence[str]) -> base.Outputs:
        import torch

        encoded = self.tokenizer(list(batch), verbose=False, return_offsets_mapping=True)
        lengths = [len(ids) for ids in encoded["input_ids"]]
        self.refuse_long(batch, lengths)
        offsets = [np.asarray(pairs, dtype=np.int32).reshape(-1, 2) for pairs in encoded.pop("offset_mapping")]
        padded = self.tokenizer.pad(
            encoded, padding="max_length", max_length=base.padded_length(max(lengths), self.limit), return_tensors="pt"
        )
        padded = padded.to(self.device)
        states = self.model(**padded).last_hidden_state
        if self.options.pooling == "mean":
            mask = padded["attention_mask"].unsqueeze(-1).to(states.dtype)
            pooled = (states * mask).sum(1) / mask.sum(1)
        else:
            pooled = states[torch.arange(len(lengths)), padded["attention_mask"].argmax(1)]
        rows: base.Outputs = {
            "tokens": base.to_rows(states, lengths),
            "pooled": base.to_array(pooled),
            "offsets": offsets,
        }
        return {name: rows[name] for name in self.writes}


extractor = TextTokens

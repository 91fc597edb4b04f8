"""`clip_text`: token states and the pooled projected vector of a CLIP or SigLIP text tower."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from cache.identity import Output
from foundation.contracts import contract
from foundation.errors import UserError
from pipeline.extraction import base
from pipeline.models import clip, towers
from pipeline.models.files import ModelFiles, load_tokenizer, refused


@contract
class Options(base.Options):
    """max_tokens: the longest text its view may yield, start and end tokens included (the model's context length bounds
    it). pad_to: length of the output `padded`, that of the longest text at least; null: there is no such output."""

    max_tokens: Annotated[int, Field(ge=16)] = 77
    pad_to: int | None = None


class ClipText(base.TextExtractor):
    """tokens (L, width): states after the final LayerNorm, unprojected, from start to end token · pooled (projection):
    not normalised · with `pad_to`, padded (pad_to, width): the same states, followed by those that the model has at its
    padding positions.

    SigLIP's tower, and any other of open_clip that is not CLIP's own, runs over its whole context, since its vector
    depends on the padding."""

    VERSION = 1
    options: Options

    def __init__(self, options: Options, files: ModelFiles) -> None:
        super().__init__(options, files)
        clip.check(files)
        self.widths = clip.widths(files)
        self.whole = clip.reads_whole_context(files)
        if self.whole and options.pad_to not in (None, self.widths["context"]):
            raise UserError(
                f"model {options.model!r}: pad_to = {options.pad_to}: its texts are always padded to "
                f"{self.widths['context']}"
            )
        if options.pad_to is not None and not self.limit <= options.pad_to <= self.widths["context"]:
            raise UserError(
                f"model {options.model!r}: pad_to = {options.pad_to}: expected {self.limit} (max_tokens) to "
                f"{self.widths['context']} (its context length)"
            )

    def possible(self) -> dict[str, Output]:
        outputs = [
            Output("tokens", (self.widths["text"],), ragged=True),
            Output("pooled", (self.widths["projection"],)),
        ]
        if self.options.pad_to is not None:
            outputs.append(Output("padded", (self.options.pad_to, self.widths["text"])))
        return {output.name: output for output in outputs}

    @classmethod
    def revised(cls, options: Options, config: Mapping[str, Any]) -> bool:
        """See `Extractor.revised`: CoCa's texts, whose class position earlier releases did not read."""
        return clip.has_another_text_tower(config)

    def preprocessing(self) -> Mapping[str, Any]:
        return {"padded_to": self.widths["context"]} if self.whole else {}

    @property
    def limit(self) -> int:
        return min(self.options.max_tokens, self.widths["context"])

    @property
    def tokenizer(self) -> Any:
        """The tokenizer of the model's own library."""
        if not hasattr(self, "_tokenizer"):
            if self.files.library == "open_clip":
                import open_clip

                try:
                    self._tokenizer = open_clip.get_tokenizer(f"local-dir:{self.files.folder}")
                except Exception as error:
                    raise refused(self.files, error) from error
            else:
                self._tokenizer = load_tokenizer(self.files)
        return self._tokenizer

    @property
    def padding(self) -> int:
        """The token that the model's own library pads texts with."""
        tokenizer = getattr(self.tokenizer, "tokenizer", self.tokenizer)  # inside open_clip's HFTokenizer
        return getattr(tokenizer, "pad_token_id", None) or 0

    def _ids(self, strings: Sequence[str]) -> list[list[int]]:
        """Token ids from the start token to the end token, nothing cut off."""
        tokenizer = self.tokenizer
        if hasattr(tokenizer, "sot_token_id"):  # open_clip's SimpleTokenizer
            return [[tokenizer.sot_token_id, *tokenizer.encode(string), tokenizer.eot_token_id] for string in strings]
        if hasattr(tokenizer, "clean_fn"):  # open_clip's HFTokenizer
            strings, tokenizer = [tokenizer.clean_fn(string) for string in strings], tokenizer.tokenizer
        return tokenizer(list(strings), verbose=False, return_attention_mask=False)["input_ids"] if len(strings) else []

    def count(self, strings: Sequence[str]) -> list[int]:
        return [len(ids) for ids in self._ids(strings)]

    def load(self, device: str) -> None:
        self.model, self.device = clip.load(self.files, device), device

    def encoded(self, batch: Sequence[str]) -> tuple[list[list[int]], Any]:
        """Token ids of each string, and the same padded to one (b, L) tensor on the device; L is `pad_to` where given.

        Raises `UserError` for a string that does not fit.
        """
        import torch

        ids = self._ids(batch)
        lengths = [len(row) for row in ids]
        self.refuse_long(batch, lengths)
        width = self.options.pad_to or base.padded_length(max(lengths), self.widths["context"])
        tokens = torch.full((len(ids), width), self.padding if self.options.pad_to else 0)
        for row, values in zip(tokens, ids, strict=True):
            row[: len(values)] = torch.tensor(values)
        return ids, tokens.to(self.device)

    def __call__(self, batch: Sequence[str]) -> base.Outputs:
        if self.whole:
            return self._over_the_whole_context(batch)
        inputs, lengths = self.inputs(batch)
        read = self.read(inputs)
        rows: dict[str, Sequence[base.OutputRow] | np.ndarray] = {
            "tokens": base.to_rows(read["tokens"], lengths),
            "pooled": base.to_array(read["pooled"]),
        }
        if "padded" in self.writes:
            rows["padded"] = base.to_array(read["tokens"])
        return {name: rows[name] for name in self.writes}

    def inputs(self, batch: Sequence[str]) -> tuple[Mapping[str, Any], list[int]]:
        """See `pipeline.models.towers.Encoder`."""
        import torch

        if self.whole:
            return {"tokens": self._whole_tokens(batch)[0]}, [self.widths["context"]] * len(batch)
        ids, tokens = self.encoded(batch)
        lengths = [len(row) for row in ids]
        return {"tokens": tokens, "end": torch.tensor(lengths, device=self.device) - 1}, lengths

    @property
    def tower(self) -> Any:
        """See `pipeline.models.towers.Encoder`."""
        if self.whole and not clip.pools_last(self.files):
            raise towers.refused(self.files, "where its text tower pools, or its mask, depends on the tokens")
        return getattr(self.model, "text", self.model) if self.files.library == "open_clip" else self.model.text_model

    def blank(self, states: Any, lengths: Sequence[int]) -> Mapping[str, Any]:
        """See `pipeline.models.towers.Encoder`."""
        import torch

        tokens = torch.zeros(states.shape[:2], dtype=torch.long, device=states.device)
        return {"tokens": tokens, "end": torch.tensor(lengths, device=states.device) - 1}

    def read(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """tokens (b, L, width) and pooled (b, projection) of texts of the tokens (b, L), whose end tokens stand at
        `end` (b,); there is no `end` where the whole context is read."""
        import torch

        if self.whole:
            return self._read_whole(inputs["tokens"])
        tokens, end = inputs["tokens"], inputs["end"]
        place, width = torch.arange(len(end), device=self.device), tokens.shape[1]
        if self.files.library == "open_clip":
            # encode_text of open_clip on a prefix of the context: attention is causal, so what follows the end token
            # changes nothing.
            tower = getattr(self.model, "text", self.model)
            states = tower.token_embedding(tokens) + tower.positional_embedding[:width]
            states = tower.ln_final(tower.transformer(states, attn_mask=tower.attn_mask[:width, :width]))
            pooled, projection = states[place, end], tower.text_projection
            if projection is not None:
                pooled = projection(pooled) if callable(projection) else pooled @ projection
            return {"tokens": states, "pooled": pooled}
        mask = (torch.arange(width, device=self.device) <= end[:, None]).long()
        states = self.model.text_model(input_ids=tokens, attention_mask=mask).last_hidden_state
        return {"tokens": states, "pooled": self.model.text_projection(states[place, end])}

    def _over_the_whole_context(self, batch: Sequence[str]) -> base.Outputs:
        """The library's own forward, on texts padded by its own tokenizer."""
        tokens, lengths = self._whole_tokens(batch)
        read = self._read_whole(tokens)
        states = base.to_array(read["tokens"])  # (b, context, width)
        real = [row[first:end] for row, (first, end) in zip(states, self.own(lengths), strict=True)]
        rows: dict[str, Any] = {"tokens": real, "pooled": base.to_array(read["pooled"]), "padded": states}
        return {name: rows[name] for name in self.writes}

    def own(self, lengths: Sequence[int]) -> list[tuple[int, int]]:
        """Of texts of `lengths` tokens, padded to the whole context: the first of its own, and behind the last."""
        inner, context = getattr(self.tokenizer, "tokenizer", self.tokenizer), self.widths["context"]
        left = getattr(inner, "padding_side", "right") == "left"
        return [(context - length, context) if left else (0, length) for length in lengths]

    def _read_whole(self, tokens: Any) -> dict[str, Any]:
        if self.files.library == "open_clip":
            states, pooled = clip.text_states(self.model, tokens)
        else:
            output = self.model.text_model(input_ids=tokens)  # no mask: pads are read
            states, pooled = output.last_hidden_state, output.pooler_output
        return {"tokens": states, "pooled": pooled}

    def _whole_tokens(self, batch: Sequence[str]) -> tuple[Any, list[int]]:
        """(b, context) token ids, padded by the library's own tokenizer, and how many of each text's are no padding.

        Raises `UserError` for a text that does not fit.
        """
        context, lengths = self.widths["context"], self.count(batch)
        self.refuse_long(batch, lengths)
        if self.files.library == "open_clip":
            return self.tokenizer(list(batch), context_length=context).to(self.device), lengths
        padded = self.tokenizer(list(batch), padding="max_length", max_length=context, return_tensors="pt")
        return padded["input_ids"].to(self.device), lengths


extractor = ClipText

"""`text_tokens`: token states, a pooled vector and character offsets from any Hugging Face text encoder."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from cache.identity import Output
from cache.inputs import Side
from foundation.contracts import contract
from foundation.errors import UserError
from pipeline.extraction import base
from pipeline.models import sentence, towers
from pipeline.models.files import ModelFiles, load_tokenizer, load_transformers
from pipeline.models.sentence import Pooling

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
# Encoders whose first token is read, as it ever was.
_FIRST_TOKEN = {
    *_COUNTED_FROM_PADDING,
    *("albert", "bart", "bert", "big_bird", "deberta", "deberta-v2", "distilbert", "electra", "ernie", "mbart"),
    *("modernbert", "mt5", "nomic_bert", "t5"),
}
# Families whose states show the padding, in spite of its mask (convolutions, Fourier transforms, embeddings of
# neighbours): their texts are never padded.
_SHOWS_PADDING = {"convbert", "fnet", "funnel", "mobilebert", "nystromformer", "yoso"}
# Where an architecture's configuration names its number of positions otherwise.
_POSITIONS = dict.fromkeys(("codegen", "ctrl", "gpt2", "gpt_bigcode", "gptj", "openai-gpt"), "n_positions")


@contract
class Options(base.Options):
    """max_tokens: the longest text its view may yield, a prompt included.

    pooling: `cls` (state of the first token), `mean` (over all real tokens), `max`, `last` (state of the last real
    token), `weighted_mean` (by the token's place from 1), `mean_sqrt_length` (the sum by the root of the length); null:
    as a sentence-transformers folder says, else `last` for a decoder and `cls` for any other model. Given, it stands
    for the whole of what the folder says: its further modules and prompts are not applied. normalise: whether pooled
    vectors have length 1; null: as the folder says. prompts: `mention`, `entity` -> what is put before the side's
    texts; null: as the folder says, its query prompt for mentions and its document prompt for entities.
    """

    max_tokens: Annotated[int, Field(ge=16)] = 128
    pooling: Pooling | None = None
    normalise: bool | None = None
    prompts: Mapping[Side, str] | None = None


class TextTokens(base.TextExtractor):
    """tokens (L, d): last hidden states, a prompt's among them · pooled (d, or what the folder's modules give) ·
    offsets (L, 2) int32: each token's characters in the string, prompt included, end exclusive."""

    VERSION = 2
    options: Options

    def __init__(self, options: Options, files: ModelFiles) -> None:
        super().__init__(options, files)
        self.reading = self._reading() if files.library == "transformers" else sentence.Reading(("cls",))

    def _reading(self) -> sentence.Reading:
        """The options, completed by what the folder says. Raises `UserError` where they do not go together."""
        options, where = self.options, f"model {self.options.model!r}"
        decoder = sentence.is_decoder(self.files) if options.pooling in (None, "cls") else False
        if options.pooling == "cls" and decoder:
            raise UserError(
                f"{where}: `pooling: cls` takes a decoder's first state, which sees no other token and is the same for "
                "every text; leave `pooling` out, or set `last` or `mean`"
            )
        usual = sentence.Reading((options.pooling or ("last" if decoder else "cls"),))
        reading = usual if options.pooling else sentence.folder_reading(self.files) or usual
        if options.prompts is not None:
            reading = replace(reading, prompts={str(side): prompt for side, prompt in options.prompts.items()})
        if not reading.whole_prompt and any(reading.prompts.values()):
            raise UserError(
                f"{where}: its folder leaves the prompt out of the pooling, which is not served; set `prompts: "
                '{mention: "", entity: ""}`, or `pooling` and `prompts` of your own'
            )
        if options.normalise is not None:
            layers = tuple(
                layer for layer in reading.layers if layer.kind != "normalise" or layer != reading.layers[-1]
            )
            reading = replace(reading, layers=layers + (sentence.Layer("normalise"),) * options.normalise)
        weights = [layer.weights for layer in reading.layers if layer.weights is not None]
        self._files = replace(self.files, weights=(*self.files.weights, *weights))
        return reading

    @classmethod
    def revised(cls, options: Options, config: Mapping[str, Any]) -> bool:
        """See `Extractor.revised`: decoders, which earlier releases read by their first token, and padded texts of
        families that show it."""
        family = config.get("model_type", "bert")
        return family in _SHOWS_PADDING or (options.pooling is None and family not in _FIRST_TOKEN)

    def prompt(self, side: str) -> str:
        """See `TextExtractor.prompt`."""
        return self.reading.prompts.get(side, "")

    def possible(self) -> dict[str, Output]:
        if self.files.library != "transformers":
            raise UserError(
                f"model {self.options.model!r}: {self.files.folder} holds a model of {self.files.library}; a "
                "Hugging Face text encoder is expected"
            )
        stated = (self.files.config.get(key) for key in ("hidden_size", "dim", "d_model", "n_embd", "emb_dim"))
        width = next((value for value in stated if value), None)
        if not isinstance(width, int):
            raise UserError(
                f"model {self.options.model!r}: its config.json names no hidden_size; a Hugging Face text encoder "
                "is expected"
            )
        outputs = [
            Output("tokens", (width,), ragged=True),
            Output("pooled", (self.reading.width(width),)),
            Output("offsets", (2,), "int32", ragged=True),
        ]
        return {output.name: output for output in outputs}

    def preprocessing(self) -> dict[str, Any]:
        return {**self.reading.to_json(), **({} if self._padded else {"padding": "none"})}

    @property
    def _padded(self) -> bool:
        """Whether texts of a batch are padded to one length."""
        return self.files.config.get("model_type") not in _SHOWS_PADDING

    @property
    def limit(self) -> int:
        config, longest = self.files.config, min(self.options.max_tokens, self.reading.max_tokens or 1 << 31)
        positions = config.get("max_position_embeddings", config.get(_POSITIONS.get(str(config.get("model_type")), "")))
        if not isinstance(positions, int):
            return longest
        unused = config.get("pad_token_id", 1) + 1 if config.get("model_type") in _COUNTED_FROM_PADDING else 0
        return min(longest, positions - unused)

    @property
    def tokenizer(self):
        if not hasattr(self, "_tokenizer"):
            self._tokenizer = load_tokenizer(self.files)
            self._tokenizer.padding_side = "right"  # a row's states are its first ones
            if self._tokenizer.pad_token is None:  # a decoder's: what stands at masked positions changes nothing
                tokenizer = self._tokenizer
                tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token or tokenizer.convert_ids_to_tokens(0)
            if not self._tokenizer.is_fast:
                raise UserError(
                    f"model {self.options.model!r}: its tokenizer gives no character offsets; a fast tokenizer "
                    "(tokenizer.json) is needed"
                )
            if self.reading.lower_case:
                from tokenizers import normalizers

                backend = self._tokenizer.backend_tokenizer
                steps = [normalizers.Lowercase(), *filter(None, [backend.normalizer])]
                backend.normalizer = normalizers.Sequence(steps)
        return self._tokenizer

    def count(self, strings: Sequence[str]) -> list[int]:
        if not strings:
            return []
        return [
            len(ids) for ids in self.tokenizer(list(strings), verbose=False, return_attention_mask=False)["input_ids"]
        ]

    def load(self, device: str) -> None:
        model = load_transformers(self.files, "AutoModel", device)
        model = model.get_encoder() if self.files.config.get("is_encoder_decoder") else model
        if getattr(model.config, "use_cache", False):
            model.config.use_cache = False  # of a decoder: nothing is generated
        self.model, self.device = model, device
        self.layers = sentence.load_layers(self.reading, self.files, device)
        if "cls" in self.reading.pooling:
            self._refuse_a_blind_first_state()

    def _refuse_a_blind_first_state(self) -> None:
        """Raises `UserError` where the first token's state does not depend on what follows it."""
        import torch

        ids = torch.tensor(self.tokenizer(["a probe of the first state"])["input_ids"], device=self.device)
        with torch.inference_mode():
            one, other = (
                self.model(input_ids=row, attention_mask=torch.ones_like(row)).last_hidden_state[0, 0]
                for row in (ids, torch.cat([ids[:, :1], ids[:, 1:].flip(1)], 1))
            )
        if torch.equal(one, other) and len(set(ids[0, 1:].tolist())) > 1:
            raise UserError(
                f"model {self.options.model!r}: pooling is cls, and its first state sees no other token: it would be "
                "the same for every text; set `pooling: last` or `mean`"
            )

    def __call__(self, batch: Sequence[str]) -> base.Outputs:
        encoded = self.tokenizer(list(batch), verbose=False, return_offsets_mapping=True)
        lengths = [len(ids) for ids in encoded["input_ids"]]
        self.refuse_long(batch, lengths)
        if not self._padded and len(set(lengths)) > 1:
            return self._by_length(batch, lengths)
        offsets = [np.asarray(pairs, dtype=np.int32).reshape(-1, 2) for pairs in encoded.pop("offset_mapping")]
        read = self.read(self._padded_inputs(encoded, lengths))
        rows: base.Outputs = {
            "tokens": base.to_rows(read["tokens"], lengths),
            "pooled": base.to_array(read["pooled"]),
            "offsets": offsets,
        }
        return {name: rows[name] for name in self.writes}

    def _padded_inputs(self, encoded: Any, lengths: Sequence[int]) -> Mapping[str, Any]:
        """What the model takes, on the device: (b, L) each."""
        padded = self.tokenizer.pad(
            encoded,
            padding="max_length",
            max_length=base.padded_length(max(1, *lengths), self.limit) if self._padded else max(1, *lengths),
            return_tensors="pt",
        )
        inputs: Mapping[str, Any] = padded.to(self.device)
        return inputs

    def inputs(self, batch: Sequence[str]) -> tuple[Mapping[str, Any], list[int]]:
        """See `pipeline.models.towers.Encoder`."""
        encoded = self.tokenizer(list(batch), verbose=False)
        lengths = [len(ids) for ids in encoded["input_ids"]]
        self.refuse_long(batch, lengths)
        return self._padded_inputs(encoded, lengths), lengths

    @property
    def tower(self) -> Any:
        """See `pipeline.models.towers.Encoder`."""
        if self.files.config.get("model_type") not in towers.TEXTS:
            raise towers.refused(self.files, f"it is a {self.files.config.get('model_type')}")
        return self.model

    def blank(self, states: Any, lengths: Sequence[int]) -> Mapping[str, Any]:
        """See `pipeline.models.towers.Encoder`."""
        import torch

        place = torch.arange(states.shape[1], device=states.device)
        mask = (place < torch.tensor(lengths, device=states.device)[:, None]).long()
        width = self.model.get_input_embeddings().embedding_dim
        return {"inputs_embeds": states.new_zeros(*states.shape[:2], width), "attention_mask": mask}

    def read(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """tokens (b, L, d) and pooled (b, …) of padded texts."""
        states = self.model(**inputs).last_hidden_state
        pooled = self.layers(sentence.pool(states, inputs["attention_mask"], self.reading.pooling))
        return {"tokens": states, "pooled": pooled}

    def _by_length(self, batch: Sequence[str], lengths: Sequence[int]) -> base.Outputs:
        """The rows of a batch, texts of one length at a time."""
        columns: dict[str, list[Any]] = {name: [None] * len(batch) for name in self.writes}
        for length in set(lengths):
            places = [place for place, other in enumerate(lengths) if other == length]
            for name, rows in self([batch[place] for place in places]).items():
                for place, row in zip(places, rows, strict=True):
                    columns[name][place] = row
        return {name: rows if self.writes[name].ragged else np.stack(rows) for name, rows in columns.items()}


extractor = TextTokens

"""MIMIC (Luo et al., KDD 2023): three interaction units over text and image, scored from one-sided encodings."""

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from heads.base import Batch, Ragged, Rows
from heads.config.mimic import MimicConfig
from heads.layers import Pairing, fill
from heads.losses import in_batch_cross_entropy
from heads.methods._mimic_units import Cmfu, Tglu, Vdlu
from heads.methods._one_encoder import Sided

UNMASKED_LENGTH = 40
"""Positions that a text takes where padding is not masked and the encoder's states there are not known: the paper's
limit."""


class Mimic(Sided):
    """Encoding layer (section 3.2), the three units (3.3) and the unit-consistent objective (3.4).

    Reads `text.tokens` (ragged), `text.pooled`, `image.tokens` (P + 1, width; class state first), `image.pooled`, and
    where padding is not masked `text.padded` (positions, width), if there is such a column, in place of the tokens.
    Without image columns the score is TGLU's alone. Four LayerNorms, one per kind of input, shared by mentions and
    entities.
    """

    config: MimicConfig

    def __init__(self, config: MimicConfig, shapes: Mapping[str, tuple[int, ...]]) -> None:
        super().__init__(config, shapes)
        self.units = tuple(unit for unit in config.units if unit == "tglu" or "image.tokens" in shapes)
        if "tglu" in self.units:
            text, local = shapes["text.pooled"][-1], shapes["text.tokens"][-1]
            self.text_local_norm = nn.LayerNorm(local)
            scale = math.sqrt(config.d_t if config.attention_scale == "query" else local)
            self.tglu = Tglu(text, local, config.d_t, scale, config.attention_bias)
            if config.tglu_start == "aligned":
                self.tglu.align()
        if {"tglu", "cmfu"} & set(self.units):
            self.text_global_norm = nn.LayerNorm(shapes["text.pooled"][-1])
            nn.init.constant_(self.text_global_norm.weight, config.text_scale)
        if {"vdlu", "cmfu"} & set(self.units):
            self.image_local = nn.Linear(shapes["image.tokens"][-1], config.d_v)
            self.image_local_norm = nn.LayerNorm(config.d_v)
            if config.missing_image == "null":
                self.absent_image = nn.Parameter(torch.randn(config.d_v) / math.sqrt(config.d_v))
        if "vdlu" in self.units:
            if config.image_global == "projected":
                self.image_global = nn.Linear(shapes["image.pooled"][-1], config.d_v)
            self.image_global_norm = nn.LayerNorm(config.d_v)
            self.vdlu = Vdlu(config.d_v, config.vdlu_projections)
        if "cmfu" in self.units:
            self.cmfu = Cmfu(shapes["text.pooled"][-1], config.d_v, config.d_c, config.cmfu_gate)

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """`L_O + L_T + L_V + L_C`, eq. 20 to 22."""
        mentions, entities = self.encode_mentions(batch.mentions), self.encode_entities(batch.entities)
        names = ["score", *(unit for unit in self.units if unit in self.config.unit_losses)]
        gold, own = batch.gold, {}
        if batch.drawn is not None and self.config.hard_scope == "own":
            absent = (batch.drawn < 0) | (batch.drawn == gold[:, None])
            own = {
                name: values.masked_fill(absent, float("-inf"))
                for name, values in self.score_lists(mentions, entities, batch.drawn).items()
            }
            distinct, gold = torch.unique(gold, return_inverse=True)
            entities = entities.take(distinct)
        scores = self.score_block(mentions, entities)
        parts = {
            name: in_batch_cross_entropy(scores[name], gold, self.config.same_gold_negative, own.get(name))
            for name in names
        }
        return torch.stack(list(parts.values())).sum(), parts

    def score(self, mentions: Rows, entities: Rows, pairing: Pairing) -> dict[str, Tensor]:
        """See `Sided.score`; the score is the mean of the units that are on, eq. 7."""
        scores = {}
        with torch.autocast(next(self.parameters()).device.type, enabled=False):
            if "tglu" in self.units:
                scores["tglu"] = self.tglu.score(mentions, entities, pairing)
            if "vdlu" in self.units:
                scores["vdlu"] = self.vdlu.score(mentions, entities, pairing)
            if "cmfu" in self.units:
                scores["cmfu"] = pairing.dot(mentions.fixed("cmfu"), entities.fixed("cmfu"))  # eq. 19
        return {"score": torch.stack(list(scores.values())).mean(0), **scores}

    def encode(self, inputs: Rows, side: str) -> Rows:
        """See `Sided.encode`: the encoding layer, section 3.2, and what each unit makes of one side alone."""
        columns = Rows()
        if {"tglu", "cmfu"} & set(self.units):
            present = inputs.fixed("text.ok")
            text = self.text_global_norm(self._pooled(inputs, "text"))
        if "tglu" in self.units:
            tokens = inputs.ragged("text.tokens") if self.config.mask_padding else self._unmasked(inputs)
            states = Ragged(self.text_local_norm(tokens.values.float()), tokens.lengths)
            columns |= self.tglu.encode(side, text.float(), present, states)
        if {"vdlu", "cmfu"} & set(self.units):
            pictured = inputs.fixed("image.ok").nonzero().squeeze(1)
            raw = self.image_local(inputs.fixed("image.tokens")[pictured].float())  # (k, P + 1, d_v)
            local = self.image_local_norm(raw)
        if "vdlu" in self.units:
            pooled = self._with_absent(local.mean(1), pictured, self._absent("local"), len(inputs))
            if self.config.image_global == "projected":
                vector = self.image_global(self._pooled(inputs, "image")[pictured])
            else:
                vector = raw[:, 0]
            vector = self._with_absent(self.image_global_norm(vector), pictured, self._absent("global"), len(inputs))
            with torch.autocast(vector.device.type, enabled=False):
                columns |= self.vdlu.encode(side, pooled.float(), vector.float())
        if "cmfu" in self.units:
            columns["cmfu"] = self.cmfu.encode(text * present[:, None], local, pictured, self._absent("local")).float()
        return columns

    def _pooled(self, inputs: Rows, role: str) -> Tensor:
        """The encoder's pooled vectors (n, d)."""
        vectors = inputs.fixed(f"{role}.pooled").float()
        return F.normalize(vectors, dim=-1) if self.config.unit_length else vectors

    def _unmasked(self, inputs: Rows) -> Ragged:
        """Token states with padding that counts as data: the encoder's own where they are known, else zeros."""
        if "text.padded" not in self.shapes:
            return fill(inputs.ragged("text.tokens"), UNMASKED_LENGTH)
        padded, present = inputs.fixed("text.padded"), inputs.fixed("text.ok")
        return Ragged(padded[present].flatten(0, 1), present.long().cpu() * padded.shape[1])

    def _absent(self, kind: str) -> Tensor:
        """What stands for an absent picture after the LayerNorms (d_v): the learned null for global and local alike, or
        what zeros become."""
        if self.config.missing_image == "null":
            return self.absent_image
        shared = kind == "local" or self.config.image_global == "class_row"
        linear = self.image_local if shared else self.image_global
        zeros = torch.zeros(linear.in_features, device=linear.weight.device)
        return (self.image_local_norm if kind == "local" else self.image_global_norm)(linear(zeros))

    @staticmethod
    def _with_absent(rows: Tensor, present: Tensor, absent: Tensor, n: int) -> Tensor:
        """(n, d): `rows` where `present` says, `absent` elsewhere."""
        return absent.to(rows.dtype).expand(n, -1).index_copy(0, present, rows)

"""One vector per record: states pooled by learned attention, beside pooled vectors, projected to length 1."""

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from heads import several
from heads.base import NO_PAIRS, Batch, PerPicture, Ragged, Rows
from heads.config.dual import DualConfig
from heads.layers import Lists, Pairing, length_groups, until_last
from heads.losses import divergence, in_batch_cross_entropy, reverse_cross_entropy
from heads.methods._one_encoder import Sided
from heads.methods._towers import absent_vector, masked_softmax

GROUP = 512
"""Records whose states are weighed at a time."""
LEAST_TEMPERATURE = 0.01
"""As CLIP's: inner products are multiplied by 100 at most."""
EVEN = 0.02
"""Spread of the queries at the start: every state has nearly the same weight."""


class AttentionPool(nn.Module):
    """`concat_h V_h sum_j softmax_j(q_h . x_j) x_j` over the states x_j of a record, each of mean 0 and variance 1.

    The same as multi-head attention of one learned query: what a key map would make of x_j is part of q_h, and V_h is
    applied to the weighted mean, with which it commutes.
    """

    def __init__(self, states: int, width: int, heads: int) -> None:
        super().__init__()
        self.query = nn.Parameter(EVEN * torch.randn(heads, states))
        self.value = nn.Linear(states, width, bias=False)

    def forward(self, states: Ragged) -> tuple[Tensor, Tensor]:
        """Ragged (L, d) -> what is pooled (n, width), zeros for rows without states, and the weight of each position,
        the mean over heads, (sum of lengths,)."""
        device, (heads, width) = states.values.device, self.query.shape
        n, values = len(states.lengths), F.layer_norm(states.values.float(), (width,))
        pooled = values.new_zeros(n, heads, width)
        shares = values.new_zeros(len(values))
        even = Ragged(values, states.lengths)
        for index, length in length_groups(states.lengths, GROUP):
            rows = even.padded(index, length)  # (m, length, d)
            real = torch.arange(length)[None, :] < states.lengths[index][:, None]
            weights = masked_softmax(rows @ self.query.T, real.to(device)[:, :, None], 1)  # (m, length, heads)
            each = weights.transpose(1, 2).to(rows.dtype) @ rows
            pooled = pooled.index_copy(0, index.to(device), each.to(pooled.dtype))
            place = (states.starts[index][:, None] + torch.arange(length))[real].to(device)
            shares = shares.index_copy(0, place, weights.mean(2)[real.to(device)].to(shares.dtype))
        maps = self.value.weight.view(heads, -1, width)
        return torch.einsum("nhd,hod->nho", pooled, maps).flatten(1), shares


class SideEncoder(nn.Module):
    """A side's parts: of the text `W_t [pool; pooled; phrase]`, nothing where there is no text, and of the picture
    `W_v [pool; pooled]`, of a learned vector where there is none."""

    def __init__(self, config: DualConfig, shapes: Mapping[str, tuple[int, ...]]) -> None:
        super().__init__()
        self.pools, self.maps = nn.ModuleDict(), nn.ModuleDict()
        for role in ("text", "image"):
            if f"{role}.pooled" not in shapes:
                continue
            width = shapes[f"{role}.pooled"][-1]
            if config.attention_heads:
                states = shapes[f"{role}.tokens"][-1]
                self.pools[role] = AttentionPool(states, config.attention_width, config.attention_heads)
                width += config.attention_width
            if role == "text" and config.phrase:
                width += shapes["phrase.pooled"][-1]
            self.maps[role] = nn.Linear(width, config.width, bias=False)
            if role == "image":
                self.absent = absent_vector(width)

    def forward(self, inputs: Rows) -> tuple[dict[str, Tensor], dict[str, Ragged]]:
        """By role: parts (n, d), whose sum is the vector before it is brought to length 1, and weights of states.

        inputs: of entities with several rows, one per picture, the pictures are pooled together.
        """
        once = _without_pictures(inputs) if isinstance(inputs, PerPicture) else inputs
        parts, weights = {}, {}
        text, weights["text"] = self._pooled("text", once)
        beside = [_even(once, "phrase")] if "phrase.pooled" in inputs else []
        parts["text"] = self.maps["text"](torch.cat([*text, *beside], 1)) * once.fixed("text.ok")[:, None]
        if "image" in self.maps:
            image, weights["image"] = self._pooled("image", inputs)
            there = once.fixed("image.ok")[:, None]
            parts["image"] = self.maps["image"](torch.where(there, torch.cat(image, 1), self.absent))
        return parts, {role: rows for role, rows in weights.items() if rows is not None}

    def _pooled(self, role: str, inputs: Rows) -> tuple[list[Tensor], Ragged | None]:
        """`[pool, pooled]` (n, ·) of a modality and the weights of its states; of several pictures each pooled vector
        counts as much as the states of its picture."""
        vectors, counts = _even(inputs, role), inputs.counts if isinstance(inputs, PerPicture) else None
        if role not in self.pools:
            return [vectors if counts is None else _sums(vectors, counts) / counts.to(vectors.device)[:, None]], None
        states = _states(inputs, role)
        lengths = states.lengths if counts is None else _sums(states.lengths, counts)
        pooled, shares = self.pools[role](Ragged(states.values, lengths))
        if counts is not None:
            of_picture = _sums(shares, states.lengths)
            vectors = _sums(vectors * of_picture[:, None], counts)
        return [pooled, vectors], Ragged(shares, lengths)


def _even(inputs: Rows, role: str) -> Tensor:
    """The pooled vectors of a role (n, d), each brought to mean 0 and variance 1, zeros where absent."""
    vectors = inputs.fixed(f"{role}.pooled").float()
    return F.layer_norm(vectors, vectors.shape[1:]) * inputs.fixed(f"{role}.ok")[:, None]


def _states(inputs: Rows, role: str) -> Ragged:
    """The states of a role at real length, none where it is absent."""
    states = inputs[f"{role}.tokens"]
    if isinstance(states, Ragged):
        return states
    there = inputs.fixed(f"{role}.ok")
    return Ragged(states[there].flatten(0, 1), there.long().cpu() * states.shape[1])


def _sums(values: Tensor, counts: Tensor) -> Tensor:
    """Sums (n, ·) of runs of `counts` (n,) rows of `values`."""
    rows = torch.arange(len(counts)).repeat_interleave(counts.cpu()).to(values.device)
    return values.new_zeros(len(counts), *values.shape[1:]).index_add(0, rows, values)


def _without_pictures(inputs: PerPicture) -> Rows:
    """One row per entity, of a picture no more than whether there is one."""
    kept = {name: column for name, column in inputs.items() if not name.startswith("image.") or name == "image.ok"}
    return Rows(kept).take(inputs.places.starts)


class Dual(Sided):
    """`score = m . e / tau`, m and e of length 1, tau learned. The vector of a side is the sum of a part of its text
    and one of its picture, so a score is a sum over pairs of modalities, which `explain` gives."""

    config: DualConfig
    one_vector = True

    def __init__(self, config: DualConfig, shapes: Mapping[str, tuple[int, ...]]) -> None:
        super().__init__(config, shapes)
        sides = ("both",) if config.shared else ("mention", "entity")
        self.encoders = nn.ModuleDict({side: SideEncoder(config, shapes) for side in sides})
        self.log_temperature = nn.Parameter(torch.tensor(math.log(config.temperature)))

    def encode_entities(self, inputs: Rows) -> Rows:
        """See `Head.encode_entities`; one vector for all pictures, or one for each where the best counts."""
        if isinstance(inputs, PerPicture) and self.config.entity_pictures == "mean":
            return self.encode(inputs.flat if inputs.single else inputs, "entity")
        return super().encode_entities(inputs)

    def encode(self, inputs: Rows, side: str) -> Rows:
        """`vector` (n, d) of length 1, zeros where a record has nothing and no picture is read; `text` (n, d), its
        text's part of that; of a mention `attention.<role>`, ragged, the weights of the states."""
        parts, weights = self.encoders["both" if self.config.shared else side](inputs)
        whole = torch.stack([part.float() for part in parts.values()]).sum(0)
        length = whole.norm(dim=-1, keepdim=True).clamp(min=torch.finfo(whole.dtype).eps)
        rows = Rows({"vector": whole / length, "text": parts["text"].float() / length})
        return Rows(rows | {f"attention.{role}": of for role, of in weights.items()}) if side == "mention" else rows

    def score(self, mentions: Rows, entities: Rows, pairing: Pairing) -> dict[str, Tensor]:
        """See `Sided.score`."""
        vectors = mentions.fixed("vector"), entities.fixed("vector")
        with torch.autocast(vectors[0].device.type, enabled=False):
            return {"score": pairing.dot(*vectors) / self.temperature}

    @property
    def temperature(self) -> Tensor:
        """tau, a scalar."""
        return self.log_temperature.exp().clamp(min=LEAST_TEMPERATURE)

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross-entropy over the golds of the batch and the drawn entities, and of each gold over the batch's
        mentions; with a teacher also the divergence from it over the gold and the entities drawn from the list."""
        mentions, entities = self.encode_mentions(batch.mentions), self.encode_entities(batch.entities)
        scores = self.score_block(mentions, entities)["score"]
        parts = {"mentions": in_batch_cross_entropy(scores, batch.gold)}
        if self.config.symmetric:
            parts["entities"] = reverse_cross_entropy(scores, batch.gold)
        value = torch.stack(list(parts.values())).mean()
        if batch.teacher is not None and batch.drawn is not None:
            columns = torch.cat([batch.gold[:, None], batch.drawn.clamp(min=0)], 1)
            taught = batch.teacher / self.config.teacher_temperature
            parts["teacher"] = divergence(taught, scores.gather(1, columns))
            value = value + self.config.teacher_weight * parts["teacher"]
        return value, parts

    def explain(
        self, mentions: Rows, entities: Rows, columns: Tensor, pairs: Mapping[str, Tensor] = NO_PAIRS
    ) -> dict[str, Tensor]:
        """What each pair of modalities adds to the score, `text_image` (B, r) the mention's text with the entity's
        picture and so on, with the picture that counts; `attention.<role>` (B, most states), NaN past a mention's
        last."""
        shown = {name: until_last(mentions.ragged(name)) for name in mentions if name.startswith("attention.")}
        if "image.pooled" not in self.shapes:
            return shown
        columns = columns.clamp(min=0)
        if not isinstance(entities, PerPicture):
            return self._shares(mentions, entities, Lists(columns)) | shown
        longer, starts, counts = several.rows_of_lists(entities, columns)
        shares = self._shares(mentions, entities.flat, Lists(longer))
        scores = self.score(mentions, entities.flat, Lists(longer))
        chosen = several.of_pairs({**shares, **scores}, starts, counts, self.config.entity_pictures)
        return {name: values for name, values in chosen.items() if name != "score"} | shown

    def _shares(self, mentions: Rows, entities: Rows, pairing: Pairing) -> dict[str, Tensor]:
        ours, theirs = (
            {"text": rows.fixed("text"), "image": rows.fixed("vector") - rows.fixed("text")}
            for rows in (mentions, entities)
        )
        return {
            f"{first}_{second}": pairing.dot(ours[first], theirs[second]) / self.temperature
            for first in ours
            for second in theirs
        }

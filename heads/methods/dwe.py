"""DWE+ (Song et al., 2024): a mention enhanced by text, objects, faces and identities, compared with entities by
cosine."""

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from heads.base import NO_PAIRS, Batch, Head, Ragged, Rows
from heads.config.dwe import DweConfig
from heads.layers import Block, Lists, until_last
from heads.losses import mean_shifted_contrast

STEPS = ("sentence.pooled", "sentence.tokens", "objects.vectors", "image.pooled", "faces.pooled", "identities.pooled")
"""Columns that a mention may attend to; phrase and entity are one vector each."""


class StepAttention(nn.Module):
    """Multi-head attention of one vector per row over the row's steps, eq. 4 to 7; no residual. A row without steps
    gets 0."""

    def __init__(self, width: int, heads: int, trivial: bool) -> None:
        """trivial: no row has more than one step: its weight is 1 whatever query and key are, and they are left out."""
        super().__init__()
        self.heads = heads
        self.value = nn.Linear(width, width)
        self.output = nn.Linear(width, width)
        self.query = None if trivial else nn.Linear(width, width)
        self.key = None if trivial else nn.Linear(width, width, bias=False)  # a bias would move no weight

    def forward(self, query: Tensor, steps: Ragged) -> tuple[Tensor, Ragged]:
        """query (n, d), steps (n rows of vectors (d)) -> context (n, d), and the weight of each step, the mean over the
        attention's heads."""
        every, longest = torch.arange(len(query)), steps.longest
        real = (torch.arange(longest)[None, :] < steps.lengths[:, None]).to(query.device)  # (n, L)
        values = self._split(
            Ragged(self.value(steps.values), steps.lengths).padded(every, longest)
        )  # (n, L, heads, d / heads)
        weights = real.float()[:, None]  # (n, 1 or heads, L)
        if self.query is not None and self.key is not None:
            keys = self._split(Ragged(self.key(steps.values), steps.lengths).padded(every, longest))
            queries = self._split(self.query(query)) / math.sqrt(keys.shape[-1])
            logits = torch.einsum("nhc,nlhc->nhl", queries, keys).float()
            weights = logits.masked_fill(~real[:, None], torch.finfo(logits.dtype).min).softmax(-1) * weights
        context = torch.einsum("nhl,nlhc->nhc", weights.expand(-1, self.heads, -1).to(values.dtype), values).flatten(1)
        return self.output(context) * real.any(1, keepdim=True), Ragged(weights.mean(1)[real], steps.lengths)

    def _split(self, vectors: Tensor) -> Tensor:
        return vectors.unflatten(-1, (self.heads, -1))


class Dwe(Head):
    """Maps (section 4), three enhanced units (4.3), gated fusion (4.4) and hierarchical contrastive training (4.5).

    Reads `phrase.pooled`, `entity.pooled` and those of `STEPS` that there are: fixed columns are one step, ragged ones
    one per token, object, face or recognised name. All that a unit has nothing to attend to for is 0 in the sum; a unit
    that no mention has features for is not built.
    """

    config: DweConfig
    uses_candidates = True

    def __init__(self, config: DweConfig, shapes: Mapping[str, tuple[int, ...]]) -> None:
        super().__init__(config, shapes)
        self.columns = {name.partition(".")[0]: name for name in STEPS if name in shapes}
        self.seen = (
            ("objects" if "objects" in self.columns else "image" if "image" in self.columns else "")
            if "image" in config.units
            else ""
        )
        read = {"phrase.pooled", *self.columns.values()}
        self.maps = nn.ModuleDict(
            {name.partition(".")[0]: self._map(shapes[name][-1], config.width) for name in sorted(read)}
        )
        self.maps["entity"] = self._map(shapes["entity.pooled"][-1], config.joint_width)
        shared = {self.seen, "faces", "identities"} & set(self.columns)
        if shared:
            self.attention = StepAttention(config.width, config.attention_heads, trivial=shared == {"image"})
        if "text" in config.units:
            self.text_attention = StepAttention(config.width, config.attention_heads, trivial=config.text == "pooled")
        if {"faces", "identities"} & shared:
            self.gate = nn.Parameter(torch.zeros(()))
        self.fusion = nn.Linear(config.width, config.joint_width)

    def _map(self, width: int, out: int) -> nn.Sequential:
        """The non-linear function that brings one kind of input into the common space, section 4."""
        return nn.Sequential(nn.Linear(width, out), nn.ReLU(), nn.LayerNorm(out), nn.Dropout(self.config.dropout))

    def encode_mentions(self, inputs: Rows) -> Rows:
        """`query`, g of eq. 9 at length 1, and `attention.<role>`, ragged, the weights behind it."""
        parts, weights = self._parts(inputs)
        return Rows({"query": self._fuse(parts), **{f"attention.{role}": weight for role, weight in weights.items()}})

    def encode_entities(self, inputs: Rows) -> Rows:
        """`key`, g_e at length 1; `absent`, -1 where an entity has no text: it ranks last, and not as one at right
        angles would (ours)."""
        vectors = self.maps["entity"](inputs.fixed("entity.pooled").float()) * inputs.fixed("entity.ok")[:, None]
        return Rows({"key": F.normalize(vectors.float(), dim=-1), "absent": -(~inputs.fixed("entity.ok")).float()})

    def score_block(self, mentions: Rows, entities: Rows) -> dict[str, Tensor]:
        """The cosine of g and g_e, eq. 1."""
        return self._score(mentions, entities, Block())

    def score_lists(
        self, mentions: Rows, entities: Rows, columns: Tensor, pairs: Mapping[str, Tensor] = NO_PAIRS
    ) -> dict[str, Tensor]:
        """See `Head.score_lists`."""
        return self._score(mentions, entities, Lists(columns.clamp(min=0)))

    def explain(
        self, mentions: Rows, entities: Rows, columns: Tensor, pairs: Mapping[str, Tensor] = NO_PAIRS
    ) -> dict[str, Tensor]:
        """`attention.<role>` (B, most steps): the weight of each object, face, name or token, NaN past a mention's
        last."""
        return {name: until_last(mentions.ragged(name)) for name in mentions if name.startswith("attention.")}

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """`L_f + alpha L_c + beta L_t`, eq. 14; a contrastive loss whose inputs are not there is left out."""
        parts, _ = self._parts(batch.mentions)
        named = {"triplet": self._triplet(self._fuse(parts), batch)}
        coarse, fine = (("t", "v"), ("m", "d")) if self.config.contrast == "prose" else (("m_t", "m_v"), ("f", "d"))
        for name, sides, wanted in (("coarse", coarse, self.config.coarse), ("fine", fine, self.config.fine)):
            if wanted and all(side in parts for side in sides):
                both = parts[sides[0]][1] & parts[sides[1]][1]
                named[name] = mean_shifted_contrast(
                    parts[sides[0]][0][both], parts[sides[1]][0][both], self.config.temperature
                )
        weights = {"triplet": self.config.beta, "coarse": self.config.alpha, "fine": 1.0}
        return torch.stack([weights[name] * value for name, value in named.items()]).sum(), named

    def _score(self, mentions: Rows, entities: Rows, pairing: Block | Lists) -> dict[str, Tensor]:
        with torch.autocast(mentions.fixed("query").device.type, enabled=False):
            return {
                "score": pairing.dot(mentions.fixed("query"), entities.fixed("key"))
                + pairing.entity(entities.fixed("absent"))
            }

    def _parts(self, inputs: Rows) -> tuple[dict[str, tuple[Tensor, Tensor]], dict[str, Ragged]]:
        """Vectors (B, d) by the paper's letters, each with which rows have it (B,) and 0 in the others; attention
        weights by role.

        m; t, v, d, f, s: the mean over a role's steps; m_t, m_v, m_f, m_s: the enhanced units, eq. 4 to 7.
        """
        there = inputs.fixed("phrase.ok")
        mention = self.maps["phrase"](inputs.fixed("phrase.pooled").float()) * there[:, None]
        parts, weights = {"m": (mention, there)}, dict[str, Ragged]()
        steps = {
            role: Ragged(self.maps[role](rows.values.float()), rows.lengths)
            for role, rows in self._steps(inputs).items()
        }
        units = {
            "sentence": ("m_t", "text"),
            self.seen: ("m_v", "image"),
            "faces": ("m_f", "face"),
            "identities": ("m_s", "identity"),
        }
        for role, rows in steps.items():
            real = (rows.lengths > 0).to(mention.device)
            parts[{"sentence": "t", "image": "v", "objects": "d", "faces": "f", "identities": "s"}[role]] = (
                _mean(rows),
                real,
            )
            letter, unit = units.get(role, ("", ""))
            if unit in self.config.units:
                attention = self.text_attention if unit == "text" else self.attention
                context, weights[role] = attention(mention, rows)
                parts[letter] = context, real
        if self.seen == "image":  # the whole picture is the one object
            parts["d"] = parts["v"]
        return parts, weights

    def _steps(self, inputs: Rows) -> dict[str, Ragged]:
        """What each role's rows consist of: the rows themselves where ragged, else the one vector of a row that is
        there."""
        steps = {}
        for role, name in self.columns.items():
            column, there = inputs[name], inputs.fixed(f"{role}.ok")
            steps[role] = column if isinstance(column, Ragged) else Ragged(column[there], there.long().cpu())
        return steps

    def _fuse(self, parts: Mapping[str, tuple[Tensor, Tensor]]) -> Tensor:
        """`g = ((1 - eps)(m + m_t + m_v) + eps (m_f + m_s)) W_g + b_g`, eq. 8 and 9, at length 1 (B, d_m); without
        faces and identities eps is 0."""
        fused = torch.stack([parts[name][0] for name in ("m", "m_t", "m_v") if name in parts]).sum(0)
        attributes = [parts[name][0] for name in ("m_f", "m_s") if name in parts]
        if attributes:
            share = torch.sigmoid(self.gate)
            fused = (1 - share) * fused + share * torch.stack(attributes).sum(0)
        return F.normalize(self.fusion(fused).float(), dim=-1)

    def _triplet(self, query: Tensor, batch: Batch) -> Tensor:
        """Eq. 13 with the sign the right way round, the mean over a mention's negatives, then over the mentions that
        have some.

        Negatives are the mention's candidates but its gold, and golds of other mentions of the batch, drawn anew at
        each step.
        """
        gold, lists = batch.gold, batch.candidates
        assert lists is not None
        hard, drawn = (lists >= 0) & (lists != gold[:, None]), gold.expand(len(gold), -1)
        if self.config.list_negatives:
            lists, hard = _draw(lists, hard, self.config.list_negatives)
        others, strangers = _draw(drawn, drawn != gold[:, None], self.config.in_batch_negatives)
        columns, real = torch.cat([lists, others], 1), torch.cat([hard, strangers], 1)  # (B, negatives)
        real = (
            real & batch.entities.fixed("entity.ok")[gold][:, None]
        )  # a gold without a text has nothing to come nearer to
        used, place = torch.unique(torch.cat([gold[:, None], columns.clamp(min=0)], 1), return_inverse=True)
        keys = self.encode_entities(batch.entities.take(used))
        cosines = self._score(Rows(query=query), keys, Block())["score"].gather(1, place)  # (B, 1 + negatives)
        hinges = (cosines[:, 1:] - cosines[:, :1] + self.config.margin).clamp(min=0) * real
        counts = real.sum(1)
        return (hinges.sum(1) / counts.clamp(min=1)).sum() / (counts > 0).sum().clamp(min=1)


def _draw(columns: Tensor, allowed: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Up to `count` allowed columns of each row, each as likely as any other, and which of them are real. columns,
    allowed (B, n) -> (B, count)."""
    order = torch.rand(columns.shape, device=columns.device).masked_fill(~allowed, -1.0)
    place = order.topk(min(count, columns.shape[1]), dim=1).indices
    return columns.gather(1, place), allowed.gather(1, place)


def _mean(rows: Ragged) -> Tensor:
    """(n, d) mean over each row's steps, 0 where there are none."""
    padded = rows.padded(torch.arange(len(rows.lengths)), rows.longest)
    return padded.sum(1) / rows.lengths.clamp(min=1).to(padded.device)[:, None]

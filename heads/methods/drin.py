"""DRIN (Xing et al., ACM MM 2023): a dynamic graph over a mention and its candidates."""

from collections.abc import Collection, Mapping
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from heads.base import NO_PAIRS, Batch, Head, PerPicture, Ragged, Rows
from heads.config.drin import ENDS, RELATIONS, DrinConfig, reached
from heads.layers import phrase_mean
from heads.losses import margin_ranking
from heads.methods._drin_graph import Edges, Graph, GraphLayer, PublishedLayer, Vertices, interact


class Drin(Head):
    """Vertices (eq. 2 to 5), edges (eq. 6 to 11, cached as pair features), relation interaction (eq. 12, 13), cosine of
    the texts (eq. 14).

    Reads `text.pooled` on both sides, `text.tokens` and `text.offsets` (ragged) of mentions, `image.pooled`, and the
    pair features of `RELATIONS`. The gold takes part as any candidate does: where it is not listed, the graph does not
    know it.
    """

    config: DrinConfig
    uses_candidates = True
    scores_blocks = False
    reads_several = True

    def __init__(self, config: DrinConfig, shapes: Mapping[str, tuple[int, ...]]) -> None:
        super().__init__(config, shapes)
        pictured = "image.pooled" in shapes
        own = {"tt"} if config.tt == "phrase" else set()
        kinds = [
            kind
            for kind in config.edges
            if (kind in own or f"pairs.{config.over_pictures(RELATIONS[kind])}" in shapes)
            and (kind == "tt" or pictured)
        ]
        self.vertices = reached(kinds, config.layers)
        self.kinds = [kind for kind in kinds if set(ENDS[kind]) <= self.vertices]
        published = config.layer == "published"
        self.mention_text = nn.Linear(shapes["text.pooled"][-1], config.width, bias=published)
        self.entity_text = nn.Linear(shapes["text.pooled"][-1], config.width, bias=published)
        if "mv" in self.vertices:
            self.mention_image = nn.Linear(shapes["image.pooled"][-1], config.width, bias=published)
        if "ev" in self.vertices:
            self.entity_image = nn.Linear(shapes["image.pooled"][-1], config.width, bias=published)
        moving = bool(self.kinds) and not config.static_edges
        layer = PublishedLayer if published else GraphLayer
        self.layers = nn.ModuleList(
            layer(
                config.width,
                moving and (published or place < config.layers - 1),
                config.layer_norm,
                config.edge_scale == "width",
            )
            for place in range(config.layers if self.kinds or published else 0)
        )

    def encode_mentions(self, inputs: Rows) -> Rows:
        """`V_mt = W_mt mean(BERT(T_m)[b:e])`, eq. 2, and `V_mv = W_mv ResNet(V_m)`, eq. 4, 0 where there is none.

        The pooled vector ([CLS] where the feature's pooling is `cls`) stands for a phrase that is not found in its
        sentence.
        """
        phrase = phrase_mean(
            inputs.ragged("text.tokens"),
            inputs.ragged("text.offsets"),
            inputs.fixed("text.span"),
            inputs.fixed("text.pooled").float(),
        )
        return self._encode(inputs, phrase, "mention")

    def encode_entities(self, inputs: Rows) -> Rows:
        """`V_et = W_et BERT(T_e)[CLS]`, eq. 3, and `V_ev = W_ev ResNet(V_e)`, eq. 5, 0 where there is none.

        Of several pictures V_ev is the mean; with `entity_pictures: best` each picture's stays, for `_of_nearest`.
        """
        if not isinstance(inputs, PerPicture):
            return self._encode(Rows(inputs), inputs.fixed("text.pooled").float(), "entity")
        rows = self._encode(inputs.flat, inputs.fixed("text.pooled").float(), "entity")
        places = inputs.places
        joined = rows.take(places.starts)
        if "image" in rows:
            each = Ragged(rows.fixed("image"), inputs.counts)
            every = each.padded(torch.arange(len(inputs)), each.longest).sum(1)
            joined["image"] = every / inputs.counts.to(every.device)[:, None]
            if self.config.entity_pictures == "best":
                joined["images"] = each
                joined["seen"] = Ragged(_seen(inputs.flat), inputs.counts)
        return joined

    def score_lists(
        self, mentions: Rows, entities: Rows, columns: Tensor, pairs: Mapping[str, Tensor] = NO_PAIRS
    ) -> dict[str, Tensor]:
        """See `Head.score_lists`; `S(m, e_i) = cos(T_m, T_e_i)`, eq. 14."""
        with torch.autocast(columns.device.type, enabled=False):
            mention, candidates, _ = self._interact(mentions, entities, columns, pairs)
            return {"score": F.cosine_similarity(mention[:, None], candidates, dim=-1)}

    def explain(
        self, mentions: Rows, entities: Rows, columns: Tensor, pairs: Mapping[str, Tensor] = NO_PAIRS
    ) -> dict[str, Tensor]:
        """`edge_<kind>_<l>` (B, r): the edges A^l that layer l + 1 used, from A^0 on; NaN where there is none."""
        _, graph = self._graph(mentions, entities, columns, pairs)
        with torch.autocast(columns.device.type, enabled=False):
            _, _, used = self._interact(mentions, entities, columns, pairs)
        return {
            f"edge_{kind}_{place}": edges[kind].masked_fill(~graph.live[kind], torch.nan)
            for place, edges in enumerate(used)
            for kind in self.kinds
        }

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Eq. 17, as a mean over the mentions whose gold is among their candidates; the others are skipped.

        `negatives: batch`: every entity of every list of the mini-batch but the gold, each as its own list's graph has
        left it.
        """
        assert batch.candidates is not None
        mentions, entities = self.encode_mentions(batch.mentions), self.encode_entities(batch.entities)
        with torch.autocast(batch.gold.device.type, enabled=False):
            mention, candidates, _ = self._interact(mentions, entities, batch.candidates, batch.pairs)
            listed, gold = batch.candidates >= 0, batch.candidates == batch.gold[:, None]
            scores = F.cosine_similarity(mention[:, None], candidates, dim=-1)  # (B, r)
            positive = (scores * gold).sum(1)
            negative = listed & ~gold
            if self.config.negatives == "batch":
                negative = (listed & (batch.candidates != batch.gold[:, None, None])).flatten(1)  # (B, B * r)
                scores = F.normalize(mention, dim=-1) @ F.normalize(candidates.flatten(0, 1), dim=-1).T
            known = gold.any(1)
            negative = negative & known[:, None]
            value = margin_ranking(positive, scores, negative, self.config.margin, self.config.hinge == "mean")
        return value, {"gold listed": known.float().mean()}

    def _encode(self, inputs: Rows, text: Tensor, side: str) -> Rows:
        present = inputs.fixed("text.ok")
        columns = Rows({"text": (getattr(self, f"{side}_text")(text) * present[:, None]).float(), "text.ok": present})
        if self.config.tt == "phrase":
            columns["phrase"] = F.normalize(text, dim=-1) * present[:, None]
        if side == "mention" and "mv" in self.vertices and self.config.entity_pictures == "best":
            columns["seen"] = _seen(inputs)
        if {"mention": "mv", "entity": "ev"}[side] in self.vertices:
            columns["image.ok"] = inputs.fixed("image.ok")
            columns["image"] = (
                getattr(self, f"{side}_image")(inputs.fixed("image.pooled").float()) * inputs.fixed("image.ok")[:, None]
            ).float()
        return columns

    def _graph(
        self, mentions: Rows, entities: Rows, columns: Tensor, pairs: Mapping[str, Tensor]
    ) -> tuple[Edges, Graph]:
        """A^0, 0 where there is no edge, and which edges and vertices there are."""
        rows, listed = columns.clamp(min=0), columns >= 0
        there: dict[str, Tensor] = {}
        for name in self.vertices:
            column = "image.ok" if name.endswith("v") else "text.ok"
            there[name] = mentions.fixed(column) if name.startswith("m") else listed & entities.fixed(column)[rows]
        live: dict[str, Tensor] = {}
        weights: Edges = {}
        for kind in self.kinds:
            if kind == "tt" and self.config.tt == "phrase":
                values = torch.bmm(F.embedding(rows, entities.fixed("phrase")), mentions.fixed("phrase")[:, :, None])[
                    :, :, 0
                ]
            else:
                values = pairs[self.config.over_pictures(RELATIONS[kind])]
            mention, candidate = ENDS[kind]
            live[kind] = ~values.isnan() & there[mention][:, None] & there[candidate]
            weights[kind] = values.masked_fill(~live[kind], 0.0)
        counts: dict[str, Tensor] = {}
        if self.config.neighbours != "sum":
            counted = live if self.config.neighbours == "mean" else dict.fromkeys(live, listed)
            counts = {kind: edges.sum(1, keepdim=True).clamp(min=1) for kind, edges in counted.items()}
        return weights, Graph(live, there, counts)

    def _interact(
        self, mentions: Rows, entities: Rows, columns: Tensor, pairs: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor, list[Edges]]:
        """What `heads.methods._drin_graph.interact` gives for each mention's list."""
        weights, graph = self._graph(mentions, entities, columns, pairs)
        rows = columns.clamp(min=0)
        vertices: Vertices = {"mt": mentions.fixed("text"), "et": F.embedding(rows, entities.fixed("text"))}
        if "mv" in self.vertices:
            vertices["mv"] = mentions.fixed("image")
        if "ev" in self.vertices:
            if "images" in entities and "seen" in mentions:
                vertices["ev"] = self._of_nearest(mentions, entities, rows)
            else:
                vertices["ev"] = F.embedding(rows, entities.fixed("image"))
        return interact(cast("Collection[GraphLayer | PublishedLayer]", self.layers), vertices, weights, graph)

    def _of_nearest(self, mentions: Rows, entities: Rows, rows: Tensor) -> Tensor:
        """V_ev (B, r, d) of the picture of each entity `rows` (B, r) that is nearest the mention's, by the cosine of
        both features; the mean over its pictures where the mention has none."""
        seen, images = entities.ragged("seen"), entities.ragged("images")
        starts, counts = seen.starts.to(rows.device)[rows], seen.lengths.to(rows.device)[rows]
        own = mentions.fixed("seen")[:, :, None]  # (B, d, 1)
        nearest, best = starts, torch.bmm(F.embedding(starts, seen.values), own)[:, :, 0]
        for number in range(1, int(counts.max()) if counts.numel() else 0):
            at = torch.where(counts > number, starts + number, starts)
            cosine = torch.bmm(F.embedding(at, seen.values), own)[:, :, 0]
            nearest, best = torch.where(cosine > best, at, nearest), torch.maximum(cosine, best)
        # One gather, in which an only picture stands for its mean: gradients are summed as if there were no choice.
        mean = torch.where(counts > 1, len(images.values) + rows, starts)
        chosen = torch.where(mentions.fixed("image.ok")[:, None], nearest, mean)
        return F.embedding(chosen, torch.cat([images.values, entities.fixed("image")]))


def _seen(inputs: Rows) -> Tensor:
    """(n, d) the pictures' pooled features at length 1; nothing is learned from what is chosen by them."""
    return F.normalize(inputs.fixed("image.pooled").float(), dim=-1) * inputs.fixed("image.ok")[:, None]

"""DRIN's graph of a mention and its candidates: a star of bipartite blocks, never a matrix over all vertices.

The four kinds of edges join a mention's text or image (`mt`, `mv`) to a candidate's text or image (`et`, `ev`). Every
vertex of one side meets at most two of the other, and every map is linear, so it is applied on the mention's side
alone: to messages after they are gathered, and to the edge query. A layer then costs O(r d + d^2) per mention, where
the equations as printed cost O(r d^2); the numbers are the same.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from heads.config.drin import ENDS

Vertices = dict[str, Tensor]
"""`mt`, `mv` (B, d); `et`, `ev` (B, r, d)."""
Edges = dict[str, Tensor]
"""Kind -> (B, r); 0 where there is no edge."""


@dataclass(frozen=True)
class Graph:
    """What there is of a batch's graphs, the same for all layers. live: kind -> (B, r) bool, the mask M. there: vertex
    -> (B,) or (B, r) bool. counts: kind -> (B, 1) by which a sum over a mention's candidates is divided; none for the
    bare sum."""

    live: Mapping[str, Tensor]
    there: Mapping[str, Tensor]
    counts: Mapping[str, Tensor]

    def shares(self, edges: Edges) -> Edges:
        """The weights at the mention's end of each edge."""
        return {kind: values / self.counts[kind] if kind in self.counts else values for kind, values in edges.items()}

    @staticmethod
    def gathered(shares: Edges, vertices: Vertices, name: str) -> Tensor:
        """(B, d): the sum over a mention vertex's edges of weight times candidate vertex, 0 without edges."""
        kinds = [kind for kind in shares if name in ENDS[kind]]
        parts = [torch.bmm(shares[kind][:, None], vertices[ENDS[kind][1]])[:, 0] for kind in kinds]
        return torch.stack(parts).sum(0) if parts else torch.zeros_like(vertices[name])

    @staticmethod
    def scattered(edges: Edges, sent: Vertices, name: str) -> Tensor:
        """(B, r, d): the sum over a candidate vertex's edges of weight times what the mention vertex `sent` (B, d)."""
        kinds = [kind for kind in edges if name in ENDS[kind]]
        return torch.bmm(
            torch.stack([edges[kind] for kind in kinds], -1), torch.stack([sent[ENDS[kind][0]] for kind in kinds], 1)
        )


class GraphLayer(nn.Module):
    """One layer of relation interaction, eq. 12 and 13. W_h and W_e are shared by all kinds of vertices."""

    def __init__(self, width: int, dynamic: bool, layer_norm: bool, scaled: bool) -> None:
        """dynamic: whether edges are updated after the vertices. scaled: see `edge_scale`."""
        super().__init__()
        self.message = nn.Linear(width, width)
        self.edge = nn.Linear(width, width) if dynamic else None
        self.norm = nn.LayerNorm(width) if layer_norm else None
        self.scale = 1 / width if scaled else 1.0

    def forward(
        self, vertices: Vertices, edges: Edges, graph: Graph, updated: Collection[str]
    ) -> tuple[Vertices, Edges]:
        """The vertices, of which those `updated` are new, and the edges that follow from them."""
        vertices = self.vertices(vertices, edges, graph, updated)
        return vertices, self.edges(vertices, edges, graph)

    def vertices(self, vertices: Vertices, edges: Edges, graph: Graph, updated: Collection[str]) -> Vertices:
        """`H^(l+1) = GELU(A^l H^l W_h^T) + H^l`, eq. 12, of the vertices `updated`."""
        shares = graph.shares(edges)
        sent = {name: self.message(vertices[name]) for name in sorted({ENDS[kind][0] for kind in edges})}
        result = dict(vertices)
        for name in updated:
            kinds = [kind for kind in edges if name in ENDS[kind]]
            if not kinds:
                continue
            joined = torch.stack([graph.live[kind] for kind in kinds]).any(0)  # (B, r)
            if name in ("mt", "mv"):
                gathered = graph.gathered(shares, vertices, name)  # (B, d)
                total = torch.stack([shares[kind].sum(1) for kind in kinds]).sum(0)  # (B,)
                received = F.linear(gathered, self.message.weight) + total[:, None] * self.message.bias
                joined = joined.any(1)
            else:
                received = graph.scattered(edges, sent, name)  # (B, r, d)
            if self.norm is not None:
                received = self.norm(received) * joined[..., None]  # a vertex without edges stays as it is
            result[name] = vertices[name] + F.gelu(received)
        return result

    def edges(self, vertices: Vertices, edges: Edges, graph: Graph) -> Edges:
        """`A^(l+1) = M * (sigmoid(<W_e H_i, W_e H_j> / d) + A^l)`, eq. 13, over the updated vertices; as they are where
        the layer is not dynamic."""
        if self.edge is None:
            return edges
        mapped = {name: self.edge(vertices[name]) for name in sorted({ENDS[kind][0] for kind in edges})}
        result = {}
        for kind, values in edges.items():
            mention, candidate = ENDS[kind]
            product = _inner(mapped[mention], self.edge, vertices[candidate])
            result[kind] = (torch.sigmoid(product * self.scale) + values) * graph.live[kind]
        return result


class PublishedLayer(nn.Module):
    """The layer of the published code. Each has its edge maps, also the last, whose edges nothing reads: so the number
    of parameters is that of the release."""

    def __init__(self, width: int, dynamic: bool, layer_norm: bool, scaled: bool) -> None:
        """See `GraphLayer`."""
        super().__init__()
        self.message = nn.Linear(width, width)
        self.mention_edge = nn.Linear(width, width) if dynamic else None
        self.entity_edge = nn.Linear(width, width) if dynamic else None
        self.norm = nn.LayerNorm(width) if layer_norm else None
        self.scale = 1 / width if scaled else 1.0

    def forward(
        self, vertices: Vertices, edges: Edges, graph: Graph, updated: Collection[str]
    ) -> tuple[Vertices, Edges]:
        """The vertices, of which those `updated` are new, and the edges that follow from the vertices before."""
        return self.vertices(vertices, edges, graph, updated), self.edges(vertices, edges, graph)

    def vertices(self, vertices: Vertices, edges: Edges, graph: Graph, updated: Collection[str]) -> Vertices:
        """`u' = GELU(LayerNorm(W_h (u + sum A v)))` of the vertices `updated`; what is not there stays 0."""
        shares, result = graph.shares(edges), dict(vertices)
        for name in updated:
            whole = vertices[name]
            if name in ("mt", "mv"):
                whole = whole + graph.gathered(shares, vertices, name)
            elif any(name in ENDS[kind] for kind in edges):
                whole = whole + graph.scattered(edges, vertices, name)
            whole = self.message(whole)
            whole = whole if self.norm is None else self.norm(whole)
            result[name] = F.gelu(whole) * graph.there[name][..., None]
        return result

    def edges(self, vertices: Vertices, edges: Edges, graph: Graph) -> Edges:
        """`A' = M * sigmoid(<W_u u, W_v v> / d + A)`, u of the mention and v of the candidate; as they are where the
        layer is not dynamic."""
        if self.mention_edge is None or self.entity_edge is None:
            return edges
        mapped = {name: self.mention_edge(vertices[name]) for name in sorted({ENDS[kind][0] for kind in edges})}
        result = {}
        for kind, values in edges.items():
            mention, candidate = ENDS[kind]
            product = _inner(mapped[mention], self.entity_edge, vertices[candidate])
            result[kind] = torch.sigmoid(product * self.scale + values) * graph.live[kind]
        return result


def _inner(query: Tensor, linear: nn.Linear, vertices: Tensor) -> Tensor:
    """(B, r): `<q, W v + b>` of a mention's q (B, d) and its candidates' v (B, r, d), with W on the mention's side."""
    mapped, constant = query @ linear.weight, query @ linear.bias  # (B, d), (B,)
    return torch.bmm(vertices, mapped[:, :, None])[:, :, 0] + constant[:, None]


def interact(
    layers: Collection[GraphLayer | PublishedLayer], vertices: Vertices, edges: Edges, graph: Graph
) -> tuple[Tensor, Tensor, list[Edges]]:
    """Text vertices (B, d) and (B, r, d) after the last layer, and the edges A^0 to A^(L-1) that the layers used.

    After the last layer only texts are looked at: its image vertices and its edge update feed nothing and are not
    computed.
    """
    used = []
    for place, layer in enumerate(layers):
        used.append(edges)
        if place == len(layers) - 1:
            vertices = layer.vertices(vertices, edges, graph, ("mt", "et"))
        else:
            vertices, edges = layer(vertices, edges, graph, sorted(vertices))
    return vertices["mt"], vertices["et"], used

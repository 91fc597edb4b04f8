"""DRIN's graph of a mention and its candidates: a star of bipartite blocks, never a matrix over all vertices.

The four kinds of edges join a mention's text or image (`mt`, `mv`) to a candidate's text or image (`et`, `ev`). Every
vertex of one side meets at most two of the other, and every map is linear, so it is applied on the mention's side
alone: to messages after they are gathered, and to the edge query. A layer then costs O(r d + d^2) per mention, where
the equations as printed cost O(r d^2); the numbers are the same.
"""

from collections.abc import Collection, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ENDS = {"tt": ("mt", "et"), "ti": ("mt", "ev"), "it": ("mv", "et"), "ii": ("mv", "ev")}
"""Kind of edge -> its vertices at the mention and at the candidate."""

Vertices = dict[str, Tensor]
"""`mt`, `mv` (B, d); `et`, `ev` (B, r, d)."""
Edges = dict[str, Tensor]
"""Kind -> (B, r); 0 where there is no edge."""


class GraphLayer(nn.Module):
    """One layer of relation interaction, eq. 12 and 13. W_h and W_e are shared by all kinds of vertices."""

    def __init__(self, width: int, dynamic: bool, layer_norm: bool, mean: bool, scaled: bool) -> None:
        """dynamic: whether edges are updated after the vertices. mean: over a mention's candidates, instead of the sum.
        scaled: see `edge_scale`."""
        super().__init__()
        self.message = nn.Linear(width, width)
        self.edge = nn.Linear(width, width) if dynamic else None
        self.norm = nn.LayerNorm(width) if layer_norm else None
        self.mean = mean
        self.scale = 1 / width if scaled else 1.0

    def vertices(
        self, vertices: Vertices, edges: Edges, live: Mapping[str, Tensor], updated: Collection[str]
    ) -> Vertices:
        """`H^(l+1) = GELU(A^l H^l W_h^T) + H^l`, eq. 12, of the vertices `updated`. live: kind -> (B, r) bool of the
        edges there are."""
        weights = {kind: self._shares(values, live[kind]) for kind, values in edges.items()}
        sent = {name: self.message(vertices[name]) for name in sorted({ENDS[kind][0] for kind in edges})}
        result = dict(vertices)
        for name in updated:
            kinds = [kind for kind in edges if name in ENDS[kind]]
            if not kinds:
                continue
            joined = torch.stack([live[kind] for kind in kinds]).any(0)  # (B, r)
            if name in ("mt", "mv"):
                gathered = torch.stack(
                    [torch.bmm(weights[kind][:, None], vertices[ENDS[kind][1]])[:, 0] for kind in kinds]
                ).sum(0)  # (B, d)
                total = torch.stack([weights[kind].sum(1) for kind in kinds]).sum(0)  # (B,)
                received = F.linear(gathered, self.message.weight) + total[:, None] * self.message.bias
                joined = joined.any(1)
            else:
                received = torch.bmm(
                    torch.stack([edges[kind] for kind in kinds], -1),
                    torch.stack([sent[ENDS[kind][0]] for kind in kinds], 1),
                )  # (B, r, d)
            if self.norm is not None:
                received = self.norm(received) * joined[..., None]  # a vertex without edges stays as it is
            result[name] = vertices[name] + F.gelu(received)
        return result

    def edges(self, vertices: Vertices, edges: Edges, live: Mapping[str, Tensor]) -> Edges:
        """`A^(l+1) = M * (sigmoid(<W_e H_i, W_e H_j> / d) + A^l)`, eq. 13, over the updated vertices; as they are where
        the layer is not dynamic."""
        if self.edge is None:
            return edges
        mapped = {name: self.edge(vertices[name]) for name in sorted({ENDS[kind][0] for kind in edges})}
        result = {}
        for kind, values in edges.items():
            mention, candidate = ENDS[kind]
            query, constant = mapped[mention] @ self.edge.weight, mapped[mention] @ self.edge.bias  # (B, d), (B,)
            product = torch.bmm(vertices[candidate], query[:, :, None])[:, :, 0] + constant[:, None]
            result[kind] = (torch.sigmoid(product * self.scale) + values) * live[kind]
        return result

    def _shares(self, values: Tensor, live: Tensor) -> Tensor:
        """(B, r) weights at the mention's end of an edge."""
        return values / live.sum(1, keepdim=True).clamp(min=1) if self.mean else values


def interact(
    layers: Collection[GraphLayer], vertices: Vertices, edges: Edges, live: Mapping[str, Tensor]
) -> tuple[Tensor, Tensor, list[Edges]]:
    """Text vertices (B, d) and (B, r, d) after the last layer, and the edges A^0 to A^(L-1) that the layers used.

    After the last layer only texts are looked at: its image vertices and its edge update feed nothing and are not
    computed.
    """
    used = []
    for place, layer in enumerate(layers):
        used.append(edges)
        last = place == len(layers) - 1
        vertices = layer.vertices(vertices, edges, live, ("mt", "et") if last else sorted(vertices))
        if not last:
            edges = layer.edges(vertices, edges, live)
    return vertices["mt"], vertices["et"], used

"""MIMIC's three interaction units (section 3.3), each split into what one side brings and what a pair costs."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foundation.errors import UserError
from heads.base import Ragged, Rows
from heads.layers import Lists, Pairing, attend_block, attend_lists, centred


class Tglu(nn.Module):
    """Text-based global-local unit, eq. 4 and 8 to 10. The width of the global vector may differ from that of the token
    states."""

    def __init__(self, global_width: int, local_width: int, width: int, scale: float, bias: bool) -> None:
        """bias: of Q, K and V; that of K moves no attention weight."""
        super().__init__()
        self.scale = scale
        self.query = nn.Linear(local_width, width, bias)
        self.key = nn.Linear(local_width, width, bias)
        self.value = nn.Linear(local_width, width, bias)
        self.projection = nn.Linear(global_width, width)
        self.norm = nn.LayerNorm(width)

    def align(self) -> None:
        """Let Q, K, V and FC(t_E) begin as one orthogonal projection: tokens attend to those like them, and the score
        to what t_E has in common with what they found. Raises `UserError` where vectors and token states differ in
        width, as no projection fits both."""
        if self.projection.in_features != self.query.in_features:
            raise UserError(
                f"tglu_start = 'aligned': text vectors are {self.projection.in_features} wide and token states "
                f"{self.query.in_features}; "
                "both need one width, leave tglu_start at 'random'"
            )
        nn.init.orthogonal_(self.query.weight)
        with torch.no_grad():
            for linear in (self.key, self.value, self.projection):
                linear.weight.copy_(self.query.weight)
            for linear in (self.query, self.key, self.value, self.projection):
                if linear.bias is not None:
                    linear.bias.zero_()

    def encode(self, side: str, vector: Tensor, present: Tensor, tokens: Ragged) -> Rows:
        """One side's part: Q and FC(t_E) of an entity, K and V of a mention. A row without text is 0 and scores 0 with
        everything."""
        columns = Rows({"tglu.global": vector * present[:, None]})
        if side == "entity":
            columns["tglu.projected"] = self.projection(vector).float() * present[:, None]
            columns["tglu.query"] = Ragged(self.query(tokens.values).float() / self.scale, tokens.lengths)
        else:
            columns["tglu.key"] = Ragged(self.key(tokens.values).float(), tokens.lengths)
            columns["tglu.value"] = Ragged(self.value(tokens.values).float(), tokens.lengths)
        return columns

    def score(self, mentions: Rows, entities: Rows, pairing: Pairing) -> Tensor:
        """`S_T = (t_E . t_M + FC(t_E) . LayerNorm(MeanPooling(H_t))) / 2`, eq. 4."""
        query, projected = entities.ragged("tglu.query"), entities.fixed("tglu.projected")
        key, value = mentions.ragged("tglu.key"), mentions.ragged("tglu.value")
        global_global = pairing.dot(mentions.fixed("tglu.global"), entities.fixed("tglu.global"))
        if isinstance(pairing, Lists):
            context = attend_lists(query, key, value, pairing.columns)
            seen = pairing.mention((key.lengths > 0).to(context.device)) & pairing.entity(
                (query.lengths > 0).to(context.device)
            )
            global_local = (self.norm(context) * projected[pairing.columns]).sum(-1) * seen
        else:
            global_local = torch.zeros_like(global_global)
            for rows, columns, context in attend_block(query, key, value):
                global_local[rows[:, None], columns] = torch.einsum(
                    "bed,ed->be", self.norm(context), projected[columns]
                )
        return (global_global + global_local) / 2


class DualA2B(nn.Module):
    """`DUAL_A2B`, eq. 12 to 14: query side A, value side B. Everything but a gate and two LayerNorm scales per pair is
    one-sided.

    A LayerNorm of a sum is the sum of the centred parts over one number, and that number follows from inner products of
    the parts. So per pair there are five inner products (of centred vectors: nothing cancels) and a few scalar
    operations, and no vector.
    """

    def __init__(self, width: int, projections: bool, query_is_mention: bool) -> None:
        """projections: the release's two further Linears, and its normalised query.

        The bias of the last LayerNorm adds `bias . v_A` to the score. Where A is the mention that moves all entities
        alike, so the loss has no gradient for it: it would stay 0 for ever and is left out.
        """
        super().__init__()
        self.query_is_mention = query_is_mention
        self.vector_projection = nn.Linear(width, width) if projections else None
        self.pooled_projection = nn.Linear(width, width) if projections else None
        self.sum_norm = nn.LayerNorm(width)
        self.fusion = nn.Linear(width, width)
        self.gate = nn.Linear(width, 1)
        self.norm = nn.LayerNorm(width, bias=projections or not query_is_mention)

    def _constant(self) -> Tensor:
        """What the bias of the first LayerNorm and of the Linear after it add to h_vc, whatever the input."""
        return self.fusion(self.sum_norm.bias)

    def _fused(self, centred_part: Tensor) -> Tensor:
        """The part of h_vc that one centred summand brings, before the division by the LayerNorm's deviation."""
        return F.linear(self.sum_norm.weight * centred_part, self.fusion.weight)

    def encode_query(self, vector: Tensor) -> dict[str, Tensor]:
        """Side A's part. vector: v_A (n, d)."""
        if self.vector_projection is not None:
            vector = self.vector_projection(vector)
        part = centred(vector)
        fused = self._fused(part)
        query = self.norm(vector) if self.vector_projection is not None else vector
        target, constant, centred_fused = self.norm.weight * query, centred(self._constant()), centred(fused)
        scalars = [
            (part * part).sum(-1),
            (fused @ self.gate.weight.T).squeeze(-1),
            (centred_fused * centred_fused).sum(-1),
            centred_fused @ constant,
        ]
        offset = torch.zeros_like(query[:, 0]) if self.norm.bias is None else query @ self.norm.bias
        scalars += [(centred_fused * target).sum(-1), target @ constant, offset]
        return {"part": part, "fused": centred_fused, "target": target, "scalars": torch.stack(scalars, -1)}

    def encode_value(self, pooled: Tensor, vector: Tensor) -> dict[str, Tensor]:
        """Side B's part. pooled: mean of V_B (n, d); vector: v_B (n, d)."""
        if self.vector_projection is not None and self.pooled_projection is not None:
            pooled, vector = self.pooled_projection(pooled), self.vector_projection(vector)
        part = centred(pooled)
        fused = self._fused(part)
        constant, centred_fused, base = centred(self._constant()), centred(fused), centred(vector)
        scalars = [
            (part * part).sum(-1),
            (fused @ self.gate.weight.T).squeeze(-1),
            (centred_fused * centred_fused).sum(-1),
            centred_fused @ constant,
        ]
        scalars += [(centred_fused * base).sum(-1), base @ constant, (base * base).sum(-1)]
        return {"part": part, "fused": centred_fused, "base": base, "scalars": torch.stack(scalars, -1)}

    def score(self, query: Mapping[str, Tensor], value: Mapping[str, Tensor], pairing: Pairing) -> Tensor:
        """`S_V^A2B = LayerNorm(h_vg h_vc + v_B) . v_A` for all pairs of the pairing, eq. 13 and 14."""
        if self.query_is_mention:
            of_query, of_value = pairing.mention, pairing.entity
        else:
            of_query, of_value = pairing.entity, pairing.mention

        def dot(a: str, b: str) -> Tensor:
            return pairing.dot(query[a], value[b]) if self.query_is_mention else pairing.dot(value[b], query[a])

        q_square, q_gate, q_fused_square, q_fused_constant, q_fused_target, q_target_constant, q_offset = map(
            of_query, query["scalars"].unbind(-1)
        )
        v_square, v_gate, v_fused_square, v_fused_constant, v_fused_base, v_base_constant, v_base_square = map(
            of_value, value["scalars"].unbind(-1)
        )
        whole = self._constant()
        constant = centred(whole)
        width = query["part"].shape[-1]
        scale = _inverse_deviation(q_square + v_square + 2 * dot("part", "part"), width, self.sum_norm.eps)
        gate = torch.tanh((q_gate + v_gate) * scale + self.gate(whole))
        scale = gate * scale
        numerator = scale * (dot("target", "fused") + q_fused_target) + gate * q_target_constant + dot("target", "base")
        square = (
            scale * scale * (q_fused_square + v_fused_square + 2 * dot("fused", "fused"))
            + gate * gate * (constant @ constant)
            + v_base_square
        )
        square = (
            square
            + 2 * scale * (gate * (q_fused_constant + v_fused_constant) + v_fused_base + dot("fused", "base"))
            + 2 * gate * v_base_constant
        )
        return numerator * _inverse_deviation(square, width, self.norm.eps) + q_offset


def _inverse_deviation(square: Tensor, width: int, eps: float) -> Tensor:
    """1 / the deviation a LayerNorm divides by, from the squared length of the centred vector (rounding may leave it a
    little below 0)."""
    return torch.rsqrt(square.clamp(min=0) / width + eps)


class Vdlu(nn.Module):
    """Vision-based dual unit, eq. 5 and 11: `DUAL` from entity to mention and from mention to entity, each with weights
    of its own."""

    def __init__(self, width: int, projections: bool) -> None:
        """projections: see `DualA2B`."""
        super().__init__()
        self.entity_to_mention = DualA2B(width, projections, query_is_mention=False)
        self.mention_to_entity = DualA2B(width, projections, query_is_mention=True)

    def encode(self, side: str, pooled: Tensor, vector: Tensor) -> Rows:
        """One side's part of both directions. pooled: mean of V (n, d); vector: v (n, d)."""
        asks, answers = ("e2m.", "m2e.") if side == "entity" else ("m2e.", "e2m.")
        of = {"e2m.": self.entity_to_mention, "m2e.": self.mention_to_entity}
        columns = Rows({asks + name: column for name, column in of[asks].encode_query(vector).items()})
        columns |= {answers + name: column for name, column in of[answers].encode_value(pooled, vector).items()}
        return columns

    def score(self, mentions: Rows, entities: Rows, pairing: Pairing) -> Tensor:
        """`S_V = (S_V^E2M + S_V^M2E) / 2`, eq. 5."""
        to_mention = self.entity_to_mention.score(_part(entities, "e2m."), _part(mentions, "e2m."), pairing)
        to_entity = self.mention_to_entity.score(_part(mentions, "m2e."), _part(entities, "m2e."), pairing)
        return (to_mention + to_entity) / 2


def _part(columns: Rows, prefix: str) -> dict[str, Tensor]:
    return {name[len(prefix) :]: columns.fixed(name) for name in columns if name.startswith(prefix)}


class Cmfu(nn.Module):
    """Cross-modal fusion unit, eq. 15 to 19: one-sided but for a final inner product; both sides share weights."""

    def __init__(self, text_width: int, image_width: int, width: int, gate: str) -> None:
        super().__init__()
        self.text = nn.Linear(text_width, width)
        self.image = nn.Linear(image_width, width)
        self.gate = nn.Linear(width, width if gate == "vector" else 1)
        self.norm = nn.LayerNorm(width)

    def encode(self, text: Tensor, patches: Tensor, present: Tensor, absent: Tensor) -> Tensor:
        """`FUSE(h_t, H_v)`, eq. 16 to 18. text (n, d_T); patches (k, P, d_v) of the rows `present` (k,); absent (d_v):
        the others' one state."""
        words = self.text(text)  # (n, d)
        states = self.image(patches)  # (k, P, d)
        weights = torch.einsum("kd,kpd->kp", words[present], states).softmax(-1)
        context = (
            self.image(absent)
            .expand(len(text), -1)
            .index_copy(0, present, torch.einsum("kp,kpd->kd", weights, states).to(words.dtype))
        )
        return self.norm(torch.tanh(self.gate(words)) * words + context)

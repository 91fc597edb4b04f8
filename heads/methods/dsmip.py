"""DSMIP (dynamic modality selection and interactive prompt learning): three experts, learned prompts, and a gate that
picks one expert per pair."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from heads import several
from heads.base import Batch, Head, PerPicture, Ragged, Rows
from heads.config.dsmip import PROMPTED, DsmipConfig, Expert
from heads.config.mimic import MimicConfig, Unit
from heads.layers import Block, Pairing
from heads.losses import in_batch_cross_entropy
from heads.methods._one_encoder import Sided
from heads.methods.mimic import Mimic

UNITS: Mapping[Expert, tuple[Unit, ...]] = {
    "text": ("tglu",),
    "visual": ("vdlu",),
    "multimodal": ("tglu", "vdlu", "cmfu"),
}
ROLES: Mapping[Expert, Mapping[str, str]] = {
    "text": {"text": "text"},
    "visual": {"image": "image"},
    "multimodal": {PROMPTED["text"]: "text", PROMPTED["image"]: "image"},
}
"""Which roles of the inputs an expert reads, and as what."""
Shapes = Mapping[str, tuple[int, ...]]
START = 3.0
"""Of every expert's value before the ReLU: as much as it may fall, and lose nearly all of its weight, before its
gradient is gone."""
EVEN_EPS = 1e-12
"""Added to the variance of a part of the gate's input: small against that of token embeddings (1e-5), and an absent
part stays zeros."""


def head_class(config: DsmipConfig) -> Callable[..., Head]:
    """The head that a stage trains, made of the configuration and shapes; that which learns prompts takes the towers
    too."""
    if config.stage == "gate":
        return Dsmip
    if config.stage == "prompts":
        return PromptExpert
    return partial(AloneExpert, expert=config.stage)


def scoring_units(expert: Expert, config: DsmipConfig, shapes: Shapes) -> Mimic:
    """An expert's units, eq. 9 to 14: MIMIC's, of which the text expert has U_T, the visual one U_V and the multimodal
    one all three."""
    own = {
        f"{role}.{name.split('.')[1]}": shape
        for source, role in ROLES[expert].items()
        for name, shape in shapes.items()
        if name.startswith(f"{source}.")
    }
    sizes = {name: getattr(config, name) for name in ("d_t", "d_v", "d_c", "text_scale", "missing_image")}
    return Mimic(MimicConfig(units=UNITS[expert], unit_losses=(), **sizes), own)


def read_by(expert: Expert, inputs: Rows) -> Rows:
    """The inputs of an expert under the names its units know."""
    rows = Rows()
    for source, role in ROLES[expert].items():
        rows |= {
            f"{role}{name.removeprefix(source)}": column
            for name, column in inputs.items()
            if name.startswith(f"{source}.")
        }
    return rows


class AloneExpert(Sided):
    """First stage: the text or the visual expert by itself (without prompts the multimodal one too), on one in-batch
    cross-entropy."""

    def __init__(self, config: DsmipConfig, shapes: Shapes, expert: Expert) -> None:
        super().__init__(config, shapes)
        self.expert: Expert = expert
        self.scoring = scoring_units(expert, config, shapes)

    def encode(self, inputs: Rows, side: str) -> Rows:
        """See `Sided.encode`."""
        return self.scoring.encode(self._read(inputs, side), side)

    def score(self, mentions: Rows, entities: Rows, pairing: Pairing) -> dict[str, Tensor]:
        """See `Sided.score`."""
        return {"score": self.scoring.score(mentions, entities, pairing)["score"]}

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross-entropy of the golds of the batch, section 3.4."""
        value = in_batch_cross_entropy(
            self.score_block(self.encode_mentions(batch.mentions), self.encode_entities(batch.entities))["score"],
            batch.gold,
        )
        return value, {"score": value}

    def _read(self, inputs: Rows, side: str) -> Rows:
        return read_by(self.expert, inputs)


class PromptExpert(AloneExpert):
    """First stage: the multimodal expert with its prompts, over a frozen CLIP's blocks run live (section 3.2.3).

    Reads `text.ids` (or `text.states`, where the prompts start at a deeper block) and `image.states`. A prompt is (r,
    d_t) per block and side; a Linear per block and side, the coupling function F, makes the image tower's prompts of
    it, (r, d_v).
    """

    def __init__(self, config: DsmipConfig, shapes: Shapes, towers: Mapping[str, nn.Module]) -> None:
        """towers: `text`, `image`, called as `tower(states, lengths, prompts, keep=True)`, see
        `pipeline.models.adapt.Tower`; their parameters are frozen."""
        text, image = (sizes(towers[kind]) for kind in ("text", "image"))
        prompted = {
            f"{PROMPTED['text']}.tokens": (text.width,),
            f"{PROMPTED['text']}.pooled": (text.projected,),
            f"{PROMPTED['image']}.tokens": (config.prompt_length + shapes["image.states"][0], image.width),
            f"{PROMPTED['image']}.pooled": (image.projected,),
        }
        super().__init__(config, prompted, "multimodal")
        self.shapes = dict(shapes)
        self.text, self.image = towers["text"], towers["image"]
        self.sizes = {"text": text, "image": image}
        depth = min(config.prompt_layers, text.blocks, image.blocks)
        self.prompts = nn.ParameterDict(
            {side: torch.randn(depth, config.prompt_length, text.width) * 0.02 for side in ("mention", "entity")}
        )
        self.coupling = nn.ModuleDict(
            {
                side: nn.ModuleList([nn.Linear(text.width, image.width) for _ in range(depth)])
                for side in ("mention", "entity")
            }
        )

    def prompted(self, inputs: Rows, side: str) -> Rows:
        """Features with one side's prompts: `text.tokens` (ragged, r + L), `text.pooled`, `image.tokens` (r + P + 1),
        `image.pooled`, as CLIP's own are.

        Rows without a text or a picture are of length 0, or zeros, as in any other feature.
        """
        columns = Rows({f"{PROMPTED[kind]}.ok": inputs[f"{kind}.ok"] for kind in ("text", "image")})
        for kind, rows in (("text", self.prompted_text(inputs, side)), ("image", self.prompted_image(inputs, side))):
            columns |= {f"{PROMPTED[kind]}.{name}": column for name, column in rows.items()}
        return columns

    def prompted_image(self, inputs: Rows, side: str) -> Rows:
        """`tokens` (n, r + P + 1, d_v) leaving the last block and `pooled` (n, d_z), the class token's, zeros without a
        picture; eq. 8."""
        functions, ok, states = self.coupling[side], inputs.fixed("image.ok"), inputs.fixed("image.states")
        assert isinstance(functions, nn.ModuleList)
        pairs = zip(functions, self.prompts[side], strict=True)
        couplings = torch.stack([coupling(prompt) for coupling, prompt in pairs])  # F(P)
        here = ok.nonzero().squeeze(1)
        tokens, pooled = through(self.image, states[here].float(), [states.shape[1]] * len(here), couplings)
        return Rows({"tokens": placed(tokens, here, len(ok)), "pooled": placed(pooled, here, len(ok))})

    def prompted_text(self, inputs: Rows, side: str) -> Rows:
        """`tokens` ragged (r + L, d_t) after the last LayerNorm and `pooled` (n, d_z), the end token's, nothing without
        a text; eq. 7."""
        ids = "text.ids" in inputs
        cached, prompts = inputs.ragged("text.ids" if ids else "text.states"), self.prompts[side]
        lengths, device = cached.lengths, cached.values.device
        here = (lengths > 0).nonzero().squeeze(1)
        if not len(here):
            empty = torch.zeros(len(lengths), self.sizes["text"].projected, device=device)
            return Rows({"tokens": Ragged(empty.new_zeros(0, self.sizes["text"].width), lengths), "pooled": empty})
        padded = cached.padded(here, int(lengths.max()))
        states = padded.long() if ids else padded.float()
        tokens, pooled = through(self.text, states, lengths[here].tolist(), prompts)
        kept = torch.where(lengths > 0, lengths + prompts.shape[1], 0)
        place = torch.arange(tokens.shape[1], device=device)[None, :] < kept[here].to(device)[:, None]
        return Rows({"tokens": Ragged(tokens[place], kept), "pooled": placed(pooled, here.to(device), len(lengths))})

    def _read(self, inputs: Rows, side: str) -> Rows:
        return read_by(self.expert, self.prompted(inputs, side))


@dataclass(frozen=True)
class Sizes:
    """Of a tower: width of its states, of its vectors, and number of its live blocks."""

    width: int
    projected: int
    blocks: int


def sizes(tower: Any) -> Sizes:
    """The sizes of a tower, see `pipeline.models.adapt.Tower`."""
    return Sizes(tower.width, tower.pooled_shape[-1], tower.depth)


def through(tower: nn.Module, states: Tensor, lengths: Sequence[int], prompts: Tensor) -> tuple[Tensor, Tensor]:
    """tokens (b, r + L, width), prompts in front, and pooled (b, projected) of a tower with prompts (J, r, width)."""
    read = tower(states, lengths, prompts, keep=True)
    return torch.cat([read["prompts"], read["tokens"]], 1), read["pooled"]


def placed(rows: Tensor, here: Tensor, count: int) -> Tensor:
    """(count, …): the rows at their places, zeros elsewhere."""
    return rows.new_zeros(count, *rows.shape[1:]).index_copy(0, here, rows)


class Gate(nn.Module):
    """Modality selection (section 3.3): an MLP per side, and one FC over both, which splits into a part of each side
    that is computed once.

    Each part of f is brought to mean 0 and variance 1 first (ours): a CLIP's token embeddings are hundreds of times
    smaller than a picture's features, and the gate would not see the text. The FC's bias is 3 at the start (ours), so
    that its ReLU passes a gradient to every expert.
    """

    def __init__(self, config: DsmipConfig, widths: Sequence[int], experts: int) -> None:
        """widths: of the parts of f."""
        super().__init__()
        self.sides = nn.ModuleDict({side: self._mlp(config, sum(widths)) for side in ("mention", "entity")})
        of_mention = nn.Linear(config.gate_width, experts)
        nn.init.constant_(of_mention.bias, START)
        self.last = nn.ModuleDict({"mention": of_mention, "entity": nn.Linear(config.gate_width, experts, bias=False)})

    @staticmethod
    def _mlp(config: DsmipConfig, width: int) -> nn.Sequential:
        layers: list[nn.Module] = []
        for entering in (width, config.gate_width):
            layers += [nn.Linear(entering, config.gate_width), nn.LeakyReLU(), nn.Dropout(config.gate_dropout)]
        return nn.Sequential(*layers)

    def encode(self, side: str, parts: Sequence[Tensor]) -> Tensor:
        """f = [text; image], parts (n, width) each, zeros where absent → this side's part of FC [h_m; h_e], (n,
        experts)."""
        even = [F.layer_norm(part, part.shape[1:], eps=EVEN_EPS) for part in parts]
        value: Tensor = self.last[side](self.sides[side](torch.cat(even, 1)))
        return value


class Dsmip(Sided):
    """Second stage: `S = z . [S_text, S_visual, S_mm]` with a hard choice z, gate and units trained together; encoders
    and prompts are frozen."""

    config: DsmipConfig
    spread: Tensor
    measured: Tensor

    def __init__(self, config: DsmipConfig, shapes: Shapes) -> None:
        super().__init__(config, shapes)
        roles = {name.split(".")[0] for name in shapes}
        self.experts: tuple[Expert, ...] = tuple(expert for expert in config.experts if set(ROLES[expert]) <= roles)
        self.scoring = nn.ModuleDict({expert: scoring_units(expert, config, shapes) for expert in self.experts})
        self.gated = len(self.experts) > 1
        self.units = (*self.experts, "expert") if self.gated else ()
        if self.gated:
            self.gate_roles = tuple(
                name for name in ("gate_text.embedding", "gate_text.pooled", "gate_image.pooled") if name in shapes
            )
            self.gate = Gate(config, [shapes[name][-1] for name in self.gate_roles], len(self.experts))
            if "visual" in self.experts and config.missing_image == "null":
                # No pair without both pictures takes this expert: the vector of an absent one would never be trained.
                visual = self._expert("visual")
                absent = visual.absent_image.detach()
                del visual.absent_image
                visual.register_buffer("absent_image", absent)
            self.register_buffer("spread", torch.ones(len(self.experts)))
            self.register_buffer("measured", torch.zeros((), dtype=torch.bool))
            if config.expert_scale:
                self.scale = nn.Parameter(torch.zeros(len(self.experts)))

    def _expert(self, name: str) -> Mimic:
        """The units of an expert."""
        units = self.scoring[name]
        assert isinstance(units, Mimic)
        return units

    def start(self, label: str, tensors: Mapping[str, Tensor], best: float) -> None:
        """Take an expert's units as its first stage left them. label: the expert; tensors: its run's weights."""
        units = {
            name.removeprefix("scoring."): tensor for name, tensor in tensors.items() if name.startswith("scoring.")
        }
        self._expert(label).load_state_dict(units)

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross-entropy of the golds of the batch, eq. 17 and 18; with `gate_loss: likelihood` the gate's own beside
        it."""
        mentions, entities = self.encode_mentions(batch.mentions), self.encode_entities(batch.entities)
        if self.gated and self.training and not self.measured:
            self._measure(mentions, entities)
        scores = self.score_block(mentions, entities)
        value = in_batch_cross_entropy(scores["score"], batch.gold)
        logged = {"score": value}
        if not self.gated:
            return value, logged
        of_gold = scores["expert"][torch.arange(len(batch.gold), device=batch.gold.device), batch.gold]
        takes = {f"takes {expert}": (of_gold == number).float().mean() for number, expert in enumerate(self.experts)}
        if self.config.gate_loss == "likelihood":
            weights = self._preference(mentions, entities, Block()).exp()
            losses = self._losses_left_out(batch) if batch.left_out else self._losses(scores, batch.gold)
            logged["gate"] = self._likelihood(self._mean_weights(weights, entities), losses)
            value = value + logged["gate"]
        return value, logged | takes

    @staticmethod
    def _mean_weights(weights: Tensor, entities: Rows) -> Tensor:
        """(B, experts): the mean of the weights (B, P, experts) over entities, and over the pictures of each."""
        if not isinstance(entities, PerPicture):
            return weights.mean(1)
        return (weights * several.shares(entities).to(weights.device)[None, :, None]).sum(1)

    def _likelihood(self, weights: Tensor, losses: Tensor) -> Tensor:
        """`-log sum_i w_i p_i`, mean over mentions: p_i is expert i's probability of the gold, w_i the mean of pi_i
        over the mention's pairs in the batch (ours, after Jacobs et al., 1991).

        weights (B, experts): w. losses (B, experts): -log p. Unlike eq. 17 it is bounded by the best expert's loss plus
        -log of its weight, so that a choice that may be wrong is not avoided at any price. The mean over pairs lets all
        candidates of a mention learn the same choice.
        """
        least = torch.finfo(weights.dtype).tiny  # an expert that no pair may take
        return -(weights.clamp(min=least).log() - losses).logsumexp(1).mean()

    def _losses(self, scores: Mapping[str, Tensor], gold: Tensor) -> Tensor:
        """-log p (B, experts), p of the softmax over the batch; the experts do not learn from it."""
        each = self._each({expert: scores[expert].detach() for expert in self.experts})
        losses = [in_batch_cross_entropy(each[..., number], gold, mean=False) for number in range(len(self.experts))]
        return torch.stack(losses, 1)

    def _losses_left_out(self, batch: Batch) -> Tensor:
        """-log p (B, experts) of experts that did not learn from the mention, p of the softmax over its candidates;
        without its picture where that is masked."""
        role = "image" if "visual" in self.experts else PROMPTED["image"]
        masked = (~batch.mentions.fixed(f"{role}.ok")).long()[:, None]
        return torch.cat([batch.left_out[expert].gather(1, masked) for expert in self.experts], 1)

    def encode(self, inputs: Rows, side: str) -> Rows:
        """See `Sided.encode`: the columns of each expert, and of the gate."""
        columns = Rows()
        for expert in self.experts:
            encoded = self._expert(expert).encode(read_by(expert, inputs), side)
            columns |= {f"{expert}/{name}": column for name, column in encoded.items()}
        if self.gated:
            parts = [
                inputs.fixed(name).float() * inputs.fixed(f"{name.split('.')[0]}.ok")[:, None]
                for name in self.gate_roles
            ]
            columns["gate"] = self.gate.encode(side, parts).float()
            if "visual" in self.experts:
                columns["pictured"] = inputs["image.ok"]
        return columns

    def score(self, mentions: Rows, entities: Rows, pairing: Pairing) -> dict[str, Tensor]:
        """`S = sum_i z_i S_i`, eq. 15 and 16; `expert` is the number of the one that was chosen, in the order of
        `experts`."""
        scores: dict[str, Tensor] = {}
        for expert in self.experts:
            mention, entity = (
                Rows({name.split("/", 1)[1]: column for name, column in side.items() if name.startswith(f"{expert}/")})
                for side in (mentions, entities)
            )
            scores[expert] = self._expert(expert).score(mention, entity, pairing)["score"]
        if not self.gated:
            return {"score": scores[self.experts[0]]}
        chosen = self._one_hot(self._preference(mentions, entities, pairing))
        return {"score": (chosen * self._each(scores)).sum(-1), **scores, "expert": chosen.argmax(-1).float()}

    def _each(self, scores: Mapping[str, Tensor]) -> Tensor:
        """The experts' scores, (..., experts): each times its learned factor, which starts where all have the spread of
        the widest."""
        each = torch.stack([scores[expert] for expert in self.experts], -1)
        return each * (self.spread.max() / self.spread) * self.scale.exp() if self.config.expert_scale else each

    @torch.no_grad()
    def _measure(self, mentions: Rows, entities: Rows) -> None:
        """Keep the spread of each expert's scores in the first batch: their deviation from their mean for a mention."""
        scores = self.score_block(mentions, entities)
        each = torch.stack([scores[expert] for expert in self.experts], -1)
        centred = each - each.mean(1, keepdim=True)
        self.spread.copy_(centred.square().mean((0, 1)).sqrt().clamp(min=1e-3))
        self.measured.fill_(True)

    def _preference(self, mentions: Rows, entities: Rows, pairing: Pairing) -> Tensor:
        """log pi (..., experts): `log softmax(ReLU(FC [h_m; h_e]))`; the visual expert only where both sides have a
        picture."""
        parts = [
            pairing.mention(mentions.fixed("gate")[:, number]) + pairing.entity(entities.fixed("gate")[:, number])
            for number in range(len(self.experts))
        ]
        logits = F.relu(torch.stack(parts, -1))
        if "visual" in self.experts:
            both = pairing.mention(mentions.fixed("pictured")) & pairing.entity(entities.fixed("pictured"))
            visual = torch.tensor([expert == "visual" for expert in self.experts], device=logits.device)
            logits = logits.masked_fill(visual & ~both[..., None], float("-inf"))
        return logits.log_softmax(-1)

    def _one_hot(self, preference: Tensor) -> Tensor:
        """The choice z: forward hard, backward through the softmax at temperature tau (straight through), unless the
        gate has a loss of its own."""
        if not self.training and not self.config.gate_noise:
            return F.one_hot(preference.argmax(-1), len(self.experts)).to(preference.dtype)
        noise = -torch.empty_like(preference).exponential_().log()  # Gumbel(0, 1)
        soft = ((preference + noise) / self.config.temperature).softmax(-1)
        hard = F.one_hot(soft.argmax(-1), len(self.experts)).to(soft.dtype)
        return hard if self.config.gate_loss == "likelihood" else hard + soft - soft.detach()

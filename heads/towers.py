"""Encoders whose upper blocks run live beside a head and are trained with it, over cached states of the lower ones.

The encoders come from outside as modules, `tower(states (b, L, d), lengths) -> {"tokens": (b, L, w), "pooled": (b, p)}`
with the parameters that are trained. Nothing here knows a model library.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from cache.inputs import Side
from foundation.errors import UserError
from heads.base import NO_PAIRS, Batch, Head, PerPicture, Ragged, Rows, make_head
from heads.config.base import HeadConfig
from heads.contracts import LiveTower, TrainingJob
from heads.tune import MADE

STATES, REAL = "states", "real"
"""Outputs of a feature of states: those that enter the first live block, and which of them are a text's own tokens,
where the encoder reads padding too."""
ROWS = 64
"""Texts that go through a tower at a time, those of similar length together."""

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Towers:
    """The live encoders of a head. modules: by `heads.tune.tower_name`. reads: what goes through each."""

    modules: Mapping[str, nn.Module]
    reads: Mapping[str, LiveTower]

    def shapes(self, shapes: Mapping[str, Shape]) -> dict[str, Shape]:
        """The shapes of the columns that a head reads, given those with states.

        A text's states have a row each, those of a picture are as many for all.
        """
        read = {name: shape for name, shape in shapes.items() if name.rpartition(".")[2] not in (STATES, REAL)}
        for name, tower in self.reads.items():
            made = {(role, output) for roles in tower.reads.values() for role in roles for output in roles[role]}
            for role, output in sorted(made):
                given = shapes_of(self.modules[name], shapes[f"{role}.{STATES}"], f"{role}.{REAL}" in shapes)
                read[f"{role}.{output}"] = given[MADE.index(output)]
        return read


def shapes_of(tower: nn.Module, states: Shape, real: bool) -> tuple[Shape, Shape]:
    """Shapes of a tower's tokens (of one, where rows have as many as they need) and of its pooled row.

    states: of one state (ragged) or of a row's. real: whether it is known which of these are a text's own.
    """
    ragged = len(states) == 1
    length, width = (2, *states)[-2:]
    with torch.no_grad():
        given = tower(next(tower.parameters()).new_zeros(1, length, width), [length])
    tokens = tuple(given["tokens"].shape[1:])
    return tokens[1:] if ragged or real else tokens, tuple(given["pooled"].shape[1:])


Build = Callable[[TrainingJob], Towers]
"""Makes the live encoders that a job names."""
NONE = Towers({}, {})


def none(job: TrainingJob) -> Towers:
    """No towers. Raises `UserError` for a job that needs some."""
    if job.towers or job.live:
        raise UserError(f"{job.method}: blocks of an encoder run live in it, which this step does not do")
    return NONE


def make_live_head(method: str, config: HeadConfig, shapes: Mapping[str, Shape], live: Towers) -> Head:
    """`make_head` with the encoders that run live in it. shapes: of what is read, states included."""
    if not live.modules or config.stays_live:
        return make_head(method, config, shapes, live.modules)
    return Tuned(make_head(method, config, live.shapes(shapes)), live, shapes)


class Tuned(Head):
    """A head and the towers that its tokens and pooled vectors come from, trained together."""

    def __init__(self, head: Head, towers: Towers, shapes: Mapping[str, Shape]) -> None:
        """shapes: of what is read, with states in place of what towers give."""
        super().__init__(head.config, shapes)
        self.head, self.towers, self.reads = head, nn.ModuleDict(dict(towers.modules)), towers.reads
        for name in ("uses_candidates", "scores_blocks", "reads_several", "units", "experts"):
            setattr(self, name, getattr(head, name))

    def start(self, label: str, tensors: Mapping[str, Tensor], best: float) -> None:
        """See `Head.start`."""
        self.head.start(label, tensors, best)

    def prepare(self, columns: Tensor, pairs: Mapping[str, Tensor], gold: Tensor) -> None:
        """See `Head.prepare`."""
        self.head.prepare(columns, pairs, gold)

    def encode_mentions(self, inputs: Rows) -> Rows:
        """See `Head.encode_mentions`."""
        return self.head.encode_mentions(self._read(inputs, "mention"))

    def encode_entities(self, inputs: Rows) -> Rows:
        """See `Head.encode_entities`."""
        return self.head.encode_entities(self._read(inputs, "entity"))

    def score_block(self, mentions: Rows, entities: Rows) -> dict[str, Tensor]:
        """See `Head.score_block`."""
        return self.head.score_block(mentions, entities)

    def score_lists(
        self, mentions: Rows, entities: Rows, columns: Tensor, pairs: Mapping[str, Tensor] = NO_PAIRS
    ) -> dict[str, Tensor]:
        """See `Head.score_lists`."""
        return self.head.score_lists(mentions, entities, columns, pairs)

    def training_places(self, lists: np.ndarray, gold: np.ndarray) -> np.ndarray | None:
        """See `Head.training_places`."""
        return self.head.training_places(lists, gold)

    def reached(self, lists: np.ndarray, pairs: Mapping[str, np.ndarray]) -> np.ndarray | None:
        """See `Head.reached`."""
        return self.head.reached(lists, pairs)

    def explain(
        self, mentions: Rows, entities: Rows, columns: Tensor, pairs: Mapping[str, Tensor] = NO_PAIRS
    ) -> dict[str, Tensor]:
        """See `Head.explain`."""
        return self.head.explain(mentions, entities, columns, pairs)

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """See `Head.loss`."""
        mentions, entities = self._read(batch.mentions, "mention"), self._read(batch.entities, "entity")
        return self.head.loss(replace(batch, mentions=mentions, entities=entities))

    def _read(self, inputs: Rows, side: Side) -> Rows:
        """The inputs as the head knows them."""
        if isinstance(inputs, PerPicture):
            return PerPicture(self._read(inputs.flat, side), inputs.counts)
        rows = Rows(inputs)
        for name, tower in self.towers.items():
            for role, outputs in self.reads[name].reads.get(side, {}).items():
                states, real = rows.pop(f"{role}.{STATES}"), rows.pop(f"{role}.{REAL}", None)
                assert real is None or isinstance(real, Tensor)
                made = read_through(tower, states, rows.fixed(f"{role}.ok"), real)
                rows |= {f"{role}.{output}": made[output] for output in outputs}
        return rows


def read_through(tower: nn.Module, states: Tensor | Ragged, ok: Tensor, real: Tensor | None = None) -> Rows:
    """`tokens` and `pooled` of states, ragged or (n, L, d), in the form that the encoder's own feature has.

    ok: (n,) bool, which rows have any. real: (n, 2) int64, of texts whose padding the encoder reads.
    """
    if isinstance(states, Ragged):
        tokens, pooled = of_texts(tower, states)
        return Rows({"tokens": tokens, "pooled": pooled})
    every, pooled = of_pictures(tower, states, ok)
    return Rows({"tokens": every if real is None else own_tokens(every, real), "pooled": pooled})


def of_texts(tower: nn.Module, states: Ragged) -> tuple[Ragged, Tensor]:
    """Tokens, ragged as the states are, and pooled (n, p), zeros for a row of length 0."""
    order = torch.argsort(states.lengths, stable=True)
    order = order[states.lengths[order] > 0]
    device = states.values.device
    if not len(order):
        tokens_of, pooled_of = shapes_of(tower, tuple(states.values.shape[1:]), False)
        empty = torch.zeros(len(states.lengths), *pooled_of, device=device)
        return Ragged(empty.new_zeros(0, *tokens_of), states.lengths), empty
    tokens, pooled = [], []
    for part in order.split(ROWS):
        lengths = states.lengths[part]
        read = tower(states.padded(part, int(lengths[-1])).float(), lengths.tolist())
        inside = torch.arange(read["tokens"].shape[1])[None, :] < lengths[:, None]
        tokens.append(read["tokens"][inside.to(device)])
        pooled.append(read["pooled"])
    rows = torch.cat(pooled)
    back = torch.argsort(order)  # order leaves out empty rows, which take no place among values
    ragged = Ragged(torch.cat(tokens), states.lengths[order]).take(back)
    whole = rows.new_zeros(len(states.lengths), *rows.shape[1:]).index_copy(0, order.to(device), rows)
    return Ragged(ragged.values, states.lengths), whole


def of_pictures(tower: nn.Module, states: Tensor, ok: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens (n, P, w) and pooled (n, p) of states (n, L, d), zeros where `ok` (n,) is false."""
    here = ok.nonzero().squeeze(1)
    read = tower(states[here].float(), [states.shape[1]] * len(here))
    tokens, pooled = (
        read[name].new_zeros(len(ok), *read[name].shape[1:]).index_copy(0, here, read[name])
        for name in ("tokens", "pooled")
    )
    return tokens, pooled


def own_tokens(tokens: Tensor, real: Tensor) -> Ragged:
    """The tokens (n, L, w) from the first to the last of each row's own; real: (n, 2) first, and behind the last."""
    place = torch.arange(tokens.shape[1], device=tokens.device)
    inside = (place >= real[:, :1]) & (place < real[:, 1:])
    return Ragged(tokens[inside], (real[:, 1] - real[:, 0]).cpu().long())

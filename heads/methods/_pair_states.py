"""Mention and candidate as one sequence: states of both sides end to end, in groups of pairs that fit memory."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from heads.base import Ragged, Rows

STATES = {"cpu": 1 << 13, "cuda": 1 << 17, "mps": 1 << 15}
"""States, padding included, that go through the blocks at once, by device."""


class Resampler(nn.Module):
    """A picture's P patch states (n, P, d_v) become m (n, m, d): m learned queries attend to them, m <= P."""

    def __init__(self, patches: tuple[int, int], width: int, most: int, heads: int) -> None:
        """patches: P and d_v."""
        super().__init__()
        heads = next(count for count in range(min(heads, width), 0, -1) if width % count == 0)
        self.heads, count = heads, min(most, patches[0])
        self.queries = nn.Parameter(torch.randn(count, width) / width**0.5)
        self.norm = nn.LayerNorm(patches[1])
        self.keys, self.values = nn.Linear(patches[1], width, bias=False), nn.Linear(patches[1], width)
        self.out = nn.Linear(width, width)
        self.out_norm = nn.LayerNorm(width)

    def forward(self, patches: Tensor) -> Tensor:
        """See the class."""
        states = self.norm(patches)
        queries = self.queries.expand(len(states), -1, -1)
        split = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in (queries, self.keys(states), self.values(states))
        )
        attended = F.scaled_dot_product_attention(*split)  # (n, heads, m, d / heads)
        return self.out_norm(self.out(attended.transpose(1, 2).flatten(2)))


def never_empty(rows: Ragged) -> Ragged:
    """The rows with one state of zeros where a row has none: an absent text still has a first state."""
    lengths = rows.lengths.clamp(min=1)
    if torch.equal(lengths, rows.lengths):
        return rows
    first = lengths.cumsum(0) - lengths
    places = torch.arange(len(rows.values)) + (first - rows.starts).repeat_interleave(rows.lengths)
    values = rows.values.new_zeros(int(lengths.sum()), *rows.values.shape[1:])
    return Ragged(values.index_copy(0, places.to(values.device), rows.values), lengths)


@dataclass(frozen=True)
class Sequences:
    """Some pairs as the blocks read them: states (p, L, d), zeros past each one's end; lengths (p,) on the CPU;
    of_entity: (p, 2) where the states of the entity's text begin and end."""

    pairs: Tensor
    states: Tensor
    lengths: Tensor
    of_entity: Tensor


@dataclass(frozen=True)
class PairSide:
    """One side of pairs: its encodings, the row of each pair (p,) and whether it has a picture (p,) bool, both on the
    CPU, and the vectors that its states get, (d,) each."""

    rows: Rows
    index: Tensor
    pictured: Tensor
    text: Tensor
    image: Tensor | None
    mark: Tensor | None = None

    def of(self, pairs: Tensor) -> "PairSide":
        """The same of some pairs."""
        return replace(self, index=self.index[pairs], pictured=self.pictured[pairs])

    @property
    def counts(self) -> Tensor:
        """(2, p) states of text and of picture on the CPU."""
        pictures = self.pictured.long() * (self.rows.fixed("image").shape[1] if "image" in self.rows else 0)
        return torch.stack([self.rows.ragged("text").lengths[self.index], pictures])

    def states(self) -> Iterator[Tensor]:
        """Of text, then of picture: the pairs' states one after another (sum of counts, d) float32."""
        text = self.rows.ragged("text").take(self.index).values.float() + self.text
        if self.mark is not None:
            marked = self.rows.ragged("mark").take(self.index).values
            text = text + marked[:, None] * self.mark
        yield text
        if self.image is not None:
            images = self.rows.fixed("image")
            yield images[self.index[self.pictured].to(images.device)].flatten(0, 1) + self.image


def pictured(rows: Rows, index: Tensor) -> Tensor:
    """(p,) bool on the CPU: which of the rows at `index` (p,) have a picture."""
    if "image.ok" not in rows:
        return torch.zeros(len(index), dtype=torch.bool)
    return rows.fixed("image.ok").cpu()[index]


def sequences(mention: PairSide, entity: PairSide, device: torch.device) -> Iterator[Sequences]:
    """`[mention ; entity ; mention's picture ; entity's picture]` of every pair, pairs of similar length together."""
    counts = torch.cat([mention.counts, entity.counts])[[0, 2, 1, 3]]  # in the order in which they are laid
    totals = counts.sum(0)
    order = torch.argsort(totals, stable=True)
    for start, end in _groups(totals[order].tolist(), STATES[device.type]):
        pairs = order[start:end]
        of_pairs, length = counts[:, pairs], int(totals[order[end - 1]])
        (m_text, *m_image), (e_text, *e_image) = list(mention.of(pairs).states()), list(entity.of(pairs).states())
        parts = [m_text, e_text, *m_image, *e_image]
        begins = of_pairs.cumsum(0) - of_pairs + torch.arange(len(pairs)) * length  # (4, p)
        places = torch.cat([_steps(*row) for row in zip(begins, of_pairs, strict=True)])
        flat = torch.zeros(len(pairs) * length, m_text.shape[1], device=device)
        states = flat.index_copy(0, places.to(device), torch.cat(parts)).view(len(pairs), length, -1)
        ends = of_pairs[:2].cumsum(0).T  # (p, 2)
        yield Sequences(pairs, states, totals[pairs], ends)


def _steps(begins: Tensor, counts: Tensor) -> Tensor:
    """`begins[i], begins[i] + 1, ...`, `counts[i]` of them, for one i after another."""
    before = counts.cumsum(0) - counts
    return torch.arange(int(counts.sum())) + (begins - before).repeat_interleave(counts)


def _groups(lengths: list[int], most: int) -> Iterator[tuple[int, int]]:
    """Bounds of runs of ascending lengths whose padded size is at most `most`, or of one."""
    start = 0
    for place, length in enumerate(lengths):
        if place > start and (place + 1 - start) * length > most:
            yield start, place
            start = place
    if lengths:
        yield start, len(lengths)

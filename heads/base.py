"""What a head is: it encodes each side once and scores pairs. Rows of features, batches, and the class every method
derives from."""

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from foundation.errors import UserError
from heads.config.base import HeadConfig


@dataclass(frozen=True)
class Ragged:
    """Rows of different lengths without padding. values (sum of lengths, *shape); lengths (n,) int64, always on the
    CPU."""

    values: Tensor
    lengths: Tensor

    @cached_property
    def starts(self) -> Tensor:
        """(n,) int64 place of each row's first position among `values`."""
        return self.lengths.cumsum(0) - self.lengths

    @cached_property
    def longest(self) -> int:
        """The length of the longest row, 0 where there is no row."""
        return int(self.lengths.max()) if len(self.lengths) else 0

    def take(self, index: Tensor) -> "Ragged":
        """The rows at `index` (m,), in that order."""
        index = index.cpu()
        lengths = self.lengths[index]
        return Ragged(self.values.index_select(0, self._positions(index, lengths).to(self.values.device)), lengths)

    def padded(self, index: Tensor, length: int) -> Tensor:
        """Rows at `index` (m,) as (m, length, *shape), zeros past each row's end; `length` is at least the longest of
        them."""
        index = index.cpu()
        lengths = self.lengths[index]
        if bool((lengths == length).all()):
            return self.take(index).values.view(len(index), length, *self.values.shape[1:])
        slots = torch.arange(length)[None, :] < lengths[:, None]
        out = self.values.new_zeros(len(index) * length, *self.values.shape[1:])
        positions = self._positions(index, lengths).to(self.values.device)
        with torch.autocast(out.device.type, enabled=False):  # on a CPU it refuses to move half precision
            out = out.index_copy(
                0, slots.flatten().nonzero().squeeze(1).to(out.device), self.values.index_select(0, positions)
            )
        return out.view(len(index), length, *self.values.shape[1:])

    def _positions(self, index: Tensor, lengths: Tensor) -> Tensor:
        shift = self.starts[index] - (lengths.cumsum(0) - lengths)
        return torch.arange(int(lengths.sum())) + shift.repeat_interleave(lengths)


class Rows(dict[str, Tensor | Ragged]):
    """Named columns over the same n rows: features as read, or one side's encodings. Fixed columns are (n, ...), ragged
    ones `Ragged`."""

    def __len__(self) -> int:
        column = next(iter(self.values()))
        return len(column.lengths if isinstance(column, Ragged) else column)

    def fixed(self, name: str) -> Tensor:
        """A column that has a value per row."""
        column = self[name]
        if not isinstance(column, Tensor):
            raise UserError(f"{name}: this head reads as many states of every record; these differ in number")
        return column

    def ragged(self, name: str) -> Ragged:
        """A column whose rows are of different lengths."""
        column = self[name]
        assert isinstance(column, Ragged), name
        return column

    def take(self, index: Tensor) -> "Rows":
        """The rows at `index` (m,), in that order."""
        return Rows(
            {
                name: column.take(index) if isinstance(column, Ragged) else column[index.to(column.device)]
                for name, column in self.items()
            }
        )

    @staticmethod
    def concatenate(parts: Sequence["Rows"]) -> "Rows":
        """The rows of all parts, in their order."""
        if any(part.keys() != parts[0].keys() for part in parts):
            raise ValueError(f"parts with other columns: {sorted({*map(frozenset, parts)}, key=len)}")
        joined = Rows()
        for name, column in parts[0].items():
            if isinstance(column, Ragged):
                ragged = [part.ragged(name) for part in parts]
                joined[name] = Ragged(
                    torch.cat([rows.values for rows in ragged]), torch.cat([rows.lengths for rows in ragged])
                )
            else:
                joined[name] = torch.cat([part.fixed(name) for part in parts])
        counts = [part.counts for part in parts if isinstance(part, PerPicture)]
        return PerPicture(joined, torch.cat(counts)) if counts else joined


class PerPicture(Rows):
    """Rows of n entities of which each has one per picture, or one where it has no picture. counts: (n,) int64 how many
    rows each has, always on the CPU; all that is not of the picture is the same in an entity's rows."""

    def __init__(self, rows: Mapping[str, Tensor | Ragged], counts: Tensor) -> None:
        super().__init__(rows)
        self.counts = counts

    def __len__(self) -> int:
        return len(self.counts)

    @property
    def flat(self) -> Rows:
        """The same rows as if each were an entity of its own."""
        return Rows(self)

    @property
    def single(self) -> bool:
        """Whether each entity has one row, so that `flat` is the entities themselves."""
        return int(self.counts.sum()) == len(self.counts)

    @property
    def places(self) -> Ragged:
        """Of each entity its rows in `flat`."""
        return Ragged(torch.arange(int(self.counts.sum())), self.counts)

    def take(self, index: Tensor) -> "PerPicture":
        """The entities at `index` (m,), in that order, each with all its rows."""
        places = self.places.take(index)
        return PerPicture(self.flat.take(places.values), places.lengths)


@dataclass(frozen=True)
class Batch:
    """One training step's material.

    mentions: (B) rows. entities: (E) rows, each entity of the batch once. gold: (B,) int64 row of a mention's gold
    among `entities`. candidates: (B, r) int64 rows of its candidates, -1 where a list ends early; None unless the head
    `uses_candidates`. drawn: (B, h) rows of the hard negatives drawn for each mention, -1 where there is none; None
    where none are drawn. pairs: wanted pair features beside `candidates`, (B, r) or (B, r, S) float32 each, NaN where a
    pair has none. left_out: by label (B, 2) float32, see `heads.data.Bundle.left_out`. teacher: (B, 1 + h) float32,
    what a teacher says of the gold and of each drawn entity that is not the gold, else NaN, see
    `heads.data.Bundle.teacher`; None where there is no teacher.
    """

    mentions: Rows
    entities: Rows
    gold: Tensor
    candidates: Tensor | None = None
    pairs: Mapping[str, Tensor] = field(default_factory=dict)
    drawn: Tensor | None = None
    left_out: Mapping[str, Tensor] = field(default_factory=dict)
    teacher: Tensor | None = None


EXPERT = "expert"
"""The unit that is the number of the one of `Head.experts` that was chosen."""
NO_PAIRS: Mapping[str, Tensor] = MappingProxyType({})
NO_TOWERS: Mapping[str, nn.Module] = MappingProxyType({})


class Head(nn.Module):
    """Base of every method. The module `heads/<method>.py` holds one subclass, `heads/config/<method>.py` its
    configuration.

    Inputs are `Rows` with a column `<role>.<output>` per wanted output (fixed or ragged), `<role>.ok` (n,) bool, false
    where a row has no such feature (such rows are zeros or of length 0 and must not be read as data), and `<role>.span`
    (n, 2) int64, the phrase's characters in the view's text (-1: not in it). A view with several texts or pictures per
    record makes fixed outputs ragged: a step per text or picture. What `encode_*` returns is the head's own business.
    Scores come as a dict: "score" and one entry per name in `units`, fp32 all.
    """

    uses_candidates: ClassVar[bool] = False
    scores_blocks: ClassVar[bool] = True
    reads_several: ClassVar[bool] = False
    """Whether `encode_entities` takes `PerPicture` rows: all pictures of each entity."""
    one_vector: ClassVar[bool] = False
    """Whether the encodings have a column `vector` (n, d) of length 1, by whose inner product the score orders
    entities."""
    units: tuple[str, ...] = ()
    experts: tuple[str, ...] = ()
    """What the numbers of the unit `expert`, where there is one, stand for."""

    def __init__(self, config: HeadConfig, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """shapes: of one row of each input column (of one position, where ragged), as the cached features' specs give
        them; of a pair feature that is there, `pairs.<name>`: () or (S,)."""
        super().__init__()
        self.config = config
        self.shapes = dict(shapes)
        self.features: dict[
            str, str
        ] = {}  # of a head read back from a run: identities of what it was trained on, by "side role"

    @property
    def trainable(self) -> int:
        """The number of trainable parameters."""
        return sum(parameter.numel() for parameter in self.parameters() if parameter.requires_grad)

    def start(self, label: str, tensors: Mapping[str, Tensor], best: float) -> None:
        """Called before training for each run of `HeadConfig.runs` that left no fold out, with that run's weights and
        its best dev MRR: for heads that go on from them."""

    def prepare(self, columns: Tensor, pairs: Mapping[str, Tensor], gold: Tensor) -> None:
        """Called once before training with the lists (m, k) of all training mentions, their pair features and golds
        (m,): for scales and starting weights; nothing by default."""

    def training_places(self, lists: np.ndarray, gold: np.ndarray) -> np.ndarray | None:
        """(M, r) places in each list (M, k) whose candidates a training step reads; None: all. gold (M,): entity rows,
        negative where there is none."""
        return None

    def reached(self, lists: np.ndarray, pairs: Mapping[str, np.ndarray]) -> np.ndarray | None:
        """(m, k) bool: the candidates that the head scores; the others stand behind them in the list's order. None:
        all. pairs: the wanted pair features beside the lists."""
        return None

    def encode_mentions(self, inputs: Rows) -> Rows:
        """Everything of the score that depends on the mention alone."""
        raise NotImplementedError

    def encode_entities(self, inputs: Rows) -> Rows:
        """Everything of the score that depends on the entity alone."""
        raise NotImplementedError

    def score_block(self, mentions: Rows, entities: Rows) -> dict[str, Tensor]:
        """Scores (B, N) of every mention with every entity, for heads with `scores_blocks`."""
        raise NotImplementedError

    def score_lists(
        self, mentions: Rows, entities: Rows, columns: Tensor, pairs: Mapping[str, Tensor] = NO_PAIRS
    ) -> dict[str, Tensor]:
        """Scores (B, r) of mention b with entity row `columns[b, j]`; whatever stands where that is -1 is not looked
        at.

        pairs: the wanted pair features beside `columns`, as in `Batch`.
        """
        raise NotImplementedError

    def explain(
        self, mentions: Rows, entities: Rows, columns: Tensor, pairs: Mapping[str, Tensor] = NO_PAIRS
    ) -> dict[str, Tensor]:
        """What else the head can tell about these pairs (edges, attention, choices): arrays (B, ...) float32 by name;
        nothing by default."""
        return {}

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The objective of one step, and its parts by name for the learning curves."""
        raise NotImplementedError


def make_head(
    method: str,
    config: HeadConfig,
    shapes: Mapping[str, tuple[int, ...]],
    towers: Mapping[str, nn.Module] = NO_TOWERS,
) -> Head:
    """The head of a method, freshly initialised from torch's generator.

    towers: encoders that run live in it, which a head that `stays_live` takes as a third argument. A module with heads
    of several stages says with `head_class(config)` which of them is meant, as `HeadConfig.head_class` does for a
    plugin.
    """
    maker: Any = config.head_class()
    if maker is None:
        module = importlib.import_module(f"heads.methods.{method}")
        if hasattr(module, "head_class"):
            maker = module.head_class(config)
        else:
            maker = next(
                value
                for value in vars(module).values()
                if isinstance(value, type) and issubclass(value, Head) and value.__module__ == module.__name__
            )
    head: Head = maker(config, shapes, towers) if config.stays_live else maker(config, shapes)
    return head

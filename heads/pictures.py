"""Masked pictures: a mention or an entity as if it had none, with everything that is made from its picture."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from cache.inputs import SIDES, Side
from foundation.errors import UserError
from heads.base import Batch, PerPicture, Ragged, Rows

WITHOUT: tuple[tuple[Side, ...], ...] = (("mention",), ("entity",), SIDES)
"""Whose pictures the values beside a part's own are without, see `heads.data.Bundle.unpictured`."""


@dataclass(frozen=True)
class Masks:
    """Whose pictures are masked in a batch: mentions (B,) and entities (E,) bool, in the order of its rows."""

    mentions: Tensor
    entities: Tensor

    @classmethod
    def drawn(cls, batch: Batch, chance: float, random: np.random.Generator) -> "Masks":
        """Each mention's and each entity's picture with this chance."""
        named = [batch.gold, *(columns for columns in (batch.candidates, batch.drawn) if columns is not None)]
        count = 1 + max(int(columns.max()) for columns in named if columns.numel())
        device = batch.gold.device
        mentions, entities = (torch.from_numpy(random.random(n) < chance).to(device) for n in (len(batch.gold), count))
        return cls(mentions, entities)


def masked_rows(rows: Rows, roles: Collection[str], masked: Tensor) -> Rows:
    """The rows with the columns of `roles` as where a record has no picture: not ok, zeros or of length 0, in the rows
    that `masked` (n,) names."""
    if isinstance(rows, PerPicture):
        each = masked.cpu().repeat_interleave(rows.counts)
        return PerPicture(masked_rows(rows.flat, roles, each), rows.counts)
    result = Rows(rows)
    for name, column in rows.items():
        role, _, output = name.rpartition(".")
        if role not in roles or output == "span":
            continue
        if isinstance(column, Ragged):
            gone = masked.cpu()
            kept = (~gone).repeat_interleave(column.lengths).to(column.values.device)
            result[name] = Ragged(column.values[kept], column.lengths.masked_fill(gone, 0))
        else:
            here = masked.to(column.device).view(-1, *[1] * (column.ndim - 1))
            result[name] = column.masked_fill(here, 0)
    return result


@dataclass(frozen=True)
class Pictured:
    """What is made from pictures. roles: of each side's inputs. pairs: pair feature -> the sides whose pictures it is
    computed from."""

    roles: Mapping[Side, Collection[str]]
    pairs: Mapping[str, Collection[Side]]

    def masked(self, batch: Batch, masks: Masks, unpictured: Mapping[str, Tensor]) -> Batch:
        """The batch with these pictures masked. unpictured: (B, r, 3) by part, see `heads.data.Bundle.unpictured`."""
        return replace(
            batch,
            mentions=masked_rows(batch.mentions, self.roles["mention"], masks.mentions),
            entities=masked_rows(batch.entities, self.roles["entity"], masks.entities),
            pairs=dict(self._pairs(batch, masks, unpictured)),
        )

    def sides(self, pair: str) -> Collection[Side]:
        """The sides whose pictures a pair feature is computed from. Raises `UserError` where nothing says so."""
        if pair not in self.pairs:
            raise UserError(
                f"picture_dropout: nothing says whether the pair feature {pair!r} is computed from pictures; "
                f"name its sides in the job's `pictured`"
            )
        return self.pairs[pair]

    def _pairs(self, batch: Batch, masks: Masks, unpictured: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
        for name, values in batch.pairs.items():
            assert batch.candidates is not None
            of_entity = masks.entities[batch.candidates.clamp(min=0)]  # (B, r)
            of_mention = masks.mentions[:, None].expand_as(of_entity)
            if name in unpictured:
                every = torch.cat([values[..., None], unpictured[name]], -1)  # (B, r, 4): of none, of each of `WITHOUT`
                place = of_mention.long() + 2 * of_entity.long()
                yield name, every.gather(-1, place[..., None])[..., 0]
                continue
            sides = self.sides(name)
            gone = (of_mention & ("mention" in sides)) | (of_entity & ("entity" in sides))
            yield name, values.masked_fill(gone.view(*gone.shape, *[1] * (values.ndim - 2)), torch.nan)

"""A head of one encoder for either side and of one score for pairs however they are laid out: most are."""

from collections.abc import Mapping

from torch import Tensor

from heads import several
from heads.base import EXPERT, NO_PAIRS, Head, PerPicture, Rows
from heads.layers import Block, Lists, Pairing


class Sided(Head):
    """Makes a head's four methods of two: `encode` and `score`."""

    reads_several = True

    def encode(self, inputs: Rows, side: str) -> Rows:
        """`Head.encode_mentions` where side is "mention", `Head.encode_entities` where it is "entity"."""
        raise NotImplementedError

    def score(self, mentions: Rows, entities: Rows, pairing: Pairing) -> dict[str, Tensor]:
        """Scores of the pairs that `pairing` makes: `Head.score_block` or `Head.score_lists`."""
        raise NotImplementedError

    def encode_mentions(self, inputs: Rows) -> Rows:
        """See `Head.encode_mentions`."""
        return self.encode(inputs, "mention")

    def encode_entities(self, inputs: Rows) -> Rows:
        """See `Head.encode_entities`; an entity with several pictures once with each."""
        if isinstance(inputs, PerPicture):
            return PerPicture(self.encode(inputs.flat, "entity"), inputs.counts)
        return self.encode(inputs, "entity")

    def score_block(self, mentions: Rows, entities: Rows) -> dict[str, Tensor]:
        """See `Head.score_block`."""
        if not isinstance(entities, PerPicture):
            return self.score(mentions, entities, Block())
        scores = self.score(mentions, entities.flat, Block())
        return (
            scores if entities.single else several.of_block(scores, entities, self.config.entity_pictures, self.choices)
        )

    def score_lists(
        self, mentions: Rows, entities: Rows, columns: Tensor, pairs: Mapping[str, Tensor] = NO_PAIRS
    ) -> dict[str, Tensor]:
        """See `Head.score_lists`."""
        columns = columns.clamp(min=0)
        if not isinstance(entities, PerPicture):
            return self.score(mentions, entities, Lists(columns))
        if entities.single:
            return self.score(mentions, entities.flat, Lists(columns))
        longer, starts, counts = several.rows_of_lists(entities, columns)
        scores = self.score(mentions, entities.flat, Lists(longer))
        return several.of_pairs(scores, starts, counts, self.config.entity_pictures, self.choices)

    @property
    def choices(self) -> tuple[str, ...]:
        """The units that are numbers of what was chosen."""
        return (EXPERT,) if self.experts else ()

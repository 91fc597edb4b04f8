"""A head of one encoder for either side and of one score for pairs however they are laid out: most are."""

from collections.abc import Mapping

from torch import Tensor

from heads.base import NO_PAIRS, Head, Rows
from heads.layers import Block, Lists, Pairing


class Sided(Head):
    """Makes a head's four methods of two: `encode` and `score`."""

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
        """See `Head.encode_entities`."""
        return self.encode(inputs, "entity")

    def score_block(self, mentions: Rows, entities: Rows) -> dict[str, Tensor]:
        """See `Head.score_block`."""
        return self.score(mentions, entities, Block())

    def score_lists(
        self, mentions: Rows, entities: Rows, columns: Tensor, pairs: Mapping[str, Tensor] = NO_PAIRS
    ) -> dict[str, Tensor]:
        """See `Head.score_lists`."""
        return self.score(mentions, entities, Lists(columns.clamp(min=0)))

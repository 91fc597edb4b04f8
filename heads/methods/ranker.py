"""A small network over pair features and training frequency, trained on train, without any trained head."""

from heads.config.ranker import RankerConfig
from heads.methods.fused import Fused


class Ranker(Fused):
    """The network of `Fused`. Counts of train exclude the mention that is being scored, so that what it learns also
    holds for other mentions."""

    config: RankerConfig

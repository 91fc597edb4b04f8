"""A small network over pair features and training frequency, learned on train: what strings, lists, faces and counts say without any trained head."""

from heads.config.ranker import RankerConfig
from heads.methods.fused import Fused


class Ranker(Fused):
    """The network of `Fused`. Its counts of train leave out the mention that is being scored, so that it learns from train what holds elsewhere."""

    config: RankerConfig

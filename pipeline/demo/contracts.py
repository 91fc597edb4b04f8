"""Contract of the demo's room: what is drawn or trained, where, from which seed. No torch."""

from pathlib import Path

from foundation.contracts import contract


@contract
class DemoJob:
    """The world to draw, or the encoders to train, from a seed into a folder that appears whole or not at all."""

    out: Path
    seed: int = 0

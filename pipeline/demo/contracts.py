"""Contract of the demo's room: what is drawn or trained, where, from which seed. No torch."""

from pathlib import Path

from foundation.contracts import contract

DEMO, NOISE = "demo", "demo-noise"
WORLDS = (DEMO, NOISE)
"""The embedded datasets, by label: they draw their own files."""


@contract
class DemoJob:
    """The world to draw, or the encoders to train, from a seed into a folder that appears whole or not at all.

    name: of the world.
    """

    out: Path
    seed: int = 0
    name: str = DEMO

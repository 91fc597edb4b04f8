"""Contracts of reading the cache: a feature under a view of one side, and the place of its rows."""

from pathlib import Path
from typing import Literal

from foundation.checksums import file_sha256
from foundation.contracts import contract

Side = Literal["mention", "entity"]
SIDES: tuple[Side, Side] = ("mention", "entity")
IMAGE = "image"
"""The view of a record's picture, of several the first usable one."""
IMAGES = "images"
"""The view of all usable pictures of an entity."""
PICTURES = (IMAGE, IMAGES)
FROM_FEATURES = {"face_attributes": "face_attributes", "identities": "identity"}
"""Views of texts about what a feature found in the mention's picture, none or several per mention -> that feature."""


@contract
class Want:
    """A feature under a view of one side: `clip_text` of every mention's `sentence`."""

    side: Side
    feature: str
    view: str

    @property
    def column(self) -> str:
        """The name of its key column, `mention.clip_text.sentence`."""
        return f"{self.side}.{self.feature}.{self.view}"

    @property
    def from_picture(self) -> bool:
        """Whether its rows are made from the record's picture: of the picture, of what was found in it, or of a text
        about that."""
        return self.view in PICTURES or self.view in FROM_FEATURES


@contract
class Input(Want):
    """A want with the place of its rows.

    store: folder of the feature's store. keys: .npz file of the key column, a row per record.
    """

    store: Path
    keys: Path


def keys_digest(path: Path) -> str:
    """SHA-256 (hex) of a file of keys: which texts and pictures its records had.

    A feature's identity says what was done, not to what.
    """
    return file_sha256(path)

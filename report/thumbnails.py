"""Small copies of pictures for a page: decoded with the limits of all pictures, bounded in number and size."""

import io
from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image, features

from foundation.errors import PassingError
from pipeline.datasets.contracts import Limits
from pipeline.datasets.images import ImageError, decoding, image_key, read_picture

LARGE, SMALL = 320, 96
"""Pixels of the longer side: of a mention's picture, and of an entity's."""


@dataclass(frozen=True)
class Thumbnail:
    """An encoded small copy. size: upright width and height of the picture itself, in whose pixels boxes are given."""

    data: bytes
    kind: str
    size: tuple[int, int]

    @property
    def uri(self) -> str:
        """As a `data:` URI."""
        return f"data:image/{self.kind};base64,{b64encode(self.data).decode()}"


@dataclass
class Thumbnails:
    """Thumbnails by name: a picture behind many records is there once. most, budget: their number and bytes at most.

    shrink: makes a thumbnail, as `thumbnail` does. left_out: pictures that would not fit any more.
    """

    limits: Limits = field(default_factory=Limits)
    shrink: Callable[[bytes, int, Limits], Thumbnail] = field(default_factory=lambda: thumbnail)
    most: int = 12_000
    budget: int = 48_000_000
    by_name: dict[str, Thumbnail] = field(default_factory=dict)
    left_out: int = 0
    _bytes: int = 0
    _failed: set[str] = field(default_factory=set)

    def add(self, path: Path, key: bytes, side: int) -> str | None:
        """Name of the thumbnail of the picture file with content key `key`, its longer side `side` pixels at most.

        None where no more fit, and for a picture that is gone, changed since the dataset was prepared, or broken.
        """
        name = f"{key.hex()}-{side}"
        if name in self.by_name:
            return name
        if name in self._failed:
            return None
        if len(self.by_name) >= self.most or self._bytes >= self.budget:
            self.left_out += 1
            return None
        try:
            data = read_picture(path, self.limits)
            if image_key(data) != key:
                raise FileNotFoundError(f"{path}: another picture now")
            self.by_name[name] = self.shrink(data, side, self.limits)
        except (FileNotFoundError, PassingError, ImageError):
            self._failed.add(name)
            return None
        self._bytes += len(self.by_name[name].data)
        return name


def thumbnail(data: bytes, side: int, limits: Limits) -> Thumbnail:
    """A picture file's bytes as a copy of at most `side` pixels, without its metadata.

    Raises `ImageError` where it is no usable picture.
    """
    with decoding(data, limits, (side, side)) as (image, size):
        image.thumbnail((side, side), Image.Resampling.LANCZOS)
    out, kind = io.BytesIO(), "webp" if features.check("webp") else "jpeg"
    plain = Image.new("RGB", image.size)
    plain.paste(image)
    plain.save(out, kind, quality=72)
    return Thumbnail(out.getvalue(), kind, size)


def uris(thumbnails: Thumbnails) -> dict[str, str]:
    """name -> `data:` URI."""
    return {name: one.uri for name, one in thumbnails.by_name.items()}

"""From traits to a picture: a background, the figure somewhere on it, noise."""

import random
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw

from pipeline.demo import people, things
from pipeline.demo.pen import Box, Pen

SUPERSAMPLE = 2

FIGURES: dict[str, Callable[[Pen, dict[str, str]], None]] = {
    "person": people.person,
    "ship": things.ship,
    "city": things.city,
    "team": things.team,
    "animal": things.animal,
    "instrument": things.instrument,
    "flower": things.flower,
    "locomotive": things.locomotive,
}


def draw(kind: str | None, traits: dict[str, str], rng: random.Random, size: int) -> Image.Image:
    """An RGB picture of `size` × `size` pixels; an empty scene where `kind` is None.

    Everything that is not in `traits` comes from `rng`: place, scale, mirroring, shades, background, clutter, noise.
    """
    return draw_boxed(kind, traits, rng, size)[0]


def draw_boxed(
    kind: str | None, traits: dict[str, str], rng: random.Random, size: int
) -> tuple[Image.Image, dict[str, Box]]:
    """`draw`, and where in the picture (in its pixels) the figure stands, under its kind, and its parts (`face`), under
    their names.
    """
    full = size * SUPERSAMPLE
    image = _background(full, rng)
    boxes: dict[str, Box] = {}
    if kind is not None:
        side = full * rng.uniform(0.76, 0.98)
        corner = (rng.uniform(0, full - side), rng.uniform(0, full - side))
        pen = Pen(image, corner, side, rng.random() < 0.5, rng)
        FIGURES[kind](pen, traits)
        boxes = {name: _inside(box, full) for name, box in ({kind: pen.extent} | pen.parts).items() if box is not None}
    return _noisy(image.reduce(SUPERSAMPLE), rng), boxes


def _inside(box: Box, full: int) -> Box:
    """The part of a box that lies in the picture, in the pixels of the finished one."""
    left, top, right, bottom = (min(max(side, 0), full) / SUPERSAMPLE for side in box)
    return left, top, right, bottom


def _background(full: int, rng: random.Random) -> Image.Image:
    """Wall and floor in pale tints, behind a few paler shapes."""
    image = Image.new("RGB", (full, full), _pale(rng))
    canvas = ImageDraw.Draw(image)
    horizon = full * rng.uniform(0.5, 0.9)
    canvas.rectangle([0, horizon, full, full], fill=_pale(rng))
    for _ in range(rng.randint(0, 4)):
        x, y, width, height = (
            rng.uniform(0, full),
            rng.uniform(0, full),
            rng.uniform(0.08, 0.3) * full,
            rng.uniform(0.08, 0.3) * full,
        )
        shape = canvas.ellipse if rng.random() < 0.5 else canvas.rectangle
        shape([x - width, y - height, x + width, y + height], fill=_pale(rng))
    return image


def _pale(rng: random.Random) -> tuple[int, int, int]:
    return rng.randint(150, 225), rng.randint(150, 225), rng.randint(150, 225)


def _noisy(image: Image.Image, rng: random.Random) -> Image.Image:
    """The image with a change of exposure and with noise."""
    pixels = np.asarray(image, dtype=np.float32)
    grain = np.random.default_rng(rng.getrandbits(64)).standard_normal(pixels.shape, dtype=np.float32)
    pixels = pixels * rng.uniform(0.88, 1.08) + grain * rng.uniform(2, 9)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))

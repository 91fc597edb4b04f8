"""From traits to a picture: a background, the figure somewhere on it, noise."""

import random
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw

from pipeline.demo import people, things
from pipeline.demo.pen import Pen

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
    full = size * SUPERSAMPLE
    image = _background(full, rng)
    if kind is not None:
        side = full * rng.uniform(0.76, 0.98)
        corner = (rng.uniform(0, full - side), rng.uniform(0, full - side))
        FIGURES[kind](Pen(image, corner, side, rng.random() < 0.5, rng), traits)
    return _noisy(image.reduce(SUPERSAMPLE), rng)


def _background(full: int, rng: random.Random) -> Image.Image:
    """Wall and floor in pale tints, behind a few paler shapes."""
    image = Image.new("RGB", (full, full), _pale(rng))
    canvas = ImageDraw.Draw(image)
    horizon = full * rng.uniform(0.5, 0.9)
    canvas.rectangle([0, horizon, full, full], fill=_pale(rng))
    for _ in range(rng.randint(0, 4)):
        x, y, width, height = (rng.uniform(0, full), rng.uniform(0, full), rng.uniform(0.08, 0.3) * full, rng.uniform(0.08, 0.3) * full)
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

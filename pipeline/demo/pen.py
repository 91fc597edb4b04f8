"""A pen that draws a figure into any place of a picture: coordinates from 0 to 100, scaled, shifted and mirrored as
one.
"""

import contextlib
import random
from collections.abc import Iterator, Sequence

from PIL import Image, ImageDraw

PAINTS = {
    "red": (206, 38, 44),
    "orange": (242, 134, 26),
    "yellow": (248, 218, 58),
    "green": (40, 150, 66),
    "blue": (42, 82, 204),
    "purple": (138, 58, 168),
    "black": (34, 34, 38),
    "white": (242, 242, 240),
    "brown": (118, 72, 38),
    "blond": (232, 200, 104),
    "grey": (138, 138, 142),
    "gold": (226, 178, 40),
    "wood": (160, 110, 60),
    "water": (96, 150, 190),
    "leaf": (70, 140, 60),
    "pale": (250, 224, 206),
    "fair": (240, 200, 168),
    "tan": (204, 152, 108),
    "dark": (122, 80, 56),
    "ink": (20, 20, 24),
}
JITTER = 14  # how far a channel of a paint may stray from picture to picture, of 255

Colour = tuple[int, int, int]
Point = tuple[float, float]
Box = tuple[float, float, float, float]  # left, top, right, bottom


class Pen:
    """Draws on `image`; the figure's unit square of side 100 has its corner at `corner` and its side is `side` pixels.

    extent: the box, in pixels, around all that was drawn so far and is no scenery; it may reach past the picture.
    parts: boxes of named parts.
    """

    def __init__(self, image: Image.Image, corner: Point, side: float, mirrored: bool, rng: random.Random) -> None:
        self._draw = ImageDraw.Draw(image)
        self._corner, self._unit, self._mirrored = corner, side / 100, mirrored
        self._rng = rng
        self._mixed: dict[str, Colour] = {}
        self._in_scenery = False
        self.extent: Box | None = None
        self.parts: dict[str, Box] = {}

    def paint(self, name: str, shade: float = 1.0) -> Colour:
        """A paint as this picture has mixed it, darkened (`shade` < 1) or lightened."""
        if name not in self._mixed:
            red, green, blue = (
                min(255, max(0, channel + self._rng.randint(-JITTER, JITTER))) for channel in PAINTS[name]
            )
            self._mixed[name] = (red, green, blue)
        red, green, blue = (min(255, int(channel * shade)) for channel in self._mixed[name])
        return red, green, blue

    def _at(self, x: float, y: float) -> Point:
        x = 100 - x if self._mirrored else x
        point = self._corner[0] + x * self._unit, self._corner[1] + y * self._unit
        if not self._in_scenery:
            left, top, right, bottom = self.extent or (*point, *point)
            self.extent = min(left, point[0]), min(top, point[1]), max(right, point[0]), max(bottom, point[1])
        return point

    @contextlib.contextmanager
    def scenery(self) -> Iterator[None]:
        """What is drawn meanwhile stands around the figure and is not part of it."""
        self._in_scenery = True
        yield
        self._in_scenery = False

    def part(self, name: str, left: float, top: float, right: float, bottom: float) -> None:
        """Say where a named part of the figure is; draws nothing."""
        with self.scenery():
            x0, y0, x1, y1 = self._box(left, top, right, bottom)
        self.parts[name] = x0, y0, x1, y1

    def _box(self, left: float, top: float, right: float, bottom: float) -> list[float]:
        (x0, y0), (x1, y1) = self._at(left, top), self._at(right, bottom)
        return [min(x0, x1), y0, max(x0, x1), y1]

    def polygon(self, points: Sequence[Point], fill: Colour) -> None:
        self._draw.polygon([self._at(x, y) for x, y in points], fill=fill)

    def box(self, left: float, top: float, right: float, bottom: float, fill: Colour) -> None:
        self._draw.rectangle(self._box(left, top, right, bottom), fill=fill)

    def ellipse(self, x: float, y: float, rx: float, ry: float, fill: Colour) -> None:
        self._draw.ellipse(self._box(x - rx, y - ry, x + rx, y + ry), fill=fill)

    def ring(self, x: float, y: float, radius: float, width: float, fill: Colour) -> None:
        self._draw.ellipse(
            self._box(x - radius, y - radius, x + radius, y + radius),
            outline=fill,
            width=max(1, round(width * self._unit)),
        )

    def chord(self, centre: Point, radii: Point, angles: tuple[float, float], fill: Colour) -> None:
        """The part of an ellipse between two angles (degrees, clockwise from three o'clock), each the other's mirror
        image at the vertical.
        """
        (x, y), (rx, ry), (start, end) = centre, radii, angles
        self._draw.chord(self._box(x - rx, y - ry, x + rx, y + ry), start, end, fill=fill)

    def line(self, points: Sequence[Point], width: float, fill: Colour) -> None:
        self._draw.line(
            [self._at(x, y) for x, y in points], fill=fill, width=max(1, round(width * self._unit)), joint="curve"
        )

"""Draws everything that is not a person: ships, cities, crests, animals, instruments, flowers, locomotives."""

from pipeline.demo.looks import COUNTS
from pipeline.demo.pen import Colour, Pen

GROUND = (-60, 90, 160, 150)  # reaches past the picture's edges wherever the figure stands


def _count(word: str) -> int:
    return COUNTS.index(word) + 1


def _spread(count: int, left: float, right: float) -> list[float]:
    """`count` positions with equal room around each."""
    step = (right - left) / count
    return [left + step * (place + 0.5) for place in range(count)]


def ship(pen: Pen, traits: dict[str, str]) -> None:
    count, colour, rig = traits["rig"].split()
    places = _spread(_count(count), 20, 84)
    if rig == "sails":
        for x in places:
            pen.line([(x, 12), (x, 64)], 2, pen.paint("wood", 0.7))
            pen.polygon([(x - 1, 14), (x - 1, 60), (x - 13, 56)], pen.paint(colour, 0.85))
            pen.polygon([(x + 1, 16), (x + 1, 60), (x + 11, 56)], pen.paint(colour))
    else:
        pen.box(18, 54, 82, 66, pen.paint("white", 0.9))
        for x in places:
            pen.box(x - 5, 28, x + 5, 56, pen.paint(colour))
            pen.box(x - 5, 28, x + 5, 33, pen.paint("ink"))
    pen.polygon([(4, 64), (98, 60), (88, 88), (16, 88)], pen.paint(traits["hull"]))
    pen.line([(7, 68), (96, 65)], 2.5, pen.paint(traits["hull"], 0.7 if traits["hull"] != "black" else 2.5))
    with pen.scenery():
        for x in range(-48, 150, 14):
            pen.ellipse(x, 92, 9, 6, pen.paint("water"))
        pen.box(*GROUND, pen.paint("water"))


def city(pen: Pen, traits: dict[str, str]) -> None:
    roof, wall = pen.paint(traits["roofs"]), pen.paint("grey", 1.35)
    with pen.scenery():
        pen.box(*GROUND, pen.paint("leaf"))
    for x in _spread(_count(traits["towers"]), 2, 62):
        pen.box(x - 6, 30, x + 6, 88, wall)
        pen.polygon([(x - 8, 30), (x, 6), (x + 8, 30)], roof)
        for y in (40, 54):
            pen.box(x - 2, y, x + 2, y + 7, pen.paint("ink"))
    for x in (6, 26, 46):
        pen.box(x - 8, 66, x + 9, 90, pen.paint("grey", 1.1))
        pen.polygon([(x - 11, 67), (x + 0.5, 54), (x + 12, 67)], roof)
        pen.box(x - 3, 76, x + 3, 90, pen.paint("ink"))
    _landmark(pen, traits["landmark"])


def _landmark(pen: Pen, landmark: str) -> None:
    stone, ink = pen.paint("grey", 1.6), pen.paint("ink")
    if landmark == "dome":
        pen.box(64, 58, 98, 90, stone)
        pen.chord((81, 58), (17, 22), (180, 360), pen.paint("gold"))
        pen.line([(81, 24), (81, 38)], 2, ink)
    elif landmark == "bridge":
        with pen.scenery():
            pen.box(58, 84, 104, 150, pen.paint("water"))
            pen.ring(81, 92, 22, 5, ink)
        pen.box(56, 72, 106, 78, ink)
        with pen.scenery():
            pen.box(58, 92, 104, 150, pen.paint("water"))
    elif landmark == "lighthouse":
        pen.polygon([(74, 90), (77, 24), (87, 24), (90, 90)], stone)
        for y in (34, 54, 74):
            pen.box(75, y, 89, y + 9, pen.paint("red"))
        pen.box(76, 14, 88, 24, pen.paint("yellow"))
        pen.polygon([(74, 14), (82, 6), (90, 14)], ink)
    else:
        pen.polygon([(70, 90), (76, 46), (90, 46), (96, 90)], pen.paint("wood"))
        for x, y in ((62, 26), (104, 26), (62, 66), (104, 66)):
            pen.line([(83, 46), (x, y)], 4, pen.paint("white"))
        pen.ellipse(83, 46, 4, 4, ink)


def team(pen: Pen, traits: dict[str, str]) -> None:
    """A shield; the pattern is in the crest's second colour."""
    field, second = (pen.paint(colour) for colour in traits["crest"].split())
    edge = [(14, 8), (86, 8), (86, 52), (78, 74), (50, 96), (22, 74), (14, 52)]
    pen.polygon([(50 + (x - 50) * 1.1, 50 + (y - 50) * 1.1) for x, y in edge], pen.paint("ink"))
    pen.polygon(edge, field)
    if traits["pattern"] == "stripes":
        for left, right, foot in ((26, 36, 78), (64, 74, 78), (45, 55, 92)):
            pen.polygon([(left, 8), (right, 8), (right, foot), (left, foot)], second)
    elif traits["pattern"] == "hoops":
        for top in (20, 42, 64):
            pen.box(14 if top < 50 else 20, top, 86 if top < 50 else 80, top + 10, second)
    elif traits["pattern"] == "cross":
        pen.box(43, 8, 57, 90, second)
        pen.box(14, 40, 86, 54, second)
    else:
        pen.polygon([(50, 8), (86, 8), (86, 52), (78, 74), (50, 96)], second)
    pen.ellipse(50, 46, 19, 19, pen.paint("white"))
    _emblem(pen, traits["emblem"], pen.paint("ink"))


def _emblem(pen: Pen, emblem: str, ink: Colour) -> None:
    if emblem == "star":
        points = [(50, 30), (54, 41), (66, 41), (57, 48), (60, 60), (50, 53), (40, 60), (43, 48), (34, 41), (46, 41)]
        pen.polygon(points, ink)
    elif emblem == "ball":
        pen.ellipse(50, 46, 13, 13, ink)
        pen.ellipse(50, 46, 5, 5, pen.paint("white"))
    else:
        pen.line([(50, 32), (50, 60)], 4, ink)
        pen.line([(41, 38), (59, 38)], 4, ink)
        pen.line([(37, 50), (42, 58), (50, 61), (58, 58), (63, 50)], 4, ink)


def animal(pen: Pen, traits: dict[str, str]) -> None:
    marking, colour, species = traits["coat"].split()
    coat, mark = pen.paint(colour), pen.paint("white") if colour in ("black", "blue") else pen.paint("ink")
    collar, dim = pen.paint(traits["collar"]), pen.paint(colour, 0.8)
    x, y, rx, ry = {
        "horse": (42, 54, 27, 14),
        "dog": (40, 62, 24, 13),
        "bird": (46, 54, 26, 17),
        "fish": (46, 52, 34, 19),
    }[species]
    if species == "fish":
        pen.polygon([(74, 52), (98, 32), (98, 72)], dim)
        pen.polygon([(36, 36), (58, 18), (62, 38)], dim)
    elif species == "bird":
        pen.polygon([(26, 52), (-2, 40), (2, 62)], dim)
        for leg in (42, 52):
            pen.line([(leg, 68), (leg, 92)], 3, pen.paint("orange"))
        pen.polygon([(88, 32), (102, 37), (88, 42)], pen.paint("orange"))
    else:
        foot = 96 if species == "horse" else 92
        for leg in (20, 30, 54, 63) if species == "horse" else (20, 29, 50, 58):
            pen.box(leg - 3, y, leg + 3, foot, dim)
        tail = [(16, 48), (4, 76)] if species == "horse" else [(18, 58), (4, 40)]
        pen.line(tail, 5, dim)
    pen.ellipse(x, y, rx, ry, coat)
    if marking == "spotted":
        for dx, dy in ((-0.55, -0.2), (0.05, -0.5), (0.5, 0.1), (-0.15, 0.35), (0.1, 0)):
            pen.ellipse(x + dx * rx, y + dy * ry, 3.6, 3.6, mark)
    elif marking == "striped":
        for dx in (-0.55, -0.2, 0.15, 0.5):
            pen.line([(x + dx * rx, y - 0.75 * ry), (x + dx * rx - 2, y + 0.75 * ry)], 3.2, mark)
    _animal_head(pen, species, coat, dim, collar)


def _animal_head(pen: Pen, species: str, coat: Colour, dim: Colour, collar: Colour) -> None:
    ink, white = pen.paint("ink"), pen.paint("white")
    if species == "horse":
        pen.polygon([(56, 56), (66, 18), (80, 20), (70, 58)], coat)
        pen.polygon([(66, 10), (80, 16), (98, 38), (90, 44), (70, 32)], coat)
        pen.polygon([(66, 4), (72, 12), (64, 16)], dim)
        pen.line([(63, 16), (56, 44)], 5, dim)
        pen.polygon([(59, 40), (75, 44), (73, 52), (57, 48)], collar)
        eye = (78, 22)
    elif species == "dog":
        pen.polygon([(54, 60), (60, 36), (76, 40), (64, 66)], coat)
        pen.ellipse(72, 36, 14, 12, coat)
        pen.ellipse(86, 40, 9, 6, coat)
        pen.ellipse(94, 38, 3, 3, ink)
        pen.ellipse(62, 36, 5, 12, dim)
        pen.polygon([(56, 48), (74, 54), (71, 61), (54, 56)], collar)
        eye = (77, 32)
    elif species == "bird":
        pen.ellipse(76, 36, 13, 13, coat)
        pen.polygon([(30, 46), (58, 48), (38, 66)], dim)
        pen.polygon([(58, 44), (72, 54), (68, 60), (54, 50)], collar)
        eye = (80, 33)
    else:
        pen.polygon([(27, 36), (33, 34), (33, 70), (27, 68)], collar)
        eye = (22, 47)
    pen.ellipse(*eye, 3.4, 3.4, white)
    pen.ellipse(*eye, 2, 2, ink)


def instrument(pen: Pen, traits: dict[str, str]) -> None:
    colour, shape = traits["body"].split()
    body, ribbon, ink = pen.paint(colour), pen.paint(traits["ribbon"]), pen.paint("ink")
    rim = pen.paint(colour, 0.65 if colour != "black" else 2.4)
    if shape in ("violin", "guitar"):
        pen.box(46, 4, 54, 56, pen.paint("wood", 0.6))
        upper, lower = (
            ((50, 50, 16, 13), (50, 76, 20, 18)) if shape == "violin" else ((50, 56, 19, 15), (50, 78, 28, 20))
        )
        for x, y, rx, ry in (upper, lower):
            pen.ellipse(x, y, rx + 2, ry + 2, rim)
        for part in (upper, lower):
            pen.ellipse(*part, body)
        if shape == "guitar":
            pen.ellipse(50, 66, 8, 8, ink)
        else:
            pen.line([(42, 60), (40, 70)], 2, ink)
            pen.line([(58, 60), (60, 70)], 2, ink)
            pen.line([(74, 20), (92, 96)], 3, pen.paint("wood"))
        pen.line([(50, 8), (50, 90)], 1.5, pen.paint("white"))
    elif shape == "drum":
        pen.box(14, 36, 86, 84, body)
        pen.ellipse(50, 84, 36, 10, body)
        for x in (20, 40, 60, 80):
            pen.line([(x, 40), (x + 8 if x < 50 else x - 8, 88)], 2, rim)
        pen.ellipse(50, 36, 36, 11, pen.paint("white"))
        pen.line([(30, 8), (54, 36)], 3, pen.paint("wood"))
        pen.line([(74, 8), (52, 34)], 3, pen.paint("wood"))
    elif shape == "harp":
        for x in (36, 46, 56, 66, 74):
            pen.line([(x, 22 + (x - 30) * 0.2), (x, 92 - (x - 30) * 1.1)], 1.5, ink)
        pen.line([(26, 8), (26, 94)], 7, body)
        pen.line([(24, 92), (84, 28)], 8, body)
        pen.line([(26, 12), (50, 24), (84, 28)], 7, body)
    else:
        pen.polygon([(62, 44), (98, 22), (98, 82), (62, 58)], body)
        pen.box(8, 46, 66, 56, body)
        pen.ring(42, 60, 15, 6, body)
        for x in (34, 43, 52):
            pen.box(x - 2.5, 34, x + 2.5, 48, rim)
        pen.box(2, 44, 8, 58, rim)
    _ribbon(pen, ribbon)


def _ribbon(pen: Pen, ribbon: Colour) -> None:
    pen.polygon([(22, 14), (2, 4), (4, 28)], ribbon)
    pen.polygon([(22, 14), (42, 4), (40, 28)], ribbon)
    pen.polygon([(20, 14), (25, 14), (33, 40), (25, 38)], ribbon)
    pen.polygon([(24, 14), (19, 14), (11, 40), (19, 38)], ribbon)
    pen.ellipse(22, 15, 5, 5, ribbon)


def flower(pen: Pen, traits: dict[str, str]) -> None:
    count, colour, form = traits["bloom"].split()
    petal, dim, pot = pen.paint(colour), pen.paint(colour, 0.75 if colour != "black" else 2.0), pen.paint(traits["pot"])
    number = _count(count)
    size = 13 if number < 3 else 11
    for place, x in enumerate(_spread(number, 4, 96)):
        y = 22 if place % 2 == 0 else 34
        pen.line([(x, y), (50 + (x - 50) * 0.3, 74)], 3, pen.paint("leaf"))
        if form == "tulips":
            pen.ellipse(x, y + 2, size * 0.8, size, petal)
            pen.polygon([(x - size * 0.8, y), (x - size * 0.8, y - size * 1.3), (x - 3, y - 4)], petal)
            pen.polygon([(x + size * 0.8, y), (x + size * 0.8, y - size * 1.3), (x + 3, y - 4)], petal)
            pen.polygon([(x - 5, y), (x, y - size * 1.4), (x + 5, y)], dim)
        elif form == "roses":
            pen.ellipse(x, y, size, size, petal)
            pen.ring(x, y, size * 0.66, 2.5, dim)
            pen.ellipse(x, y, size * 0.3, size * 0.3, dim)
        else:
            pen.polygon([(x - 4, y - size), (x + 4, y - size), (x + size, y + size), (x - size, y + size)], petal)
            pen.ellipse(x, y + size, size, 4, dim)
            pen.ellipse(x, y + size + 2, 3, 3, pen.paint("yellow"))
    pen.ellipse(36, 62, 12, 5, pen.paint("leaf"))
    pen.ellipse(64, 64, 12, 5, pen.paint("leaf", 0.85))
    pen.polygon([(30, 72), (70, 72), (64, 99), (36, 99)], pot)
    pen.box(26, 68, 74, 76, pot)
    pen.line([(28, 77), (72, 77)], 1.5, pen.paint("ink"))


def locomotive(pen: Pen, traits: dict[str, str]) -> None:
    boiler, ink = pen.paint(traits["boiler"]), pen.paint("ink")
    count, colour = traits["wagons"].split()
    with pen.scenery():
        pen.box(-60, 88, 160, 91, pen.paint("grey", 0.7))
    for x in _spread(_count(count), -4, 48):
        pen.box(x - 7.5, 60, x + 7.5, 82, pen.paint(colour))
        for wheel in (x - 4, x + 4):
            pen.ellipse(wheel, 84, 4, 4, ink)
    pen.line([(-4, 79), (52, 79)], 2, ink)
    pen.box(50, 38, 66, 82, pen.paint(traits["boiler"], 0.8))
    pen.box(47, 34, 69, 40, ink)
    pen.box(54, 45, 62, 55, pen.paint("white"))
    pen.box(64, 54, 96, 78, boiler)
    pen.ellipse(95, 66, 5, 12, boiler)
    pen.polygon([(84, 56), (82, 34), (94, 34), (92, 56)], ink)
    pen.ellipse(73, 54, 5, 5, pen.paint("gold"))
    pen.box(50, 78, 98, 82, ink)
    for x, radius in ((58, 8), (75, 6), (89, 6)):
        pen.ellipse(x, 90 - radius, radius, radius, ink)
        pen.ellipse(x, 90 - radius, radius * 0.45, radius * 0.45, pen.paint("red"))
    for x, y, radius in ((84, 25, 6), (76, 16, 8), (64, 9, 9)):
        pen.ellipse(x, y, radius, radius, pen.paint("white", 0.92))

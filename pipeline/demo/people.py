"""Draws people: head and shoulders, with hair, beard, glasses, headgear and dress."""

from pipeline.demo.pen import Colour, Pen

FACE = (24, 0, 76, 70)


def person(pen: Pen, traits: dict[str, str]) -> None:
    """A bust; the face is centred at (50, 42) and 36 by 46 wide. Its box takes in hair, headgear and beard."""
    style, hair_name = traits["hair"].split()
    hair = pen.paint(hair_name)
    if style == "long":
        pen.ellipse(50, 46, 28, 34, hair)
        pen.box(22, 46, 78, 82, hair)
    colour, cut = traits["dress"].split()
    _dress(pen, colour, cut, pen.paint(traits["skin"], 0.88))
    if style == "curly":
        for x, y in ((27, 38), (30, 50), (27, 27), (73, 38), (70, 50), (73, 27)):
            pen.ellipse(x, y, 9, 9, hair)
    for x in (32, 68):
        pen.ellipse(x, 44, 4, 6, pen.paint(traits["skin"], 0.92))
    pen.ellipse(50, 42, 18, 23, pen.paint(traits["skin"]))
    _hair(pen, style, hair)
    _face(pen, traits["skin"])
    _beard(pen, traits["beard"], hair)
    pen.line([(44, 53), (50, 54.5), (56, 53)], 2.4, (150, 50, 50))
    _glasses(pen, traits["glasses"])
    _headgear(pen, traits["headgear"])
    pen.part("face", *FACE)


def _dress(pen: Pen, colour: str, cut: str, neck: Colour) -> None:
    cloth, fold = pen.paint(colour), pen.paint(colour, 0.68 if colour != "black" else 2.2)
    pen.polygon([(3, 150), (5, 100), (12, 80), (36, 68), (64, 68), (88, 80), (95, 100), (97, 150)], cloth)
    pen.box(42, 58, 58, 72, neck)
    if cut == "suit":
        pen.polygon([(38, 67), (62, 67), (50, 98)], pen.paint("white"))
        pen.polygon([(47, 70), (53, 70), (55, 92), (50, 99), (45, 92)], pen.paint("ink"))
        pen.polygon([(42, 60), (58, 60), (50, 74)], neck)
    elif cut == "coat":
        pen.polygon([(34, 66), (46, 66), (50, 84), (36, 80)], fold)
        pen.polygon([(66, 66), (54, 66), (50, 84), (64, 80)], fold)
        pen.line([(50, 84), (50, 150)], 2, fold)
        for y in (88, 95):
            pen.ellipse(55, y, 2, 2, pen.paint("gold"))
    else:
        pen.ellipse(50, 70, 17, 7, pen.paint("gold"))
        pen.ellipse(50, 67, 12, 6, neck)
        pen.line([(14, 100), (38, 74)], 3, fold)
        pen.line([(86, 100), (62, 74)], 3, fold)


def _hair(pen: Pen, style: str, hair: Colour) -> None:
    pen.chord((50, 36), (20, 21), (188, 352), hair)
    if style == "curly":
        for x, y in ((33, 22), (42, 16), (52, 14), (62, 18), (68, 25)):
            pen.ellipse(x, y, 8.5, 8.5, hair)
    elif style == "long":
        pen.polygon([(30, 34), (38, 26), (34, 58), (26, 60)], hair)
        pen.polygon([(70, 34), (62, 26), (66, 58), (74, 60)], hair)
    else:
        pen.polygon([(31, 32), (38, 20), (36, 34), (32, 42)], hair)
        pen.polygon([(69, 32), (62, 20), (64, 34), (68, 42)], hair)


def _face(pen: Pen, skin: str) -> None:
    for x in (43, 57):
        pen.ellipse(x, 40, 3.4, 2.4, (250, 250, 250))
        pen.ellipse(x, 40, 1.9, 2.2, pen.paint("ink"))
        pen.line([(x - 4, 35.5), (x + 4, 35.5)], 1.6, pen.paint("ink"))
    pen.line([(50, 42), (48, 48), (51, 48)], 1.4, pen.paint(skin, 0.75))


def _beard(pen: Pen, beard: str, hair: Colour) -> None:
    if beard == "beard":
        pen.chord((50, 47), (18.5, 24), (8, 172), hair)
        pen.polygon([(40, 47), (60, 47), (64, 53), (36, 53)], hair)
    elif beard == "moustache":
        pen.polygon([(50, 47), (60, 49), (66, 54), (50, 52.5), (34, 54), (40, 49)], hair)


def _glasses(pen: Pen, glasses: str) -> None:
    ink = pen.paint("ink")
    if glasses == "none":
        return
    for x in (42, 58):
        if glasses == "sunglasses":
            pen.ellipse(x, 41, 8, 6.5, ink)
        else:
            pen.ring(x, 40.5, 7.5, 2.2, ink)
    pen.line([(32, 39), (37, 39)], 2, ink)
    pen.line([(63, 39), (68, 39)], 2, ink)
    pen.line([(48, 39), (52, 39)], 2, ink)


def _headgear(pen: Pen, headgear: str) -> None:
    if headgear == "hat":
        pen.ellipse(50, 22, 33, 5, pen.paint("brown"))
        pen.polygon([(33, 22), (36, 2), (64, 2), (67, 22)], pen.paint("brown"))
        pen.box(34, 16, 66, 20, pen.paint("ink"))
    elif headgear == "cap":
        pen.chord((50, 27), (22, 22), (180, 360), pen.paint("blue"))
        pen.polygon([(50, 24), (84, 27), (82, 32), (50, 29)], pen.paint("blue", 0.7))
    elif headgear == "crown":
        pen.polygon([(30, 25), (27, 3), (39, 14), (50, 0), (61, 14), (73, 3), (70, 25)], pen.paint("gold"))
        for x in (38, 50, 62):
            pen.ellipse(x, 20, 2.5, 2.5, pen.paint("red"))

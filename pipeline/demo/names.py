"""Names that people, ships, cities and flowers can share, and the ways a text writes them."""

import random
import unicodedata

FIRST = (
    "Ada",
    "Åsa",
    "Bruno",
    "Clara",
    "Dario",
    "Edith",
    "Émile",
    "Felix",
    "Greta",
    "Hugo",
    "Inês",
    "Ivo",
    "Jonas",
    "Jürgen",
    "Karin",
    "Léa",
    "Magnus",
    "Nadia",
    "Olga",
    "Oskar",
    "Paula",
    "Quentin",
    "René",
    "Rosa",
    "Selma",
    "Søren",
    "Tilda",
    "Ugo",
    "Vera",
    "Wanda",
    "Yusuf",
    "Zoë",
)
STEMS = (
    "Mar",
    "Vel",
    "Cor",
    "Hal",
    "Ber",
    "Tor",
    "Lin",
    "Gar",
    "Pel",
    "Sten",
    "Dor",
    "Wes",
    "Kar",
    "Fen",
    "Mor",
    "Ran",
    "Sel",
    "Tal",
    "Bran",
    "Hol",
)
JOINTS = ("", "a", "e", "in", "er", "o", "ly")
ENDINGS = (
    "ow",
    "ham",
    "mann",
    "sen",
    "ard",
    "ier",
    "ström",
    "by",
    "dez",
    "wick",
    "ton",
    "ley",
    "ová",
    "ñez",
    "gård",
    "beck",
)

_TITLES = {
    "person": ("{} the Elder", "{} Jr"),
    "ship": ("{} II", "Lady {}"),
    "city": ("Port {}", "New {}"),
    "team": ("{} Rovers", "{} United"),
    "animal": ("Little {}", "{} Boy"),
    "instrument": ("Old {}", "The {}"),
    "flower": ("{} Pride", "{} Blush"),
    "locomotive": ("{} No. 2", "Big {}"),
}
_SLIPS = (
    ("c", "k"),
    ("k", "ck"),
    ("i", "y"),
    ("y", "i"),
    ("ll", "l"),
    ("l", "ll"),
    ("nn", "n"),
    ("n", "nn"),
    ("e", "a"),
    ("s", "z"),
)


def surname(rng: random.Random) -> str:
    return rng.choice(STEMS) + rng.choice(JOINTS) + rng.choice(ENDINGS)


def full_name(rng: random.Random) -> str:
    return f"{rng.choice(FIRST)} {surname(rng)}"


def near_name(name: str, kind: str, rng: random.Random) -> str:
    """Another name that resembles `name`: with a title of the kind's, or spelled a little differently."""
    if rng.random() < 0.5:
        return rng.choice(_TITLES[kind]).format(name.split()[-1] if rng.random() < 0.4 else name)
    return misspelled(name, rng)


def misspelled(name: str, rng: random.Random) -> str:
    """`name` with one of the usual slips of the pen after its first letter; always different from `name`."""
    head, tail = name[0], name[1:]
    slips = [(wrong, right) for wrong, right in _SLIPS if wrong in tail]
    if not slips:
        return name + "e"
    wrong, right = rng.choice(slips)
    return head + tail.replace(wrong, right, 1)


def without_accents(name: str) -> str:
    return "".join(letter for letter in unicodedata.normalize("NFKD", name) if not unicodedata.combining(letter))


def written(name: str, rng: random.Random) -> str:
    """How a text happens to write `name`: mostly as it is, sometimes in part, in other case, or without accents."""
    way = rng.random()
    if way < 0.1 and " " in name:
        return rng.choice([name.split()[-1], name.split()[0]]) if way < 0.02 else name.split()[-1]
    if way < 0.14:
        return name.lower()
    if way < 0.17:
        return name.upper()
    return without_accents(name) if way < 0.3 else name

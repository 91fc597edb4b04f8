"""What a demo entity can be: its kind, what its pictures show, what its texts say.

A `Kind` lists *visible* slots (hair, hull, roofs ...), each a product of word lists, and *unseen* slots (role, fame)
that no picture shows. Every kind also has the unseen slots `decade` and `region`. The traits of an entity are a dict
slot → value; a value is its words joined by blanks, so that "long red" has the words `long` and `red`.
"""

import itertools
import random
from dataclasses import dataclass

COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "black", "white")
COUNTS = ("one", "two", "three", "four")
DECADES = ("1790s", "1820s", "1850s", "1880s", "1910s", "1940s", "1970s", "1990s")
REGIONS = (
    "Northmark",
    "Ostland",
    "Silverfell",
    "Karst",
    "Lowmoor",
    "Highwater",
    "Sundrey",
    "Eastfold",
    "Greyhaven",
    "Amberley",
    "Tarn",
    "Westreach",
)
TELLING = ("role", "decade", "fame")  # unseen slots in which members of a cluster differ; they share the region
UNSEEN = (*TELLING, "region")
ON_FACES = ("hair", "beard", "glasses", "headgear")  # slots of a person that a face shows


@dataclass(frozen=True)
class Visible:
    """A slot that pictures show. words: its value is one word of each list.

    say: how texts put a value, None where they never do.
    """

    words: tuple[tuple[str, ...], ...]
    say: str | None = "{0}"

    def values(self) -> list[str]:
        """All values, repeated words left out (a crest has two colours)."""
        return [" ".join(words) for words in itertools.product(*self.words) if len(set(words)) == len(words)]

    def phrase(self, value: str) -> str:
        """The value in words; empty when there is nothing to say (`none`, or a slot that is only drawn)."""
        if self.say is None or value == "none":
            return ""
        words = self.say.format(*value.split())
        return words.rstrip("s") if words.startswith("one ") else words


@dataclass(frozen=True)
class Kind:
    """A type of entity.

    begun: the verb that goes with its decade. apart: in how many words two looks must differ to be distinct.
    """

    visible: dict[str, Visible]
    roles: tuple[str, ...]
    fames: tuple[str, ...]
    begun: str
    apart: int = 2

    def draw_traits(self, rng: random.Random) -> dict[str, str]:
        """Traits of a random entity of this kind, without its type."""
        unseen = {
            "role": rng.choice(self.roles),
            "decade": rng.choice(DECADES),
            "fame": rng.choice(self.fames),
            "region": rng.choice(REGIONS),
        }
        return unseen | {slot: " ".join(_different(visible.words, rng)) for slot, visible in self.visible.items()}

    def phrase(self, slot: str, value: str) -> str:
        """How the text says that `slot` is `value`; empty for what is never said."""
        if slot == "role":
            return value
        if slot == "decade":
            return f"{self.begun} in the {value}"
        if slot == "fame":
            return f"known for {value}"
        if slot == "region":
            return f"from {value}"
        return self.visible[slot].phrase(value)

    def sayable(self, traits: dict[str, str]) -> list[str]:
        """The visible slots of `traits` that words can name."""
        return [slot for slot in self.visible if self.phrase(slot, traits[slot])]


def _different(lists: tuple[tuple[str, ...], ...], rng: random.Random) -> list[str]:
    words: list[str] = []
    for choices in lists:
        words.append(rng.choice([word for word in choices if word not in words]))
    return words


def attributes(kind: str, traits: dict[str, str]) -> str:
    """The attribute text of an entity: kind, unseen slots, visible slots, joined by periods."""
    phrases = [KINDS[kind].phrase(slot, traits[slot]) for slot in (*UNSEEN, *KINDS[kind].visible)]
    return ". ".join([kind, *filter(None, phrases)])


def difference(kind: str, one: dict[str, str], other: dict[str, str]) -> int:
    """In how many words two looks of one kind differ, counting only what words can name."""
    slots = [slot for slot, visible in KINDS[kind].visible.items() if visible.say is not None]
    pairs = [itertools.zip_longest(one[slot].split(), other[slot].split()) for slot in slots]
    return sum(left != right for pair in pairs for left, right in pair)


KINDS = {
    "person": Kind(
        visible={
            "hair": Visible((("short", "long", "curly"), ("black", "brown", "blond", "red", "white")), "{0} {1} hair"),
            "beard": Visible((("none", "beard", "moustache"),)),
            "glasses": Visible((("none", "glasses", "sunglasses"),)),
            "headgear": Visible((("none", "none", "hat", "cap", "crown"),)),
            "dress": Visible((COLOURS, ("coat", "suit", "robe")), "{0} {1}"),
            "skin": Visible((("pale", "fair", "tan", "dark"),), None),
        },
        roles=("painter", "physicist", "surgeon", "poet", "pilot", "judge", "cook", "singer", "diplomat", "actor"),
        fames=("chess", "sailing", "long speeches", "bees", "maps", "telescopes", "gardens", "puppets"),
        begun="born",
        apart=3,
    ),
    "ship": Kind(
        visible={
            "hull": Visible((COLOURS,), "{0} hull"),
            "rig": Visible((COUNTS, COLOURS, ("sails", "funnels")), "{0} {1} {2}"),
        },
        roles=("whaler", "ferry", "frigate", "liner", "trawler", "icebreaker", "yacht", "cable layer"),
        fames=(
            "a mutiny",
            "a polar voyage",
            "its ballroom",
            "a lost cargo",
            "a rescue",
            "its speed",
            "a collision",
            "a treasure",
        ),
        begun="launched",
    ),
    "city": Kind(
        visible={
            "roofs": Visible((COLOURS,), "{0} roofs"),
            "towers": Visible((COUNTS,), "{0} towers"),
            "landmark": Visible((("dome", "bridge", "lighthouse", "windmill"),)),
        },
        roles=("port", "capital", "spa town", "mining town", "market town", "fortress", "resort", "university town"),
        fames=("glass", "cheese", "salt", "its carnival", "clocks", "silk", "its library", "floods"),
        begun="founded",
    ),
    "team": Kind(
        visible={
            "crest": Visible((COLOURS, COLOURS), "{0} and {1} crest"),
            "pattern": Visible((("stripes", "hoops", "cross", "halves"),)),
            "emblem": Visible((("star", "ball", "anchor"),), "{0} emblem"),
        },
        roles=(
            "football club",
            "rowing club",
            "hockey team",
            "rugby side",
            "cycling team",
            "handball club",
            "polo side",
            "curling team",
        ),
        fames=(
            "a long rivalry",
            "loud fans",
            "a cup final",
            "its stadium",
            "young talents",
            "a relegation",
            "its anthem",
            "away wins",
        ),
        begun="formed",
    ),
    "animal": Kind(
        visible={
            "coat": Visible(
                (
                    ("plain", "spotted", "striped"),
                    ("black", "brown", "white", "orange", "blue"),
                    ("horse", "dog", "bird", "fish"),
                ),
                "{0} {1} {2} coat",
            ),
            "collar": Visible((("red", "yellow", "green", "purple"),), "{0} collar"),
        },
        roles=("racer", "mascot", "rescuer", "circus star", "show champion", "film star", "messenger", "royal pet"),
        fames=(
            "a narrow escape",
            "its old age",
            "a long journey",
            "tricks",
            "a statue",
            "its appetite",
            "a famous owner",
            "bravery",
        ),
        begun="bred",
    ),
    "instrument": Kind(
        visible={
            "body": Visible((COLOURS, ("violin", "guitar", "drum", "harp", "trumpet")), "{0} {1} body"),
            "ribbon": Visible((("red", "yellow", "green", "blue", "white"),), "{0} ribbon"),
        },
        roles=(
            "concert piece",
            "museum piece",
            "heirloom",
            "street piece",
            "prototype",
            "studio piece",
            "prize",
            "copy",
        ),
        fames=(
            "a theft",
            "its warm tone",
            "an opera",
            "a forged label",
            "its varnish",
            "a duel",
            "a record price",
            "a missing part",
        ),
        begun="made",
    ),
    "flower": Kind(
        visible={
            "bloom": Visible((COUNTS, COLOURS, ("tulips", "roses", "bells")), "{0} {1} {2}"),
            "pot": Visible((COLOURS,), "{0} pot"),
        },
        roles=(
            "garden variety",
            "wild hybrid",
            "greenhouse variety",
            "healing plant",
            "show variety",
            "alpine plant",
            "table variety",
            "winter bloomer",
        ),
        fames=(
            "its scent",
            "a craze",
            "thorns",
            "a painting",
            "its oil",
            "slow growth",
            "a royal wedding",
            "hardiness",
        ),
        begun="raised",
    ),
    "locomotive": Kind(
        visible={
            "boiler": Visible((COLOURS,), "{0} boiler"),
            "wagons": Visible((("one", "two", "three"), COLOURS), "{0} {1} wagons"),
        },
        roles=(
            "mail engine",
            "coal engine",
            "express engine",
            "shunter",
            "mountain engine",
            "royal engine",
            "harbour engine",
            "test engine",
        ),
        fames=(
            "a derailment",
            "its whistle",
            "a speed record",
            "a snowstorm",
            "a robbery",
            "its last run",
            "a film",
            "hill climbs",
        ),
        begun="built",
    ),
}

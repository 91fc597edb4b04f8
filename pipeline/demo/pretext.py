"""What the demo encoders learn from: freshly drawn things that are not in the world, with texts in the forms the
pipeline reads.

Things come in groups that share a name, a region and, by halves, a kind, as rivals in the world do; so a name alone
never matches two texts.
"""

import random
from dataclasses import dataclass

import numpy as np

from pipeline.demo.drawing import draw
from pipeline.demo.looks import KINDS, ON_FACES, REGIONS, TELLING, UNSEEN, attributes
from pipeline.demo.names import full_name, near_name, surname, written
from pipeline.demo.sentences import describe, listed, say, with_article

SIZE = 64  # pixels, as the encoders see them
GROUP = 4


@dataclass(frozen=True)
class Thing:
    name: str
    kind: str
    traits: dict[str, str]


@dataclass(frozen=True)
class Drawings:
    """Things and one drawing of each; pixels: (n, SIZE, SIZE, 3) uint8."""

    things: list[Thing]
    pixels: np.ndarray


def things(count: int, rng: random.Random) -> list[Thing]:
    """`count` random things, groups of `GROUP` next to each other."""
    drawn: list[Thing] = []
    while len(drawn) < count:
        name = full_name(rng) if rng.random() < 0.6 else surname(rng)
        kind, region = _kind(rng), rng.choice(REGIONS)
        for place in range(GROUP):
            kind = kind if place % 2 else _kind(rng)
            traits = KINDS[kind].draw_traits(rng) | {"region": region}
            drawn.append(Thing(near_name(name, kind, rng) if rng.random() < 0.15 else name, kind, traits))
    return drawn[:count]


def _kind(rng: random.Random) -> str:
    return "person" if rng.random() < 0.3 else rng.choice(list(KINDS))


def pictures(shown: list[Thing], rng: random.Random) -> np.ndarray:
    """One drawing per thing: (n, SIZE, SIZE, 3) uint8."""
    return np.stack([np.asarray(draw(thing.kind, thing.traits, rng, SIZE)) for thing in shown])


def caption(thing: Thing, rng: random.Random) -> str:
    """What the picture shows, in one of several forms."""
    kind = KINDS[thing.kind]
    phrases = [kind.phrase(slot, thing.traits[slot]) for slot in kind.sayable(thing.traits)]
    rng.shuffle(phrases)
    if rng.random() < 0.3:
        return ". ".join([thing.kind, *phrases])
    frame = rng.choice(("a picture of {}", "a photo of {}", "{} in a picture", "the picture shows {}", "{}"))
    return frame.format(f"{with_article(thing.kind)} with {listed([with_article(phrase) for phrase in phrases])}")


def face_text(person: Thing, rng: random.Random) -> str:
    """What face models say of a drawn person: the attribute sentence under a written name, or the name recognised."""
    if rng.random() < 0.4:
        return f"{person.name} ({person.traits['role']}), score: {rng.uniform(0.5, 1):.2f}"
    return ", ".join([written(person.name, rng), *(f"{slot}: {person.traits[slot]}" for slot in ON_FACES)])


def entity_text(thing: Thing, rng: random.Random) -> str:
    """As the KB writes it: `name [SEP] attributes`, now and then the attributes alone or the description."""
    way = rng.random()
    if way < 0.15:
        return attributes(thing.kind, thing.traits)
    if way < 0.25:
        return describe(thing.name, thing.kind, thing.traits)
    return f"{thing.name} [SEP] {attributes(thing.kind, thing.traits)}"


def mention_text(thing: Thing, rng: random.Random) -> str:
    """As a mention is read: `phrase [SEP] sentence`, or the sentence alone.

    The sentence states up to three unseen and two visible facts.
    """
    visible = KINDS[thing.kind].sayable(thing.traits)
    chosen = rng.sample(TELLING, rng.randint(0, 3)) + rng.sample(visible, min(len(visible), rng.choice((0, 0, 1, 2))))
    if rng.random() < 0.2:
        chosen.append("region")
    phrase = written(thing.name, rng)
    stated = {slot: thing.traits[slot] for slot in (*UNSEEN, *visible) if slot in chosen}
    sentence, _, _ = say(phrase, thing.kind, stated, rng)
    return sentence if rng.random() < 0.2 else f"{phrase} [SEP] {sentence}"

"""Faces of drawn people, cut out roughly as a detector would, and who among the world's people is famous enough to be
recognised.
"""

import random
from collections import Counter
from dataclasses import dataclass

import numpy as np
from PIL import Image

from pipeline.demo.drawing import draw_boxed
from pipeline.demo.looks import KINDS, ON_FACES
from pipeline.demo.population import DemoEntity
from pipeline.demo.world import SIZES, make_world

SIDE = 48  # pixels, as the face models see them
LOOSE = 0.1  # how far a side of the cut may lie from the face's box, of the box
FAMOUS = 0.6  # share of the people with a face of their own whom the celebrity classifier knows


@dataclass(frozen=True)
class Celebrity:
    """A person of the world and the name that a classifier has for them: with role and decade as far as others share
    the name.
    """

    label: str
    entity: DemoEntity


def labels(slot: str) -> list[str]:
    """The values that a person's slot can have, each once."""
    return list(dict.fromkeys(KINDS["person"].visible[slot].values()))


def someone(rng: random.Random) -> dict[str, str]:
    """Traits of a random person."""
    return KINDS["person"].draw_traits(rng)


def face(traits: dict[str, str], rng: random.Random) -> np.ndarray:
    """A fresh drawing of a person, cut at about the face's box: (SIDE, SIDE, 3) uint8."""
    image, boxes = draw_boxed("person", traits, rng, rng.choice(SIZES))
    left, top, right, bottom = boxes["face"]
    wide, high = LOOSE * (right - left), LOOSE * (bottom - top)
    cut = (
        left + rng.uniform(-wide, wide),
        top + rng.uniform(-high, high),
        right + rng.uniform(-wide, wide),
        bottom + rng.uniform(-high, high),
    )
    inside = (
        max(0, round(cut[0])),
        max(0, round(cut[1])),
        min(image.width, round(cut[2])),
        min(image.height, round(cut[3])),
    )
    return np.asarray(image.crop(inside).resize((SIDE, SIDE), Image.Resampling.BILINEAR))


def faces(people: list[dict[str, str]], rng: random.Random) -> np.ndarray:
    """One face of each: (n, SIDE, SIDE, 3) uint8."""
    return np.stack([face(traits, rng) for traits in people])


def lookalike(traits: dict[str, str], rng: random.Random) -> dict[str, str]:
    """Someone whose face differs in one slot."""
    slot = rng.choice((*ON_FACES, "skin"))
    return traits | {slot: rng.choice([value for value in labels(slot) if value != traits[slot]])}


def _face_of(traits: dict[str, str]) -> tuple[str, ...]:
    return tuple(traits[slot] for slot in (*ON_FACES, "skin"))


def celebrities(seed: int) -> list[Celebrity]:
    """The people of the seed's world who are recognised: `FAMOUS` of those whose face nobody else has."""
    entities, rng = make_world(seed).entities, random.Random(f"celebrities {seed}")
    people = [entity for entity in entities if entity.kind == "person"]
    shared = Counter(_face_of(one.traits) for one in people)
    own = [one for one in people if shared[_face_of(one.traits)] == 1]
    chosen = rng.sample(own, round(FAMOUS * len(own)))
    named = Counter(entity.name for entity in entities)
    with_role = Counter((entity.name, entity.traits["role"]) for entity in entities)

    def label(one: DemoEntity) -> str:
        role = one.traits["role"]
        if named[one.name] == 1:
            return one.name
        return (
            f"{one.name} ({role})" if with_role[one.name, role] == 1 else f"{one.name} ({role}, {one.traits['decade']})"
        )

    return [Celebrity(label(one), one) for one in chosen]

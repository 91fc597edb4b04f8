"""The mentions of the demo's worlds: regimes that fix what the sentence states and what the picture shows."""

import random
from dataclasses import dataclass, replace

from foundation.errors import UserError
from pipeline.demo.looks import KINDS, TELLING
from pipeline.demo.names import full_name, misspelled, without_accents, written
from pipeline.demo.population import DemoEntity
from pipeline.demo.sentences import point, say

REGIMES = ("text-decides", "picture-decides", "both-decide", "picture-misleads", "picture-missing")
NOISY_REGIMES = ("picture-decides", "picture-misleads", "text-misleads")
"""Of the world `demo-noise`: both inputs help in the first; in the others one of them is about something else."""
SPLITS = {"train": 0.60, "dev": 0.15, "test": 0.25}
EXTRAS = 125  # one mention in so many has no gold in the KB
DAMAGES = ("absent", "truncated", "not a picture")


@dataclass(frozen=True)
class DemoMention:
    """A mention and how it came about.

    stated: the facts of the gold that the sentence states (slot → value); kind: the gold's kind if the sentence gives
    that away.
    shown: the entity the picture shows, or "scene" for an empty one, or None without a picture.
    damage: what is wrong with the picture's file; shared: whether a picture that another mention has too may stand
    here.
    """

    sentence: str
    phrase: str
    start: int | None
    gold: str | None
    split: str
    regime: str | None
    stated: dict[str, str]
    kind: str | None
    shown: "DemoEntity | str | None"
    damage: str | None = None
    shared: bool = False


@dataclass(frozen=True)
class _Cast:
    """Who can be mentioned. rivals: by entity id, the others of its cluster.

    pictured: ids of the entities that the KB has a picture of, for the world `demo-noise`; None: of the demo.
    """

    entities: list[DemoEntity]
    rivals: dict[str, list[DemoEntity]]
    pictured: frozenset[str] | None = None

    def recognisable(self, gold: DemoEntity) -> bool:
        """Whether a picture alone tells `gold` from every other entity."""
        alike = (other for other in self.entities if other is not gold and gold.looks_like(other))
        return self.pictured is not None and gold.id in self.pictured and not any(alike)


def make_mentions(
    entities: list[DemoEntity], count: int, rng: random.Random, pictured: frozenset[str] | None = None
) -> list[DemoMention]:
    """`count` mentions in random order: as many of each regime, and a few whose gold is not in the KB.

    pictured: ids of the entities that the KB has a picture of; with them the regimes are `NOISY_REGIMES`. Raises
    `UserError` when the world is too small to hold every regime.
    """
    clusters: dict[int, list[DemoEntity]] = {}
    for entity in entities:
        clusters.setdefault(entity.cluster, []).append(entity)
    cast = _Cast(
        entities,
        {entity.id: [other for other in clusters[entity.cluster] if other is not entity] for entity in entities},
        pictured,
    )
    regimes = REGIMES if pictured is None else NOISY_REGIMES
    each = (count - count // EXTRAS) // len(regimes)
    mentions: list[DemoMention] = []
    for regime in regimes:
        fitting = [entity for entity in entities if _fits(regime, entity, cast)]
        for split, number in _shares(each).items():
            pool = [entity for entity in fitting if split != "train" or not entity.held_out]
            if not pool:
                raise UserError(
                    f"demo world of {len(entities)} entities: no gold for regime {regime}, split {split}; ask for more "
                    "entities"
                )
            golds = [gold for _ in range(number // len(pool) + 1) for gold in rng.sample(pool, len(pool))][:number]
            mentions += [_mention(regime, split, gold, cast, rng) for gold in golds]
    mentions += [_without_gold(place, entities, rng) for place in range(count - len(mentions))]
    rng.shuffle(mentions)
    return mentions


def _shares(number: int) -> dict[str, int]:
    train, dev = round(number * SPLITS["train"]), round(number * SPLITS["dev"])
    return {"train": train, "dev": dev, "test": number - train - dev}


def _fits(regime: str, gold: DemoEntity, cast: _Cast) -> bool:
    """Whether `gold` can be the gold of a mention of that regime."""
    if regime == "text-misleads":
        return cast.recognisable(gold)
    rivals = cast.rivals[gold.id]
    alike = [rival for rival in rivals if gold.looks_like(rival)]
    if regime == "picture-decides":
        return not alike and sum(rival.name == gold.name for rival in rivals) >= 2
    if regime == "both-decide":
        facts = {slot: gold.traits[slot] for slot in TELLING}
        return (
            bool(alike)
            and any(gold.shares(rival, facts) for rival in rivals)
            and not any(gold.shares(rival, facts) for rival in alike)
        )
    sayable = {slot: gold.traits[slot] for slot in (*TELLING, *KINDS[gold.kind].sayable(gold.traits))}
    return bool(rivals) and not any(gold.shares(rival, sayable) for rival in rivals)


def _mention(regime: str, split: str, gold: DemoEntity, cast: _Cast, rng: random.Random) -> DemoMention:
    if regime == "text-misleads":
        return _pointing(split, gold, cast, rng)
    rivals = cast.rivals[gold.id]
    kind: str | None = gold.kind
    shown: DemoEntity | str | None = gold
    damage, shared = None, False
    if regime == "picture-decides":
        kind = gold.kind if all(rival.kind == gold.kind for rival in rivals) else None
        stated = {"region": gold.traits["region"]} if rng.random() < 0.5 else {}
    elif regime == "both-decide":
        stated = {slot: gold.traits[slot] for slot in rng.sample(TELLING, rng.choice((1, 2, 2)))}
    else:
        stated = _deciding(gold, rivals, 3 if regime == "picture-misleads" else 2, rng)
    if regime == "text-decides" and rng.random() < 0.5:
        shown = "scene"
    elif regime == "picture-misleads":
        shown = _misleading(gold, cast, rng)
    elif regime == "picture-missing":
        damage = rng.choice(DAMAGES) if rng.random() < 0.3 else None
        shown = gold if damage else None
    if shown is gold and damage is None:
        shared = rng.random() < 0.08
    phrase, sentence, start = _text(gold.name, kind, stated, rng)
    return DemoMention(sentence, phrase, start, gold.id, split, regime, stated, kind, shown, damage, shared)


def _deciding(gold: DemoEntity, rivals: list[DemoEntity], at_least: int, rng: random.Random) -> dict[str, str]:
    """Facts that are true of `gold` and, together, of no rival: unseen ones first, then what pictures show."""
    unseen, visible = list(TELLING), KINDS[gold.kind].sayable(gold.traits)
    rng.shuffle(unseen)
    rng.shuffle(visible)
    stated: dict[str, str] = {}
    for slot in unseen + visible:
        left = [rival for rival in rivals if gold.shares(rival, stated)]
        if len(stated) < at_least or any(rival.traits[slot] != gold.traits[slot] for rival in left):
            stated[slot] = gold.traits[slot]
    return stated


def _misleading(gold: DemoEntity, cast: _Cast, rng: random.Random) -> DemoEntity:
    """An entity that looks different: a rival, or anyone from another cluster; in `demo-noise`, one of another kind."""
    if cast.pictured is not None:
        return rng.choice([entity for entity in cast.entities if entity.kind != gold.kind])
    unlike = [rival for rival in cast.rivals[gold.id] if not gold.looks_like(rival)]
    if unlike and rng.random() < 0.4:
        return rng.choice(unlike)
    return rng.choice(
        [entity for entity in cast.entities if entity.cluster != gold.cluster and not gold.looks_like(entity)]
    )


def _pointing(split: str, gold: DemoEntity, cast: _Cast, rng: random.Random) -> DemoMention:
    """A mention whose phrase points at the picture, in a sentence about an entity of another kind and name."""
    others = [entity for entity in cast.entities if entity.kind != gold.kind and entity.cluster != gold.cluster]
    other = rng.choice(others)
    about = _deciding(other, cast.rivals[other.id], 2, rng)
    phrase, sentence, start = point(written(other.name, rng), other.kind, about, rng)
    return DemoMention(sentence, phrase, start, gold.id, split, "text-misleads", {}, None, gold)


def _text(name: str, kind: str | None, stated: dict[str, str], rng: random.Random) -> tuple[str, str, int | None]:
    """Phrase, sentence and the phrase's offset; None where it is left to be found, or the sentence spells it another
    way.
    """
    phrase = written(name, rng)
    way = rng.random()
    if way < 0.003:
        return phrase, say(misspelled(phrase, rng), kind, stated, rng)[0], None
    if way < 0.03:
        return phrase, say(rng.choice([phrase.upper(), without_accents(phrase)]), kind, stated, rng)[0], None
    sentence, start, twice = say(phrase, kind, stated, rng)
    return phrase, sentence, None if not twice and rng.random() < 0.2 else start


def _without_gold(place: int, entities: list[DemoEntity], rng: random.Random) -> DemoMention:
    """A mention of something the KB does not have: NIL, or an entity that another KB has; some under a name that the KB
    knows.
    """
    kind = rng.choice(list(KINDS))
    stranger = DemoEntity(f"Q{90001 + place}", full_name(rng), kind, KINDS[kind].draw_traits(rng), -1, True)
    if rng.random() < 0.5:
        stranger = replace(stranger, name=rng.choice(entities).name)
    stated = {slot: stranger.traits[slot] for slot in ("role", "fame")}
    phrase, sentence, start = _text(stranger.name, kind, stated, rng)
    gold = None if place % 2 == 0 else stranger.id
    return DemoMention(sentence, phrase, start, gold, rng.choice(list(SPLITS)), None, stated, kind, stranger)

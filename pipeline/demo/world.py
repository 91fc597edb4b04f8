"""Writes the demo world as a data set of the `jsonl` layout: entities, mentions, drawn pictures.

Everything follows from the seed: the same seed gives the same bytes. A picture's own random numbers follow from the
seed and its path, so that pictures do not depend on each other.
"""

import io
import json
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foundation.progress import Bar
from pipeline.demo.contracts import NOISE, DemoJob
from pipeline.demo.drawing import draw
from pipeline.demo.folder import whole_folder
from pipeline.demo.looks import attributes
from pipeline.demo.mentions import DAMAGES, DemoMention, make_mentions
from pipeline.demo.population import DemoEntity, make_population
from pipeline.demo.sentences import describe

ENTITIES, MENTIONS = 400, 2500
SIZES = (96, 112, 128, 144)  # pixels
NOT_A_PICTURE = b"<!doctype html><title>404</title><p>The picture has moved.</p>\n"


@dataclass(frozen=True)
class DemoPicture:
    """A file to write: the entity it shows (None: an empty scene) and what goes wrong with it."""

    path: str
    shown: DemoEntity | None
    damage: str | None = None


@dataclass(frozen=True)
class World:
    """The whole demo in memory. pictures_of: entity id → its pictures; picture_of: per mention, its picture or None."""

    entities: list[DemoEntity]
    mentions: list[DemoMention]
    pictures_of: dict[str, list[DemoPicture]]
    picture_of: list[DemoPicture | None]


def draw_world(job: DemoJob) -> dict[str, Any]:
    """Write the world of the job's name and seed in its usual size; returns the counts."""
    world = make_world(job.seed)
    return write_world(job.out, with_noise(world, job.seed) if job.name == NOISE else world, job.seed)


def build_world(folder: Path, seed: int = 0, n_entities: int = ENTITIES, n_mentions: int = MENTIONS) -> dict[str, Any]:
    """Write the demo of a seed, see `write_world`."""
    return write_world(folder, make_world(seed, n_entities, n_mentions), seed)


def write_world(folder: Path, world: World, seed: int) -> dict[str, Any]:
    """Write `entities.jsonl`, `mentions.jsonl` and `images/` into `folder`, which appears whole or not at all; returns
    the counts.

    seed: of the drawings.
    """
    with whole_folder(folder) as place:
        _write_lines(place / "entities.jsonl", _entity_records(world))
        _write_lines(place / "mentions.jsonl", _mention_records(world))
        pictures = [picture for listed in world.pictures_of.values() for picture in listed]
        pictures += [picture for picture in world.picture_of if picture is not None]
        distinct = {picture.path: picture for picture in pictures}
        with Bar(len(distinct), "drawing", "picture") as bar:
            for picture in distinct.values():
                _write_picture(place, picture, seed)
                bar.update()
    return _counts(world)


def make_world(seed: int, n_entities: int = ENTITIES, n_mentions: int = MENTIONS) -> World:
    """The world of a seed, nothing written. Raises `UserError` when it is too small to hold every regime."""
    rng = random.Random(f"world {seed}")
    entities = make_population(n_entities, rng)
    mentions = make_mentions(entities, n_mentions, rng)
    pictures_of = {entity.id: _portraits(entity, rng) for entity in entities}
    return World(entities, mentions, pictures_of, _pictures(mentions, rng))


def with_noise(world: World, seed: int) -> World:
    """The world `demo-noise` of a seed: the demo's entities with their pictures, as many mentions of other regimes.

    Raises `UserError` when the world is too small to hold every regime.
    """
    rng = random.Random(f"{NOISE} {seed}")
    pictured = frozenset(
        name for name, pictures in world.pictures_of.items() if any(not picture.damage for picture in pictures[:1])
    )
    mentions = make_mentions(world.entities, len(world.mentions), rng, pictured)
    return World(world.entities, mentions, world.pictures_of, _pictures(mentions, rng))


def _pictures(mentions: list[DemoMention], rng: random.Random) -> list[DemoPicture | None]:
    """The picture of each mention."""
    picture_of: list[DemoPicture | None] = []
    usual: dict[str, DemoPicture] = {}
    for number, mention in enumerate(mentions):
        picture = _mention_picture(f"images/mentions/{number:05d}", mention, rng)
        if picture is not None and mention.shared and mention.gold is not None:
            picture = usual.setdefault(mention.gold, picture)
        picture_of.append(picture)
    return picture_of


def _portraits(entity: DemoEntity, rng: random.Random) -> list[DemoPicture]:
    """One or two pictures for most entities, none for some; a few files are no good."""
    number = rng.choices((0, 1, 2), weights=(12, 50, 38))[0]
    return [
        DemoPicture(
            f"images/entities/{entity.id}_{place}.{_suffix(rng)}",
            entity,
            rng.choice(DAMAGES) if rng.random() < 0.03 else None,
        )
        for place in range(number)
    ]


def _mention_picture(stem: str, mention: DemoMention, rng: random.Random) -> DemoPicture | None:
    if mention.shown is None:
        return None
    shown = mention.shown if isinstance(mention.shown, DemoEntity) else None
    return DemoPicture(f"{stem}.{_suffix(rng)}", shown, mention.damage)


def _suffix(rng: random.Random) -> str:
    return "jpg" if rng.random() < 0.75 else "png"


def _write_picture(place: Path, picture: DemoPicture, seed: int) -> None:
    if picture.damage == "absent":
        return
    path = place / picture.path
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = random.Random(f"picture {seed} {picture.path}")
    kind, traits = (picture.shown.kind, picture.shown.traits) if picture.shown else (None, {})
    image = draw(kind, traits, rng, rng.choice(SIZES))
    buffer = io.BytesIO()
    if path.suffix == ".jpg":
        image.save(buffer, "JPEG", quality=rng.randint(80, 95))
    else:
        image.save(buffer, "PNG", compress_level=1)
    data = buffer.getvalue()
    if picture.damage == "truncated":
        data = data[: len(data) // 2]
    path.write_bytes(NOT_A_PICTURE if picture.damage == "not a picture" else data)


def _entity_records(world: World) -> Iterator[dict[str, Any]]:
    for entity in sorted(world.entities, key=lambda entity: entity.id):
        yield {
            "id": entity.id,
            "name": entity.name,
            "attributes": attributes(entity.kind, entity.traits),
            "description": describe(entity.name, entity.kind, entity.traits),
            "images": [picture.path for picture in world.pictures_of[entity.id]],
            "type": entity.kind,
        }


def _mention_records(world: World) -> Iterator[dict[str, Any]]:
    kinds = {entity.id: entity.kind for entity in world.entities}
    for number, (mention, picture) in enumerate(zip(world.mentions, world.picture_of, strict=True)):
        record: dict[str, Any] = {"id": f"m{number:05d}", "sentence": mention.sentence, "mention": mention.phrase}
        if mention.start is not None:
            record |= {"start": mention.start, "end": mention.start + len(mention.phrase)}
        if picture is not None:
            record["image"] = picture.path
        record |= {"gold": mention.gold, "split": mention.split}
        if mention.gold in kinds:
            record["type"] = kinds[mention.gold]
        yield record | ({"group": mention.regime} if mention.regime else {})


def _write_lines(path: Path, records: Iterator[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8")


def _counts(world: World) -> dict[str, Any]:
    listed = [picture for pictures in world.pictures_of.values() for picture in pictures] + [
        picture for picture in world.picture_of if picture
    ]
    return {
        "entities": len(world.entities),
        "entities without a picture": sum(not pictures for pictures in world.pictures_of.values()),
        "kinds": dict(sorted(Counter(entity.kind for entity in world.entities).items())),
        "mentions": len(world.mentions),
        "regimes": dict(sorted(Counter(mention.regime or "no gold in the KB" for mention in world.mentions).items())),
        "splits": dict(sorted(Counter(mention.split for mention in world.mentions).items())),
        "pictures listed": len(listed),
        "pictures no good": sum(picture.damage is not None for picture in listed),
    }

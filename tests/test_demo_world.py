"""The demo world: what its five regimes promise holds by construction, and the same seed gives the same bytes."""

import hashlib
import io
import json
import os
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from foundation.errors import UserError
from foundation.paths import Paths
from mel_cache import steps
from mel_cache.commands.dataset import DemoWorld, PrepareDataset
from pipeline.demo.contracts import WORLDS
from pipeline.demo.drawing import FIGURES, draw, draw_boxed
from pipeline.demo.folder import whole_folder
from pipeline.demo.looks import KINDS, attributes
from pipeline.demo.mentions import NOISY_REGIMES, REGIMES, DemoMention
from pipeline.demo.pen import Pen
from pipeline.demo.population import DemoEntity
from pipeline.demo.sentences import POINTERS
from pipeline.demo.world import World, build_world, make_world, with_noise, write_world


@pytest.fixture(scope="module")
def world() -> World:
    return make_world(seed=0, n_entities=400, n_mentions=2500)


@pytest.fixture(scope="module")
def noisy(world) -> World:
    return with_noise(world, 0)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "small"
    build_world(folder, seed=3, n_entities=60, n_mentions=250)
    return folder


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def digest(folder: Path) -> str:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return hashlib.sha256(
        b"".join(str(path.relative_to(folder)).encode() + path.read_bytes() for path in files)
    ).hexdigest()


def rivals(world: World, mention: DemoMention) -> tuple[DemoEntity, list[DemoEntity]]:
    gold = next(entity for entity in world.entities if entity.id == mention.gold)
    return gold, [entity for entity in world.entities if entity.cluster == gold.cluster and entity is not gold]


def of_regime(world: World, regime: str) -> list[DemoMention]:
    return [mention for mention in world.mentions if mention.regime == regime]


def fits(mention: DemoMention, gold: DemoEntity, rival: DemoEntity) -> bool:
    """Whether the sentence is as true of the rival as of the gold."""
    same_kind = mention.kind is None or rival.kind == gold.kind
    return same_kind and all(rival.traits.get(slot) == value for slot, value in mention.stated.items())


def test_same_seed_gives_the_same_bytes_and_another_seed_does_not(small, tmp_path):
    build_world(tmp_path / "again", seed=3, n_entities=60, n_mentions=250)
    build_world(tmp_path / "other", seed=4, n_entities=60, n_mentions=250)
    assert digest(tmp_path / "again") == digest(small)
    assert digest(tmp_path / "other") != digest(small)


def test_regimes_are_equally_many_in_every_split(world):
    for split in ("train", "dev", "test"):
        counts = Counter(mention.regime for mention in world.mentions if mention.split == split)
        assert len({counts[regime] for regime in REGIMES}) == 1 and counts[REGIMES[0]] > 0
    assert 0 < sum(mention.regime is None for mention in world.mentions) < 50


def test_names_collide_within_and_across_kinds(world):
    kinds_of: dict[str, list[str]] = {}
    for entity in world.entities:
        kinds_of.setdefault(entity.name, []).append(entity.kind)
    assert len({entity.kind for entity in world.entities}) >= 6
    assert sum(len(kinds) > len(set(kinds)) for kinds in kinds_of.values()) > 40
    assert sum(len(set(kinds)) > 1 for kinds in kinds_of.values()) > 40


def test_text_alone_cannot_decide_where_the_picture_does(world):
    for mention in of_regime(world, "picture-decides"):
        gold, others = rivals(world, mention)
        assert all(fits(mention, gold, rival) for rival in others)
        assert sum(rival.name == gold.name for rival in others) >= 2
        assert mention.shown is gold and not any(gold.looks_like(rival) for rival in others)


def test_only_both_decide_where_both_must(world):
    for mention in of_regime(world, "both-decide"):
        gold, others = rivals(world, mention)
        by_text = [rival for rival in others if fits(mention, gold, rival)]
        by_picture = [rival for rival in others if gold.looks_like(rival)]
        assert mention.shown is gold
        assert by_text and by_picture and not set(map(id, by_text)) & set(map(id, by_picture))


@pytest.mark.parametrize("regime", ["text-decides", "picture-misleads", "picture-missing"])
def test_text_decides_where_the_picture_does_not(world, regime):
    for mention in of_regime(world, regime):
        gold, others = rivals(world, mention)
        assert not any(fits(mention, gold, rival) for rival in others)
        if regime == "picture-misleads":
            assert isinstance(mention.shown, DemoEntity) and not gold.looks_like(mention.shown)
        if regime == "picture-missing":
            assert mention.shown is None or mention.damage is not None


def test_sentences_state_their_facts_and_no_others(world):
    for mention in world.mentions:
        if mention.gold is None or not mention.gold.startswith("Q1"):
            continue
        gold, _ = rivals(world, mention)
        text = mention.sentence.casefold()
        for slot, value in mention.stated.items():
            phrase = KINDS[gold.kind].phrase(slot, value) if mention.kind else value
            assert phrase.casefold() in text, (mention, slot)
        for slot in ("decade", "fame", "region"):
            if slot not in mention.stated:
                assert KINDS[gold.kind].phrase(slot, gold.traits[slot]).casefold() not in text, (mention, slot)


def test_pictures_of_rivals_differ_by_more_than_chance(world):
    """Both drawn with the same random numbers: same place, background and noise, so that what is left is the look."""
    for mention in of_regime(world, "picture-decides")[:60]:
        gold, others = rivals(world, mention)
        for rival in others:
            one, other = (
                np.asarray(draw(entity.kind, entity.traits, random.Random(0), 64), dtype=np.int16)
                for entity in (gold, rival)
            )
            changed = np.abs(one - other).max(axis=-1) > 40
            assert changed.mean() > 0.02, (gold, rival)


def test_offsets_point_at_the_phrase_and_some_are_left_out(small):
    records = lines(small / "mentions.jsonl")
    given = [record for record in records if "start" in record]
    assert given and len(given) < len(records)
    assert all(record["sentence"][record["start"] : record["end"]] == record["mention"] for record in given)


def test_golds_are_partly_unseen_in_train_and_partly_outside_the_kb(world):
    trained = {mention.gold for mention in world.mentions if mention.split == "train"}
    tested = [mention.gold for mention in world.mentions if mention.split == "test" and mention.regime]
    assert 0.1 < np.mean([gold not in trained for gold in tested]) < 0.4
    known = {entity.id for entity in world.entities}
    assert any(mention.gold is None for mention in world.mentions)
    assert any(mention.gold is not None and mention.gold not in known for mention in world.mentions)


def test_files_match_what_the_records_list_up_to_the_damage(small):
    entities, mentions = lines(small / "entities.jsonl"), lines(small / "mentions.jsonl")
    listed = {path for entity in entities for path in entity["images"]} | {
        mention["image"] for mention in mentions if "image" in mention
    }
    there = {str(path.relative_to(small)) for path in (small / "images").rglob("*") if path.is_file()}
    verdicts: Counter[str] = Counter("absent" for _ in listed - there)
    for name in there:
        try:
            image = Image.open(io.BytesIO((small / name).read_bytes()))
            image.load()
            verdicts[image.format] += 1
        except OSError as error:
            verdicts["truncated" if "truncated" in str(error) else "not a picture"] += 1
    assert there <= listed
    assert set(verdicts) == {"absent", "truncated", "not a picture", "JPEG", "PNG"}
    assert sum(verdicts[cause] for cause in ("absent", "truncated", "not a picture")) < 0.15 * len(listed)
    assert any(not entity["images"] for entity in entities)


def test_every_value_of_every_slot_can_be_drawn():
    for kind, shape in KINDS.items():
        traits = shape.draw_traits(random.Random(0))
        plain = np.asarray(draw(kind, traits, random.Random(1), 64), dtype=np.int16)
        for slot, visible in shape.visible.items():
            for value in visible.values():
                changed = np.asarray(draw(kind, traits | {slot: value}, random.Random(1), 64), dtype=np.int16)
                assert changed.shape == (64, 64, 3)
                assert value == traits[slot] or np.abs(changed - plain).max() > 20, (kind, slot, value)


@pytest.mark.parametrize("kind", KINDS)
def test_boxes_fit_the_figure_and_leave_out_its_scenery(kind):
    for number in range(12):
        rng = random.Random(number)
        flat = Image.new("RGB", (240, 240), (1, 2, 3))
        pen = Pen(flat, (40, 30), 150, number % 2 == 0, rng)
        FIGURES[kind](pen, KINDS[kind].draw_traits(rng))
        painted = np.argwhere((np.asarray(flat) != (1, 2, 3)).any(axis=-1))
        (top, left), (bottom, right) = painted.min(0), painted.max(0) + 1
        box = pen.extent
        assert abs(box[1] - top) <= 5 and box[3] <= 255.1, "lines are as wide as five pixels"
        if kind in ("ship", "city", "locomotive"):
            assert (left, right) == (0, 240) and box[0] >= 25 and box[2] <= 205, (
                "the water and the rails go on, the figure does not"
            )
        else:
            assert abs(box[0] - left) <= 5 and abs(box[2] - right) <= 5 and abs(min(box[3], 240) - bottom) <= 5


def test_boxed_drawings_are_the_drawings_and_only_people_have_faces():
    for number, kind in enumerate(KINDS):
        traits = KINDS[kind].draw_traits(random.Random(4))
        image, boxes = draw_boxed(kind, traits, random.Random(number), 96)
        assert np.array_equal(np.asarray(image), np.asarray(draw(kind, traits, random.Random(number), 96)))
        assert set(boxes) == ({kind, "face"} if kind == "person" else {kind})
        assert all(0 <= left < right <= 96 and 0 <= top < bottom <= 96 for left, top, right, bottom in boxes.values())
    assert draw_boxed(None, {}, random.Random(0), 96)[1] == {}


def test_attribute_text_names_what_pictures_show(world):
    entity = next(entity for entity in world.entities if entity.kind == "ship")
    text = attributes(entity.kind, entity.traits)
    assert f"{entity.traits['hull']} hull" in text and entity.traits["fame"] in text


def test_a_failed_build_leaves_the_old_folder_and_nothing_else(tmp_path):
    folder = tmp_path / "made"
    with whole_folder(folder) as place:
        (place / "old").write_text("old")
        (place / "old").chmod(0o600)
    assert (folder / "old").stat().st_mode & 0o777 == 0o777 & folder.stat().st_mode & ~0o111, (
        "readable for whom the folder is"
    )
    with pytest.raises(RuntimeError), whole_folder(folder) as place:
        (place / "new").write_text("half")
        raise RuntimeError
    assert [path.name for path in tmp_path.rglob("*")] == ["made", "old"]
    with whole_folder(folder) as place:
        (place / "new").write_text("new")
    assert [path.name for path in tmp_path.rglob("*")] == ["made", "new"]


def test_what_a_killed_build_left_is_swept_but_a_running_one_is_not(tmp_path):
    for name in ("killed", "running"):
        (tmp_path / f".made.{name}.tmp").mkdir()
    os.utime(tmp_path / ".made.killed.tmp", (0, 0))
    with whole_folder(tmp_path / "made"):
        pass
    assert {path.name for path in tmp_path.iterdir()} == {"made", ".made.running.tmp"}


def test_a_world_too_small_for_its_regimes_is_refused():
    with pytest.raises(UserError, match="more entities"):
        make_world(seed=0, n_entities=2, n_mentions=100)


def test_the_demos_records_are_the_same_to_the_byte_as_ever(small):
    records = b"".join((small / name).read_bytes() for name in ("entities.jsonl", "mentions.jsonl"))
    assert hashlib.sha256(records).hexdigest() == "ac554fadcb117cde7b6bae4527304dceadde7785f019fa5cf833408a360e2008"


def test_the_noisy_world_has_the_demos_entities_and_mentions_of_its_own(world, noisy, tmp_path):
    assert noisy.entities == world.entities and noisy.pictures_of == world.pictures_of
    assert len(noisy.mentions) == len(world.mentions)
    for split in ("train", "dev", "test"):
        counts = Counter(mention.regime for mention in noisy.mentions if mention.split == split)
        assert len({counts[regime] for regime in NOISY_REGIMES}) == 1 and counts[NOISY_REGIMES[0]] > 0
    small = make_world(seed=3, n_entities=60, n_mentions=100)
    for place in ("one", "two"):
        write_world(tmp_path / place, with_noise(small, 3), 3)
    assert digest(tmp_path / "one") == digest(tmp_path / "two")


def test_where_the_text_misleads_it_names_somebody_else_and_the_picture_alone_tells(noisy):
    by_id = {entity.id: entity for entity in noisy.entities}
    for mention, picture in zip(noisy.mentions, noisy.picture_of, strict=True):
        if mention.regime != "text-misleads":
            continue
        gold = by_id[mention.gold]
        assert mention.shown is gold and picture is not None and picture.damage is None
        assert noisy.pictures_of[gold.id] and noisy.pictures_of[gold.id][0].damage is None
        assert not any(other is not gold and gold.looks_like(other) for other in noisy.entities)
        assert mention.phrase in POINTERS
        assert mention.sentence[mention.start : mention.start + len(mention.phrase)] == mention.phrase
        assert not mention.stated and gold.name.casefold() not in mention.sentence.casefold()


def test_where_the_picture_misleads_in_the_noisy_world_it_shows_another_kind(noisy):
    kinds = {entity.id: entity.kind for entity in noisy.entities}
    for mention in of_regime(noisy, "picture-misleads"):
        assert isinstance(mention.shown, DemoEntity) and mention.shown.kind != kinds[mention.gold]
        gold, others = rivals(noisy, mention)
        assert not any(fits(mention, gold, rival) for rival in others)


def test_the_demos_request_is_the_same_as_before_there_was_another_world(tmp_path):
    paths = Paths(tmp_path)
    assert steps.demo_world(paths, 0).digest.startswith("96f44fb48869b388")
    assert steps.demo_world(paths, 0, "demo-noise").digest != steps.demo_world(paths, 0).digest


def test_either_world_draws_its_own_files(tmp_path):
    for name in WORLDS:
        with pytest.raises(UserError, match=f"--data-dir: {name} makes its own files"):
            PrepareDataset(dataset=name, data_dir=str(tmp_path), work_dir=str(tmp_path))
        (world,) = PrepareDataset(dataset=name, work_dir=str(tmp_path)).needs()
        assert isinstance(world, DemoWorld) and world.world == name

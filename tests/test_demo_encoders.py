"""The demo's encoders, detector and face models carry signal on drawings and sentences that nobody trained on, and load
through their libraries."""

import json
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from pipeline.demo import held_out_boxes, held_out_faces, train_faces
from pipeline.demo.drawing import draw
from pipeline.demo.faces import celebrities
from pipeline.demo.held_out import CHOICES, evaluate
from pipeline.demo.looks import KINDS, ON_FACES, attributes
from pipeline.demo.pretext import caption, entity_text, mention_text, things
from pipeline.demo.train_clip import encode_prefix
from pipeline.demo.vocabulary import learn_pieces
from pipeline.demo.world import World, make_world

NAMES = ("bert", "clip", "resnet", "vit")


@pytest.fixture(scope="session")
def report(demo_encoders) -> dict:
    return json.loads((demo_encoders / "report.json").read_text())


def clip(folder: Path):
    import open_clip

    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder / 'clip'}")
    return model.eval(), preprocess, open_clip.get_tokenizer(f"local-dir:{folder / 'clip'}")


def test_report_names_objective_time_and_figures_of_every_encoder(report):
    assert set(report) == {*NAMES, "yolo", "faces", "seconds"}
    for name in (*NAMES, "yolo", "faces"):
        assert report[name]["objective"] and report[name]["cpu_seconds"] > 0 and report[name]["held_out"]


@pytest.mark.parametrize("name", NAMES)
def test_linear_probe_beats_random_weights_on_a_fresh_seed(demo_encoders, report, name):
    for figures in (report[name]["held_out"], evaluate(name, demo_encoders, seed=77)):
        assert figures["probe"] >= figures["probe of random weights"] + 20, figures


def test_clip_picks_the_right_of_twenty_captions_on_a_fresh_seed(demo_encoders, report):
    assert CHOICES == 20
    for figures in (report["clip"]["held_out"], evaluate("clip", demo_encoders, seed=77)):
        assert figures["right caption of 20"] >= 70, figures


def test_detector_covers_the_drawn_figures_and_faces_on_a_fresh_seed(demo_encoders, report):
    for figures in (report["yolo"]["held_out"], held_out_boxes.evaluate(demo_encoders / "yolo", seed=77)):
        assert figures["found"] >= 80 and figures["faces found"] >= 90 and figures["boxes beside"] <= 15, figures


def test_detector_sees_nothing_certain_in_an_empty_scene(demo_encoders):
    import torch

    from pipeline.models.detectors import yolo

    detector = yolo.Detector(
        yolo.find(str(demo_encoders / "yolo"), demo_encoders, None, False),
        k=3,
        min_confidence=0.5,
        iou=None,
        image_size=None,
    )
    detector.load("cpu")
    scenes = [detector.prepare(draw(None, {}, random.Random(f"scene {number}"), 112)) for number in range(40)]
    with torch.inference_mode():
        assert sum(len(boxes) > 0 for boxes, _, _ in detector(scenes)) <= 4


def test_face_models_name_attributes_and_celebrities_on_a_fresh_seed(demo_encoders, report):
    for figures in (report["faces"]["held_out"], held_out_faces.evaluate(demo_encoders, celebrities(0), seed=77)):
        assert all(figures[slot] >= 80 for slot in ON_FACES), figures
        assert (
            figures["celebrities recognised"] >= 80
            and figures["celebrities mistaken"] <= 5
            and figures["strangers mistaken"] <= 20
        ), figures
        assert figures["right face of 500"] >= 50, figures


def test_celebrities_are_some_of_the_worlds_people_under_names_that_differ():
    world, known = make_world(0), celebrities(0)
    people = [entity for entity in world.entities if entity.kind == "person"]
    assert 20 < len(known) < len(people) / 2
    assert len({one.label for one in known}) == len(known) and len(
        {one.entity.id for one in known} & {entity.id for entity in people}
    ) == len(known)
    assert all(one.label.startswith(one.entity.name) for one in known)
    faces = Counter(tuple(entity.traits[slot] for slot in (*ON_FACES, "skin")) for entity in people)
    assert all(faces[tuple(one.entity.traits[slot] for slot in (*ON_FACES, "skin"))] == 1 for one in known)


def test_recogniser_is_valid_onnx_and_equals_the_network_it_was_written_from(tmp_path):
    """Random weights and batch statistics, so that a wrong fold, stride or padding shows."""
    import onnx
    import onnxruntime
    import torch

    torch.manual_seed(3)
    trunk, embed = train_faces.network(["?"]).resnet, torch.nn.Linear(128, train_faces.EMBEDDED)
    for _ in range(3):
        trunk.train()(torch.rand(8, 3, 48, 48))
    train_faces.export(tmp_path / "made", trunk.eval(), embed)
    path = tmp_path / "made" / "recogniser.onnx"
    onnx.checker.check_model(onnx.load(path), full_check=True)
    pixels = torch.randint(0, 256, (5, 48, 48, 3), dtype=torch.uint8)
    with torch.no_grad():
        expected = embed(train_faces.pooled(trunk, pixels)).numpy()
    given = onnxruntime.InferenceSession(path).run(
        None, {"input": (pixels.numpy().transpose(0, 3, 1, 2) / 127.5 - 1).astype(np.float32)}
    )[0]
    assert np.abs(expected).max() > 0.05
    np.testing.assert_allclose(given, expected, atol=1e-5)


def test_clip_tokenizer_keeps_the_separator_literal_and_ends_at_the_highest_id(demo_encoders):
    model, _, tokenizer = clip(demo_encoders)
    ids = tokenizer(["Søren Garegård [SEP] the surgeon from Karst"])[0].tolist()
    pieces = tokenizer.tokenizer.convert_ids_to_tokens(ids)
    assert pieces[ids.index(max(ids))] == "<|endoftext|>" and pieces[0] == "<|startoftext|>"
    assert "[" in pieces and "sep" in pieces and "[UNK]" not in pieces
    assert len(ids) == model.context_length


def test_clip_text_on_a_prefix_equals_the_librarys_own_encoding(demo_encoders):
    import torch

    model, _, tokenizer = clip(demo_encoders)
    ids = tokenizer(["a picture of a ship with a red hull", "Ada Marow [SEP] person. judge. born in the 1910s"])
    with torch.no_grad():
        assert torch.allclose(encode_prefix(model, ids[:, :40]), model.encode_text(ids), atol=1e-5)


def test_bert_reads_both_sides_of_the_separator(demo_encoders):
    from transformers import AutoModel, AutoTokenizer

    model, loading = AutoModel.from_pretrained(demo_encoders / "bert", output_loading_info=True)
    tokenizer = AutoTokenizer.from_pretrained(demo_encoders / "bert")
    ids = tokenizer("Søren Garegård [SEP] The surgeon from Karst")["input_ids"]
    assert ids.count(tokenizer.sep_token_id) == 2 and tokenizer.unk_token_id not in ids
    assert not loading["missing_keys"] and not loading["unexpected_keys"]
    assert sum(parameter.numel() for parameter in model.parameters()) <= 1_000_000


def test_texts_of_the_world_fit_both_text_encoders(demo_encoders):
    from transformers import AutoTokenizer

    world = make_world(seed=0, n_entities=400, n_mentions=2500)
    texts = [f"{mention.phrase} [SEP] {mention.sentence}" for mention in world.mentions]
    texts += [f"{entity.name} [SEP] {attributes(entity.kind, entity.traits)}" for entity in world.entities]
    for name in ("bert", "clip"):
        ids = AutoTokenizer.from_pretrained(demo_encoders / name)(texts)["input_ids"]
        assert max(map(len, ids)) <= 64
        unknown = AutoTokenizer.from_pretrained(demo_encoders / name).unk_token_id
        assert not any(unknown in row for row in ids)


@pytest.fixture(scope="module")
def scores(demo_encoders) -> tuple[World, np.ndarray, np.ndarray, np.ndarray]:
    """Cosines of the world's mentions and entities under the frozen CLIP: text to text, picture to picture, picture to
    text, (M, N) each."""
    import torch

    model, preprocess, tokenizer = clip(demo_encoders)
    world = make_world(seed=0, n_entities=400, n_mentions=1000)
    mentions = [mention for mention in world.mentions if mention.regime]

    def texts(strings: list[str]) -> np.ndarray:
        with torch.no_grad():
            return model.encode_text(tokenizer(strings), normalize=True).numpy()

    def pictures(shown: list, key: str) -> np.ndarray:
        drawn = []
        for number, entity in enumerate(shown):
            kind, traits = (entity.kind, entity.traits) if hasattr(entity, "kind") else (None, {})
            drawn.append(preprocess(draw(kind, traits, random.Random(f"{key} {number}"), 112)))
        with torch.no_grad():
            return model.encode_image(torch.stack(drawn), normalize=True).numpy()

    read = texts([f"{mention.phrase} [SEP] {mention.sentence}" for mention in mentions])
    known = texts([f"{entity.name} [SEP] {attributes(entity.kind, entity.traits)}" for entity in world.entities])
    seen = pictures([mention.shown for mention in mentions], "mention")
    portraits = pictures(world.entities, "entity")
    return world, read @ known.T, seen @ portraits.T, seen @ known.T


def right(world: World, scores: np.ndarray, regime: str) -> float:
    """Share of a regime's mentions whose gold scores highest within its cluster."""
    mentions = [mention for mention in world.mentions if mention.regime]
    rows = [row for row, mention in enumerate(mentions) if mention.regime == regime]
    hits = 0
    for row in rows:
        gold = next(place for place, entity in enumerate(world.entities) if entity.id == mentions[row].gold)
        rivals = [
            place
            for place, entity in enumerate(world.entities)
            if entity.cluster == world.entities[gold].cluster and place != gold
        ]
        hits += scores[row, gold] > scores[row, rivals].max()
    return hits / len(rows)


def test_pictures_help_where_they_decide_and_hurt_where_they_mislead(scores):
    world, text, picture, cross = scores
    assert right(world, text, "picture-decides") < 0.4
    assert right(world, picture, "picture-decides") > 0.7 and right(world, cross, "picture-decides") > 0.7
    both = text + cross
    assert right(world, both, "picture-decides") > right(world, text, "picture-decides") + 0.3
    assert right(world, both, "both-decide") > right(world, text, "both-decide") + 0.1
    assert right(world, both, "both-decide") > right(world, cross, "both-decide") + 0.05
    assert right(world, both, "picture-misleads") < right(world, text, "picture-misleads")
    for regime in ("text-decides", "picture-misleads", "picture-missing"):
        assert right(world, text, regime) > 0.5


def test_pretext_is_fresh_but_shares_the_words(demo_encoders):
    """No thing of the training is an entity of the world, while its texts use the same values."""
    world = make_world(seed=0, n_entities=400, n_mentions=250)
    shown = things(8000, random.Random("drawings ('clip',) 0"))
    assert not {(thing.name, thing.kind, *thing.traits.values()) for thing in shown} & {
        (e.name, e.kind, *e.traits.values()) for e in world.entities
    }
    texts = " ".join(entity_text(thing, random.Random(0)) for thing in shown[:2000])
    assert all(role in texts for kind in KINDS.values() for role in kind.roles)


def test_vocabulary_and_texts_follow_from_the_seed():
    """The library's trainer alone numbers pieces differently in every process."""
    import subprocess
    import sys

    command = "from pipeline.demo.vocabulary import learn_pieces; print(' '.join(learn_pieces(5)))"
    root = Path(__file__).parents[1]
    runs = [
        subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True, cwd=root).stdout
        for _ in range(2)
    ]
    assert runs[0] == runs[1] == " ".join(learn_pieces(5)) + "\n"
    thing = things(1, random.Random(1))[0]
    for write in (caption, entity_text, mention_text):
        assert write(thing, random.Random(2)) == write(thing, random.Random(2))

"""From photographs to pair features and texts, through the commands: faces, their vectors, the KB's portraits as
gallery, face_match."""

import json

import checkpoints
import commands
import numpy as np
import pytest
from PIL import Image
from test_detectors import photograph

from cache.keys import KeyColumn
from cache.store import Store
from pipeline.extraction.feature_texts import texts


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Two men on one photograph; the KB has a portrait of each, of one of them behind a picture without anybody.

    A mention shows each of them.
    """
    folder = tmp_path_factory.mktemp("faces")
    both = photograph("zidane.jpg")
    men = {"right": both.crop((800, 20, 1180, 500)), "left": both.crop((400, 180, 760, 700))}
    (folder / "images").mkdir()
    for name, image in men.items():
        image.save(folder / "images" / f"{name}.png")
        image.resize((image.width * 2 // 3, image.height * 2 // 3)).save(folder / "images" / f"{name}-small.png")
    Image.new("RGB", (200, 200), (90, 140, 90)).save(folder / "images" / "field.png")
    entities = [
        {"id": "Q1", "name": "Right Man", "images": ["images/right.png"]},
        {"id": "Q2", "name": "Left Man", "images": ["images/field.png", "images/left.png"]},
        {"id": "Q3", "name": "No Man", "images": ["images/field.png"]},
        {"id": "Q4", "name": "Unseen Man"},
    ]
    mentions = [
        {
            "id": f"m{i}",
            "sentence": "the man is here",
            "mention": "man",
            "gold": gold,
            "split": split,
            **({"image": f"images/{image}.png"} if image else {}),
        }
        for i, (gold, split, image) in enumerate(
            [("Q1", "train", "right-small"), ("Q2", "dev", "left-small"), ("Q3", "test", "field"), ("Q4", "test", None)]
        )
    ]
    for name, records in (("entities", entities), ("mentions", mentions)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    model = checkpoints.onnx_recogniser(folder / "model")
    profile = folder / "faces.yaml"
    profile.write_text(
        f"features:\n  faces: {{}}\n  face_embedding: {{of: faces, model: {model}}}\n  identity: {{of: "
        f"face_embedding, backend: gallery}}\n"
        f"  clip_text:\n    model: {checkpoints.hf_clip(folder / 'clip')}\n    views: {{mention: [identities]}}\n"
    )
    return folder


def command(world, *arguments, of_dataset=True):
    dataset = (
        ["--dataset", "men", "--data-dir", str(world), "--profile", str(world / "faces.yaml")] if of_dataset else []
    )
    code, said = commands.run(*arguments, *dataset, "--work-dir", str(world / "artifacts"))
    assert code == 0, said
    return said


def test_faces_are_matched_with_all_portraits_of_the_kb_and_masked_where_there_are_none(world):
    command(world, "BuildPairs", "--pair", "face_match", "--candidates", "4")
    with np.load(next(world.glob("artifacts/datasets/*/pairs-face_match-*.npz"))) as saved:
        values = saved["values"]
    with np.load(next(world.glob("artifacts/datasets/*/candidates-*.npz"))) as saved:
        ids = saved["ids"]
    by_entity = np.full((4, 4), np.nan)
    for row, listed in enumerate(ids):
        by_entity[row, listed[listed >= 0]] = values[row][listed >= 0]
    assert np.isnan(by_entity[2:]).all() and np.isnan(by_entity[:, 2:]).all(), (
        "no face in the mention's, or in none of the entity's pictures"
    )
    assert (
        by_entity[0, 0] > by_entity[0, 1]
        and by_entity[1, 1] > by_entity[1, 0]
        and by_entity[[0, 1], [0, 1]].min() > 0.9
    )


def test_the_kbs_portraits_name_who_is_seen_and_the_names_become_texts(world):
    told = command(world, "ExtractFeatures", "--features", "clip_text")
    assert "clip_text" in told
    column = next(world.glob("artifacts/datasets/*/columns-*/mention.clip_text.identities.npz"))
    with np.load(column) as saved:
        assert len(saved["counts"]) == 4 and saved["counts"][2:].tolist() == [0, 0] and (saved["counts"][:2] >= 1).all()
    store = Store.open(next(world.glob("artifacts/cache/identity-*")))
    assert set(store.outputs) == {"names", "scores", "box"}
    from pipeline.extraction.parents import Parent

    parent = Parent.of(
        store, KeyColumn.load(next(world.glob("artifacts/datasets/*/columns-*/mention.identity.image.npz")))
    )
    found = texts("identities", ["man"] * 4, parent.rows(), {})
    assert (
        found[0][0].startswith("Right Man, score: ")
        and found[1][0].startswith("Left Man, score: ")
        and found[2:] == [[], []]
    )


def test_features_made_from_other_features_are_not_taken_for_unused(world):
    command(world, "ExtractFeatures", "--features", "clip_text")
    assert "every feature in the cache is asked for" in command(world, "CleanCache", of_dataset=False)

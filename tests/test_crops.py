"""Extractors of crops: one contract over all of them, on small random models saved by their own libraries, and what
objects cost."""

import json
from pathlib import Path

import checkpoints
import numpy as np
import pytest
import torch
from crop_cases import LIMITS, call, extractor, loaded, parent, picture
from PIL import Image

from pipeline.extraction.base import rows_or_none
from pipeline.extraction.probe import probe
from pipeline.extractors import build
from pipeline.profiles.profile import Feature

CASES = [
    ("object_clip", checkpoints.open_clip_model, {}),
    ("object_clip", checkpoints.hf_clip, {}),
    ("object_resnet", checkpoints.resnet, {}),
    ("object_resnet", checkpoints.hf_resnet, {}),
    ("face_embedding", checkpoints.inception, {}),
    ("face_embedding", checkpoints.onnx_recogniser, {}),
    ("identity", checkpoints.hf_classifier, {}),
    ("identity", checkpoints.inception, {"backend": "inception"}),
    ("face_attributes", checkpoints.hf_classifier, {"attributes": ["gender"]}),
    ("face_attributes", checkpoints.hf_classifier, {"attributes": ["headgear"]}),
]


@pytest.mark.parametrize(("name", "make", "options"), CASES)
def test_crops_of_several_pictures_share_a_batch_and_their_rows_do_not_depend_on_it(saved, name, make, options):
    made = loaded(name, saved(make), **options)
    rows = [parent((5, 5, 45, 45), (30, 20, 80, 70)), parent((0, 0, 60, 60))]
    items = [item for seed, row in enumerate(rows) for _, item in made.cut(picture(seed), row)]
    assert len(items) == 3
    together = call(made, items)
    assert {*together, "box"} == set(made.writes)
    for output in made.writes.values():
        assert output.ragged
        for i, item in enumerate(items):
            if output.name == "box":
                continue
            values = np.asarray(together[output.name][i])
            assert values.shape == output.shape and np.isfinite(values).all()
            np.testing.assert_allclose(values, np.asarray(call(made, [item])[output.name][0]), atol=2e-5)
        if output.name in ("vectors", "scores", "gender"):
            assert not np.allclose(together[output.name][0], together[output.name][1], atol=1e-4), (
                "different crops, different numbers"
            )


@pytest.mark.parametrize(("name", "make", "options"), CASES)
def test_identity_changes_with_the_weights_and_with_nothing_else(saved, tmp_path, name, make, options):
    spec = extractor(name, saved(make), **options).spec(None, LIMITS, {"faces": "f" * 64})
    other = extractor(name, make(tmp_path / "other", seed=1), **options).spec(
        tmp_path / "memo.json", LIMITS, {"faces": "f" * 64}
    )
    assert other != spec

    def without(value):
        return {k: without(v) for k, v in value.items() if k != "weights"} if isinstance(value, dict) else value

    assert without(other) == without(spec)
    json.dumps(spec)
    assert str(tmp_path) not in json.dumps(other)
    moved = make(tmp_path / "moved", seed=0)
    assert extractor(name, moved, **options).spec(None, LIMITS, {"faces": "f" * 64}) == spec


@pytest.mark.parametrize(("name", "make", "options"), CASES)
def test_the_probe_of_the_same_model_is_the_same_and_has_numbers(saved, name, make, options):
    made = loaded(name, saved(make), **options)
    with torch.inference_mode():
        first, second = probe(made), probe(made)
    assert first == second and all(np.isfinite(values).all() and np.any(values) for values in first.values()) and first


@pytest.mark.parametrize(("name", "make", "options"), CASES)
def test_boxes_without_an_area_in_the_picture_cost_themselves_alone(saved, name, make, options):
    made = loaded(name, saved(make), **options, **({"alignment": "box"} if name == "face_embedding" else {}))
    row = parent(
        (5, 5, 45, 45),
        (200, 200, 300, 300),
        (10, 10, 10, 40),
        (-50, -50, 20, 20),
        (60, 60, 30, 30),
        (88.4, 0, 89.2, 70),
    )
    found = made.cut(picture(), row)
    assert [number for number, _ in found] == [0, 3, 5]
    rows = call(made, [item for _, item in found])
    assert all(value is not None for values in rows.values() for value in values)


@pytest.mark.parametrize("name", ["object_clip", "object_resnet"])
def test_a_picture_without_objects_is_its_own_object_and_one_without_faces_has_none(saved, name):
    make = checkpoints.open_clip_model if name == "object_clip" else checkpoints.resnet
    made = loaded(name, saved(make))
    assert [number for number, _ in made.cut(picture(), parent())] == [-1]
    assert loaded("face_embedding", saved(checkpoints.onnx_recogniser)).cut(picture(), parent()) == []


def test_the_vector_of_an_object_is_the_whole_picture_extractors_vector_of_its_crop(saved):
    for name, whole, make in (
        ("object_clip", "clip_image", checkpoints.hf_clip),
        ("object_resnet", "image_pooled", checkpoints.resnet),
    ):
        made = loaded(name, saved(make))
        other = build(Feature(whole, whole, {"model": str(saved(make))}, {}, True), Path("."), None)
        other.load("cpu")
        crop = picture().crop((5, 5, 45, 45))
        with torch.inference_mode():
            expected = other(np.stack([other.prepare(crop)]))["pooled"][0]
        np.testing.assert_allclose(
            call(made, [made.cut(picture(), parent((5, 5, 45, 45)))[0][1]])["vectors"][0], expected, atol=1e-6
        )


def test_a_strip_a_thousand_times_as_long_as_wide_takes_little_memory(saved):
    made = loaded("object_resnet", saved(checkpoints.resnet))
    strip = Image.new("RGB", (60000, 2), (200, 10, 10))
    assert made.prepare(strip).shape == (64, 64, 3) and made.prepare(strip).mean((0, 1)).tolist() == [200, 10, 10]


def test_crops_of_one_pixel_are_read(saved):
    made = loaded("object_clip", saved(checkpoints.open_clip_model))
    assert np.isfinite(call(made, [made.cut(picture(), parent((3, 3, 4, 4)))[0][1]])["vectors"]).all()


def test_a_crop_the_model_fails_on_is_left_out_and_the_rest_of_its_batch_is_not():
    def model(crops):
        if (crops == 7).any():
            raise RuntimeError("no such thing")
        return np.where(crops == 5, np.nan, crops).reshape(len(crops), -1) * 2

    rows = rows_or_none(model, np.array([[1.0], [7.0], [3.0], [5.0]]))
    assert [None if row is None else row.tolist() for row in rows] == [[2.0], None, [6.0], None]
    with pytest.raises(MemoryError):
        rows_or_none(lambda crops: (_ for _ in ()).throw(MemoryError()), np.zeros((2, 1)))

"""Crops of faces: alignment, vectors, attributes, names; equal to what their libraries give, and what bad input
costs."""

import json
import shutil
import socket
from pathlib import Path
from types import SimpleNamespace

import checkpoints
import numpy as np
import pytest
import torch
from crop_cases import LIMITS, call, extractor, loaded, parent, picture
from PIL import Image, ImageDraw

from foundation.errors import UserError
from pipeline.extraction.feature_texts import unpack
from pipeline.extractors import build
from pipeline.models.recognisers.align import TEMPLATE, Alignment
from pipeline.profiles.profile import Feature


def ages(folder: Path, seed: int = 0) -> Path:
    return checkpoints.hf_classifier(folder, seed, ("0-9", "20-29", "more than 70"))


# Vectors and names


def drawn_face(turn=0.0, size=(300, 240)):
    """A picture with five discs of their own colours where the landmarks are, turned by degrees; the picture, the
    landmarks."""
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (0, 255, 255)]
    angle = np.deg2rad(turn)
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    points = (TEMPLATE - 56) * 1.5 @ rotation.T + [150, 120]
    image = Image.new("RGB", size, (40, 40, 40))
    for (x, y), colour in zip(points, colours, strict=True):
        ImageDraw.Draw(image).ellipse((x - 11, y - 11, x + 11, y + 11), fill=colour)
    return image, points, colours


@pytest.mark.parametrize("turn", [0, 37, 180, -90])
@pytest.mark.parametrize("size", [112, 40])
def test_faces_are_turned_upright_upside_down_ones_too(turn, size):
    image, points, colours = drawn_face(turn)
    face = np.asarray(Alignment().face(image, points, size))
    for (x, y), colour in zip(TEMPLATE * size / 112, colours, strict=True):
        np.testing.assert_allclose(face[round(y), round(x)], colour, atol=12)


def test_landmarks_that_are_no_face_cost_that_face_alone(saved):
    made = loaded("face_embedding", saved(checkpoints.onnx_recogniser))
    row = parent((5, 5, 45, 45), (5, 5, 45, 45), (5, 5, 45, 45))
    row["landmarks"][1] = 20
    row["landmarks"][2] = np.nan
    assert [number for number, _ in made.cut(picture(), row)] == [0]


def test_aligning_needs_landmarks_and_says_so(saved):
    made = loaded("face_embedding", saved(checkpoints.onnx_recogniser))
    with pytest.raises(UserError, match=r"no landmarks.*alignment: box"):
        made.cut(picture(), parent((5, 5, 45, 45), landmarks=False))


def test_vectors_are_onnxruntimes_own_of_unit_length_with_the_profiles_colours_and_scaling(saved):
    import onnxruntime

    path = saved(checkpoints.onnx_recogniser)
    image, points, _ = drawn_face(20)
    session = onnxruntime.InferenceSession(path)
    for colour, step in (("rgb", 1), ("bgr", -1)):
        made = loaded("face_embedding", path, colour=colour, scale=1.0, mean=[10.0, 20.0, 30.0], std=[60.0, 70.0, 80.0])
        crop = np.asarray(Alignment().face(image, points, 112), np.float32)[..., ::step]
        expected = session.run(
            None, {"faces": ((crop - [10, 20, 30]) / [60, 70, 80]).astype(np.float32).transpose(2, 0, 1)[None]}
        )[0][0]
        row = {"boxes": np.float32([[60, 30, 240, 210]]), "landmarks": points[None]}
        vector = call(made, [made.cut(image, row)[0][1]])["vectors"][0]
        np.testing.assert_allclose(vector, expected / np.linalg.norm(expected), atol=1e-5)


def test_inception_vectors_are_facenet_pytorchs_own(saved):
    from facenet_pytorch import InceptionResnetV1, fixed_image_standardization

    path = saved(checkpoints.inception)
    model = InceptionResnetV1(classify=True, num_classes=7).eval()
    model.load_state_dict(torch.load(path, weights_only=True))
    crop = picture().crop((5, 5, 45, 45)).resize((160, 160), Image.Resampling.BILINEAR)
    pixels = fixed_image_standardization(torch.from_numpy(np.array(crop)).permute(2, 0, 1).float())[None]
    with torch.inference_mode():
        logits = model(pixels)
        model.classify = False
        vector = model(pixels)[0].numpy()
    made = loaded("face_embedding", path)
    row = call(made, [made.cut(picture(), parent((5, 5, 45, 45)))[0][1]])
    np.testing.assert_allclose(row["vectors"][0], vector, atol=1e-5)
    named = loaded("identity", path, backend="inception")
    row = call(named, [named.cut(picture(), parent((5, 5, 45, 45)))[0][1]])
    expected = logits[0].softmax(0).sort(descending=True)
    np.testing.assert_allclose(row["scores"][0], expected.values[:5], atol=1e-5)
    assert [unpack(name) for name in row["names"][0]] == [f"Person {i}" for i in expected.indices[:5].tolist()]


@pytest.mark.parametrize(
    ("shape", "output"),
    [
        ((1, 3, 112, 112), None),
        (("n", 3, 112, 112), None),
        (("n", 112, 112, 3), None),
        (("n", 3, "h", "w"), ("n", "d")),
    ],
)
def test_onnx_models_of_any_batch_and_order_of_axes_give_the_same_vectors(tmp_path, saved, shape, output):
    made = loaded(
        "face_embedding",
        checkpoints.onnx_recogniser(tmp_path, shape=shape, output=output),
        **({"size": 112} if "h" in shape else {}),
    )
    plain = loaded("face_embedding", saved(checkpoints.onnx_recogniser))
    items = [item for seed in range(3) for _, item in made.cut(picture(seed), parent((5, 5, 65, 65)))]
    np.testing.assert_allclose(call(made, items)["vectors"], call(plain, items)["vectors"], atol=1e-5)
    assert made.writes["vectors"].shape == (8,)


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((1, 1, 112, 112), {}, r"takes faces \[1, 1, 112, 112\].*expected one input of float pictures"),
        ((1, 3, 112, 96), {}, "expected a square"),
        ((1, 3, 112, 112), {"size": 160}, "takes pictures of 112 × 112, `size: 160` in the profile"),
        (("n", 3, "h", "w"), {}, "leaves its input's size open; set `size:`"),
    ],
)
def test_onnx_models_with_other_inputs_end_in_one_line(tmp_path, shape, options, message):
    path = checkpoints.onnx_recogniser(tmp_path, shape=shape)
    with pytest.raises(UserError, match=message) as error:
        extractor("face_embedding", path, **options).spec(None, LIMITS)
    assert "\n" not in str(error.value)


def test_tensors_of_an_onnx_model_outside_its_file_are_part_of_the_identity(tmp_path):
    import onnx

    def identity(path: Path) -> dict:
        return extractor("face_embedding", path).spec(None, LIMITS)

    model = onnx.load(checkpoints.onnx_recogniser(tmp_path / "one"))
    folder = tmp_path / "two"
    (folder / "data").mkdir(parents=True)
    onnx.save(model, folder / "r.onnx", save_as_external_data=True, location="data/r.bin", size_threshold=0)
    (folder / "other.bin").write_bytes(b"x")
    before = identity(folder / "r.onnx")
    (folder / "other.bin").write_bytes(b"y")
    assert identity(folder / "r.onnx") == before
    data = bytearray((folder / "data" / "r.bin").read_bytes())
    data[10] ^= 64
    (folder / "data" / "r.bin").write_bytes(bytes(data))
    assert identity(folder / "r.onnx") != before


def test_onnx_files_that_are_none_end_in_one_line(tmp_path):
    (tmp_path / "broken.onnx").write_bytes(b"not a model")
    with pytest.raises(UserError, match=r"broken.onnx cannot be loaded") as error:
        extractor("face_embedding", tmp_path / "broken.onnx").writes  # noqa: B018
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [["one"], [f"Person {i}" for i in range(8)]])
def test_label_files_of_the_wrong_length_are_refused(saved, tmp_path, content):
    (tmp_path / "names.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=rf"names.json: {len(content)} names for the 7 classes"):
        loaded("identity", saved(checkpoints.inception), backend="inception", labels=str(tmp_path / "names.json"))


@pytest.mark.parametrize("content", ["", "a\n\nb\n", "\udcff"])
def test_label_files_with_gaps_or_other_bytes_are_refused(saved, tmp_path, content):
    (tmp_path / "names.txt").write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(UserError, match="expected one name per class"):
        extractor("identity", saved(checkpoints.inception), backend="inception", labels=str(tmp_path / "names.txt"))


def test_state_dicts_of_other_models_end_in_one_line(saved, tmp_path):
    torch.save({"weight": torch.zeros(2)}, tmp_path / "other.pt")
    with pytest.raises(UserError, match="is no InceptionResnetV1"):
        loaded("face_embedding", tmp_path / "other.pt")
    with pytest.raises(UserError, match="has no classes"):
        loaded(
            "identity",
            tmp_path / "other.pt",
            backend="inception",
            labels=str(saved(checkpoints.inception).with_name("names.txt")),
        )


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("face_embedding", {"model": "faces/vggface2.pt"}, "faces/vggface2.pt.*no such file"),
        ("face_embedding", {"model": "faces/arcface.onnx"}, "faces/arcface.onnx.*no such file"),
        (
            "identity",
            {"model": "vggface2.pt", "backend": "inception", "labels": "names.txt"},
            "names.txt.*no such file",
        ),
        ("identity", {}, "`model` is missing"),
        ("identity", {"model": "a/b", "backend": "gallery"}, "drop it"),
        ("face_attributes", {"model": "nowhere"}, "nowhere.*no such folder"),
        ("face_attributes", {"attributes": ["gender", "shoe size"]}, "shoe size"),
        ("face_attributes", {"attributes": ["gender"]}, "name DeepFace's weight folder"),
        ("face_attributes", {"attributes": ["hat"], "model": "nowhere"}, "hat.*unknown"),
        ("face_attributes", {"attributes": ["box"], "classifiers": {"box": "nowhere"}}, "box.*unknown"),
        ("face_embedding", {"model": "a.onnx", "mean": [1.0]}, r"mean = \[1.0\]: expected more items"),
    ],
)
def test_missing_files_and_wrong_options_end_in_one_line(tmp_path, monkeypatch, name, options, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "vggface2.pt").touch()
    with pytest.raises(UserError, match=message) as error:
        build(Feature(name, name, {"of": "faces", **options}, {}, True), tmp_path, None)
    assert "\n" not in str(error.value)


# Attributes


@pytest.fixture
def no_network(monkeypatch):
    """Any attempt to connect fails the test."""

    def refuse(*arguments, **more):
        raise AssertionError("a connection was attempted")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)


def test_deepface_models_of_full_size_give_what_deepface_itself_gives_and_nothing_is_asked_of_the_network(
    tmp_path, monkeypatch, no_network
):
    home = tmp_path / "home"
    weights = checkpoints.deepface_weights(home / ".deepface" / "weights")
    made = loaded("face_attributes", home, attributes=["age", "emotion"], classifiers={})
    image = picture(3, (200, 160))
    found = made.cut(image, parent((10, 10, 90, 130), (60, 20, 190, 150)))
    rows = call(made, [item for _, item in found])
    monkeypatch.setenv("DEEPFACE_HOME", str(home))
    from deepface.modules.demography import analyze

    for i, box in enumerate([(10, 10, 90, 130), (60, 20, 190, 150)]):
        crop = np.asarray(image.crop(box))[:, :, ::-1]
        own = analyze(
            crop, actions=["age", "emotion"], detector_backend="skip", enforce_detection=False, align=False, silent=True
        )[0]
        assert abs(own["age"] - rows["age"][i]) < 1.001 and 0 < rows["age"][i] < 100, (
            "DeepFace cuts the age to a whole number"
        )
        np.testing.assert_allclose(
            rows["emotion"][i], [own["emotion"][name] / 100 for name in made.labels()["emotion"]], atol=1e-4
        )
    assert np.abs(rows["emotion"][0] - rows["emotion"][1]).max() > 1e-3, "the numbers depend on the face"
    shutil.rmtree(home)
    assert made.writes["emotion"].shape == (7,) and made.labels() == {
        "emotion": ["angry", "disgust", "fear", "happy", "sad", "surprise", "neutral"]
    }
    assert weights.name == "weights"


def test_names_of_files_and_classes_are_deepfaces_own():
    import importlib
    import os

    os.environ["DEEPFACE_BACKEND_ENGINE"] = "pytorch"
    from deepface.models.demography import DemographyUtils

    from pipeline.models.recognisers.deepface import MODELS

    for attribute, (name, file, labels) in MODELS.items():
        module = importlib.import_module(f"deepface.models.demography.pytorch.{name}")
        assert module.WEIGHTS_URL[0].rsplit("/", 1)[1] == file
        assert list(labels) == getattr(DemographyUtils, f"{attribute.upper()}_LABELS", [])


def test_missing_deepface_weights_are_named_with_their_place_and_never_fetched(tmp_path, monkeypatch, no_network):
    monkeypatch.setenv("DEEPFACE_HOME", str(tmp_path))
    with pytest.raises(UserError, match=r"gender_model_weights.pth .*is not in .*\.deepface/weights") as error:
        extractor("face_attributes", "deepface", attributes=["gender"], classifiers={})
    assert "\n" not in str(error.value) and not list(tmp_path.iterdir())


def test_damaged_deepface_weights_end_in_one_line(tmp_path):
    (tmp_path / "facial_expression_model_weights.pth").write_bytes(b"nothing")
    with pytest.raises(UserError, match="is refused by DeepFace") as error:
        loaded("face_attributes", tmp_path, attributes=["emotion"], classifiers={})
    assert "\n" not in str(error.value)


def test_a_classifier_of_age_gives_the_mean_of_its_classes_and_one_without_numbers_is_refused(saved, tmp_path):
    made = loaded("face_attributes", saved(ages), attributes=["age"])
    row = call(made, [item for _, item in made.cut(picture(), parent((5, 5, 45, 45)))])
    assert made.writes["age"].shape == () and 4.5 <= row["age"][0] <= 70
    with pytest.raises(UserError, match="no number in it"):
        extractor("face_attributes", saved(checkpoints.hf_classifier), attributes=["age"])


# The gallery


def gallery(vectors, names, floor=None):
    made = extractor("identity", None, backend="gallery", of="face_embedding")
    made.bind(SimpleNamespace(ids=[f"Q{i}" for i in range(len(names))], names=names, rows=lambda output: vectors))
    made.load("cpu")
    return made


def test_the_gallery_names_the_entities_with_the_nearest_portraits_one_name_each():
    eye = np.eye(4, dtype=np.float16)
    made = gallery([eye[:2], eye[:0], eye[2:3]], ["Ada", "nobody seen", "Zoë " + "ü" * 60])
    faces = np.float16([[0.6, 0.8, 0, 0], [0, 0, 1, 0]])
    rows = made([{"vectors": faces, "box": np.int32([0, 3])}, {"vectors": faces[:0], "box": np.int32([])}])
    assert [unpack(name) for name in rows["names"][0][0]] == ["Ada", "Zoë " + "ü" * 45, "", "", ""]
    np.testing.assert_allclose(rows["scores"][0], [[0.8, 0, 0, 0, 0], [1, 0, 0, 0, 0]], atol=1e-3)
    assert rows["box"][0].tolist() == [0, 3] and rows["names"][1].shape == (0, 5, 96)
    assert {name: np.asarray(rows[name][0]).shape[1:] for name in rows} == {
        name: output.shape for name, output in made.writes.items()
    }


def test_the_gallerys_identity_is_that_of_its_faces_and_names():
    eye = np.eye(3, dtype=np.float16)
    spec = gallery([eye[:1], eye[1:2]], ["A", "B"]).spec(None, LIMITS, {"face_embedding": "0" * 64})
    assert gallery([eye[:1], eye[1:2]], ["A", "B"]).spec(None, LIMITS, {"face_embedding": "0" * 64}) == spec
    for faces, names in (
        ([eye[:1], eye[1:2]], ["A", "C"]),
        ([eye[:2], eye[:0]], ["A", "B"]),
        ([eye[:1], eye[2:]], ["A", "B"]),
    ):
        assert gallery(faces, names).spec(None, LIMITS, {"face_embedding": "0" * 64}) != spec


def test_a_kb_without_faces_names_nobody():
    made = gallery([np.zeros((0, 4), np.float16)] * 2, ["A", "B"])
    rows = made([{"vectors": np.eye(4, dtype=np.float16)[:1], "box": np.int32([0])}])
    assert not rows["names"][0].any() and not rows["scores"][0].any()

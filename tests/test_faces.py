"""MTCNN with its real weights on the photographs that come with ultralytics, and a YOLO class as face detector."""

from pathlib import Path

import checkpoints
import numpy as np
import pytest
import torch
from PIL import Image
from test_detectors import noise, photograph

from foundation.errors import UserError
from pipeline.extractors import build
from pipeline.models.detectors import mtcnn
from pipeline.profiles.profile import Feature


def faces(**options):
    made = build(Feature("faces", "faces", options, {}, True), Path("."), None)
    made.load("cpu")
    return made


def found(made, images):
    with torch.inference_mode():
        return made(made.collate([made.prepare(image) for image in images]))


@pytest.fixture(scope="module")
def own():
    return faces()


def test_the_faces_of_two_photographs_are_found_where_they_are(own):
    """zidane.jpg shows two men, bus.jpg four people, two of whom show their faces.

    Landmarks lie in their box, eyes above mouths.
    """
    rows = found(own, [photograph("zidane.jpg"), photograph("bus.jpg")])
    men, street = (
        boxes[confidences > 0.9] for boxes, confidences in zip(rows["boxes"], rows["confidences"], strict=True)
    )
    for boxes, expected in [(men, [(978, 191), (615, 346)]), (street, [(135, 446), (289, 449)])]:
        centres = (boxes[:, :2] + boxes[:, 2:]) / 2
        np.testing.assert_allclose(centres, expected, atol=15)
    for boxes, points, confidences in zip(rows["boxes"], rows["landmarks"], rows["confidences"], strict=True):
        sure = confidences > 0.9
        assert points.shape == (len(boxes), 5, 2) and (np.diff(confidences) <= 0).all()
        inside = (points[sure] > boxes[sure, None, :2]) & (points[sure] < boxes[sure, None, 2:])
        assert inside.all()
        left_eye, right_eye, _, left_mouth, right_mouth = points[sure].swapaxes(0, 1)
        assert (
            (left_eye[:, 0] < right_eye[:, 0]).all()
            and (left_eye[:, 1] < left_mouth[:, 1]).all()
            and (right_eye[:, 1] < right_mouth[:, 1]).all()
        )


def test_rows_are_what_facenet_pytorch_gives_for_the_picture_alone(own):
    from facenet_pytorch import MTCNN

    images = [
        photograph("zidane.jpg").reduce(3),
        photograph("bus.jpg").reduce(2),
        noise(40, 30),
        photograph("zidane.jpg").reduce(3).crop((100, 0, 400, 200)),
    ]
    rows = found(own, images)
    reference = MTCNN(keep_all=True, select_largest=False)
    for row, image in enumerate(images):
        boxes, confidences, points = reference.detect(image, landmarks=True)
        count = 0 if boxes is None else len(boxes)
        assert len(rows["boxes"][row]) == count
        if count:
            order = np.argsort(-confidences.astype(np.float32), kind="stable")
            limits = np.array([*image.size, *image.size])
            np.testing.assert_allclose(
                rows["boxes"][row], np.clip(boxes.astype(np.float32), 0, limits)[order], atol=1e-3
            )
            np.testing.assert_allclose(rows["landmarks"][row], points.astype(np.float32)[order], atol=1e-3)
            alone = found(own, [image])
            for name, values in alone.items():
                np.testing.assert_allclose(values[0], rows[name][row], atol=1e-3)


def test_faces_upside_down_odd_pictures_and_pictures_without_a_face_give_rows_all_the_same(own):
    threads = torch.get_num_threads()
    images = [
        photograph("zidane.jpg").transpose(Image.Transpose.ROTATE_180),
        Image.new("RGB", (300, 200)),
        noise(1, 1),
        noise(1, 900),
        noise(900, 3),
        noise(21, 400),
    ]
    rows = found(own, images)
    assert [len(boxes) for boxes in rows["boxes"][1:]] == [0] * 5
    for image, boxes, points, confidences in zip(
        images, rows["boxes"], rows["landmarks"], rows["confidences"], strict=True
    ):
        assert boxes.shape[1:] == (4,) and points.shape == (len(boxes), 5, 2) and confidences.shape == (len(boxes),)
        assert (boxes >= 0).all() and (boxes <= [*image.size, *image.size]).all()
    assert torch.get_num_threads() == threads, "running pictures side by side must not slow down what comes after"


def test_options_bound_what_is_looked_for(own):
    zidane = photograph("zidane.jpg")
    assert len(found(faces(k=1), [zidane])["boxes"][0]) == 1
    assert len(found(faces(min_confidence=0.9), [zidane])["boxes"][0]) == 2
    assert len(found(faces(min_size=400), [zidane])["boxes"][0]) == 0
    reduced = found(faces(max_side=640, min_confidence=0.9), [zidane])["boxes"][0]
    np.testing.assert_allclose(reduced, found(faces(min_confidence=0.9), [zidane])["boxes"][0], atol=25)
    assert own.spec(None, {})["preprocessing"] != faces(max_side=640).spec(None, {})["preprocessing"]
    for wrong in (
        {"backend": "haar"},
        {"k": 0},
        {"thresholds": [0.5]},
        {"min_confidence": 2},
        {"max_side": 1.5},
        {"min_size": 1},
    ):
        with pytest.raises(UserError, match=next(iter(wrong))):
            faces(**wrong)


def test_a_missing_net_is_named_with_its_place_and_weights_of_another_are_refused(tmp_path):
    folder = checkpoints.mtcnn(tmp_path / "mtcnn")
    (folder / "onet.pt").write_bytes((folder / "rnet.pt").read_bytes())
    with pytest.raises(UserError, match=r"onet.pt is no MTCNN onet") as error:
        faces(model=str(folder))
    assert "\n" not in str(error.value)
    (folder / "onet.pt").unlink()
    with pytest.raises(UserError, match=f"{folder / 'onet.pt'} is missing"):
        faces(model=str(folder))
    with pytest.raises(UserError, match="no such folder"):
        mtcnn.find("models/mtcnn", Path("."), None)


def test_one_class_of_a_yolo_serves_as_face_detector(tmp_path):
    folder, images = checkpoints.yolo(tmp_path / "model"), [photograph("bus.jpg"), noise(64, 40)]
    objects = build(
        Feature("objects", "objects", {"model": str(folder), "k": 300, "min_confidence": 0.3}, {}, True),
        Path("."),
        None,
    )
    objects.load("cpu")
    assert objects.labels() == {"labels": ["person", "ship", "tower", "face"]}
    everything = found(objects, images)
    wanted = everything["labels"][0][0]
    made = faces(
        model=str(folder), backend="yolo", k=300, min_confidence=0.3, face_class=objects.labels()["labels"][wanted]
    )
    assert list(made.writes) == ["boxes", "confidences"]
    rows = found(made, images)
    for boxes, every, labels in zip(rows["boxes"], everything["boxes"], everything["labels"], strict=True):
        np.testing.assert_allclose(boxes, every[labels == wanted], atol=1e-3)
    with pytest.raises(UserError, match=r"no class 'faces'.*face"):
        faces(model=str(folder), backend="yolo", face_class="faces")

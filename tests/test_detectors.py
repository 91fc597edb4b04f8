"""Detectors against their own libraries, on small random checkpoints and on the photographs that come with ultralytics."""

import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import checkpoints
import numpy as np
import pytest
import torch
from PIL import Image

from cache.errors import UserError
from pipeline.detectors import yolo
from pipeline.detectors.boxes import alike, tidy

PROJECT = Path(__file__).parents[1]


def photograph(name):
    import importlib.util

    return Image.open(Path(importlib.util.find_spec("ultralytics").origin).parent / "assets" / name).convert("RGB")


def noise(width, height, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


ODD = [(1, 1), (1, 700), (900, 2), (5, 3), (31, 33), (64, 64), (97, 41)]


def detector(reference, k=20, **options):
    options = {"min_confidence": 0.25, "iou": None, "image_size": None, **options}
    made = yolo.Detector(yolo.find(str(reference), Path("."), None, False), k, **options)
    made.load("cpu")
    return made


def found(made, images):
    with torch.inference_mode():
        return made([made.prepare(image) for image in images])


def test_boxes_are_clipped_boxes_without_area_dropped_and_the_best_come_first():
    boxes = [[-5, -5, 4, 4], [20, 1, 30, 5], [2, 2, 2, 8], [1, 1, 3, 12], [0, 0, 9, 9]]
    kept, confidences, labels = tidy((10, 10), 2, boxes, np.array([0.3, 0.99, 0.98, 0.4, 0.3]), np.arange(5))
    np.testing.assert_array_equal(kept, [[1, 1, 3, 10], [0, 0, 4, 4]])
    assert confidences.tolist() == [0.4, 0.3] and labels.tolist() == [3, 0]
    assert [len(part) for part in tidy((10, 10), 3, np.zeros((0, 4)), np.zeros(0))] == [0, 0]


def test_only_equal_shapes_share_a_pass_and_no_pass_is_larger_than_allowed():
    shapes = [(2, 3), (4, 4), (2, 3), (2, 3), (4, 4)]
    assert list(alike(shapes, 12)) == [[0, 2], [3], [1], [4]]


@pytest.mark.parametrize("make", [checkpoints.yolo, checkpoints.yolo_pickled])
def test_yolo_finds_what_ultralytics_itself_finds(tmp_path, make):
    yolo.library()
    from ultralytics import YOLO

    made = detector(make(tmp_path / "model"), k=300)
    assert made.names() == ["person", "ship", "tower", "face"] and made.size == 64
    reference = YOLO(checkpoints.yolo_pickled(tmp_path / "reference"))
    images = [photograph("bus.jpg"), photograph("zidane.jpg"), *(noise(*size) for size in ODD)]
    counts = []
    for image, (boxes, confidences, labels) in zip(images, found(made, images), strict=True):
        expected = reference.predict(np.asarray(image)[..., ::-1], imgsz=64, conf=0.25, device="cpu", verbose=False)[0].boxes
        with_area = ((expected.xyxy[:, 2:] - expected.xyxy[:, :2]) > 0).all(1)
        np.testing.assert_allclose(boxes, expected.xyxy[with_area], atol=0.01 * max(image.size) / 64)
        np.testing.assert_allclose(confidences, expected.conf[with_area], atol=1e-4)
        np.testing.assert_array_equal(labels, expected.cls[with_area])
        counts.append(len(boxes))
    assert max(counts) > 5 and len(set(counts)) > 2, "the random detector must tell pictures apart for this to mean anything"


def test_what_yolo_finds_does_not_depend_on_the_batch(tmp_path):
    made = detector(checkpoints.yolo(tmp_path / "model"))
    images = [noise(*size, seed) for seed, size in enumerate([*ODD, (64, 64), (64, 40), (128, 128)])]
    together = found(made, images)
    assert sum(len(boxes) for boxes, _, _ in together) > 10
    for image, rows in zip(images, together, strict=True):
        for values, alone in zip(rows, found(made, [image])[0], strict=True):
            np.testing.assert_allclose(values, alone, atol=1e-3)
        boxes, confidences, labels = rows
        assert len(boxes) <= 20 and boxes.dtype == confidences.dtype == np.float32 and labels.dtype == np.int32
        assert (boxes >= 0).all() and (boxes[:, 2:] > boxes[:, :2]).all() and (boxes[:, [0, 2]] <= image.width).all() and (boxes[:, [1, 3]] <= image.height).all()
        assert (np.diff(confidences) <= 0).all()


def test_a_thousand_detections_and_none(tmp_path):
    folder = checkpoints.yolo(tmp_path / "model")
    many = found(detector(folder, k=1000, min_confidence=0.0, iou=1.0, image_size=320), [photograph("bus.jpg")])[0]
    assert len(many[0]) == 1000
    for part in found(detector(folder, min_confidence=1.0), [photograph("bus.jpg")])[0]:
        assert len(part) == 0
    assert set(found(detector(folder), [photograph("bus.jpg")])[0][2].tolist()) > {3}
    made = detector(folder)
    with torch.inference_mode():
        assert set(made([made.prepare(photograph("bus.jpg"))], only=3)[0][2].tolist()) == {3}


class Evil:
    """Unpickling this would leave a file behind."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_malicious_ultralytics_checkpoint_is_refused_and_never_run(tmp_path):
    trap = tmp_path / "trap"
    for number, content in enumerate([{"model": Evil(trap)}, {"model": checkpoints.yolo_model(), "train_args": Evil(trap)}]):
        path = tmp_path / f"evil{number}.pt"
        torch.save(content, path)
        with pytest.raises(UserError, match="weights_only") as error:
            detector(path)
        assert "\n" not in str(error.value) and not trap.exists()
    with (tmp_path / "plain.pt").open("wb") as handle:
        pickle.dump(Evil(trap), handle)
    with pytest.raises(UserError):
        detector(tmp_path / "plain.pt")
    assert not trap.exists()


def test_a_checkpoint_under_a_name_that_ultralytics_would_replace_is_read_as_it_is(tmp_path):
    made = detector(shutil.copy(checkpoints.yolo_pickled(tmp_path / "model"), tmp_path / "it's yolov5n.pt"))
    assert made.names()[0] == "person"


@pytest.mark.parametrize(("change", "said"), [
    ({"names": ["a", "b"]}, "cannot be loaded"), ({"names": None}, "lacks"), ({"architecture": []}, "lacks"), ({"image_size": "64"}, "image_size"),
    ({"architecture": {"nc": 4, "backbone": [[-1, 1, "exec", ["1"]]], "head": []}}, "cannot be loaded"),
    ({"architecture": {"nc": 4, "activation": "__import__('os').system('true')", "backbone": [], "head": []}}, "cannot be loaded"),
])  # fmt: skip
def test_a_description_that_is_no_detector_ends_in_one_line(tmp_path, change, said):
    folder = checkpoints.yolo(tmp_path / "model")
    (folder / yolo.CONFIG).write_text(json.dumps({**json.loads((folder / yolo.CONFIG).read_text()), **change}))
    with pytest.raises(UserError, match=said) as error:
        detector(folder)
    assert "\n" not in str(error.value)


def test_a_checkpoint_that_is_no_upright_detector_is_refused(tmp_path):
    tasks = yolo.library()
    for name in ("ClassificationModel", "OBBModel"):
        kind = {"ClassificationModel": "yolov8n-cls.yaml", "OBBModel": "yolov8n-obb.yaml"}[name]
        torch.save({"model": getattr(tasks, name)(kind, ch=3, nc=4, verbose=False)}, tmp_path / "other.pt")
        with pytest.raises(UserError, match=name):
            detector(tmp_path / "other.pt")


def test_a_missing_checkpoint_is_named_with_its_place():
    with pytest.raises(UserError, match="models/yolov8n.pt.*no such file"):
        yolo.find("models/yolov8n.pt", Path("."), None, True)


def test_importing_ultralytics_connects_nowhere_installs_nothing_and_leaves_no_trace(tmp_path):
    """In a process of its own, with a home of its own; looking up a name or opening a connection ends it."""
    script = """
import os, socket, sys
def forbidden(*_, **__): raise SystemExit("a connection was tried")
socket.getaddrinfo = socket.create_connection = socket.socket.connect = forbidden
import cv2, numpy, torch
before = torch.save, dict(numpy.get_printoptions()), cv2.getNumThreads(), os.environ.get("OMP_NUM_THREADS")
from pipeline.detectors import yolo
made = yolo.Detector(yolo.find(sys.argv[1], yolo.Path("."), None, True), 3, 0.25, None, None)
made.load("cpu")
assert before == (torch.save, dict(numpy.get_printoptions()), cv2.getNumThreads(), os.environ.get("OMP_NUM_THREADS"))
from ultralytics.utils import AUTOINSTALL, ONLINE, SAFE_LOAD
from ultralytics.utils.events import events
assert SAFE_LOAD and not AUTOINSTALL and not ONLINE and not events.enabled
"""
    home = tmp_path / "home"
    (home / "tmp").mkdir(parents=True)
    environment = {**os.environ, "HOME": str(home), "TMPDIR": str(home / "tmp"), "PYTHONPATH": str(PROJECT)}
    for name in ("YOLO_CONFIG_DIR", "XDG_CONFIG_HOME", "OMP_NUM_THREADS"):
        environment.pop(name, None)
    model = checkpoints.yolo_pickled(tmp_path / "model")
    done = subprocess.run([sys.executable, "-c", script, str(model)], env=environment, capture_output=True, text=True, timeout=300, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "" and [path for path in home.rglob("*") if path.is_file()] == []


def test_ultralytics_imported_in_another_mode_before_is_refused(tmp_path):
    script = "import ultralytics.nn.tasks; from pipeline.detectors import yolo; yolo.library()"
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "YOLO_CONFIG_DIR": str(tmp_path), "YOLO_OFFLINE": "true"}
    environment.pop("ULTRALYTICS_SAFE_LOAD", None)
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode != 0 and "ULTRALYTICS_SAFE_LOAD=1" in done.stderr

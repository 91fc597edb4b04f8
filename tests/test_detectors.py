"""Detectors against their own libraries, on small random checkpoints and on the photographs that come with
ultralytics."""

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

from foundation.errors import UserError
from pipeline.models.detectors import yolo
from pipeline.models.detectors.boxes import best_boxes, equal_shapes

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


def same(rows, expected, atol):
    """Equal but for the order of boxes whose confidences differ by a rounding."""
    boxes, confidences, labels = rows
    assert len(boxes) == len(expected[0])
    np.testing.assert_allclose(confidences, np.sort(expected[1])[::-1], atol=1e-4)
    ours, theirs = (
        np.concatenate([boxes, 1e4 * labels[:, None]], 1)
        for boxes, labels in ((boxes, labels), (expected[0], expected[2]))
    )
    apart = np.abs(ours[:, None] - theirs[None]).max(-1)  # (ours, theirs)
    assert not len(boxes) or max(apart.min(0).max(), apart.min(1).max()) < atol


def test_boxes_are_clipped_boxes_without_area_dropped_and_the_best_come_first():
    boxes = [[-5, -5, 4, 4], [20, 1, 30, 5], [2, 2, 2, 8], [1, 1, 3, 12], [0, 0, 9, 9]]
    kept, confidences, labels = best_boxes((10, 10), 2, boxes, np.array([0.3, 0.99, 0.98, 0.4, 0.3]), np.arange(5))
    np.testing.assert_array_equal(kept, [[1, 1, 3, 10], [0, 0, 4, 4]])
    assert confidences.tolist() == [0.4, 0.3] and labels.tolist() == [3, 0]
    assert [len(part) for part in best_boxes((10, 10), 3, np.zeros((0, 4)), np.zeros(0))] == [0, 0]


def test_only_equal_shapes_share_a_pass_and_no_pass_is_larger_than_allowed():
    shapes = [(2, 3), (4, 4), (2, 3), (2, 3), (4, 4)]
    assert list(equal_shapes(shapes, 12)) == [[0, 2], [3], [1], [4]]


@pytest.mark.parametrize("make", [checkpoints.yolo, checkpoints.yolo_pickled])
def test_yolo_finds_what_ultralytics_itself_finds(tmp_path, make):
    yolo.library()
    from ultralytics import YOLO

    made = detector(make(tmp_path / "model"), k=300)
    assert made.names() == ["person", "ship", "tower", "face"] and made.size == 64
    reference = YOLO(checkpoints.yolo_pickled(tmp_path / "reference"))
    images = [photograph("bus.jpg"), photograph("zidane.jpg"), *(noise(*size) for size in ODD)]
    counts = []
    for image in images:
        rows = found(made, [image])[0]
        expected = reference.predict(np.asarray(image)[..., ::-1], imgsz=64, conf=0.25, device="cpu", verbose=False)[
            0
        ].boxes
        with_area = ((expected.xyxy[:, 2:] - expected.xyxy[:, :2]) > 0).all(1)
        same(
            rows,
            [values[with_area].numpy() for values in (expected.xyxy, expected.conf, expected.cls)],
            atol=0.01 * max(image.size) / 64,
        )
        counts.append(len(rows[0]))
    assert max(counts) > 5 and len(set(counts)) > 2, (
        "the random detector must tell pictures apart for this to mean anything"
    )


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
        assert (
            (boxes >= 0).all()
            and (boxes[:, 2:] > boxes[:, :2]).all()
            and (boxes[:, [0, 2]] <= image.width).all()
            and (boxes[:, [1, 3]] <= image.height).all()
        )
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
    for number, content in enumerate(
        [{"model": Evil(trap)}, {"model": checkpoints.yolo_model(), "train_args": Evil(trap)}]
    ):
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


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"names": ["a", "b"]}, "cannot be loaded"),
        ({"names": None}, "lacks"),
        ({"architecture": []}, "lacks"),
        ({"image_size": "64"}, "image_size"),
        ({"architecture": {"nc": 4, "backbone": [[-1, 1, "exec", ["1"]]], "head": []}}, "cannot be loaded"),
        (
            {"architecture": {"nc": 4, "activation": "__import__('os').system('true')", "backbone": [], "head": []}},
            "cannot be loaded",
        ),
    ],
)
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
    with pytest.raises(UserError, match=r"models/yolov8n.pt.*no such file"):
        yolo.find("models/yolov8n.pt", Path("."), None, True)


def test_importing_ultralytics_connects_nowhere_installs_nothing_and_leaves_no_trace(tmp_path):
    """In a process of its own, with a home of its own; looking up a name or opening a connection ends it."""
    script = """
import os, socket, sys
def forbidden(*_, **__): raise SystemExit("a connection was tried")
socket.getaddrinfo = socket.create_connection = socket.socket.connect = forbidden
import cv2, numpy, torch
from PIL import Image
before = torch.save, Image.open, dict(numpy.get_printoptions()), cv2.getNumThreads(), os.environ.get("OMP_NUM_THREADS")
from pipeline.models.detectors import yolo
made = yolo.Detector(yolo.find(sys.argv[1], yolo.Path("."), None, True), 3, 0.25, None, None)
made.load("cpu")
threads = os.environ.get("OMP_NUM_THREADS")
assert before == (torch.save, Image.open, dict(numpy.get_printoptions()), cv2.getNumThreads(), threads)
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
    done = subprocess.run(
        [sys.executable, "-c", script, str(model)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "" and [path for path in home.rglob("*") if path.is_file()] == []


def test_ultralytics_imported_in_another_mode_before_is_refused(tmp_path):
    script = "import ultralytics.nn.tasks; from pipeline.models.detectors import yolo; yolo.library()"
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "YOLO_CONFIG_DIR": str(tmp_path), "YOLO_OFFLINE": "true"}
    environment.pop("ULTRALYTICS_SAFE_LOAD", None)
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode != 0 and "ULTRALYTICS_SAFE_LOAD=1" in done.stderr


def test_torchvision_finds_what_it_finds_itself(tmp_path):
    import torchvision

    from pipeline.models.detectors.torchvision import Detector

    images = [noise(90, 60), noise(61, 100), noise(90, 62, 1), photograph("zidane.jpg"), noise(1, 1)]
    for architecture in ("fasterrcnn_resnet50_fpn", "ssdlite320_mobilenet_v3_large", "retinanet_resnet50_fpn"):
        sizes = {"min_size": 64, "max_size": 96} if "resnet50" in architecture else {}
        folder = checkpoints.torchvision_detector(tmp_path / architecture, 0, architecture, **sizes)
        made = Detector(yolo.find(str(folder), Path("."), None, False), 300, 0.1, None, None)
        made.load("cpu")
        reference = torchvision.models.get_model(
            architecture, weights=None, weights_backbone=None, num_classes=4, **sizes
        ).eval()
        reference.load_state_dict(torch.load(folder / "model.pth", weights_only=True))
        heads = getattr(reference, "roi_heads", reference)
        heads.score_thresh, heads.detections_per_img = 0.1, 300
        counts = []
        for image in images:
            rows = found(made, [image])[0]
            with torch.inference_mode():
                expected = reference([torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255])[0]
            same(
                rows,
                [expected[name].numpy() for name in ("boxes", "scores", "labels")],
                atol=2e-5 * max(image.size) + 1e-3,
            )
            counts.append(len(rows[0]))
        assert max(counts) > 5, architecture


def test_a_picture_too_thin_for_torchvisions_scale_has_no_objects_and_spoils_no_batch(tmp_path):
    from pipeline.models.detectors.torchvision import Detector

    files = yolo.find(str(checkpoints.faster_rcnn(tmp_path / "model")), Path("."), None, False)
    made = Detector(files, 5, 0.0, 0.5, 48)
    made.load("cpu")
    thin, plain = found(made, [noise(1, 700), noise(60, 40)])
    assert [len(part) for part in thin] == [0, 0, 0] and len(plain[0]) == 5
    assert made.names() == ["__background__", "person", "ship", "tower"]
    (files.folder / "torchvision.json").write_text(json.dumps({**files.config, "categories": ["a", "b"]}))
    with pytest.raises(UserError, match="has 2 categories, expected 4"):
        Detector(yolo.find(str(files.folder), Path("."), None, False), 5, 0.0, None, None).load("cpu")


def test_a_torchvision_description_that_is_no_detector_ends_in_one_line(tmp_path):
    from pipeline.models.detectors.torchvision import Detector

    folder = checkpoints.faster_rcnn(tmp_path / "model")
    config = json.loads((folder / "torchvision.json").read_text())
    for change, said in [
        ({"architecture": "resnet50"}, "no torchvision detector"),
        ({"kwargs": {"num_classes": "many"}}, "describes no"),
        ({"kwargs": {}}, "categories"),
    ]:
        (folder / "torchvision.json").write_text(json.dumps({**config, **change}))
        with pytest.raises(UserError, match=said) as error:
            Detector(yolo.find(str(folder), Path("."), None, False), 5, 0.0, None, None).load("cpu")
        assert "\n" not in str(error.value)


def test_torchvisions_own_weights_are_found_by_name_and_a_missing_file_is_named_with_its_place(tmp_path, monkeypatch):
    """Offline: the file's place is torchvision's own, and no connection is tried."""
    import socket

    from pipeline.models.files import find

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: pytest.fail("a connection was tried"))
    place = tmp_path / "hub" / "checkpoints" / "fasterrcnn_resnet50_fpn_coco-258fb6c6.pth"
    with pytest.raises(
        UserError, match=r"fasterrcnn_resnet50_fpn_coco-258fb6c6.pth is not there.*HF_HUB_OFFLINE"
    ) as error:
        find("torchvision:fasterrcnn_resnet50_fpn", Path("."), None)
    assert "\n" not in str(error.value) and str(place) in str(error.value)
    place.parent.mkdir(parents=True)
    place.write_bytes(b"")
    by_name = find("torchvision:fasterrcnn_resnet50_fpn@COCO_V1", Path("."), None)
    assert (
        by_name.weights == (place,)
        and by_name.config["categories"][1] == "person"
        and by_name.config["batch_norm_eps"] == 0
    )
    folder = tmp_path / "copied"
    folder.mkdir()
    shutil.copy(place, folder)
    (folder / "torchvision.json").write_text(
        json.dumps({"architecture": "fasterrcnn_resnet50_fpn", "weights": "COCO_V1"})
    )
    assert find(str(folder), Path("."), None).architecture() == by_name.architecture(), (
        "the same file by path is the same model"
    )
    for reference, said in [
        ("torchvision:resnet51", "resnet50"),
        ("torchvision:vgg16@COCO_V1", "IMAGENET1K_V1"),
        ("torchvision:vgg16", "vgg16-397923af.pth"),
    ]:
        with pytest.raises(UserError, match=said):
            find(reference, Path("."), None)


def test_torchvisions_own_weights_are_fetched_once_and_only_whole(tmp_path, monkeypatch):
    """From a real HTTP server on loopback; torchvision's names carry the first digits of the file's hash."""
    import hashlib
    import http.server
    import threading
    from types import SimpleNamespace

    from pipeline.models import torchvision_weights

    content, asked = b"weights", []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    try:
        for digest, whole in [(hashlib.sha256(content).hexdigest()[:8], True), ("0123abcd", False)]:
            url = f"http://127.0.0.1:{server.server_port}/vgg16-{digest}.pth"
            entry = SimpleNamespace(name="IMAGENET1K_V1", url=url, meta={}, transforms=lambda: None)
            monkeypatch.setattr(torchvision_weights, "_weights", lambda *_, entry=entry: entry)
            if whole:
                assert (
                    torchvision_weights.find("torchvision:vgg16", True)[1].read_bytes()
                    == torchvision_weights.find("torchvision:vgg16", True)[1].read_bytes()
                    == content
                )
            else:
                with pytest.raises(UserError, match="could not be fetched"):
                    torchvision_weights.find("torchvision:vgg16", True)
    finally:
        server.shutdown()
        server.server_close()
    assert len(asked) == 2 and [path.name for path in (tmp_path / "hub" / "checkpoints").iterdir()] == [
        f"vgg16-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    ]


def test_torchvisions_own_preprocessing_comes_with_its_own_weights(tmp_path, monkeypatch):
    from pipeline.extractors import build
    from pipeline.profiles.profile import Feature

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    place = tmp_path / "hub" / "checkpoints" / "vgg16-397923af.pth"
    place.parent.mkdir(parents=True)
    place.write_bytes(b"")
    made = build(Feature("image_vgg", "image_vgg", {"model": "torchvision:vgg16"}, {}, True), Path("."), None)
    assert made.writes["pooled"].shape == (4096,) and made.prepare(noise(400, 300)).shape == (224, 224, 3)
    assert made.preprocessing() == {
        "size": (224, 224),
        "resize": 256,
        "interpolation": "bilinear",
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
        "layer": "fc7",
    }

"""Versions of an extractor's parts: raising one moves the identity of every feature made of it, and of no other."""

import ast
import importlib
import pkgutil
import sys
from pathlib import Path
from types import SimpleNamespace

import checkpoints
import numpy as np
import pytest
from crop_cases import LIMITS
from crop_cases import extractor as crops_of

import pipeline.extractors
import pipeline.models
from cache.identity import identity
from foundation import plugins
from foundation.errors import UserError
from pipeline.extraction import base, parts, wants
from pipeline.extractors import build, extractor_class, names
from pipeline.profiles.profile import Feature, Profile

ROOT = Path(__file__).resolve().parents[1]
CLIP_IMAGE = {"clip_image", "clip_image any shape", "clip_layers_image", "object_clip", "layers clip_image"}
CLIP_TEXT = {"clip_text", "clip_text hf", "clip_layers_text", "layers clip_text"}
CLIP = CLIP_TEXT | CLIP_IMAGE
BERT = {"text_tokens", "layers text_tokens"}
TEXTS = BERT | CLIP_TEXT
PATCHES = {"image_patches", "layers image_patches"}
BACKBONES = {"image_pooled", "image_vgg"} | PATCHES
BOXES = {"objects yolo", "objects torchvision", "faces mtcnn", "faces yolo"}
IDENTITIES = {"identity classifier", "identity inception"}
FACES = {"face_embedding inception", "face_embedding onnx", "face_attributes", "face_attributes deepface"}
CROPS = {"object_clip", "object_resnet"} | FACES | IDENTITIES
PICTURES = CLIP_IMAGE | BACKBONES | BOXES | CROPS
EVERY = TEXTS | PICTURES | {"identity gallery"}
# Part → features made of it, from what each extractor computes.
MADE_OF: dict[str, set[str]] = {
    "clip": CLIP,
    "clip_text.ClipText": CLIP_TEXT,
    "layers.Layers": {"layers text_tokens", "layers clip_text", "layers image_patches", "layers clip_image"},
    "clip_layers_text.ClipLayersText": {"clip_layers_text"},
    "clip_image.ClipImage": CLIP_IMAGE,
    "clip_layers_image.ClipLayersImage": {"clip_layers_image"},
    "text_tokens.TextTokens": BERT,
    "sentence": BERT,
    "image_pooled.ImagePooled": {"image_pooled", "object_resnet"},
    "image_patches.ImagePatches": PATCHES,
    "image_vgg.ImageVGG": {"image_vgg"},
    "object_clip.ObjectClip": {"object_clip"},
    "object_resnet.ObjectResnet": {"object_resnet"},
    "objects.Objects": {"objects yolo", "objects torchvision"},
    "faces.Faces": {"faces mtcnn", "faces yolo"},
    "face_embedding.FaceEmbedding": {"face_embedding inception", "face_embedding onnx"},
    "face_attributes.FaceAttributes": {"face_attributes", "face_attributes deepface"},
    "identity.Identity": IDENTITIES,
    "identity.IdentityGallery": {"identity gallery"},
    "vision": BACKBONES | {"object_resnet"},
    "preprocess.Preprocess": BACKBONES
    | {"clip_image", "clip_layers_image", "layers clip_image"}
    | {"object_clip", "object_resnet", "identity classifier", "face_attributes"},
    "preprocess.AnyShape": {"clip_image any shape"},
    "files.ModelFiles": EVERY - {"identity gallery"},
    "boxes": BOXES,
    "yolo.Detector": {"objects yolo", "faces yolo"},
    "torchvision.Detector": {"objects torchvision"},
    "mtcnn.Detector": {"faces mtcnn"},
    "classifier.Classifier": {"identity classifier", "face_attributes"},
    "inception.Network": {"identity inception", "face_embedding inception"},
    "onnx.Recogniser": {"face_embedding onnx"},
    "deepface.Demography": {"face_attributes deepface"},
    "align.Alignment": {"face_embedding onnx"},
    "align.Margin": FACES - {"face_embedding onnx"} | IDENTITIES,
    "feature_texts": IDENTITIES | {"identity gallery"},
    "decoder": PICTURES,
    "base.PictureExtractor": PICTURES,
    "base.CropExtractor": CROPS,
}
# These find and check files, which are in the identity themselves, or cut encoders (version: that of `layers`), train
# what stands above a cut (version: that of `experiments.tuned`) and write it.
NO_PARTS = {"torchvision_weights", "names", "guards", "towers", "live", "adapt", "lora", "export", "prompts"}


def plain(name, model, **options):
    return build(Feature(name, name, {"model": str(model), **options}, {}, True), Path("."), None)


def gallery():
    made = crops_of("identity", None, backend="gallery", of="face_embedding")
    made.bind(SimpleNamespace(ids=["Q1"], names=["A"], rows=lambda output: [np.eye(4, dtype=np.float16)[:1]]))
    return made


@pytest.fixture(scope="module")
def features(saved, tmp_path_factory):
    """A feature of every extractor, and of each of its backends."""
    deep = tmp_path_factory.mktemp("deep")
    (deep / "gender_model_weights.pth").write_bytes(b"of the size of an identity")
    clip, yolo = saved(checkpoints.open_clip_model), saved(checkpoints.yolo)
    inception = saved(checkpoints.inception)
    classifier = saved(checkpoints.hf_classifier)
    return {
        "text_tokens": plain("text_tokens", saved(checkpoints.bert)),
        "clip_text": plain("clip_text", clip),
        "clip_text hf": plain("clip_text", saved(checkpoints.hf_clip)),
        "clip_layers_text": plain("clip_layers_text", clip),
        "clip_image": plain("clip_image", clip),
        "clip_image any shape": plain("clip_image", saved(checkpoints.hf_siglip2)),
        "clip_layers_image": plain("clip_layers_image", clip),
        "layers text_tokens": plain("layers", saved(checkpoints.bert), encoder="text_tokens", block=1),
        "layers clip_text": plain("layers", clip, encoder="clip_text", block=1),
        "layers image_patches": plain("layers", saved(checkpoints.vit), encoder="image_patches", block=1),
        "layers clip_image": plain("layers", clip, encoder="clip_image", block=1),
        "image_pooled": plain("image_pooled", saved(checkpoints.resnet)),
        "image_patches": plain("image_patches", saved(checkpoints.vit)),
        "image_vgg": plain("image_vgg", saved(checkpoints.vgg)),
        "objects yolo": plain("objects", yolo),
        "objects torchvision": plain("objects", saved(checkpoints.faster_rcnn)),
        "faces mtcnn": plain("faces", saved(checkpoints.mtcnn)),
        "faces yolo": plain("faces", yolo, backend="yolo"),
        "object_clip": crops_of("object_clip", clip),
        "object_resnet": crops_of("object_resnet", saved(checkpoints.resnet)),
        "face_embedding inception": crops_of("face_embedding", inception),
        "face_embedding onnx": crops_of("face_embedding", saved(checkpoints.onnx_recogniser)),
        "face_attributes": crops_of("face_attributes", classifier, attributes=["gender"]),
        "face_attributes deepface": crops_of("face_attributes", deep, attributes=["gender"], classifiers={}),
        "identity classifier": crops_of("identity", classifier),
        "identity inception": crops_of("identity", inception, backend="inception"),
        "identity gallery": gallery(),
    }


def modules():
    """All modules that may hold a part."""
    packages = [(pipeline.models.__path__, "pipeline.models."), (pipeline.extractors.__path__, "pipeline.extractors.")]
    listed = [name for path, prefix in packages for _, name, _ in pkgutil.walk_packages(path, prefix)]
    for name in (*listed, "pipeline.extraction.base", "pipeline.extraction.feature_texts"):
        yield importlib.import_module(name)


def declared():
    """Every part there is: its name, what holds the version, and the variable's name."""
    for module in modules():
        short = module.__name__.rpartition(".")[2]
        if "VERSION" in vars(module):
            yield short, module, "VERSION"
        for kind in vars(module).values():
            if isinstance(kind, type) and kind.__module__ == module.__name__ and "VERSION" in vars(kind):
                yield f"{short}.{kind.__name__}", kind, "VERSION"
    yield "decoder", base.contracts, "DECODER_VERSION"


def identities(features):
    return {name: identity(made.spec(None, LIMITS, {"parent": "0" * 64})) for name, made in features.items()}


def requests(features):
    """What the requests of tasks say of our own code, per feature."""
    found = {}
    for name, made in features.items():
        kind = {key: value for key, value in vars(made.options).items() if key != "outputs" and value not in ("", ())}
        feature = Feature(name.split()[0], name.split()[0], kind, {}, True)
        profile = Profile(Path("small.yaml"), {feature.name: feature}, {}, {}, 0)
        request = wants.request(profile, [SimpleNamespace(feature=feature.name)], None)
        found[name] = request["features"][feature.name]["version"]
    return found


def test_raising_a_part_s_version_moves_the_features_made_of_it_and_no_others(features, monkeypatch):
    assert {name.split()[0] for name in features} == set(names()), "a feature of every extractor"
    assert {name for name, *_ in declared()} == set(MADE_OF), "a new part has a row in MADE_OF"
    before, asked = identities(features), requests(features)
    for name, holder, variable in declared():
        with monkeypatch.context() as raised:
            raised.setattr(holder, variable, getattr(holder, variable) + 1)
            after, now = identities(features), requests(features)
        moved = {feature for feature in features if after[feature] != before[feature]}
        assert moved == MADE_OF[name], name
        checked = {feature for feature in features if now[feature] != asked[feature]}
        assert moved <= checked, f"{name}: a finished task is asked for again where its rows are no longer valid"
    assert identities(features) == before


def test_an_identity_names_no_part_whose_version_was_never_raised(features):
    for made in features.values():
        found = parts.versions(made)
        assert ("parts" in made.spec(None, LIMITS)) == any(version > parts.FIRST for version in found.values())
    assert parts.raised({"a": 1, "b": 2, "decoder": 2}) == {"b": 2} and parts.raised({"decoder": 3}) == {"decoder": 3}


def test_two_raised_parts_are_told_apart(features, monkeypatch):
    made = features["object_clip"]
    specs = []
    for holder in (importlib.import_module("pipeline.models.clip"), base.CropExtractor):
        with monkeypatch.context() as raised:
            raised.setattr(holder, "VERSION", 2)
            specs.append(made.spec(None, LIMITS))
    assert specs[0]["parts"] == {"clip": 2} and specs[1]["parts"] == {"base.CropExtractor": 2}


def test_every_module_of_models_is_a_part_or_holds_one():
    versioned = {name.split(".")[0] for name, *_ in declared()}
    for module in modules():
        short = module.__name__.rpartition(".")[2]
        has_code = any(isinstance(node, ast.FunctionDef) for node in ast.parse(source(module)).body)
        if module.__name__.startswith("pipeline.models.") and has_code:
            assert short in versioned | NO_PARTS, f"{module.__name__} declares no VERSION"


def source(module):
    return Path(module.__file__).read_text(encoding="utf-8")


def test_parts_are_imported_at_the_top_of_a_module_where_they_are_found():
    holders = {importlib.import_module(name).__name__ for name in sys.modules if name.startswith("pipeline.models.")}
    for module in modules():
        for node in ast.walk(ast.parse(source(module))):
            inside = (
                [child for child in ast.walk(node) if child is not node] if isinstance(node, ast.FunctionDef) else []
            )
            for child in inside:
                named = child.module if isinstance(child, ast.ImportFrom) else None
                assert named not in holders, f"{module.__name__}: import {named} at the top, or its version is not seen"


def test_a_plugin_is_made_of_the_parts_that_it_uses_and_must_have_a_version(tmp_path, monkeypatch):
    monkeypatch.setenv(plugins.VARIABLE, "")
    code = (
        "from pipeline.extraction import base\nfrom pipeline.models import vision\n"
        "class Mine(base.ImageExtractor):\n{version}    def __init__(self):\n        pass\n"
        "    possible = prepare = load = __call__ = None\nextractor = Mine\n"
    )
    good, bad = tmp_path / "good_one.py", tmp_path / "bad_one.py"
    good.write_text(code.format(version="    VERSION = 3\n"))
    bad.write_text(code.format(version=""))
    plugins.register([good, bad])
    kind = extractor_class("good_one")
    made = object.__new__(kind)
    assert {"vision", "base.PictureExtractor", "decoder"} <= set(made.parts()) and "good_one.Mine" not in made.parts()
    assert set(parts.versions(made)) <= set(parts.possible(kind))
    with pytest.raises(UserError, match=r"bad_one.py: Mine has no VERSION; set VERSION = 1"):
        extractor_class("bad_one")

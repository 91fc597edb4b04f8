"""One contract over every extractor and checkpoint format; models loaded from files that their own libraries saved."""

import json
import pickle
import shutil
from pathlib import Path

import checkpoints
import numpy as np
import pytest
import torch
from PIL import Image
from test_crops import CASES as CROPS

from cache.errors import UserError
from pipeline.extractors import build, names
from pipeline.extractors.base import TextExtractor
from pipeline.profile import Feature

CASES = [
    ("text_tokens", checkpoints.bert),
    ("clip_text", checkpoints.open_clip_model),
    ("clip_text", checkpoints.hf_clip),
    ("clip_image", checkpoints.open_clip_model),
    ("clip_image", checkpoints.hf_clip),
    ("image_pooled", checkpoints.resnet),
    ("image_pooled", checkpoints.hf_resnet),
    ("image_patches", checkpoints.vit),
    ("image_patches", checkpoints.hf_vit),
]
TEXTS = ["Powers [SEP] Powers with Noel Harrison", "a ship", "the old man of the red city in green (1912)", "a"]


@pytest.fixture(scope="session")
def saved(tmp_path_factory):
    """Folder of a checkpoint, made once per kind."""
    root = tmp_path_factory.mktemp("checkpoints")

    def folder(make) -> Path:
        place = root / make.__name__
        return place if place.exists() else make(place)

    return folder


def extractor(name, folder, **options):
    return build(Feature(name, name, {"model": str(folder), **options}, {}, True), Path("."), None)


def loaded(name, folder, **options):
    made = extractor(name, folder, **options)
    made.load("cpu")
    return made


def pictures(count=3):
    generator = np.random.default_rng(0)
    return [Image.fromarray(generator.integers(0, 255, (40 + 9 * i, 70, 3), dtype=np.uint8)) for i in range(count)]


def call(made, units):
    with torch.inference_mode():
        return made(units if isinstance(made, TextExtractor) else np.stack([made.prepare(image) for image in units]))


def test_every_extractor_there_is_has_a_case_here():
    assert {name for name, _ in CASES} | {name for name, *_ in CROPS} == set(names())


@pytest.mark.parametrize(("name", "make"), CASES)
def test_rows_have_the_declared_shapes_and_do_not_depend_on_their_batch(saved, name, make):
    made = loaded(name, saved(make))
    units = TEXTS if made.reads == "text" else pictures()
    together = call(made, units)
    assert list(together) == list(made.writes)
    for output in made.writes.values():
        for row, unit in enumerate(units):
            values = np.asarray(together[output.name][row])
            length = (made.count([unit])[0],) if output.ragged else ()
            assert values.shape == (*length, *output.shape)
            assert np.isfinite(values).all() and (output.dtype == "int32" or values.std() > 0)
            alone = np.asarray(call(made, [unit])[output.name][0])
            np.testing.assert_allclose(values, alone, atol=2e-5)


@pytest.mark.parametrize(("name", "make"), CASES)
def test_identity_changes_with_the_weights_and_with_nothing_else(saved, tmp_path, name, make):
    limits = {"max_pixels": 1, "max_bytes": 1}
    spec = extractor(name, saved(make)).spec(None, limits)
    moved = shutil.copytree(saved(make), tmp_path / "elsewhere")
    assert extractor(name, moved).spec(tmp_path / "memo.json", limits) == spec
    other = extractor(name, make(tmp_path / "other", seed=1)).spec(None, limits)
    assert other["weights"] != spec["weights"]
    assert {**other, "weights": 0} == {**spec, "weights": 0}
    json.dumps(spec)


def test_bert_states_are_the_models_own(saved):
    from transformers import AutoModel, AutoTokenizer

    folder = saved(checkpoints.bert)
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    rows = call(loaded("text_tokens", folder, pooling="mean"), TEXTS)
    for row, text in enumerate(TEXTS):
        with torch.inference_mode():
            states = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].numpy()
        np.testing.assert_allclose(rows["tokens"][row], states, atol=1e-5)
        np.testing.assert_allclose(rows["pooled"][row], states.mean(0), atol=1e-5)
    start, end = rows["offsets"][0][1]
    assert TEXTS[0][start:end].lower() == "powers"
    assert rows["offsets"][0][0].tolist() == [0, 0], "special tokens cover no character"


def test_clip_vectors_are_what_open_clip_itself_gives(saved):
    import open_clip

    folder = saved(checkpoints.open_clip_model)
    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    images = pictures()
    with torch.inference_mode():
        text = model.eval().encode_text(tokenizer(TEXTS)).numpy()
        image = model.encode_image(torch.stack([transform(picture) for picture in images])).numpy()
    np.testing.assert_allclose(call(loaded("clip_text", folder), TEXTS)["pooled"], text, atol=1e-5)
    np.testing.assert_allclose(call(loaded("clip_image", folder), images)["pooled"], image, atol=1e-4)


def test_clip_vectors_are_what_transformers_itself_gives(saved):
    from transformers import AutoTokenizer, CLIPModel

    folder = saved(checkpoints.hf_clip)
    model, tokenizer = CLIPModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    with torch.inference_mode():
        expected = [model.get_text_features(**tokenizer(text, return_tensors="pt")).pooler_output[0].numpy() for text in TEXTS[1:]]
    np.testing.assert_allclose(call(loaded("clip_text", folder), TEXTS[1:])["pooled"], expected, atol=1e-5)


@pytest.mark.parametrize(("make", "size"), [(checkpoints.resnet, (4, 512)), (checkpoints.hf_resnet, (4, 32))])
def test_the_grid_is_written_on_request_only_and_its_mean_is_the_pooled_vector(saved, make, size):
    made = loaded("image_pooled", saved(make), outputs=["pooled", "grid"])
    rows = call(made, pictures())
    assert np.shape(rows["grid"])[1:] == size
    np.testing.assert_allclose(rows["grid"].mean(1), rows["pooled"], atol=1e-5)
    assert list(extractor("image_pooled", saved(make)).writes) == ["pooled"]


@pytest.mark.parametrize(("name", "make"), CASES[:3])
def test_a_text_that_does_not_fit_is_refused_not_truncated(saved, name, make):
    made = loaded(name, saved(make), max_tokens=16)
    with pytest.raises(UserError, match="at most 16 fit"):
        call(made, ["a ship", "a ship in the city " * 9])


class Evil:
    """Unpickling this would leave a file behind."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize(("name", "make", "file"), [
    ("image_pooled", checkpoints.resnet, "model.pth"), ("text_tokens", checkpoints.bert, "pytorch_model.bin"),
    ("clip_image", checkpoints.open_clip_model, "open_clip_pytorch_model.bin"),
])  # fmt: skip
def test_a_malicious_checkpoint_is_refused_and_never_run(saved, tmp_path, name, make, file):
    folder = shutil.copytree(saved(make), tmp_path / "model")
    for weights in folder.glob("*.safetensors"):
        weights.unlink()
    trap = tmp_path / "trap"
    torch.save({"weight": Evil(trap)}, folder / file)
    with pytest.raises(UserError) as error:
        loaded(name, folder)
    assert "\n" not in str(error.value) and not trap.exists()
    with (folder / file).open("wb") as handle:
        pickle.dump(Evil(trap), handle)
    with pytest.raises(UserError):
        loaded(name, folder)
    assert not trap.exists()


def test_torch_files_of_plain_tensors_are_read(saved, tmp_path):
    plain = loaded("image_pooled", checkpoints.resnet(tmp_path / "pth", file="model.pth"))
    np.testing.assert_array_equal(call(plain, pictures())["pooled"], call(loaded("image_pooled", saved(checkpoints.resnet)), pictures())["pooled"])


@pytest.mark.parametrize(("name", "make"), CASES)
def test_damaged_weights_end_in_one_line(saved, tmp_path, name, make):
    folder = shutil.copytree(saved(make), tmp_path / "model")
    weights = next(folder.glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:500])
    with pytest.raises(UserError) as error:
        loaded(name, folder)
    assert "\n" not in str(error.value)


def test_weights_of_another_model_are_refused_not_filled_with_random_numbers(saved, tmp_path):
    folder = shutil.copytree(saved(checkpoints.bert), tmp_path / "model")
    shutil.copy(saved(checkpoints.hf_vit) / "model.safetensors", folder / "model.safetensors")
    with pytest.raises(UserError, match="lacks|cannot be loaded"):
        loaded("text_tokens", folder)
    folder = shutil.copytree(saved(checkpoints.resnet), tmp_path / "resnet")
    shutil.copy(saved(checkpoints.vit) / "model.safetensors", folder / "model.safetensors")
    with pytest.raises(UserError, match="does not fit"):
        loaded("image_pooled", folder)


def test_a_model_with_code_of_its_own_is_refused(saved, tmp_path):
    folder = shutil.copytree(saved(checkpoints.bert), tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoModel": "evil.Model"}}))
    with pytest.raises(UserError, match="never executed"):
        extractor("text_tokens", folder)


@pytest.mark.parametrize(("name", "make"), [("clip_text", checkpoints.bert), ("image_pooled", checkpoints.vit), ("image_patches", checkpoints.resnet)])
def test_a_model_of_another_kind_is_refused(saved, name, make):
    with pytest.raises(UserError):
        extractor(name, saved(make)).writes  # noqa: B018


def test_the_demo_and_a_gpu_that_is_not_there_end_in_one_line():
    from pipeline import device

    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="--device cuda"):
            device.choose("cuda")
    with pytest.raises(UserError, match="unknown; expected one of"):
        device.choose("gpu")

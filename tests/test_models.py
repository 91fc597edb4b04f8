"""A model's folder as its own library reads it: tokenizer, positions, preparation of pictures; and what is refused of
it in one line."""

import json
import shutil
from pathlib import Path

import checkpoints
import numpy as np
import pytest
import torch
from test_detectors import photograph
from test_extractors import TEXTS, call, extractor, loaded, pictures

from foundation.errors import UserError
from pipeline.models import files as model_files
from pipeline.models import preprocess, torchvision_weights

LIMITS = {"max_pixels": 1, "max_bytes": 1}


def changed(folder: Path, file: str, **values) -> Path:
    path = folder / file
    path.write_text(json.dumps({**(json.loads(path.read_text()) if path.exists() else {}), **values}))
    return folder


@pytest.fixture
def bert(saved, tmp_path):
    """A copy of the small BERT that may be changed."""
    return shutil.copytree(saved(checkpoints.bert), tmp_path / "bert")


@pytest.mark.parametrize("values", [{"do_lower_case": False}, {"padding_side": "left"}])
def test_what_the_tokenizers_configuration_says_is_part_of_the_identity(bert, values):
    before = extractor("text_tokens", bert).spec(None, LIMITS)
    changed(bert, "tokenizer_config.json", **values)
    assert extractor("text_tokens", bert).spec(None, LIMITS) != before


def test_a_folder_without_a_tokenizer_is_refused(bert, saved, tmp_path):
    clip = shutil.copytree(saved(checkpoints.hf_clip), tmp_path / "clip")
    for name, folder in (("text_tokens", bert), ("clip_text", clip)):
        for file in ("tokenizer.json", "vocab.txt"):
            (folder / file).unlink(missing_ok=True)
        with pytest.raises(UserError, match=r"no tokenizer in .*looked for tokenizer.json"):
            extractor(name, folder).count(["a ship"])


def test_a_tokenizer_that_cannot_be_read_ends_in_one_line(bert):
    (bert / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match=r"cannot be loaded.*download it again") as error:
        extractor("text_tokens", bert).count(["a ship"])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_states_are_the_models_own_whichever_side_its_tokenizer_pads(bert, pooling):
    right = call(loaded("text_tokens", bert, pooling=pooling), TEXTS)
    left = call(
        loaded("text_tokens", changed(bert, "tokenizer_config.json", padding_side="left"), pooling=pooling), TEXTS
    )
    for row in range(len(TEXTS)):
        for output in ("tokens", "pooled", "offsets"):
            np.testing.assert_allclose(left[output][row], right[output][row], atol=1e-6)


def test_a_text_of_all_the_positions_that_a_roberta_has_is_read(bert):
    from transformers import RobertaConfig, RobertaModel

    size = len((bert / "vocab.txt").read_text().split()) if (bert / "vocab.txt").exists() else 200
    config = RobertaConfig(
        vocab_size=size,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=34,
        pad_token_id=0,
    )
    RobertaModel(config).save_pretrained(bert)
    made = loaded("text_tokens", bert, max_tokens=64)
    assert made.limit == 33
    text = "a " * (made.limit - 2)
    assert made.count([text]) == [made.limit] and len(call(made, [text])["tokens"][0]) == made.limit
    with pytest.raises(UserError, match="at most 33 fit"):
        call(made, [text + "a"])


def test_of_an_encoder_with_a_decoder_the_encoder_is_read(bert):
    from transformers import AutoTokenizer, T5Config, T5EncoderModel, T5Model

    tokenizer = AutoTokenizer.from_pretrained(bert)
    T5Model(
        T5Config(vocab_size=len(tokenizer), d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    ).eval().save_pretrained(bert)
    rows = call(loaded("text_tokens", bert), TEXTS)
    model = T5EncoderModel.from_pretrained(bert).eval()
    with torch.inference_mode():
        for row, text in zip(rows["tokens"], TEXTS, strict=True):
            np.testing.assert_allclose(
                row, model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].numpy(), atol=1e-5
            )


@pytest.mark.parametrize("make", [checkpoints.hf_vit, checkpoints.hf_resnet])
@pytest.mark.parametrize(
    "told", [{}, {"do_normalize": False}, {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}]
)
def test_pictures_are_normalised_as_the_models_own_library_does(saved, tmp_path, make, told):
    from transformers import AutoImageProcessor

    folder = changed(shutil.copytree(saved(make), tmp_path / "model"), "preprocessor_config.json", **told)
    made = loaded("image_pooled" if make is checkpoints.hf_resnet else "image_patches", folder)
    processor = AutoImageProcessor.from_pretrained(folder)
    for image in pictures():
        ours = made.normalised(made.prepare(image)[None], made.preprocess.mean, made.preprocess.std)[0]
        own = processor(image, return_tensors="pt")["pixel_values"][0]
        assert ours.shape == own.shape
        # Pillow and torchvision differ by a rounding when they scale; mean and deviation must be the same to a
        # hundredth.
        np.testing.assert_allclose([ours.mean(), ours.std()], [own.mean(), own.std()], atol=0.02)


PROCESSORS = {
    "ViT": {},
    "Siglip": {},
    "CLIP": {},
    "DeiT": {},  # squashed to 256 × 256, then cropped
    "DeiT of numbers": {"size": 256, "crop_size": 224, "do_center_crop": True},
    "CLIP of numbers": {"size": 224, "crop_size": 224, "do_center_crop": True},
    "Bit": {"size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 224}},  # as DINOv2's
    "ConvNext": {"size": {"shortest_edge": 224}},
    "ConvNext of 384": {"size": {"shortest_edge": 384}},  # nothing is cut off
    "PoolFormer": {},
}


@pytest.mark.parametrize("name", PROCESSORS)
def test_pictures_are_scaled_and_cropped_as_the_models_own_library_does(tmp_path, name):
    """Pixel by pixel, also where half a pixel decides where the crop begins."""
    import transformers

    family = name.split()[0]
    own = {"Bit": "dinov2", "DeiT": "deit", "ViT": "vit"}.get(family, family.lower())
    written = getattr(transformers, f"{family}ImageProcessor")().to_dict() | PROCESSORS[name]
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(written))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": own}))
    files = model_files.ModelFiles(name, tmp_path, "transformers", {"model_type": own}, (), ())
    prepare = preprocess.from_transformers(files.preprocessor(), name)
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path)
    for photo in (photograph("bus.jpg"), photograph("zidane.jpg")):
        ours = (np.asarray(prepare(photo)) / 255 - np.array(prepare.mean)) / np.array(prepare.std)
        theirs = np.asarray(processor(photo, return_tensors="np")["pixel_values"][0]).transpose(1, 2, 0)
        assert ours.shape == theirs.shape
        assert np.abs(ours - theirs).max() < 0.03 and np.abs(ours - theirs).mean() < 1e-3, "a rounding of Pillow's"


def test_what_a_crop_does_not_change_keeps_its_identity():
    usual = {"size": (224, 224), "resize": 224, "interpolation": "bicubic", "mean": (0, 0, 0), "std": (1, 1, 1)}
    assert preprocess.Preprocess(**usual).to_json() == usual, "open_clip's and torchvision's"
    assert preprocess.Preprocess(**usual, centre="down").to_json() == {**usual, "centre": "down"}
    squashed = {"size": {"height": 32, "width": 32}, "resample": 2, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    assert set(preprocess.from_transformers(squashed, "here").to_json()) == set(usual), "nothing is cut off"


@pytest.mark.parametrize(
    "told",
    [
        {"do_flip_channel_order": True},
        {"include_top": True},
        {"do_rescale": False},
        {"rescale_factor": 1.0},
        {"do_resize": False},
    ],
)
def test_a_preparation_that_is_not_ours_is_refused(saved, tmp_path, told):
    folder = changed(shutil.copytree(saved(checkpoints.hf_vit), tmp_path / "model"), "preprocessor_config.json", **told)
    with pytest.raises(UserError, match=f"says {next(iter(told))} .*not supported"):
        extractor("image_patches", folder)


def test_a_transformers_folder_without_its_image_processor_is_refused(saved, tmp_path):
    folder = shutil.copytree(saved(checkpoints.hf_vit), tmp_path / "model")
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(UserError, match=r"no preprocessor_config.json"):
        extractor("image_patches", folder)


def test_a_download_that_was_interrupted_goes_on(bert, tmp_path, monkeypatch):
    import huggingface_hub

    there, asked = tmp_path / "snapshot", []
    there.mkdir()
    shutil.copy(bert / "config.json", there)

    def snapshot(repository, revision, allow_patterns, local_files_only=False):
        asked.append(local_files_only)
        if not local_files_only:
            shutil.copytree(bert, there, dirs_exist_ok=True)
        return str(there)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    assert model_files.locate("someone/bert", tmp_path, None, fetch=False) is None
    assert model_files.find("someone/bert", tmp_path, None).weights[0].is_file()
    assert asked == [True, True, False]
    assert model_files.find("someone/bert", tmp_path, None, fetch=False).folder == there, "nothing is fetched twice"


def test_a_raised_version_is_part_of_what_an_extraction_asks_for(monkeypatch):
    from cache.inputs import Want
    from pipeline.extraction import wants
    from pipeline.extractors.text_tokens import TextTokens
    from pipeline.profiles import profile

    listed = [Want(side="entity", feature="text_tokens", view="name_sep_attributes")]
    before = wants.request(profile.load("demo"), listed, None)
    monkeypatch.setattr(TextTokens, "VERSION", TextTokens.VERSION + 1)
    assert wants.request(profile.load("demo"), listed, None) != before


@pytest.mark.parametrize(("value", "meant"), [("1", True), ("yes", True), ("0", False), ("", False)])
def test_no_connection_is_what_the_hubs_library_takes_for_it(monkeypatch, value, meant):
    monkeypatch.setenv("HF_HUB_OFFLINE", value)
    assert torchvision_weights.offline() is meant


@pytest.mark.parametrize("outputs", ["tokens", [1], {"tokens": True}])
def test_outputs_are_a_list_of_names(bert, outputs):
    with pytest.raises(UserError, match=r"outputs.* = .*: expected a (list|text)"):
        extractor("text_tokens", bert, outputs=outputs)


def test_a_model_of_another_library_is_no_text_encoder(saved):
    with pytest.raises(UserError, match="holds a model of torchvision; a Hugging Face text encoder is expected"):
        extractor("text_tokens", saved(checkpoints.resnet)).writes  # noqa: B018


@pytest.mark.parametrize("layers", [[], [2], None, "x", [1, 2, 3, "4"]])
def test_a_torchvision_model_that_cannot_be_built_is_refused_in_one_line(tmp_path, saved, layers):
    folder = shutil.copytree(saved(checkpoints.resnet), tmp_path / "resnet")
    stated = json.loads((folder / "torchvision.json").read_text())
    stated["kwargs"]["layers"] = layers
    (folder / "torchvision.json").write_text(json.dumps(stated))
    from pipeline.models import files, vision

    with pytest.raises(UserError, match=r"^model [^\n]*describes no torchvision model[^\n]*$"):
        vision.torchvision_model(files.find(str(folder), tmp_path, None))

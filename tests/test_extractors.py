"""One contract over every extractor and checkpoint format; models loaded from files that their own libraries saved."""

import dataclasses
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
from test_detectors import photograph

from cache.union import PROBE_TOLERANCE
from foundation.errors import UserError
from pipeline.extraction.base import TextExtractor
from pipeline.extraction.probe import probe
from pipeline.extractors import build, names
from pipeline.profiles.profile import Feature

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
    ("text_tokens", checkpoints.qwen3),
    ("clip_text", checkpoints.hf_siglip),
    ("clip_text", checkpoints.hf_siglip2),
    ("clip_text", checkpoints.open_clip_siglip),
    ("clip_image", checkpoints.hf_siglip),
    ("clip_image", checkpoints.hf_siglip2),
    ("clip_image", checkpoints.open_clip_siglip),
    ("clip_image", checkpoints.open_clip_eva),
    ("image_patches", checkpoints.dinov2_registers),
    ("image_patches", checkpoints.dinov3),
    ("image_patches", checkpoints.siglip_vision),
    ("image_patches", checkpoints.vit_mae),
    ("image_vgg", checkpoints.vgg),
    ("clip_layers_text", checkpoints.open_clip_model),
    ("clip_layers_text", checkpoints.hf_clip),
    ("clip_layers_image", checkpoints.open_clip_model),
    ("clip_layers_image", checkpoints.hf_clip),
    ("objects", checkpoints.yolo),
    ("objects", checkpoints.faster_rcnn),
    ("faces", checkpoints.mtcnn),
]
WEIGHTS = (".safetensors", ".pth", ".pt", ".onnx")
TEXTS = ["Powers [SEP] Powers with Noel Harrison", "a ship", "the old man of the red city in green (1912)", "a"]


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
        if isinstance(made, TextExtractor):
            return made(units)
        items = [made.prepare(image) for image in units]
        return made(made.collate(items))


def test_every_extractor_there_is_has_a_case_here():
    elsewhere = {"layers"}  # tests/test_towers.py
    assert {name for name, _ in CASES} | {name for name, *_ in CROPS} | elsewhere == set(names())


@pytest.mark.parametrize(("name", "make"), CASES)
def test_rows_have_the_declared_shapes_and_do_not_depend_on_their_batch(saved, name, make):
    made = loaded(name, saved(make))
    units = (
        TEXTS
        if made.reads == "text"
        else [photograph(n).reduce(4) for n in ("bus.jpg", "zidane.jpg")]
        if name == "faces"
        else pictures()
    )
    together = call(made, units)
    assert list(together) == list(made.writes)
    for output in made.writes.values():
        for row, unit in enumerate(units):
            values = np.asarray(together[output.name][row])
            length = values.shape[:1] if output.ragged else ()
            assert values.shape == (*length, *output.shape)
            assert made.reads != "text" or not output.ragged or length == (made.count([unit])[0],)
            assert np.isfinite(values).all() and (output.dtype == "int32" or values.size < 2 or values.std() > 0)
            alone = np.asarray(call(made, [unit])[output.name][0])
            np.testing.assert_allclose(
                values, alone, atol=1e-3 if output.name in ("boxes", "landmarks") else 2e-5
            )  # these are pixels
        assert not output.ragged or sum(len(values) for values in together[output.name]) > 0


@pytest.mark.parametrize(("name", "make"), CASES)
def test_pictures_are_prepared_alike_before_and_after_loading_where_an_extractor_says_so(saved, name, make):
    made = extractor(name, saved(make))
    assert made.loads_first == (made.reads == "text" or hasattr(made, "detector")), (
        "all other pictures can be decoded while the model is loaded"
    )
    before = [] if made.loads_first else [made.prepare(image) for image in pictures()]
    made.load("cpu")
    for image, prepared in zip(pictures(), before, strict=False):
        np.testing.assert_array_equal(made.prepare(image), prepared)


@pytest.mark.parametrize(("name", "make"), CASES)
def test_a_library_whose_numbers_changed_shows_in_the_probe(saved, name, make):
    """Also of a detector that finds nothing in the probe's picture."""
    made = loaded(name, saved(make))
    with torch.inference_mode():
        kept = probe(made)
        assert probe(made) == kept and sum(len(values) for values in kept.values()) > 3
        model = getattr(made, "detector", made).model
        for parameter in model.parameters():
            parameter.mul_(torch.rand_like(parameter))
        changed = probe(made)
    assert any(
        np.abs(np.subtract(changed[output], values)).max() > PROBE_TOLERANCE
        for output, values in kept.items()
        if output != "offsets"
    )


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
        expected = [
            model.get_text_features(**tokenizer(text, return_tensors="pt")).pooler_output[0].numpy()
            for text in TEXTS[1:]
        ]
    np.testing.assert_allclose(call(loaded("clip_text", folder), TEXTS[1:])["pooled"], expected, atol=1e-5)


@pytest.mark.parametrize("make", [checkpoints.open_clip_model, checkpoints.hf_clip])
def test_padded_states_are_those_that_the_library_itself_has_at_padding_positions(saved, make):
    folder = saved(make)
    texts, length = TEXTS[1:], 24  # the first is longer in one of the tokenizers
    rows = call(loaded("clip_text", folder, max_tokens=20, pad_to=length), texts)
    if make is checkpoints.open_clip_model:
        import open_clip

        model = open_clip.create_model(f"local-dir:{folder}").eval()
        seen = []
        model.ln_final.register_forward_hook(lambda module, inputs, output: seen.append(output))
        with torch.inference_mode():
            model.encode_text(open_clip.get_tokenizer(f"local-dir:{folder}")(texts))
        expected = seen[0][:, :length].numpy()
    else:
        from transformers import AutoTokenizer, CLIPModel

        tokens = AutoTokenizer.from_pretrained(folder)(
            texts, padding="max_length", max_length=length, return_tensors="pt"
        )
        with torch.inference_mode():
            expected = CLIPModel.from_pretrained(folder).eval().text_model(**tokens).last_hidden_state.numpy()
    assert rows["padded"].shape == expected.shape
    np.testing.assert_allclose(rows["padded"], expected, atol=1e-5)
    for tokens, padded in zip(rows["tokens"], rows["padded"], strict=True):
        np.testing.assert_array_equal(tokens, padded[: len(tokens)])
    assert "padded" not in extractor("clip_text", folder).writes
    with pytest.raises(UserError, match=r"pad_to = 18: expected 20 \(max_tokens\) to 32"):
        extractor("clip_text", folder, max_tokens=20, pad_to=18)
    with pytest.raises(UserError, match="pad_to"):
        extractor("clip_layers_text", folder, pad_to=20)


@pytest.mark.parametrize(("make", "size"), [(checkpoints.resnet, (4, 512)), (checkpoints.hf_resnet, (4, 32))])
def test_the_grid_is_written_on_request_only_and_its_mean_is_the_pooled_vector(saved, make, size):
    made = loaded("image_pooled", saved(make), outputs=["pooled", "grid"])
    rows = call(made, pictures())
    assert np.shape(rows["grid"])[1:] == size
    np.testing.assert_allclose(rows["grid"].mean(1), rows["pooled"], atol=1e-5)
    assert list(extractor("image_pooled", saved(make)).writes) == ["pooled"]


@pytest.mark.parametrize("make", [checkpoints.open_clip_model, checkpoints.hf_clip])
@pytest.mark.parametrize("block", [0, 1])
def test_the_remaining_blocks_turn_cached_layer_states_into_the_models_own_output(saved, make, block):
    """What DSMIP does with them: image states and token ids (or text states) go through the rest of the tower."""
    folder = saved(make)
    images, texts = pictures(), TEXTS[1:]
    states = torch.tensor(call(loaded("clip_layers_image", folder, block=block), images)["states"])
    texts_made = loaded("clip_layers_text", folder, block=block, outputs=["ids", "states"])
    text_rows = call(texts_made, texts)
    whole_image, whole_text = (
        call(loaded("clip_image", folder), images)["tokens"],
        call(loaded("clip_text", folder), texts)["tokens"],
    )
    model = texts_made.model
    with torch.inference_mode():
        if make is checkpoints.open_clip_model:
            for layer in model.visual.transformer.resblocks[block:]:
                states = layer(states)
        else:
            for layer in model.vision_model.encoder.layers[block:]:
                states = layer(states, None)
        np.testing.assert_allclose(states, whole_image, atol=1e-5)
        for ids, row, whole in zip(text_rows["ids"], text_rows["states"], whole_text, strict=True):
            row, causal = torch.tensor(row)[None], torch.full((len(ids), len(ids)), -torch.inf).triu(1)
            if make is checkpoints.open_clip_model:
                if block == 0:
                    np.testing.assert_allclose(
                        row[0],
                        model.token_embedding(torch.tensor(ids)) + model.positional_embedding[: len(ids)],
                        atol=1e-6,
                    )
                for layer in model.transformer.resblocks[block:]:
                    row = layer(row, attn_mask=causal)
                row = model.ln_final(row)
            else:
                if block == 0:
                    np.testing.assert_allclose(row, model.text_model.embeddings(torch.tensor(ids)[None]), atol=1e-6)
                for layer in model.text_model.encoder.layers[block:]:
                    row = layer(row, causal[None, None])
                row = model.text_model.final_layer_norm(row)
            np.testing.assert_allclose(row[0], whole, atol=1e-5)


def test_token_ids_stand_for_the_states_before_the_first_block_and_a_block_that_is_not_there_is_refused(saved):
    folder = saved(checkpoints.open_clip_model)
    assert list(extractor("clip_layers_text", folder).writes) == ["ids", "embedding"]
    assert list(extractor("clip_layers_text", folder, block=1).writes) == ["states", "embedding"]
    limits = {"max_pixels": 1, "max_bytes": 1}
    for name in ("clip_layers_text", "clip_layers_image"):
        assert extractor(name, folder).spec(None, limits) != extractor(name, folder, block=1).spec(None, limits)
        for block, message in (
            (-1, "from 0 to 1"),
            (2, "from 0 to 1"),
            (True, "a whole number"),
            ("0", "a whole number"),
        ):
            with pytest.raises(UserError, match=message):
                extractor(name, folder, block=block)


def test_vgg_features_are_the_layers_before_its_classes(saved):
    made = loaded("image_vgg", saved(checkpoints.vgg))
    images = pictures()
    fc7 = call(made, images)["pooled"]
    assert fc7.shape == (3, 4096) and (fc7 >= 0).all()
    with torch.inference_mode():
        pixels = made.normalised(
            np.stack([made.prepare(image) for image in images]), made.preprocess.mean, made.preprocess.std
        )
        np.testing.assert_allclose(made.model.classifier[6](torch.tensor(fc7)), made.model(pixels), atol=1e-4)
        made.options = dataclasses.replace(made.options, layer="fc6")
        np.testing.assert_allclose(
            made.model.classifier[3:5](torch.tensor(call(made, images)["pooled"])), fc7, atol=1e-4
        )
    with pytest.raises(UserError, match="fc6"):
        extractor("image_vgg", saved(checkpoints.vgg), layer="fc8")


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


@pytest.mark.parametrize(
    ("name", "make", "file"),
    [
        ("image_pooled", checkpoints.resnet, "model.pth"),
        ("text_tokens", checkpoints.bert, "pytorch_model.bin"),
        ("clip_image", checkpoints.open_clip_model, "open_clip_pytorch_model.bin"),
        ("objects", checkpoints.faster_rcnn, "model.pth"),
        ("faces", checkpoints.mtcnn, "pnet.pt"),
        ("image_vgg", checkpoints.vgg, "vgg11-0123abcd.pth"),
    ],
)
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
    np.testing.assert_array_equal(
        call(plain, pictures())["pooled"], call(loaded("image_pooled", saved(checkpoints.resnet)), pictures())["pooled"]
    )


@pytest.mark.parametrize(("name", "make"), CASES)
def test_damaged_weights_end_in_one_line(saved, tmp_path, name, make):
    folder = shutil.copytree(saved(make), tmp_path / "model")
    weights = next(path for path in folder.iterdir() if path.suffix in WEIGHTS)
    weights.write_bytes(weights.read_bytes()[:500])
    with pytest.raises(UserError) as error:
        loaded(name, folder)
    assert "\n" not in str(error.value)


def test_weights_of_another_model_are_refused_not_filled_with_random_numbers(saved, tmp_path):
    folder = shutil.copytree(saved(checkpoints.bert), tmp_path / "model")
    shutil.copy(saved(checkpoints.hf_vit) / "model.safetensors", folder / "model.safetensors")
    with pytest.raises(UserError, match=r"lacks|cannot be loaded"):
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


def test_a_model_with_an_adapter_beside_its_weights_is_refused(saved, tmp_path):
    """transformers would add the adapter where peft is installed, and leave it out elsewhere."""
    folder = shutil.copytree(saved(checkpoints.bert), tmp_path / "model")
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": "other"}))
    with pytest.raises(UserError, match=r"holds an adapter .* merge it with peft .* save the model again$"):
        extractor("text_tokens", folder)


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("clip_text", checkpoints.bert),
        ("image_pooled", checkpoints.vit),
        ("image_patches", checkpoints.resnet),
        ("image_vgg", checkpoints.resnet),
        ("image_vgg", checkpoints.hf_resnet),
        ("image_pooled", checkpoints.faster_rcnn),
        ("clip_layers_image", checkpoints.vit),
    ],
)
def test_a_model_of_another_kind_is_refused(saved, name, make):
    with pytest.raises(UserError):
        extractor(name, saved(make)).writes  # noqa: B018


def test_the_demo_and_a_gpu_that_is_not_there_end_in_one_line():
    from foundation import device

    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="--device cuda"):
            device.choose("cuda")
    with pytest.raises(UserError, match="unknown; expected one of"):
        device.choose("gpu")


@pytest.mark.parametrize(("end", "whole"), [(9, False), (4, True)])
def test_clip_s_own_tower_behind_another_tokenizer_is_read_as_clip_s_where_it_pools_at_the_end_token(
    saved, tmp_path, end, whole
):
    """CLIP's tower pools at the highest id of a text: at the end token where no token has a higher one."""
    from pipeline.models import clip
    from pipeline.models.files import ModelFiles

    folder = shutil.copytree(saved(checkpoints.open_clip_model), tmp_path / "clip")
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["model_cfg"]["text_cfg"]["hf_tokenizer_name"] = "tokenizer.json"
    added = [{"id": 8, "content": "<start>"}, {"id": end, "content": "<end>"}]
    vocabulary = {word: number for number, word in enumerate("abcdefgh") if number != end}
    (folder / "tokenizer.json").write_text(json.dumps({"added_tokens": added, "model": {"vocab": vocabulary}}))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<end>"}))
    files = ModelFiles("clip", folder, "open_clip", config, (), ())
    assert clip.reads_whole_context(files) == whole
    (folder / "tokenizer.json").unlink()
    assert clip.reads_whole_context(files), "nothing is known of the end token"

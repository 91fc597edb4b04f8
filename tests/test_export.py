"""A tuned encoder that is written out gives the tuned features: read by our extractor, and by its library alone."""

import copy
import json
import shutil

import checkpoints
import pytest
import torch
from test_adapt import largest
from test_extractors import TEXTS, loaded
from test_towers import SMALL, pictures

from foundation.errors import UserError
from pipeline.models import towers
from pipeline.models.adapt import Tower, adapt
from pipeline.models.export import export
from pipeline.models.live import Live


def mpnet(folder):
    return checkpoints.text_family(folder, "MPNet", **SMALL)


def with_modules(folder):
    """A sentence-transformers folder: mean, a Dense layer, length 1."""
    from sentence_transformers.base.modules import Dense
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling

    after = (lambda width: Pooling(width, "mean"), lambda width: Dense(width, 24), lambda width: Normalize())
    return checkpoints.sentence_model(folder, checkpoints.bert(folder.with_name("transformer")), *after)


CASES = [
    (mpnet, ["text_tokens"], "lora"),
    (checkpoints.bert, ["text_tokens"], "norms"),
    (with_modules, ["text_tokens"], "whole"),
    (checkpoints.hf_vit, ["image_patches"], "lora"),
    (checkpoints.vit, ["image_patches"], "lora"),
    (checkpoints.siglip_vision, ["image_patches"], "whole"),
    (checkpoints.hf_clip, ["clip_text", "clip_image"], "lora"),
    (checkpoints.hf_siglip, ["clip_image"], "norms"),
    (checkpoints.open_clip_model, ["clip_text", "clip_image"], "lora"),
    (checkpoints.open_clip_siglip, ["clip_text", "clip_image"], "lora"),
    (checkpoints.open_clip_eva, ["clip_image"], "whole"),
]


def inputs_of(encoder):
    with torch.no_grad():
        inputs, lengths = encoder.inputs(TEXTS if encoder.reads == "text" else pictures(encoder))
    return inputs, lengths


def tuned(name, folder, how):
    """A tower whose trainable weights have moved, its features, and the inputs that they are of."""
    encoder = loaded(name, folder)
    inputs, lengths = inputs_of(encoder)
    with torch.no_grad():
        states = towers.entering(encoder, 1, inputs)
    lengths = lengths or [states.shape[1]] * len(states)
    torch.manual_seed(0)
    live = Live(encoder, 1)
    adapt(live, how)
    tower = Tower(live)
    with torch.no_grad():
        for parameter in tower.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
        return tower, tower(states, lengths), lengths


def by_library(name, folder, files):
    """Pooled vectors of the batch, by the library alone, from the folder."""
    encoder = loaded(name, folder)  # its preprocessing and tokenizer alone
    inputs, _ = inputs_of(encoder)
    if name == "text_tokens":
        from sentence_transformers import SentenceTransformer
        from transformers import AutoModel, AutoTokenizer

        if files.root is not None:
            return torch.tensor(SentenceTransformer(str(folder), device="cpu").encode(TEXTS))
        encoded = AutoTokenizer.from_pretrained(folder)(TEXTS, padding=True, return_tensors="pt")
        return AutoModel.from_pretrained(folder)(**encoded).last_hidden_state[:, 0]
    if files.library == "open_clip":
        import open_clip

        model = open_clip.create_model(f"local-dir:{folder}", weights_only=True).eval()
        texts = open_clip.get_tokenizer(f"local-dir:{folder}")
        return model.encode_text(texts(TEXTS)) if name == "clip_text" else model.encode_image(inputs["pixels"])
    if files.library == "torchvision":
        from safetensors.torch import load_file
        from torchvision.models import VisionTransformer

        model = VisionTransformer(**json.loads((folder / "torchvision.json").read_text())["kwargs"]).eval()
        model.load_state_dict(load_file(folder / "model.safetensors"))
        kept = []
        model.encoder.register_forward_hook(lambda module, args, output: kept.append(output))
        model(inputs["pixel_values"])
        return kept[0][:, 0]
    from transformers import AutoModel, AutoTokenizer

    model = AutoModel.from_pretrained(folder).eval()
    if name == "clip_text":
        encoded = AutoTokenizer.from_pretrained(folder)(TEXTS, padding=True, return_tensors="pt")
        states = model.text_model(input_ids=encoded["input_ids"], attention_mask=encoded["attention_mask"])[0]
        return model.text_projection(states[torch.arange(len(TEXTS)), encoded["attention_mask"].sum(1) - 1])
    if name == "clip_image":
        return model.get_image_features(pixel_values=inputs["pixels"]).pooler_output
    output = model(**inputs)
    return output.pooler_output if model.config.model_type == "siglip_vision_model" else output.last_hidden_state[:, 0]


@pytest.mark.parametrize(("make", "names", "how"), CASES)
def test_the_written_encoder_gives_the_tuned_features(saved, tmp_path, make, names, how):
    base, folder = saved(make), tmp_path / "out" / "tuned"
    made = [tuned(name, base, how) for name in names]
    export({"": [tower.live for tower, *_ in made]}, folder)
    for name, (_, features, lengths) in zip(names, made, strict=True):
        encoder = loaded(name, folder)
        inputs, _ = inputs_of(encoder)
        with torch.no_grad():
            own = largest(encoder.read(inputs), features, lengths)
            alone = (by_library(name, folder, encoder.files) - features["pooled"]).abs().max()
            assert own <= 1e-5 and alone <= 1e-5
            print(f"{make.__name__}, {name}, {how}: {own:.1e}, its library {alone:.1e}")
            before = loaded(name, base).read(inputs)
        assert largest(before, features, lengths) > 1e-3, "what was learned is there"
    suffixes = {path.suffix for path in folder.rglob("*") if path.is_file()}
    assert ".safetensors" in suffixes and not suffixes & {".bin", ".pt", ".pth"}
    assert [path.name for path in folder.parent.iterdir()] == ["tuned"]


def test_what_lies_below_the_cut_and_beside_the_tower_is_the_checkpoints(saved, tmp_path):
    base, folder = saved(checkpoints.open_clip_model), tmp_path / "tuned"
    tower, *_ = tuned("clip_text", base, "lora")
    before = copy.deepcopy(tower.state_dict())
    export({"": [tower.live]}, folder)
    assert all(torch.equal(before[name], value) for name, value in tower.state_dict().items())
    from safetensors.torch import load_file

    one, other = (load_file(place / "open_clip_model.safetensors") for place in (base, folder))
    moved = {name for name in one if not torch.equal(one[name], other[name])}
    assert one.keys() == other.keys() and moved == {
        f"transformer.resblocks.1.{name}"
        for name in ("attn.in_proj_weight", "attn.out_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")
    }


def test_a_folder_that_holds_something_is_refused_and_left_alone(saved, tmp_path):
    tower, *_ = tuned("text_tokens", saved(checkpoints.bert), "whole")
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match=r"is not empty; name a folder that does not exist yet$"):
        export({"": [tower.live]}, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_licences_go_along_and_a_dense_module_in_a_torch_file_becomes_safetensors(saved, tmp_path):
    from safetensors.torch import load_file

    base = shutil.copytree(saved(with_modules), tmp_path / "base")
    (base / "LICENSE").write_text("terms")
    dense = next(base.glob("*_Dense")) / "model.safetensors"
    torch.save(load_file(dense), dense.with_name("pytorch_model.bin"))
    dense.unlink()
    tower, features, lengths = tuned("text_tokens", base, "lora")
    export({"": [tower.live]}, tmp_path / "tuned")
    assert (tmp_path / "tuned" / "LICENSE").read_text() == "terms"
    encoder = loaded("text_tokens", tmp_path / "tuned")
    with torch.no_grad():
        assert largest(encoder.read(inputs_of(encoder)[0]), features, lengths) <= 1e-5
    assert not list((tmp_path / "tuned").rglob("*.bin"))


def test_encoders_of_several_checkpoints_lie_side_by_side(saved, tmp_path):
    made = {
        "text": tuned("text_tokens", saved(checkpoints.bert), "norms"),
        "image": tuned("image_patches", saved(checkpoints.hf_vit), "norms"),
    }
    export({name: [tower.live] for name, (tower, *_) in made.items()}, tmp_path / "tuned")
    for name, (_, features, lengths) in made.items():
        encoder = loaded("text_tokens" if name == "text" else "image_patches", tmp_path / "tuned" / name)
        with torch.no_grad():
            assert largest(encoder.read(inputs_of(encoder)[0]), features, lengths) <= 1e-5

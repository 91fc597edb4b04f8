"""Live towers made trainable: what `how` names learns and nothing else, from the library's own numbers."""

import copy
import sys

import checkpoints
import pytest
import torch
from test_extractors import TEXTS, loaded
from test_towers import CLIPS, PICTURE_FAMILIES, TEXT_FAMILIES, pictures

from foundation.errors import UserError
from pipeline.models import towers
from pipeline.models.adapt import HOWS, Tower, adapt, merge
from pipeline.models.live import Live

BERT = "attention.self.query attention.self.key attention.self.value attention.output.dense intermediate.dense"
HF_VIT = "attention.q_proj attention.k_proj attention.v_proj attention.o_proj"
HF_CLIP = "self_attn.q_proj self_attn.k_proj self_attn.v_proj self_attn.out_proj mlp.fc1 mlp.fc2"
TORCH = "attn attn.out_proj mlp.c_fc mlp.c_proj"
TARGETS = {
    "Bert": f"{BERT} output.dense",
    "Roberta": f"{BERT} output.dense",
    "Electra": f"{BERT} output.dense",
    "MPNet": "attention.attn.q attention.attn.k attention.attn.v attention.attn.o intermediate.dense output.dense",
    "DistilBert": "attention.q_lin attention.k_lin attention.v_lin attention.out_lin ffn.lin1 ffn.lin2",
    "ModernBert": "attn.Wqkv attn.Wo mlp.Wi mlp.Wo",
    "ViT": f"{HF_VIT} mlp.fc1 mlp.fc2",
    "DeiT": f"{HF_VIT} mlp.fc1 mlp.fc2",
    "Dinov2": f"{HF_VIT} mlp.fc1 mlp.fc2",
    "Dinov2WithRegisters": f"{HF_VIT} mlp.fc1 mlp.fc2",
    "DINOv3ViT": f"{HF_VIT} mlp.up_proj mlp.down_proj",
    "CLIPVision": HF_CLIP,
    "SiglipVision": HF_CLIP,
    "torchvision": "self_attention self_attention.out_proj mlp.0 mlp.3",
    "hf_clip-clip_text": HF_CLIP,
    "hf_clip-clip_image": HF_CLIP,
    "hf_siglip-clip_text": HF_CLIP,
    "hf_siglip-clip_image": HF_CLIP,
    "open_clip-clip_text": TORCH,
    "open_clip-clip_image": TORCH,
    "open_clip_siglip-clip_text": TORCH,
    "open_clip_siglip-clip_image": "attn.qkv attn.proj mlp.fc1 mlp.fc2",
    "open_clip_eva-clip_image": "attn.q_proj attn.k_proj attn.v_proj attn.proj mlp.fc1_g mlp.fc1_x mlp.fc2",
}
"""The modules of a block that LoRA adapts. docs/models.md lists them."""
WEIGHTS = [how for how in HOWS if how != "prompts"]
"""What changes weights of the library's model: nothing at the start."""
CUTS = {"lora": 1, "whole": 0, "norms": 1}
SIZES = {"DINOv3ViT": {"num_register_tokens": 4}, "Dinov2WithRegisters": {"num_register_tokens": 3}}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A loaded encoder of a case, without a tokenizer; each checkpoint is saved and read once."""
    root, known = tmp_path_factory.mktemp("adapt"), {}

    def make(case: str, own: bool = True):
        if case not in known:
            known[case] = load(case)
        if not own:
            return known[case]
        encoder = copy.copy(known[case])
        encoder.model = copy.deepcopy(encoder.model)
        encoder.__dict__.pop("_tokenizer", None)
        return encoder

    def load(case: str):
        kind, _, side = case.partition("-")
        folder = root / kind
        if not folder.exists():
            if kind in TEXT_FAMILIES:
                checkpoints.text_family(folder, kind, **TEXT_FAMILIES[kind])
            elif kind in PICTURE_FAMILIES:
                checkpoints.vision_tower(folder, kind, **SIZES.get(kind, {}))
            else:
                (checkpoints.vit if kind == "torchvision" else CLIPS[kind])(folder)
        name = side or ("text_tokens" if kind in TEXT_FAMILIES else "image_patches")
        return loaded(name, folder)

    return make


def states_of(made, case, block):
    """(b, L, d) states that enter a block, zeros past a row's end, the lengths, and what the whole encoder gives."""
    encoder = made(case, own=False)
    with torch.no_grad():
        inputs, lengths = encoder.inputs(TEXTS if encoder.reads == "text" else pictures(encoder))
        whole = encoder.read(inputs)
        states = towers.entering(encoder, block, inputs)
    lengths = lengths or [states.shape[1]] * len(states)
    for row, length in enumerate(lengths):
        states[row, length:] = 0
    return states, lengths, whole


def tower_of(encoder, block, how, seed=0, checkpointing=False):
    torch.manual_seed(seed)
    live = Live(encoder, block)
    adapt(live, how)
    return Tower(live, checkpointing)


def loss(tower, states, lengths):
    """A sum that weighs every number otherwise, so that no normalisation takes its gradient away."""
    read = tower(states, lengths)
    real = torch.arange(states.shape[1]) < torch.tensor(lengths)[:, None]
    return sum(
        (values * torch.linspace(-9, 11, values.numel()).view_as(values)).sum()
        for values in (read["tokens"] * real[:, :, None], read["pooled"])
    )


def largest(one, other, lengths):
    """The largest difference of two outputs among real tokens and pooled vectors."""
    rows = [(one["tokens"][row, :n] - other["tokens"][row, :n]).abs().max() for row, n in enumerate(lengths)]
    return max(*rows, (one["pooled"] - other["pooled"]).abs().max())


def least_cosine(one, other, lengths):
    """The least cosine of two outputs among real tokens and pooled vectors."""
    pairs = [(one["tokens"][row, :n], other["tokens"][row, :n]) for row, n in enumerate(lengths)]
    return min(torch.cosine_similarity(*pair, dim=-1).min() for pair in [*pairs, (one["pooled"], other["pooled"])])


def frozen_of(tower):
    trained = {id(parameter) for parameter in tower.parameters()}
    return [parameter for parameter in tower.live.parameters() if id(parameter) not in trained]


@pytest.mark.parametrize("how", WEIGHTS)
@pytest.mark.parametrize("case", TARGETS)
def test_what_is_named_learns_and_nothing_else(made, case, how):
    states, lengths, whole = states_of(made, case, CUTS[how])
    tower = tower_of(made(case), CUTS[how], how)
    with torch.no_grad():
        exact = largest(tower(states, lengths), whole, lengths)
        cosine = least_cosine(tower(states.half(), lengths), whole, lengths)
    assert exact <= 1e-5 and cosine >= 0.99999

    start = {name: value.clone() for name, value in tower.state_dict().items()}
    if how == "lora":
        matrices = {f"{target}.lora_{matrix}.weight" for target in TARGETS[case].split() for matrix in "AB"}
        live = range(CUTS[how], len(towers.blocks(tower.live.encoder)))
        assert set(start) == {f"blocks.{block}.{name}" for block in live for name in matrices}

    frozen = [value.clone() for value in frozen_of(tower)]
    optimizer = torch.optim.AdamW(tower.train().parameters(), lr=1e-3, weight_decay=0)
    for step in range(2):
        optimizer.zero_grad()
        loss(tower, states, lengths).backward()
        for name, parameter in tower.named_parameters():
            assert parameter.grad.abs().max() > 0 or (".lora_A." in name and not step), name
        optimizer.step()
    assert start and not any(torch.equal(start[name], value) for name, value in tower.named_parameters())
    assert all(torch.equal(one, other) for one, other in zip(frozen, frozen_of(tower), strict=True))

    tower.eval()
    with torch.no_grad():
        learned, state = tower(states, lengths), copy.deepcopy(tower.state_dict())
        assert largest(learned, whole, lengths) > 1e-4
        tower.load_state_dict(start)
        assert largest(tower(states, lengths), whole, lengths) <= 1e-5
        tower.load_state_dict(state)
        assert largest(tower(states, lengths), learned, lengths) == 0
        merge(tower.live)
        assert not any("lora" in name for name, _ in tower.live.named_modules())
        merged = largest(tower.live(states, lengths), learned, lengths)
    assert merged <= 1e-5
    print(f"{case}, {how}: {exact:.1e}, 1 - {1 - cosine:.1e}, merged {merged:.1e}")


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("case", ["Bert", "open_clip-clip_text"])
def test_a_state_fits_a_tower_made_with_another_seed_and_a_copy_is_a_tower_apart(made, case, how):
    states, lengths, whole = states_of(made, case, 1)
    tower, other = (tower_of(made(case), 1, how, seed=seed) for seed in (0, 1))
    again = copy.deepcopy(tower)
    with torch.no_grad():
        start = tower(states, lengths)
        assert (largest(start, whole, lengths) <= 1e-5) == (how != "prompts")
        for parameter in tower.parameters():
            parameter.normal_(0, 0.2)
        other.load_state_dict(tower.state_dict())
        assert largest(other(states, lengths), tower(states, lengths), lengths) == 0
        assert largest(again(states, lengths), start, lengths) == 0
        assert largest(tower(states, lengths), whole, lengths) > 1e-2


@pytest.mark.parametrize(
    ("case", "how"),
    [(case, how) for case in ("Bert", "DINOv3ViT", "open_clip-clip_text") for how in HOWS]
    + [("open_clip_eva-clip_image", how) for how in WEIGHTS],
)
def test_checkpointing_gives_the_same_gradients(made, case, how):
    states, lengths, _ = states_of(made, case, 1)
    gradients = []
    for checkpointing in (False, True):
        tower = tower_of(made(case), 1, how, checkpointing=checkpointing).train()
        torch.manual_seed(2)  # of dropout
        for name, parameter in tower.named_parameters():
            if ".lora_B." in name:
                parameter.data.normal_(0, 0.1)
        torch.manual_seed(3)
        loss(tower, states, lengths).backward()
        gradients.append({name: parameter.grad for name, parameter in tower.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-5, atol=1e-5 * float(gradient.abs().max()))


def by_hand(encoder, states, prompts, block):
    """Tokens and pooled of one row (1, L, d) by the blocks themselves, called one after another with r more states in
    front; prompts: (n, r, d), of the first n of them. What stands above the blocks is the library's."""
    found, called = list(towers.blocks(encoder)), {}
    handle = found[0].register_forward_pre_hook(
        lambda module, args, named: called.update(rest=args[1:], named=named), with_kwargs=True
    )
    encoder.read(encoder.blank(states, [states.shape[1]]))
    handle.remove()
    count, length = prompts.shape[1], states.shape[1] + prompts.shape[1]
    causal = "clip_text" in type(encoder).__module__ and not encoder.whole
    mask = torch.full((length, length), float("-inf")).triu(1) if causal else None
    if encoder.files.library == "transformers" and causal:
        mask = mask[None, None]
    named = {name: mask if name.endswith("mask") else value for name, value in called["named"].items()}
    rest = [mask if isinstance(value, torch.Tensor) else value for value in called["rest"]]
    if causal and rest and "attn_mask" not in named:
        rest[0] = mask
    own, front = states, prompts[:1]
    for number, module in enumerate(found[block:]):
        front = prompts[number][None] if number < len(prompts) else front
        out = module(torch.cat([front, own], 1), *rest, **named)
        out = out[0] if isinstance(out, tuple) else out
        front, own = out[:, :count], out[:, count:]
    return Live(encoder, len(found))(own, [own.shape[1]])


PROMPTED = [case for case in TARGETS if case not in ("MPNet", "ModernBert", "open_clip_eva-clip_image")]


@pytest.mark.parametrize("case", PROMPTED)
def test_prompts_stand_in_front_of_the_states_of_each_block_and_nothing_else_learns(made, case):
    states, lengths, whole = states_of(made, case, 1)
    torch.manual_seed(0)
    live = Live(made(case), 1)
    adapt(live, "prompts", count=3)
    tower = Tower(live)
    blocks = range(1, len(towers.blocks(live.encoder)))
    assert {name: tuple(value.shape) for name, value in tower.state_dict().items()} == {
        f"blocks.{block}.prompt": (3, states.shape[-1]) for block in blocks
    }
    with torch.no_grad():
        for parameter in tower.parameters():
            parameter.normal_(0, 0.5)
        given = torch.stack([value.clone() for value in tower.parameters()])
        read = tower(states, lengths)
        assert read["tokens"].shape == whole["tokens"].shape and read["pooled"].shape == whole["pooled"].shape
        for row, length in enumerate(lengths):
            hand = by_hand(made(case), states[row : row + 1, :length], given, 1)
            assert largest({name: value[row : row + 1] for name, value in read.items()}, hand, [length]) <= 1e-5
        assert largest(read, whole, lengths) > 1e-4
        fewer = tower(states, lengths, given[:1])  # carried through the blocks that have none
        hand = by_hand(made(case), states[:1, : lengths[0]], given[:1], 1)
        assert largest({name: value[:1] for name, value in fewer.items()}, hand, lengths[:1]) <= 1e-5

    frozen = [value.clone() for value in frozen_of(tower)]
    start = {name: value.clone() for name, value in tower.state_dict().items()}
    optimizer = torch.optim.AdamW(tower.train().parameters(), lr=1e-3, weight_decay=0)
    loss(tower, states, lengths).backward()
    for name, parameter in tower.named_parameters():
        assert (parameter.grad.abs().amax(1) > 0).all(), name
    optimizer.step()
    assert start and not any(torch.equal(start[name], value) for name, value in tower.named_parameters())
    assert all(torch.equal(one, other) for one, other in zip(frozen, frozen_of(tower), strict=True))


@pytest.mark.parametrize("case", ["MPNet", "ModernBert", "open_clip_eva-clip_image"])
def test_blocks_that_read_places_from_a_table_take_no_prompts(made, case):
    with pytest.raises(UserError, match=r"^model .*: its blocks read where each state stands from a table[^\n]*$"):
        adapt(Live(made(case), 1), "prompts")


def test_prompts_are_no_weights_of_a_librarys_model(made):
    live = Live(made("Bert"), 1)
    adapt(live, "prompts")
    with pytest.raises(UserError, match=r"^model .*: it was tuned with `how: prompts`[^\n]*$"):
        merge(live)


def test_a_text_alone_has_the_prompts_that_it_has_in_a_batch(made):
    for case in ("Bert", "hf_clip-clip_text", "open_clip-clip_text", "open_clip_siglip-clip_text"):
        states, lengths, _ = states_of(made, case, 0)
        tower = tower_of(made(case), 0, "prompts")
        with torch.no_grad():
            together = tower(states, lengths)
            for row, length in enumerate(lengths):
                alone = tower(states[row : row + 1, :length], [length])
                both = {name: value[row : row + 1] for name, value in together.items()}
                assert largest(both, alone, [length]) <= 1e-5


def test_norms_are_normalisations_and_biases_alone(made):
    names = {name.removeprefix("blocks.1.") for name in tower_of(made("Bert"), 1, "norms").state_dict()}
    names = {name for name in names if not name.startswith("blocks.")}
    assert names == {
        "attention.self.query.bias",
        "attention.self.key.bias",
        "attention.self.value.bias",
        "attention.output.dense.bias",
        "attention.output.LayerNorm.weight",
        "attention.output.LayerNorm.bias",
        "intermediate.dense.bias",
        "output.dense.bias",
        "output.LayerNorm.weight",
        "output.LayerNorm.bias",
    }
    assert {f"blocks.1.{name}" for name in ("attn_norm.weight", "mlp_norm.weight")} <= set(
        tower_of(made("ModernBert"), 1, "norms").state_dict()
    )


def test_adapters_follow_the_seed(made):
    one, same, other = (tower_of(made("open_clip-clip_text"), 1, "lora", seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert all(torch.equal(one[name], other[name]) == (".lora_B." in name) for name in one)


def test_a_batch_without_rows_is_possible(made):
    for case in ("Bert", "open_clip-clip_image"):
        tower = tower_of(made(case), 1, "lora")
        width = tower.live.encoder.possible()["tokens"].shape[-1]
        read = tower(torch.zeros(0, 5, width).half(), [])
        assert read["tokens"].shape == (0, 5, width)
        assert read["pooled"].shape == (0, *tower.live.encoder.possible()["pooled"].shape)


def test_a_tower_moves_with_its_frozen_part(made):
    tower = tower_of(made("Bert"), 1, "lora").double()
    assert {parameter.dtype for parameter in tower.live.parameters()} == {torch.float64}
    assert {id(p) for p in tower.parameters()} == {id(p) for p in tower.live.parameters() if p.requires_grad}
    tower.to("meta")
    assert tower.live.encoder.device == "meta" and {p.device.type for p in tower.parameters()} == {"meta"}


def test_dropout_follows_the_mode(made):
    states, lengths, _ = states_of(made, "Bert", 1)
    tower = tower_of(made("Bert"), 1, "whole")
    first = tower(states, lengths)["tokens"]
    assert torch.equal(first, tower(states, lengths)["tokens"])
    tower.train()
    assert not torch.equal(first, tower(states, lengths)["tokens"])


def test_nothing_above_the_cut_is_refused(made):
    with pytest.raises(UserError, match=r"^model .*: block 3 of 3: nothing above it is tuned[^\n]*$"):
        adapt(Live(made("Bert"), 3), "whole")


def test_another_how_is_refused(made):
    with pytest.raises(UserError, match=r"^how is 'lara'; did you mean 'lora'\?[^\n]*$"):
        adapt(Live(made("Bert"), 1), "lara")


def test_a_weight_that_the_library_computes_past_is_refused(made):
    """EVA's fused queries, keys and values read the weight of a linear map, not its result."""
    live = Live(made("Bert"), 1)
    for block in towers.blocks(live.encoder):
        inner = block.intermediate.dense
        block.intermediate.forward = lambda states, inner=inner: torch.nn.functional.gelu(
            torch.nn.functional.linear(states, inner.weight, inner.bias)
        )
    with pytest.raises(UserError, match=r"`how: lora` would not train 1.intermediate.dense.lora_A.weight[^\n]*$"):
        adapt(live, "lora")


def test_without_peft_the_extra_is_named(made, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    monkeypatch.delitem(sys.modules, "pipeline.models.lora", raising=False)
    monkeypatch.delattr("pipeline.models.lora", raising=False)
    with pytest.raises(UserError, match=r"^the package peft is not installed: pip install 'mel-cache\[tune\]'$"):
        adapt(Live(made("Bert"), 1), "lora")

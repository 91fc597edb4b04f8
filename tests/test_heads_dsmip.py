"""DSMIP against its paper: prompts over a frozen CLIP, parameters counted, the gate's choice, and what each stage hands
on."""

from dataclasses import replace

import checkpoints
import dsmip_reference as reference
import numpy as np
import pytest
import torch
from heads_world import build_job, head_rows, head_shapes, job_for

from experiments.clip_blocks import export
from foundation.errors import UserError
from heads import training
from heads.base import Batch, Ragged, Rows, make_head
from heads.checkpoint import read_tensors
from heads.config import load_config
from heads.config.dsmip import PROMPTED
from heads.methods._clip_blocks import Tower, read_towers, tower
from heads.methods.dsmip import PromptExpert
from pipeline.models.files import find

SMALL = {"d_t": 8, "d_v": 8, "d_c": 8, "gate_width": 16, "gate_dropout": 0.0}


def random_tower(width, projected, blocks, heads, causal, seed, vocabulary=0):
    """A frozen tower of random weights, and its tensors in float64."""
    random = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=random) * 0.3

    tensors = {"norm.weight": 1 + draw(width), "norm.bias": draw(width), "projection": draw(width, projected)}
    for number in range(blocks):
        for name, shape in (
            ("ln_1", (width,)),
            ("ln_2", (width,)),
            ("attention.in", (3 * width, width)),
            ("attention.out", (width, width)),
            ("mlp.in", (2 * width, width)),
            ("mlp.out", (width, 2 * width)),
        ):
            tensors[f"blocks.{number}.{name}.weight"] = 1 + draw(*shape) if name.startswith("ln") else draw(*shape)
            tensors[f"blocks.{number}.{name}.bias"] = draw(shape[0])
    if vocabulary:
        tensors |= {"token_embedding": draw(vocabulary, width), "positional_embedding": draw(20, width)}
    made = tower(tensors, {"heads": heads, "activation": "quick_gelu", "causal": causal, "start": 0})
    return made, {name: tensor.double() for name, tensor in tensors.items()}


def small_towers():
    return {"text": random_tower(8, 6, 3, 2, True, 1, vocabulary=11), "image": random_tower(12, 6, 3, 3, False, 2)}


def prompt_head(**options):
    config = load_config("dsmip", {**SMALL, "stage": "prompts", "prompt_layers": 2, **options})
    torch.manual_seed(3)
    shapes = {"text.ids": (), "image.states": (5, 12)}
    return PromptExpert(config, shapes, {side: made for side, (made, _) in small_towers().items()})


def inputs(n, seed):
    random = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 7, (n,), generator=random)
    pictured = torch.rand(n, generator=random) > 0.3
    return Rows(
        {
            "text.ok": lengths > 0,
            "text.ids": Ragged(torch.randint(0, 11, (int(lengths.sum()),), generator=random).int(), lengths),
            "image.ok": pictured,
            "image.states": torch.randn(n, 5, 12, generator=random) * pictured[:, None, None],
        }
    )


def test_the_multimodal_expert_has_the_papers_parameters_at_its_sizes():
    def meta(width, vocabulary=0):
        blocks = {f"blocks.{number}.ln_1.weight": torch.empty(0) for number in range(12)}
        return Tower({**blocks, "projection": torch.empty(width, 512)}, 1, "quick_gelu", False, 0)

    config = load_config("dsmip", {"stage": "prompts"})
    towers = {"text": meta(512), "image": meta(768)}
    head = PromptExpert(config, {"text.ids": (), "image.states": (50, 768)}, towers)
    counts = {
        name: sum(p.numel() for p in getattr(head, name).parameters()) for name in ("coupling", "prompts", "scoring")
    }
    assert counts["coupling"] == 18 * (512 * 768 + 768) == 7_091_712
    assert counts["prompts"] == 18 * 2 * 512 == 18_432
    assert counts["coupling"] + counts["prompts"] == 7_110_144
    adapters = (512 * 96 + 96) + (768 * 96 + 96)  # of the global and the local image states
    assert counts["scoring"] == 410_050 and counts["scoring"] > adapters
    assert sum(p.numel() for p in head.parameters()) == 7_520_194


def test_prompted_features_are_those_of_the_equations():
    made = small_towers()
    head = prompt_head()
    rows = inputs(6, 4)
    with torch.no_grad():
        found = head.prompted(rows, "entity")
    prompts = [list(prompt.double()) for prompt in head.prompts["entity"].detach()]
    coupled = [
        [coupling.weight.detach().double() @ vector + coupling.bias.detach().double() for vector in prompt]
        for coupling, prompt in zip(head.coupling["entity"], prompts, strict=True)
    ]
    ids = rows["text.ids"].values.split(rows["text.ids"].lengths.tolist())
    tokens = found["prompted_text.tokens"].values.split(found["prompted_text.tokens"].lengths.tolist())
    for side, row in ((side, row) for side in ("text", "image") for row in range(6)):
        said = made[side][1]
        blocks = [
            {name.split(".", 2)[2]: tensor for name, tensor in said.items() if name.startswith(f"blocks.{number}.")}
            for number in range(3)
        ]
        if side == "text":
            states = [
                said["token_embedding"][token] + said["positional_embedding"][place]
                for place, token in enumerate(ids[row].tolist())
            ]
            out = [
                reference.layer_norm(state, said["norm.weight"], said["norm.bias"])
                for state in reference.run(states, blocks, 2, True, prompts)
            ]
            local, pooled = tokens[row], out[-1] @ said["projection"]
        elif rows["image.ok"][row]:
            out = reference.run(list(rows["image.states"][row].double()), blocks, 3, False, coupled)
            local = found["prompted_image.tokens"][row]
            pooled = (
                reference.layer_norm(out[2], said["norm.weight"], said["norm.bias"]) @ said["projection"]
            )  # the class token, after two prompts
        else:
            assert not found["prompted_image.tokens"][row].any() and not found["prompted_image.pooled"][row].any()
            continue
        torch.testing.assert_close(local.double(), torch.stack(out), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(found[f"prompted_{side}.pooled"][row].double(), pooled, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("make", [checkpoints.open_clip_model, checkpoints.hf_clip])
@pytest.mark.parametrize("block", [0, 1])
def test_without_prompts_the_blocks_give_the_models_own_features(tmp_path, make, block):
    from pipeline.extractors import build
    from pipeline.profiles.profile import Feature

    folder = make(tmp_path / "clip")
    read = read_towers(
        export(find(str(folder), tmp_path, None), {"text": block, "image": block}, tmp_path / "blocks.safetensors")
    )

    def extracted(name, units, **options):
        made = build(Feature(name, name, {"model": str(folder), **options}, {}, True), tmp_path, None)
        made.load("cpu")
        with torch.inference_mode():
            return made(made.collate([made.prepare(unit) for unit in units] if name.endswith("image") else units))

    from PIL import Image

    pictures = [
        Image.fromarray(np.random.default_rng(seed).integers(0, 255, (40, 50, 3), dtype=np.uint8)) for seed in range(3)
    ]
    texts = ["Powers with Noel Harrison", "a ship"]
    own, cached = extracted("clip_image", pictures), extracted("clip_layers_image", pictures, block=block)
    states = read["image"](torch.from_numpy(np.stack(cached["states"])), [])
    torch.testing.assert_close(states.numpy(), np.stack(own["tokens"]), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(
        read["image"].project(read["image"].finish(states[:, 0])).numpy(), np.stack(own["pooled"]), rtol=1e-4, atol=1e-4
    )
    own, cached = extracted("clip_text", texts), extracted("clip_layers_text", texts, block=block)
    for row in range(len(texts)):
        if block:
            states = torch.from_numpy(cached["states"][row])[None]
        else:
            states = read["text"].embed(torch.from_numpy(cached["ids"][row]).long()[None])
        states = read["text"].finish(read["text"](states, []))
        torch.testing.assert_close(states[0].numpy(), own["tokens"][row], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(
            read["text"].project(states[:, -1])[0].numpy(), own["pooled"][row], rtol=1e-4, atol=1e-4
        )


def test_a_file_that_holds_no_blocks_is_refused_by_name(tmp_path):
    (tmp_path / "blocks.safetensors").write_bytes(b"\x00" * 40)
    with pytest.raises(UserError, match=r"blocks\.safetensors"):
        read_towers(tmp_path / "blocks.safetensors")


def test_prompts_alone_and_the_units_learn_and_clip_stays_as_it_was():
    head = prompt_head(lr=0.01).train()
    before = {name: tensor.clone() for name, tensor in head.named_buffers()}
    mentions, entities = inputs(16, 1), inputs(16, 2)
    gold = torch.arange(16)
    optimizer = torch.optim.Adam(head.parameters(), lr=0.01)
    losses = []
    for _ in range(40):
        loss, _ = head.loss(Batch(mentions, entities, gold))
        optimizer.zero_grad()
        loss.backward()
        assert all(parameter.grad is not None for parameter in head.parameters())
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]
    assert all(torch.equal(tensor, before[name]) for name, tensor in head.named_buffers())
    assert not [name for name in head.state_dict() if name.startswith(("text.", "image."))]


def test_prompted_features_do_not_depend_on_the_batch():
    head = prompt_head().eval()
    rows = inputs(8, 5)
    with torch.no_grad():
        together = head.prompted(rows, "mention")
        alone = head.prompted(rows.take(torch.tensor([3])), "mention")
    for name in ("prompted_text.pooled", "prompted_image.pooled", "prompted_image.tokens"):
        torch.testing.assert_close(together[name][3:4], alone[name], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        together["prompted_text.tokens"].take(torch.tensor([3])).values,
        alone["prompted_text.tokens"].values,
        rtol=1e-5,
        atol=1e-5,
    )


def gate_head(**options):
    config = load_config("dsmip", {**SMALL, **options})
    torch.manual_seed(6)
    return make_head("dsmip", config, head_shapes(config))


def test_the_gate_takes_the_expert_of_the_equations_and_gives_its_score():
    head = gate_head().eval()
    with torch.no_grad():
        head.scale.copy_(torch.tensor([0.3, -0.2, 0.1]))
        mentions, entities = head_rows(head.shapes, 7, 1), head_rows(head.shapes, 9, 2)
        found = head.score_block(head.encode_mentions(mentions), head.encode_entities(entities))
    parts = {
        name.removeprefix("gate."): tensor.double()
        for name, tensor in head.state_dict().items()
        if name.startswith("gate.")
    }
    read = [
        torch.cat(
            [
                side["gate_text.embedding"] * side["gate_text.ok"][:, None],
                side["gate_image.pooled"] * side["gate_image.ok"][:, None],
            ],
            1,
        ).double()
        for side in (mentions, entities)
    ]
    chosen = set()
    for b in range(7):
        for e in range(9):
            allowed = [True, bool(mentions["image.ok"][b] and entities["image.ok"][e]), True]
            weights = reference.gate(read[0][b], read[1][e], parts, allowed)
            best = max(range(3), key=lambda number: weights[number])
            runner_up = sorted(weights)[-2]
            if weights[best] - runner_up > 1e-5:
                assert int(found["expert"][b, e]) == best
            taken = int(found["expert"][b, e])
            chosen.add(taken)
            expected = found[head.experts[taken]][b, e] * head.scale[taken].detach().exp()
            torch.testing.assert_close(found["score"][b, e], expected)
    assert len(chosen) > 1


def test_a_pair_without_both_pictures_never_takes_the_visual_expert_not_even_by_chance():
    head = gate_head().train()
    mentions, entities = head_rows(head.shapes, 20, 1, missing=0.5), head_rows(head.shapes, 20, 2, missing=0.5)
    for _ in range(5):
        taken = head.score_block(head.encode_mentions(mentions), head.encode_entities(entities))["expert"]
        assert not (taken[~(mentions["image.ok"][:, None] & entities["image.ok"][None, :])] == 1).any()


def test_training_chooses_hard_and_learns_softly():
    head = gate_head().train()
    preference = torch.log(torch.tensor([[0.2, 0.3, 0.5]])).requires_grad_()
    drawn = torch.cat([head._one_hot(preference) for _ in range(300)])
    assert set(drawn.detach().round(decimals=6).flatten().tolist()) == {0.0, 1.0}
    shares = drawn.detach().mean(0)
    assert torch.allclose(shares, torch.tensor([0.2, 0.3, 0.5]), atol=0.1)  # the Gumbel maximum draws from pi, eq. 15
    (drawn[:, 0].sum()).backward()
    assert preference.grad.abs().sum() > 0


def test_the_gate_starts_from_its_experts_units():
    expert = make_head(
        "dsmip", load_config("dsmip", {**SMALL, "stage": "visual"}), {"image.tokens": (4, 18), "image.pooled": (16,)}
    )
    head = gate_head()
    head.start("visual", expert.state_dict(), 0.4)
    own = {name.removeprefix("scoring."): tensor for name, tensor in expert.state_dict().items()}
    assert all(torch.equal(tensor, own[name]) for name, tensor in head.scoring["visual"].state_dict().items())
    assert head.gate.last["mention"].bias.tolist() == [0.0, head.config.gate_start, 0.0]


def test_an_experts_own_training_does_not_depend_on_the_gates_options():
    available = ["clip_text", "clip_image", "clip_layers_text", "clip_layers_image", "image_pooled"]
    runs = load_config("dsmip", {}).runs(available)
    assert set(runs) == {"text", "visual", "multimodal"}
    assert runs == load_config("dsmip", {"gate_width": 64, "temperature": 1.0, "expert_scale": False}).runs(available)
    other = load_config("dsmip", {"d_v": 32}).runs(available)
    assert other["text"] == runs["text"] and other["visual"] != runs["visual"]


def test_without_prompts_the_multimodal_expert_reads_the_plain_features():
    available = ["clip_text", "clip_image", "clip_layers_text", "clip_layers_image"]
    config = load_config("dsmip", {"prompts": False})
    assert {name: params["stage"] for name, (_, params) in config.runs(available).items()} == {
        name: name for name in ("text", "visual", "multimodal")
    }
    expert = load_config("dsmip", config.runs(available)["multimodal"][1])
    for read in (config, expert):
        features = {want.role: want.feature for want in read.wants(available)}
        assert (
            features["prompted_text"] == "clip_text"
            and features["prompted_image"] == "clip_image"
            and not set(features.values()) & set(PROMPTED.values())
        )
    assert expert.training == "head" and load_config("dsmip", {}).runs(available)["multimodal"][1]["stage"] == "prompts"
    assert load_config("dsmip", {"prompts": False}).possible(["clip_text", "clip_image"]) == [
        "text",
        "visual",
        "multimodal",
    ]
    assert "without prompts" in load_config("dsmip", {}).ablations(
        available
    ) and "without prompts" not in config.ablations(available)


@pytest.mark.parametrize(
    ("params", "stage"), [({"stage": "multimodal"}, "prompts"), ({"stage": "prompts", "prompts": False}, "multimodal")]
)
def test_a_stage_that_does_not_go_with_prompts_is_refused(params, stage):
    with pytest.raises(UserError, match=f"the multimodal expert's stage is '{stage}'"):
        load_config("dsmip", params)


def test_both_stages_train_without_prompts(tmp_path):
    job = build_job(tmp_path)
    common = {
        **dict.fromkeys(("d_t", "d_v", "d_c"), 8),
        "prompts": False,
        "text_feature": "text_tokens",
        "image_feature": "image_patches",
        "epochs": 1,
        "batch_size": 32,
        "experts": ["text", "multimodal"],
        "gate_width": 16,
    }
    runs = {name: job_for(job, "dsmip", {**common, "stage": name}, tmp_path / name) for name in ("text", "multimodal")}
    for run in runs.values():
        training.train(run)
    learned = read_tensors(tmp_path / "multimodal" / "model.safetensors")[0]
    gate = replace(job_for(job, "dsmip", {**common, "epochs": 0}, tmp_path / "gate"), heads=runs)
    assert training.train(gate).metrics["test"]["full-kb"]["all"]["n"] > 0
    found = read_tensors(tmp_path / "gate" / "model.safetensors")[0]
    assert len(learned) > 4 and all(
        torch.equal(found[name.replace("scoring.", "scoring.multimodal.")], tensor) for name, tensor in learned.items()
    )

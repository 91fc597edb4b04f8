"""DSMIP against its paper: prompts over a frozen CLIP, parameters counted, the gate's choice, and what each stage hands
on."""

from dataclasses import replace

import checkpoints
import dsmip_reference as reference
import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from heads_world import build_job, head_rows, head_shapes, job_for

from experiments import towers
from foundation.errors import UserError
from heads import training
from heads.base import Batch, Ragged, Rows, make_head
from heads.checkpoint import read_tensors
from heads.config import load_config, naming_options, stored_config, to_json
from heads.config.dsmip import PROMPTED
from heads.contracts import LiveClip
from heads.loop import Trainer
from heads.methods.dsmip import PromptExpert
from pipeline.models.towers import blocks

SMALL = {"d_t": 8, "d_v": 8, "d_c": 8, "gate_width": 16, "gate_dropout": 0.0}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Folder of a small CLIP of each library."""
    root = tmp_path_factory.mktemp("clips")
    made = {"transformers": checkpoints.hf_clip, "open_clip": checkpoints.open_clip_model}
    return {library: make(root / library) for library, make in made.items()}


@pytest.fixture(params=["transformers", "open_clip"])
def folder(request, folders):
    return folders[request.param]


def small_towers(folder, start=0):
    """Both towers of a CLIP, as the stage that learns prompts has them."""
    path = folder.parent / "clips.yaml"
    feature = {"model": str(folder)}
    path.write_text(yaml.safe_dump({"features": {"clip_layers_image": feature, "clip_layers_text": feature}}))
    live = LiveClip(profile=str(path), feature="clip_layers_image", demo=folder.parent, start=start)
    return dict(towers.of_clip(live, "cpu").modules)


def named(**modules):
    return {f"{name}.{one}": getattr(module, one) for name, module in modules.items() for one in ("weight", "bias")}


def of_block(block):
    """A block's tensors as `dsmip_reference.block` knows them."""
    if hasattr(block, "attn"):
        attention = {"attention.in.weight": block.attn.in_proj_weight, "attention.in.bias": block.attn.in_proj_bias}
        linear = {"attention.out": block.attn.out_proj, "mlp.in": block.mlp.c_fc, "mlp.out": block.mlp.c_proj}
        return named(ln_1=block.ln_1, ln_2=block.ln_2, **linear) | attention
    three = [block.self_attn.q_proj, block.self_attn.k_proj, block.self_attn.v_proj]
    attention = {f"attention.in.{one}": torch.cat([getattr(part, one) for part in three]) for one in ("weight", "bias")}
    linear = {"attention.out": block.self_attn.out_proj, "mlp.in": block.mlp.fc1, "mlp.out": block.mlp.fc2}
    return named(ln_1=block.layer_norm1, ln_2=block.layer_norm2, **linear) | attention


def in_float64(tower, kind):
    """Blocks of a tower; what stands above them, (LayerNorm, projection); what embeds token ids, (tokens, places)."""
    encoder = tower.live.encoder
    model = encoder.model
    if encoder.files.library == "open_clip":
        norm, projection = (
            (model.ln_final, model.text_projection) if kind == "text" else (model.visual.ln_post, model.visual.proj)
        )
        embedding = model.token_embedding.weight, model.positional_embedding
    else:
        norm, projection = (
            (model.text_model.final_layer_norm, model.text_projection.weight.T)
            if kind == "text"
            else (model.vision_model.post_layernorm, model.visual_projection.weight.T)
        )
        table = model.text_model.embeddings
        embedding = table.token_embedding.weight, table.position_embedding.weight
    listed = [{name: tensor.detach().double() for name, tensor in of_block(block).items()} for block in blocks(encoder)]
    above = norm.weight, norm.bias, projection
    return listed, [one.detach().double() for one in above], [one.detach().double() for one in embedding]


def prompt_head(folder, **options):
    config = load_config("dsmip", {**SMALL, "stage": "prompts", "prompt_layers": 2, **options})
    made = small_towers(folder)
    torch.manual_seed(3)
    return make_head("dsmip", config, {"text.ids": (), "image.states": (17, 32)}, made)


def inputs(n, seed):
    random = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 7, (n,), generator=random)
    pictured = torch.rand(n, generator=random) > 0.3
    return Rows(
        {
            "text.ok": lengths > 0,
            "text.ids": Ragged(torch.randint(0, 11, (int(lengths.sum()),), generator=random).int(), lengths),
            "image.ok": pictured,
            "image.states": torch.randn(n, 17, 32, generator=random) * pictured[:, None, None],
        }
    )


class Meta(torch.nn.Module):
    """The sizes of a CLIP's tower."""

    def __init__(self, width):
        super().__init__()
        self.width, self.pooled_shape, self.depth = width, (512,), 12


def test_the_multimodal_expert_has_the_papers_parameters_at_its_sizes():
    config = load_config("dsmip", {"stage": "prompts"})
    made = {"text": Meta(512), "image": Meta(768)}
    head = PromptExpert(config, {"text.ids": (), "image.states": (50, 768)}, made)
    counts = {
        name: sum(p.numel() for p in getattr(head, name).parameters()) for name in ("coupling", "prompts", "scoring")
    }
    assert counts["coupling"] == 18 * (512 * 768 + 768) == 7_091_712
    assert counts["prompts"] == 18 * 2 * 512 == 18_432
    assert counts["coupling"] + counts["prompts"] == 7_110_144
    adapters = (512 * 96 + 96) + (768 * 96 + 96)  # of the global and the local image states
    assert counts["scoring"] == 410_050 and counts["scoring"] > adapters
    assert sum(p.numel() for p in head.parameters()) == 7_520_194


@pytest.mark.parametrize("layers", [1, 2])
def test_prompted_features_are_those_of_the_equations(folder, layers):
    head = prompt_head(folder, prompt_layers=layers)
    with torch.no_grad():
        for prompt in head.prompts.values():
            prompt.normal_(0, 1)
    rows = inputs(4, 4)
    with torch.no_grad():
        found = head.prompted(rows, "entity")
    prompts = [list(prompt.double()) for prompt in head.prompts["entity"].detach()]
    coupled = [
        [coupling.weight.detach().double() @ vector + coupling.bias.detach().double() for vector in prompt]
        for coupling, prompt in zip(head.coupling["entity"], prompts, strict=True)
    ]
    ids = rows["text.ids"].values.split(rows["text.ids"].lengths.tolist())
    tokens = found["prompted_text.tokens"].values.split(found["prompted_text.tokens"].lengths.tolist())
    activation = reference.gelu if folder.name == "open_clip" else reference.quick_gelu
    for side, row in ((side, row) for side in ("text", "image") for row in range(4)):
        listed, (weight, bias, projection), (embedded, places) = in_float64(getattr(head, side), side)
        if side == "text":
            states = [embedded[token] + places[place] for place, token in enumerate(ids[row].tolist())]
            out = reference.run(states, listed, 2, True, prompts, activation)
            out = [reference.layer_norm(state, weight, bias) for state in out]
            local, pooled = tokens[row], out[-1] @ projection
        elif rows["image.ok"][row]:
            states = list(rows["image.states"][row].double())
            out = reference.run(states, listed, 2, False, coupled, activation)
            local = found["prompted_image.tokens"][row]
            pooled = reference.layer_norm(out[2], weight, bias) @ projection  # the class token, after two prompts
        else:
            assert not found["prompted_image.tokens"][row].any() and not found["prompted_image.pooled"][row].any()
            continue
        torch.testing.assert_close(local.double(), torch.stack(out), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(found[f"prompted_{side}.pooled"][row].double(), pooled, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("block", [0, 1])
def test_without_prompts_the_blocks_give_the_models_own_features(folder, block):
    from pipeline.extractors import build
    from pipeline.profiles.profile import Feature

    read = small_towers(folder, block)

    def extracted(name, units, **options):
        made = build(Feature(name, name, {"model": str(folder), **options}, {}, True), folder.parent, None)
        made.load("cpu")
        with torch.inference_mode():
            return made(made.collate([made.prepare(unit) for unit in units] if name.endswith("image") else units))

    from PIL import Image

    pictures = [
        Image.fromarray(np.random.default_rng(seed).integers(0, 255, (40, 50, 3), dtype=np.uint8)) for seed in range(3)
    ]
    texts = ["Powers with Noel Harrison", "a ship"]
    own, cached = extracted("clip_image", pictures), extracted("clip_layers_image", pictures, block=block)
    states = torch.from_numpy(np.stack(cached["states"]))
    found = read["image"](states, [states.shape[1]] * len(states))
    for name in ("tokens", "pooled"):
        np.testing.assert_allclose(found[name].numpy(), np.stack(own[name]), rtol=1e-4, atol=1e-4)
    own, cached = extracted("clip_text", texts), extracted("clip_layers_text", texts, block=block)
    for row in range(len(texts)):
        states = torch.from_numpy(cached["states" if block else "ids"][row])[None]
        found = read["text"](states if block else states.long(), [states.shape[1]])
        np.testing.assert_allclose(found["tokens"][0].numpy(), own["tokens"][row], rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(found["pooled"][0].numpy(), own["pooled"][row], rtol=1e-4, atol=1e-4)


def test_prompts_alone_and_the_units_learn_and_clip_stays_as_it_was(folder):
    head = prompt_head(folder, lr=0.01).train()
    clip = head.text.live.encoder.model
    before = {name: tensor.clone() for name, tensor in clip.named_parameters()}
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
    assert before and all(torch.equal(tensor, before[name]) for name, tensor in clip.named_parameters())
    assert not [name for name in head.state_dict() if name.startswith(("text.", "image."))]


def test_prompted_features_do_not_depend_on_the_batch(folder):
    head = prompt_head(folder).eval()
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


def test_a_batch_without_pictures_is_possible(folder):
    head, rows = prompt_head(folder).eval(), inputs(3, 5)
    nothing = torch.zeros(3, dtype=torch.bool)
    found = head.prompted(Rows(rows | {"image.ok": nothing}), "mention")
    assert found["prompted_image.tokens"].shape == (3, 19, 32) and not found["prompted_image.tokens"].any()
    assert found["prompted_image.pooled"].shape == (3, 24)


def test_a_row_without_a_text_gets_no_prompts_and_moves_no_other_row(folder):
    head = prompt_head(folder).eval()
    rows = inputs(6, 5)
    texts = rows["text.ids"]
    lengths = texts.lengths.clone()
    lengths[[0, 3]] = 0
    kept = torch.ones(len(texts.lengths), dtype=torch.bool).scatter_(0, torch.tensor([0, 3]), False)
    emptied = Ragged(texts.values[kept.repeat_interleave(texts.lengths)], lengths)
    with torch.no_grad():
        whole = head.prompted_text(rows, "entity")
        found = head.prompted_text(Rows(rows | {"text.ids": emptied}), "entity")
    assert found["tokens"].lengths.tolist() == (whole["tokens"].lengths * kept).tolist()
    torch.testing.assert_close(
        found["tokens"].values, whole["tokens"].take(kept.nonzero().squeeze(1)).values, rtol=1e-5, atol=1e-5
    )
    assert not found["pooled"][[0, 3]].any()
    torch.testing.assert_close(found["pooled"][kept], whole["pooled"][kept], rtol=1e-5, atol=1e-5)


def gate_head(**options):
    config = load_config("dsmip", {**SMALL, **options})
    torch.manual_seed(6)
    return make_head("dsmip", config, head_shapes(config))


def gate_inputs(side):
    """The parts of f, (n, width) each in float64, zeros where absent."""
    return [
        (side.fixed(name) * side.fixed(f"{name.split('.')[0]}.ok")[:, None]).double()
        for name in ("gate_text.embedding", "gate_image.pooled")
    ]


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
    read = [gate_inputs(side) for side in (mentions, entities)]
    chosen = set()
    for b in range(7):
        for e in range(9):
            allowed = [True, bool(mentions["image.ok"][b] and entities["image.ok"][e]), True]
            weights = reference.gate([part[b] for part in read[0]], [part[e] for part in read[1]], parts, allowed)
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


def test_the_gate_sees_a_part_of_its_input_however_small_its_numbers_are():
    head = gate_head().eval()
    mentions = head_rows(head.shapes, 6, 1)
    smaller = Rows(mentions | {"gate_text.embedding": mentions["gate_text.embedding"] * 1e-3})
    without = Rows(mentions | {"gate_text.embedding": mentions["gate_text.embedding"] * 0})
    with torch.no_grad():
        gates = [head.encode_mentions(rows)["gate"] for rows in (mentions, smaller, without)]
    torch.testing.assert_close(gates[0], gates[1], rtol=1e-3, atol=1e-4)
    assert (gates[0] - gates[2]).abs().max() > 0.05


def test_the_gates_own_loss_is_the_likelihood_of_the_golds_under_its_weights():
    head = gate_head(gate_loss="likelihood").eval()
    mentions, entities = head_rows(head.shapes, 6, 1), head_rows(head.shapes, 6, 2)
    with torch.no_grad():
        head.scale.copy_(torch.tensor([0.3, -0.2, 0.1]))
        _, parts = head.loss(Batch(mentions, entities, torch.arange(6)))
        found = head.score_block(head.encode_mentions(mentions), head.encode_entities(entities))
    of_gate = {
        name.removeprefix("gate."): tensor.double()
        for name, tensor in head.state_dict().items()
        if name.startswith("gate.")
    }
    read = [gate_inputs(side) for side in (mentions, entities)]
    expected = []
    for b in range(6):
        of_pairs = [
            reference.gate(
                [part[b] for part in read[0]],
                [part[e] for part in read[1]],
                of_gate,
                [True, bool(mentions["image.ok"][b] and entities["image.ok"][e]), True],
            )
            for e in range(6)
        ]
        weights = [sum(pair[number] for pair in of_pairs) / 6 for number in range(3)]
        each = [
            (found[name][b].double() * head.scale[number].detach().double().exp()).tolist()
            for number, name in enumerate(head.experts)
        ]
        expected.append(reference.likelihood([float(weight) for weight in weights], each, b))
    assert float(parts["gate"]) == pytest.approx(sum(expected) / 6, rel=1e-5)


@pytest.mark.parametrize("gate_loss", ["gumbel", "likelihood"])
def test_a_step_moves_the_gate_the_factors_and_the_units_of_each_expert(gate_loss):
    torch.manual_seed(2)
    head = gate_head(gate_loss=gate_loss).train()
    mentions, entities = head_rows(head.shapes, 24, 1), head_rows(head.shapes, 24, 2)
    head.loss(Batch(mentions, entities, torch.arange(24)))[0].backward()
    still = [name for name, one in head.named_parameters() if one.grad is None or not one.grad.abs().sum()]
    assert not still


def test_the_gates_own_loss_leaves_the_units_alone():
    head = gate_head(gate_loss="likelihood").train()
    mentions, entities = head_rows(head.shapes, 24, 1), head_rows(head.shapes, 24, 2)
    head.loss(Batch(mentions, entities, torch.arange(24)))[1]["gate"].backward()
    moved = {name.split(".")[0] for name, one in head.named_parameters() if one.grad is not None}
    assert moved == {"gate", "scale"}


def test_with_noise_the_choice_at_test_time_is_drawn_from_pi_and_without_it_is_the_most_likely():
    preference = torch.log(torch.tensor([[0.2, 0.3, 0.5]])).expand(4000, 3)
    noisy, plain = gate_head(gate_noise=True).eval(), gate_head().eval()
    torch.manual_seed(0)
    shares = noisy._one_hot(preference).mean(0)
    assert torch.allclose(shares, torch.tensor([0.2, 0.3, 0.5]), atol=0.03)
    assert plain._one_hot(preference).mean(0).tolist() == [0.0, 0.0, 1.0]
    mentions, entities = head_rows(noisy.shapes, 20, 1), head_rows(noisy.shapes, 20, 2)
    with torch.no_grad():
        sides = noisy.encode_mentions(mentions), noisy.encode_entities(entities)
        drawn = [noisy.score_block(*sides)["expert"] for _ in range(2)]
        fixed = [plain.score_block(*sides)["expert"] for _ in range(2)]
    assert not torch.equal(*drawn) and torch.equal(*fixed)


N_ENTITIES, WIDTH = 48, 16


def half_and_half(count, random, known):
    """Mentions of which each second one's text, and each other one's picture, is that of another entity. What tells
    them apart is in the gate's text, whose numbers are a thousandth of its picture's.

    known: the entities' text and picture vectors. Returns rows, golds, and whether a mention's text is its gold's.
    """
    gold = torch.randint(0, N_ENTITIES, (count,), generator=random)
    other = (gold + torch.randint(1, N_ENTITIES, (count,), generator=random)) % N_ENTITIES
    of_text = torch.rand(count, generator=random) < 0.5

    def near(vectors, right):
        shown = torch.where(right, gold, other)
        return vectors[shown] + 0.3 * torch.randn(count, WIDTH, generator=random)

    rows = side_rows(near(known["text"], of_text), near(known["image"], ~of_text), random)
    rows["gate_text.embedding"][:, 0] += torch.where(of_text, 0.02, -0.02)
    return rows, gold, of_text


def side_rows(text, image, random):
    """A side's columns from one vector of each modality per row."""
    count = len(text)
    lengths = torch.full((count,), 2)
    roles = ("text", "image", "gate_text", "gate_image")
    columns = {f"{role}.ok": torch.ones(count, dtype=torch.bool) for role in roles}
    return Rows(
        columns
        | {
            "text.tokens": Ragged(text.repeat_interleave(2, 0), lengths),
            "text.pooled": text,
            "image.tokens": image[:, None].expand(-1, 3, -1).contiguous(),
            "image.pooled": image,
            "gate_text.embedding": 0.01 * torch.randn(count, WIDTH, generator=random),
            "gate_image.pooled": 10 * torch.randn(count, WIDTH, generator=random),
        }
    )


def fitted(head, draw, steps):
    """The head after some steps over drawn batches."""
    optimizer = torch.optim.Adam(head.train().parameters(), lr=3e-3)
    for _ in range(steps):
        mentions, entities, gold = draw()
        loss, _ = head.loss(Batch(mentions, entities, gold))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return head.eval()


def test_where_text_decides_for_half_and_the_picture_for_half_the_gate_learns_to_choose():
    random = torch.Generator().manual_seed(0)
    known = {name: torch.randn(N_ENTITIES, WIDTH, generator=random) for name in ("text", "image")}
    entities = side_rows(known["text"], known["image"], random)

    def draw():
        mentions, gold, _ = half_and_half(48, random, known)
        return mentions, entities, gold

    shapes = {"text.tokens": (WIDTH,), "text.pooled": (WIDTH,), "image.tokens": (3, WIDTH), "image.pooled": (WIDTH,)}
    gates = {"gate_text.embedding": (WIDTH,), "gate_image.pooled": (WIDTH,)}
    torch.manual_seed(0)
    config = load_config("dsmip", {**SMALL, "experts": ["text", "visual"], "gate_loss": "likelihood"})
    head = make_head("dsmip", config, shapes | gates)
    for stage in ("text", "visual"):
        own = {name: shape for name, shape in shapes.items() if name.startswith("text" if stage == "text" else "image")}
        alone = make_head("dsmip", load_config("dsmip", {**SMALL, "stage": stage}), own)
        head.start(stage, fitted(alone, draw, 60).state_dict(), 0.0)
    fitted(head, draw, 150)
    mentions, gold, of_text = half_and_half(400, random, known)
    with torch.no_grad():
        found = head.score_block(head.encode_mentions(mentions), head.encode_entities(entities))
    right = {name: float((found[name].argmax(1) == gold).float().mean()) for name in ("score", "text", "visual")}
    assert max(right["text"], right["visual"]) < 0.6 and right["score"] > max(right["text"], right["visual"]) + 0.2
    taken = found["expert"][torch.arange(400), gold]
    assert 0.3 < float(taken.mean()) < 0.7
    assert float((taken == (~of_text).float()).float().mean()) > 0.9


def test_the_experts_scores_start_with_the_same_spread_over_a_mentions_entities():
    head = gate_head().train()
    mentions, entities = head_rows(head.shapes, 24, 1), head_rows(head.shapes, 24, 2)
    head.loss(Batch(mentions, entities, torch.arange(24)))
    first = head.spread.clone()
    with torch.no_grad():
        scores = head.score_block(head.encode_mentions(mentions), head.encode_entities(entities))
        even = head._each(scores)
    for number, name in enumerate(head.experts):
        own = (scores[name] - scores[name].mean(1, keepdim=True)).square().mean().sqrt()
        torch.testing.assert_close(first[number], own)
        spread = (even[..., number] - even[..., number].mean(1, keepdim=True)).square().mean().sqrt()
        torch.testing.assert_close(spread, first.max(), rtol=1e-4, atol=1e-5)
    head.loss(Batch(entities, mentions, torch.arange(24)))
    assert torch.equal(head.spread, first), "of the first batch alone"


def test_experts_that_tell_nothing_apart_in_the_first_batch_leave_the_scores_finite():
    head = gate_head().train()
    mentions = head_rows(head.shapes, 8, 1)
    loss, _ = head.loss(
        Batch(mentions, head_rows(head.shapes, 1, 2).take(torch.zeros(8, dtype=torch.int64)), torch.arange(8))
    )
    assert loss.isfinite() and (head.spread > 0).all()


def test_experts_may_learn_without_the_gates_hard_negatives():
    available = ["clip_text", "clip_image", "clip_layers_text", "clip_layers_image"]
    config = load_config("dsmip", {"hard_negatives": 4, "expert_hard_negatives": 0})
    assert {params["hard_negatives"] for _, params in config.runs(available).values()} == {0}
    same = load_config("dsmip", {"hard_negatives": 4}).runs(available)
    assert {params["hard_negatives"] for _, params in same.values()} == {4}
    assert config.runs(available) == load_config("dsmip", {}).runs(available)


def test_the_gate_has_a_step_size_of_its_own():
    head = gate_head(lr=1e-4, gate_lr=1e-2)
    trainer = Trainer(head, None, np.arange(1), 0, "fp32")
    rate = {parameter: group["lr"] for group in trainer.optimizer.param_groups for parameter in group["params"]}
    found = {name: rate[parameter] for name, parameter in head.named_parameters()}
    assert {lr for name, lr in found.items() if name.startswith("gate.") or name == "scale"} == {1e-2}
    assert {lr for name, lr in found.items() if name.startswith("scoring.")} == {1e-4}
    assert list(found) != trainer.parameters and set(found) == set(trainer.parameters)
    same = Trainer(gate_head(), None, np.arange(1), 0, "fp32")
    assert [group["lr"] for group in same.optimizer.param_groups] == [5e-4, 5e-4]


def test_an_experts_run_keeps_its_name_and_a_gate_of_before_is_another():
    stage = to_json(load_config("dsmip", {"stage": "text"}))
    assert naming_options("dsmip", stage)["gate_start"] == 3.0 and "gate_loss" not in naming_options("dsmip", stage)
    assert "gate_start" not in naming_options("dsmip", to_json(load_config("dsmip", {})))
    stored = naming_options("dsmip", stage)
    assert to_json(stored_config("dsmip", stored)) == stage
    with pytest.raises(UserError, match="gate_start"):
        load_config("dsmip", {"gate_start": 3.0})


def test_the_gate_starts_from_its_experts_units():
    expert = make_head(
        "dsmip", load_config("dsmip", {**SMALL, "stage": "visual"}), {"image.tokens": (4, 18), "image.pooled": (16,)}
    )
    head = gate_head()
    head.start("visual", expert.state_dict(), 0.4)
    assert head.gate.last["mention"].bias.tolist() == [3.0, 3.0, 3.0], "no expert is ahead, and ReLU lets all learn"
    own = {name.removeprefix("scoring."): tensor for name, tensor in expert.state_dict().items()}
    assert all(torch.equal(tensor, own[name]) for name, tensor in head.scoring["visual"].state_dict().items())


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
    assert not expert.stays_live and load_config("dsmip", {}).runs(available)["multimodal"][1]["stage"] == "prompts"
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
    result = training.train(gate)
    assert result.metrics["test"]["full-kb"]["all"]["n"] > 0
    predictions = pq.read_table(gate.out / "predictions.parquet").filter(pc.field("split") == "test")
    of_known = predictions.filter(pc.field("rank_full_kb") > 0)["top_expert"]
    taken = np.concatenate(of_known.to_pylist())
    for number, name in enumerate(("text", "multimodal")):
        assert result.metrics["test"]["full-kb"]["all"][f"takes {name}"] == pytest.approx(np.mean(taken == number))
        assert f"{name} {np.mean(taken == number):.1%}" in result.table
    assert "takes text" not in result.metrics["test"]["candidates"]["all"]
    found = read_tensors(tmp_path / "gate" / "model.safetensors")[0]
    assert len(learned) > 4 and all(
        torch.equal(found[name.replace("scoring.", "scoring.multimodal.")], tensor) for name, tensor in learned.items()
    )

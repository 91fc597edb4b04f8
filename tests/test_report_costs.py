"""Costs of methods that are made of several runs, against sums by hand."""

import json

import checkpoints
import numpy as np
import pytest
from safetensors.numpy import save_file

from cache.identity import identity
from cache.store import Store
from pipeline.models import clip
from pipeline.models.files import find
from report.costs import Cost, parts_of, total
from report.runs import read_run


def write(runs, depends, parameters, seconds, tensors):
    """The folder of a finished run, named by what it depends on as training names it."""
    folder = runs / depends["method"] / identity(depends)[:16]
    folder.mkdir(parents=True)
    record = {"method": depends["method"], "seed": 0, "parameters": parameters, "seconds": {"train": seconds}}
    for name, content in (("config", depends), ("run", record), ("metrics", {})):
        (folder / f"{name}.json").write_text(json.dumps(content))
    save_file({name: np.zeros(size, np.float32) for name, size in tensors.items()}, folder / "model.safetensors")
    return folder


@pytest.fixture
def world(tmp_path):
    """DSMIP with its stages, a ranker, and a fusion of both that reads DSMIP."""
    runs = tmp_path / "runs" / "small"
    text = {"method": "dsmip", "config": {"stage": "text", "lr": 0.1, "an option of before": 1}}
    visual = {"method": "dsmip", "config": {"stage": "visual"}}
    prompts = {"method": "dsmip", "config": {"stage": "prompts"}}
    write(runs, text, 10, 5.0, {"scoring.a": 10})
    write(runs, visual, 24, 1.0, {"scoring.b": 20, "scoring.absent_image": 4})
    learned = write(runs, prompts, 100, 20.0, {"scoring.c": 30, "prompts.mention": 60, "coupling.w": 10})
    heads = {"text": text, "visual": visual, "multimodal": prompts}
    gate = {"method": "dsmip", "config": {"stage": "gate"}, "heads": heads}
    whole = write(runs, gate, 75, 8.0, {"gate.w": 15})
    ranker = {"method": "ranker", "config": {}}
    write(runs, ranker, 7, 0.5, {"w": 7})
    fused = {"method": "fused", "config": {}, "heads": {"dsmip": gate, "ranker": ranker}}
    combined = write(runs, fused, 3, 0.25, {"w": 3})
    (tmp_path / "receipts").mkdir()
    store = str((learned / "cache" / "prompted_text-1").relative_to(tmp_path))
    receipt = {"run": {"seconds": 2.5}, "result": {"inputs": [{"store": store}]}}
    (tmp_path / "receipts" / "PromptedFeatures-1.json").write_text(json.dumps(receipt))
    return {"dsmip": whole, "fused": combined, "prompts": learned, "text": runs / "dsmip" / identity(text)[:16]}


def test_all_stages_stand_below_their_sum_and_what_the_gate_trains_on_counts_once(world):
    parts = parts_of(read_run(world["dsmip"]))
    assert [(part.name, part.cost.parameters, part.cost.seconds) for part in parts] == [
        ("text", 10, 5.0),
        ("visual", 24, 1.0),
        ("multimodal", 100, 20.0),
        ("features by multimodal", 0, 2.5),
        ("itself", 75, 8.0),
    ]
    # the gate trains all units on but the vector of an absent picture (4); prompts and couplings (70) stay as they are
    assert total(parts) == Cost(75 + 4 + 70, 36.5)


def test_experts_that_leave_a_fold_out_cost_their_time_and_are_no_part_of_the_method(world):
    runs = world["dsmip"].parents[1]
    judge = {"method": "dsmip", "config": {"stage": "text", "fold": [0, 2]}}
    write(runs, judge, 10, 4.0, {"scoring.a": 10})
    config = json.loads((world["dsmip"] / "config.json").read_text())
    config["heads"]["text, without fold 0"] = judge
    parts = parts_of(read_run(write(runs, config, 75, 8.0, {"gate.w": 15})))
    assert ("text, without fold 0", 10, 4.0) in [(part.name, part.cost.parameters, part.cost.seconds) for part in parts]
    assert total(parts) == Cost(75 + 4 + 70, 36.5 + 4.0)


@pytest.mark.parametrize("make", [checkpoints.open_clip_model, checkpoints.hf_clip])
def test_the_expert_with_a_clip_fine_tuned_whole_stands_beside_its_prompts_and_in_no_sum(world, tmp_path, make):
    files = find(str(make(tmp_path / "clip")), tmp_path, None)
    spec = {"outputs": [{"name": "states", "shape": [1], "dtype": "float16", "ragged": False}]}
    store = Store.create(tmp_path / "cache", "clip_layers_image", {**spec, "architecture": files.architecture()})
    before = total(parts_of(read_run(world["dsmip"])))
    depends = json.loads((world["prompts"] / "config.json").read_text())
    config = json.loads((world["dsmip"] / "config.json").read_text())
    features = {"features": {"clip_layers_image": store.identity}}
    learned = write(world["prompts"].parents[1], {**depends, **features}, 100, 20.0, {"scoring.c": 30, "prompts.m": 70})
    config["heads"]["multimodal"] = {**depends, **features}
    whole = write(world["prompts"].parents[1], config, 75, 8.0, {"gate.w": 15})
    parts = {part.name: part for part in parts_of(read_run(whole))}
    of_clip = sum(parameter.numel() for parameter in clip.load(files, "cpu").parameters())
    assert parts["multimodal"].cost == Cost(100, 20.0) and learned.exists()
    assert parts["multimodal, CLIP fine-tuned instead"].cost == Cost(of_clip + 30, None)
    assert total([*parts.values()]) == Cost(before.parameters, 34.0), "prompted features are of the other run"


def test_a_clip_vit_b_32_has_the_151277313_parameters_that_its_libraries_count():
    import open_clip

    assert clip.parameters({"library": "transformers", "config": {}}) == 151_277_313
    config = {"model_cfg": open_clip.get_model_config("ViT-B-32")}
    assert clip.parameters({"library": "open_clip", "config": config}) == 151_277_313


def test_a_combination_costs_what_its_heads_cost_and_their_stages(world):
    parts = parts_of(read_run(world["fused"]))
    assert [(part.depth, part.name) for part in parts] == [
        (1, "dsmip"),
        *((2, name) for name in ("text", "visual", "multimodal", "features by multimodal", "itself")),
        (1, "ranker"),
        (1, "itself"),
    ]
    assert parts[0].cost == Cost(149, 36.5) and total(parts) == Cost(149 + 7 + 3, 36.5 + 0.5 + 0.25)


def test_a_part_that_is_gone_leaves_the_sum_unknown_and_a_run_of_one_part_costs_itself(world):
    (alone,) = parts_of(read_run(world["prompts"]))
    assert total([alone]) == Cost(100, 20.0)
    (world["text"] / "metrics.json").unlink()
    assert total(parts_of(read_run(world["dsmip"]))) == Cost(None, None)

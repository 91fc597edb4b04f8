"""DSMIP through the commands: its stages are runs of their own, and prompted features belong to one of them."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import commands
import pytest
import small_world
import torch
import yaml

from heads.base import Rows

ROOT = Path(__file__).resolve().parents[1]
SMALL = {
    "d_t": 8,
    "d_v": 8,
    "d_c": 8,
    "gate_width": 8,
    "epochs": 1,
    "prompt_layers": 1,
    "experts": ["text", "multimodal"],
    "batch_size": 16,
}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A data set and a profile with the states that prompts start from."""
    root = tmp_path_factory.mktemp("dsmip")
    small_world.write(root / "data")
    path = small_world.profile(root)
    said = yaml.safe_load(path.read_text())
    clip = said["features"]["clip_text"]
    said["features"] |= {"clip_layers_text": dict(clip), "clip_layers_image": {"model": clip["model"]}}
    path.write_text(yaml.safe_dump(said))
    return root


def arguments(root, **params):
    named = [
        "--dataset",
        "small",
        "--data-dir",
        str(root / "data"),
        "--profile",
        str(root / "small.yaml"),
        "--work-dir",
        str(root / "work"),
    ]
    return ["TrainHead", "--method", "dsmip", "--params", json.dumps(SMALL | params), *named]


def train(root, **params):
    return commands.run(*arguments(root, **params))


def stages(root):
    """stage -> when each of its runs was finished."""
    found = {}
    for path in root.glob("work/runs/small/dsmip/*/run.json"):
        found.setdefault(json.loads(path.read_text())["config"]["stage"], []).append(
            (path.parent.name, path.stat().st_mtime_ns)
        )
    return {stage: sorted(runs) for stage, runs in found.items()}


def test_one_command_trains_the_experts_extracts_with_their_prompts_and_trains_the_gate(world):
    code, said = train(world)
    assert code == 0 and "MRR" in said, said
    first = stages(world)
    assert {stage: len(runs) for stage, runs in first.items()} == {"text": 1, "prompts": 1, "gate": 1}
    shards = {path: path.stat().st_mtime_ns for path in world.glob("work/runs/small/dsmip/*/cache/prompted_*/*.h5")}
    assert {path.parent.name.rpartition("-")[0] for path in shards} == {"prompted_text", "prompted_image"} and len(
        shards
    ) == 4, "both sides have their own prompts"
    assert not list(world.glob("work/cache/prompted_*"))
    # Another gate: the experts, their prompts and what was extracted with them stay as they are.
    assert train(world, temperature=0.5)[0] == 0
    then = stages(world)
    assert len(then["gate"]) == 2 and {stage: then[stage] for stage in ("text", "prompts")} == {
        stage: first[stage] for stage in ("text", "prompts")
    }
    assert {
        path: path.stat().st_mtime_ns for path in world.glob("work/runs/small/dsmip/*/cache/prompted_*/*.h5")
    } == shards
    # A shard of prompted features that was deleted comes back alone, and byte for byte.
    lost = sorted(shards)[0]
    content = lost.read_bytes()
    lost.unlink()
    assert train(world)[0] == 0
    assert lost.read_bytes() == content and {path: path.stat().st_mtime_ns for path in shards if path != lost} == {
        p: t for p, t in shards.items() if p != lost
    }
    assert stages(world)["prompts"] == first["prompts"]
    # One with a flipped byte is found, and so is a spec that is gone; both come back.
    lost.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    spec = sorted(shards)[-1].with_name("spec.json")
    spec.unlink()
    code, said = commands.run("VerifyCache", "--work-dir", str(world / "work"))
    assert (
        code == 30
        and f"bad: {lost.relative_to(world / 'work')}" in said
        and f"bad: {spec.relative_to(world / 'work')}: is gone" in said
    )
    said = commands.run("VerifyCache", "--repair", "--work-dir", str(world / "work"))[1]
    assert "TrainHead" in said and "--method dsmip" in said and not lost.exists()
    assert train(world)[0] == 0
    assert lost.read_bytes() == content and spec.exists()
    assert "holds" in commands.run("VerifyCache", "--work-dir", str(world / "work"))[1]


def test_prompts_that_forget_their_input_end_the_command_in_one_line(world, monkeypatch):
    from heads.methods.dsmip import PromptExpert

    monkeypatch.setattr(
        PromptExpert,
        "prompted_image",
        lambda self, inputs, side: Rows(
            {
                "tokens": torch.ones(len(inputs["image.ok"]), *self.scoring.shapes["image.tokens"]),
                "pooled": torch.ones(len(inputs["image.ok"]), self.sizes["image"].projected),
            }
        ),
    )
    code, said = train(world, lr=0.0007)
    assert code != 0 and "Traceback" not in said
    assert "entity.prompted_image.image, output pooled: all 9 rows are equal; the learned prompts forget" in said, said


def test_prompts_that_start_elsewhere_than_the_cached_states_are_refused_in_one_line(world):
    shutil.rmtree(world / "work" / "runs", ignore_errors=True)
    command = [sys.executable, "-m", "luigi", "--module", "tasks", *arguments(world, prompt_start=1)]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    said = done.stdout + done.stderr
    assert done.returncode != 0 and "prompt_start = 1" in said and "block: 0" in said and "Traceback" not in said

"""What a leaderboard says that runs trained of their encoders."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from cache.identity import identity
from foundation.checksums import checksums, write_sealed
from foundation.errors import NotAsWritten
from heads.checkpoint import write_tensors
from report.runs import Run, RunRecord
from report.tuning import FROZEN, tuning

TUNE = {"text": {"block": 3, "how": "whole"}}


def depends(method: str, heads: Mapping[str, Any] | None = None, **config: Any) -> dict[str, Any]:
    return {"method": method, "config": config, "features": {}, "heads": heads or {}}


def written(work: Path, of: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> Run:
    """A run with these parameters, four epochs of two seconds long."""
    folder = work / "runs" / "small" / of["method"] / identity(of)[:16]
    folder.mkdir(parents=True)
    write_sealed(folder / "config.json", of)
    write_tensors(folder / "model.safetensors", {name: torch.zeros(shape) for name, shape in shapes.items()}, {})
    record = {"epochs": 4, "seconds": {"train": 8.0}, "sha256": checksums(folder, ["model.safetensors"])}
    write_sealed(folder / "run.json", record)
    return Run(folder, {}, RunRecord.of(record))


def test_a_head_that_stays_live_has_trained_its_encoder_itself(tmp_path):
    run = written(tmp_path, depends("joint", tune=TUNE), {"towers.text.a": (2, 3), "score.weight": (5,)})
    found = tuning(run)
    assert (found.words, found.parameters, found.seconds, found.tuned) == ("text from block 3, whole", 6, 2.0, True)


def test_a_tuned_head_has_it_from_its_stage(tmp_path):
    stage = depends("mimic", tune=TUNE, live=True)
    written(tmp_path, stage, {"towers.text.a": (2, 2), "head.b": (9,)})
    found = tuning(written(tmp_path, depends("mimic", {"tuned": stage}, tune=TUNE), {"b": (9,)}))
    assert (found.parameters, found.tuned) == (4, True)


def test_dsmips_prompts_are_parameters_of_encoders_and_no_tuning(tmp_path):
    stage = depends("dsmip", stage="prompts")
    written(tmp_path, stage, {"prompts.mention": (1, 2, 3), "coupling.mention.0.weight": (2, 2), "scoring.a": (7,)})
    gate = depends("dsmip", {"multimodal": stage, "text": depends("dsmip", stage="text")}, stage="gate")
    found = tuning(written(tmp_path, gate, {"gate.a": (7,)}))
    assert (found.words, found.parameters, found.seconds, found.tuned) == ("prompts", 10, 2.0, False)


def test_a_head_over_frozen_encoders_is_frozen_and_a_teachers_encoder_is_not_its_own(tmp_path):
    teacher = depends("joint", tune=TUNE)
    assert tuning(written(tmp_path, depends("dual", {"teacher": teacher}), {"a": (1,)})) == FROZEN
    fused = tuning(written(tmp_path, depends("fused", {"joint": teacher}), {"a": (1,)}))
    assert (fused.words, fused.parameters) == ("in its parts", None)


def test_weights_that_have_changed_are_not_counted(tmp_path):
    run = written(tmp_path, depends("joint", tune=TUNE), {"towers.text.a": (2, 3)})
    write_tensors(run.folder / "model.safetensors", {"towers.text.a": torch.zeros(1)}, {})
    with pytest.raises(NotAsWritten, match=r"model\.safetensors"):
        tuning(run)

"""`checks`: dev is measured several times an epoch; the steps stay the same, and a killed run goes on from each."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from heads_world import build_job, job_for
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from test_heads_training import KILL, bytes_of

from foundation.contracts import to_json
from foundation.device import repeatable
from heads import training
from heads.checkpoint import read_tensors
from heads.config import naming_options
from heads.config import to_json as options_of
from heads.data import CPU, Bundle
from heads.loop import Trainer
from report import curves
from report.runs import Epoch, History, read_run

# DWE+ draws from torch's generator at every step: dropout, and the order of its list negatives.
CONFIG = {"width": 16, "joint_width": 12, "attention_heads": 4, "units": [], "batch_size": 16, "lr": 0.01}
CONFIG |= {"dropout": 0.3, "epochs": 2, "patience": 0}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A job over 94 training mentions, 6 steps an epoch."""
    folder = tmp_path_factory.mktemp("world")
    return job_for(build_job(folder), "dwe", CONFIG, folder / "dwe")


def trainer(job, **changes):
    job = replace(job, config={**job.config, **changes})
    bundle = Bundle.load(job, CPU)
    mentions, _ = bundle.training_mentions()
    return Trainer(training.new_head(job, bundle, mentions), bundle, mentions, job.seed, "fp32")


def test_the_steps_are_those_of_an_epoch_without_checks(world):
    with repeatable(1):
        trained = {checks: trainer(world, checks=checks) for checks in (1, 2, 4, 100)}
        for one in trained.values():
            one.train()
    for one in trained.values():
        for own, other in zip(one.head.state_dict().values(), trained[1].head.state_dict().values(), strict=True):
            assert torch.equal(own, other)
    epochs = {checks: [row["epoch"] for row in one.state.history] for checks, one in trained.items()}
    assert epochs == {
        1: [1, 2],
        2: [0.5, 1, 1.5, 2],
        4: [0.25, 0.5, 0.75, 1, 1.25, 1.5, 1.75, 2],
        100: pytest.approx([step / 6 for step in range(1, 13)]),
    }
    whole, halves = (trained[checks].state.history for checks in (1, 2))
    assert [row["dev MRR"] for row in halves[1::2]] == [row["dev MRR"] for row in whole]
    mentions = [48, 46]  # of the halves of an epoch
    assert np.average([row["loss"] for row in halves[:2]], weights=mentions) == pytest.approx(whole[0]["loss"])


def test_the_best_weights_may_be_those_of_the_middle_of_an_epoch(world):
    with repeatable(1):
        one = trainer(world, checks=3, epochs=4)
        weights = {}
        best = one.train(lambda state: weights.update({state.done: copied(one.head)}))
    figures = {row["epoch"]: row["dev MRR"] for row in one.state.history}
    assert one.state.best == max(figures.values()) and figures[one.state.best_epoch] == one.state.best
    assert all(torch.equal(best[name], tensor) for name, tensor in weights[one.state.best_epoch].items())


def copied(head):
    return {name: tensor.clone() for name, tensor in head.state_dict().items()}


def test_patience_counts_epochs(world):
    with repeatable(1):
        one = trainer(world, checks=2, lr=1e-12, epochs=9, patience=2)
        one.train()
    assert (one.state.best_epoch, one.state.done) == (0.5, 2.5)


def test_once_an_epoch_is_the_default_and_names_no_run():
    for config in (training.load_config("mimic", {}), training.load_config("mimic", {"checks": 2})):
        named = naming_options("mimic", options_of(config))
        assert ("checks" in named) == (config.checks == 2)


@pytest.mark.parametrize("fault", ["epoch-before:2", "epoch-end:1", "epoch-end:3", "epoch-end:4", "run-middle"])
def test_a_run_killed_within_an_epoch_goes_on_to_the_same_bytes(world, tmp_path, fault):
    job = replace(world, config={**CONFIG, "checks": 3}, out=tmp_path / "whole")
    whole = training.train(job)
    assert whole.run["resumed_after"] == 0 and whole.run["epochs"] == 2
    killed = replace(job, out=tmp_path / "killed")
    order = json.dumps([(fault, to_json(killed))])
    ended = subprocess.run([sys.executable, "-c", KILL, order], capture_output=True, text=True, check=True)
    assert ended.stdout.split() == ["-9"]
    tensors, state = read_tensors(killed.out / "checkpoint.safetensors")
    assert any(name.startswith("random.") for name in tensors) == (state["part"] > 0)
    done = {"epoch-before:2": 1 / 3, "epoch-end:1": 1 / 3, "epoch-end:3": 1, "epoch-end:4": 4 / 3, "run-middle": 2}
    assert training.train(killed).run["resumed_after"] == pytest.approx(done[fault])
    assert bytes_of(killed.out) == bytes_of(job.out)


def test_reports_and_tensorboard_have_every_measurement(world, tmp_path):
    job = replace(world, config={**CONFIG, "checks": 2}, out=tmp_path / "run")
    training.train(job)
    history = read_run(job.out).history()
    assert [epoch.number for epoch in history.epochs] == [0.5, 1, 1.5, 2]
    (file,) = (job.out / "tensorboard").iterdir()
    events = [(event.step, value) for event in EventFileLoader(str(file)).Load() for value in event.summary.value]
    assert [step for step, value in events if value.tag == "dev/MRR"] == [1, 2, 3, 4]


def test_charts_have_room_for_the_first_epochs_parts():
    history = History(tuple(Epoch(part / 2, 1 / part, part / 10) for part in range(1, 6)), 1.5)
    both, _ = curves.charts({"a": history})
    (line,) = both.curves
    across = [float(point.split(",")[0]) for point in line.points.split()]
    assert line.label == "a: 0.3 at epoch 1.5, which is kept" and line.kept == pytest.approx((across[2], line.kept[1]))
    assert min(across) > curves.LEFT and max(across) < both.size[0] - curves.RIGHT
    assert [text for _, text in both.x_ticks] == ["0", "1", "2", "3"]

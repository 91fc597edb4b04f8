"""`joint` trained as a run: what it may know, what it leaves to the list, and how it enters `fused`."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from heads_world import Blocks, build_job

from cache.identity import Output
from cache.keys import KeyColumn
from cache.store import Store
from heads import training
from heads.checkpoint import read_tensors
from heads.contracts import Selection
from heads.explanations import explain
from heads.loop import Trainer
from heads.methods.joint import Joint
from heads.runs import list_scores
from heads.towers import Towers

CONFIG = {
    "tune": {"text": {"block": 1, "how": "whole", "lr": 0.003}},
    **{"epochs": 2, "batch_size": 32, "lr": 0.003, "depth": 6, "candidates": 4, "picture_tokens": 2},
}


def towers(job):
    torch.manual_seed(job.seed)
    return Towers({"text": Blocks()}, {})


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """The job of `joint` over the world of `build_job`, whose token states stand for those that enter a block."""
    folder = tmp_path_factory.mktemp("joint")
    job = build_job(folder)
    inputs = []
    for one in job.inputs:
        if one.role == "image":
            inputs.append(replace(one, outputs=("tokens",)))
            continue
        store, keys = Store.open(one.store), KeyColumn.load(one.keys)
        flat, lengths = keys.table(store, "tokens").ragged_flat(np.arange(keys.records))
        states = Store.create(
            folder / "cache",
            "text_tokens@1",
            {"outputs": [Output("states", (16,), ragged=True).to_json()], "made by": f"the tests, {one.side}"},
        )
        rows = np.split(flat, lengths.cumsum()[:-1])
        states.add(keys.keys, np.zeros(keys.records, np.uint8), [""] * keys.records, {"states": rows})
        inputs.append(replace(one, feature="text_tokens@1", outputs=("states",), store=states.folder))
        if one.side == "mention":
            inputs.append(replace(one, outputs=("offsets",)))
    lists = np.load(job.candidates)["ids"]
    places = np.broadcast_to(1 / np.arange(1, lists.shape[1] + 1), lists.shape)
    values = np.where((lists < 0)[..., None], np.nan, np.stack([np.zeros(lists.shape), places], -1))
    np.savez(folder / "retrieval.npz", values=values.astype(np.float32))
    return replace(
        job,
        method="joint",
        config=CONFIG,
        inputs=tuple(inputs),
        pairs={"retrieval": folder / "retrieval.npz"},
        pictured={"retrieval": ()},
        out=folder / "joint",
    )


@pytest.fixture(scope="module")
def run(base):
    training.train(base, towers)
    return base


def permuted(job, splits, out):
    """The job over a dataset in which the golds of these splits are exchanged among their mentions."""
    folder = out / "data"
    folder.mkdir(parents=True)
    table = pq.read_table(job.dataset / "mentions.parquet").to_pydict()
    for split in splits:
        rows = [row for row, of in enumerate(table["split"]) if of == split]
        for name in ("gold", "gold_id"):
            values = [table[name][row] for row in rows]
            for row, value in zip(rows, values[1:] + values[:1], strict=True):
                table[name][row] = value
    pq.write_table(pa.table(table), folder / "mentions.parquet")
    pq.write_table(pq.read_table(job.dataset / "entities.parquet"), folder / "entities.parquet")
    return replace(job, dataset=folder, out=out / "run")


def weights(job):
    return {name: tensor.numpy().tobytes() for name, tensor in read_tensors(job.out / "model.safetensors")[0].items()}


def test_golds_of_test_change_neither_weights_nor_predictions(run, tmp_path):
    other = permuted(run, ["test"], tmp_path)
    training.train(other, towers)
    assert weights(other) == weights(run)
    columns = ["id", "top", "top_score"]
    own, others = (pq.read_table(job.out / "predictions.parquet", columns=columns) for job in (run, other))
    assert own.equals(others)
    golds = [pq.read_table(job.out / "predictions.parquet", columns=["gold"]) for job in (run, other)]
    assert not golds[0].equals(golds[1])


def test_golds_of_dev_choose_an_epoch_and_teach_nothing(run, tmp_path):
    last = replace(run, config={**CONFIG, "epochs": 1}, out=tmp_path / "own")
    other = permuted(last, ["dev", "test"], tmp_path)
    for job in (last, other):
        training.train(job, towers)
    assert weights(last) == weights(other)


def test_the_candidates_of_training_steps_are_chosen_once(run, tmp_path, monkeypatch):
    plain, calls = Joint.training_places, []
    monkeypatch.setattr(Joint, "training_places", lambda self, *args: calls.append(1) or plain(self, *args))
    once = replace(run, out=tmp_path / "once")
    training.train(once, towers)
    assert len(calls) == 1 and weights(once) == weights(run)
    monkeypatch.setattr(Trainer, "listed", property(Trainer.listed.func))
    anew = replace(run, out=tmp_path / "anew")
    training.train(anew, towers)
    assert len(calls) == 1 + CONFIG["epochs"] and weights(anew) == weights(run)


def test_candidates_beyond_depth_keep_the_lists_order_and_have_no_score_as_a_part(run):
    lists = np.load(run.candidates)["ids"]
    scores = list_scores(run, ("test",), build=towers)
    test = np.array(pq.read_table(run.dataset / "mentions.parquet")["split"].to_pylist()) == "test"
    there = np.arange(lists.shape[1]) < CONFIG["depth"]
    assert (np.isfinite(scores[test]) == (there & (lists[test] >= 0))).all()
    assert np.isnan(scores[~test]).all()
    told = {one["id"]: one for one in explain(run, Selection(split="test"), towers)}
    for row in np.flatnonzero(test):
        found = [int(one["id"][1:]) for one in told[f"m{row}"]["candidates"]]
        behind = [entity for entity in lists[row, CONFIG["depth"] :].tolist() if entity >= 0]
        assert found[len(found) - len(behind) :] == behind


def test_explanations_have_a_share_for_each_token_of_a_scored_candidate(run):
    one = next(explain(run, Selection(split="test", sample=1), towers))
    scored = [candidate for candidate in one["candidates"] if "tokens" in candidate]
    assert 0 < len(scored) <= CONFIG["depth"]
    for candidate in scored:
        assert sum(map(abs, candidate["tokens"]["entity"])) == pytest.approx(1, abs=1e-4)

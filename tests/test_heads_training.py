"""Training: what it writes, that it goes on after a kill to the same bytes, what it refuses."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from heads_world import build_job
from safetensors import safe_open
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from cache.store import Store
from foundation.checksums import read_sealed, write_sealed
from foundation.contracts import to_json
from foundation.errors import UserError
from heads import training
from heads.base import Ragged, Rows, make_head
from heads.checkpoint import read_tensors
from heads.config import settings
from heads.contracts import Compute
from heads.data import CPU, Bundle, settle
from heads.evaluation import measure
from heads.loop import Trainer
from heads.metrics import dev_half
from heads.runs import load_run
from report.runs import read_run

COMPARED = ("model.safetensors", "metrics.json", "history.json", "predictions.parquet")


def bytes_of(folder):
    return {name: (Path(folder) / name).read_bytes() for name in COMPARED}


def text_alone(job):
    """The job with its text inputs alone."""
    return replace(job, inputs=tuple(one for one in job.inputs if one.role == "text"))


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A job, what training it returned, and the bytes it wrote."""
    folder = tmp_path_factory.mktemp("world")
    job = build_job(folder)
    return job, training.train(job), bytes_of(job.out)


def test_metrics_predictions_and_history_fit_each_other(world):
    job, result, _ = world
    metrics = json.loads((job.out / "metrics.json").read_text())
    assert metrics == result.metrics
    assert set(metrics) == {"dev", "test"} and list(metrics["test"]) == ["full-kb", "candidates", "rerank"]
    predictions = pq.read_table(job.out / "predictions.parquet").to_pylist()
    mentions = pq.read_table(job.dataset / "mentions.parquet", columns=["id", "split"]).to_pylist()
    assert [row["id"] for row in predictions] == [row["id"] for row in mentions if row["split"] != "train"]
    for split, protocols in metrics.items():
        known = [row for row in predictions if row["split"] == split and row["gold"] not in (None, "Q-elsewhere")]
        for protocol, figures in protocols.items():
            ranks = np.array([row[f"rank_{protocol.replace('-', '_')}"] for row in known])
            assert figures["all"]["n"] == len(ranks) == 38
            assert figures["all"]["H@1"] == pytest.approx((ranks == 1).mean())
            assert figures["all"]["MRR"] == pytest.approx((1 / ranks[ranks > 0]).sum() / len(ranks))
            assert figures["NIL"] == figures["gold outside the KB"] == {"n": 1}
    lists = dict(zip((row["id"] for row in mentions), np.load(job.candidates)["ids"].tolist(), strict=True))
    for row in predictions:
        assert len(row["top"]) == 10 and row["top_score"] == sorted(row["top_score"], reverse=True)
        assert (row["rank_full_kb"] == 1) == (row["top"][0] == row["gold"])
        assert (row["rank_candidates"] > 0) == (row["gold"] in {f"Q{entity}" for entity in lists[row["id"]]})
        np.testing.assert_allclose(
            np.mean([row[f"top_{unit}"] for unit in ("tglu", "vdlu", "cmfu")], axis=0),
            row["top_score"],
            rtol=1e-5,
            atol=1e-5,
        )
    history = json.loads((job.out / "history.json").read_text())
    assert [row["epoch"] for row in history["epochs"]] == [1, 2, 3]
    assert history["best_epoch"] == 1 + int(np.argmax([row["dev MRR"] for row in history["epochs"]]))
    assert history["epochs"][-1]["loss"] < history["epochs"][0]["loss"]


def test_a_run_tells_its_cost(world):
    job, result, _ = world
    said = read_sealed(job.out / "run.json")
    assert said == result.run
    with safe_open(job.out / "model.safetensors", framework="pt") as file:
        names = file.keys()  # the file itself is no mapping
        sizes = [int(np.prod(file.get_slice(name).get_shape())) for name in names]
    assert said["parameters"] == sum(sizes), "this head has no buffers and nothing frozen"
    assert set(said["pairs_per_second"]) == {"candidates", "full-kb"} and min(said["pairs_per_second"].values()) > 0
    assert set(said["seconds"]) == {"load", "train", "evaluate"} and said["seconds"]["train"] > 0


def test_tensorboard_shows_the_options_that_are_not_the_defaults_beside_the_figures_of_test(world):
    job, result, _ = world
    (file,) = (job.out / "tensorboard").iterdir()
    events = [value for event in EventFileLoader(str(file)).Load() for value in event.summary.value]
    (start,) = [one for one in events if one.tag == "_hparams_/session_start_info"]
    options = HParamsPluginData.FromString(start.metadata.plugin_data.content).session_start_info.hparams
    changed = {name: value for name, (value, _) in settings("mimic", job.config).items()}
    assert changed["d_t"] == 8 and set(options) == {"method", "seed", *changed}
    assert options["method"].string_value == "mimic" and options["d_t"].number_value == 8
    assert options["lr"].number_value == changed["lr"] if "lr" in changed else "lr" not in options
    shown = {one.tag: one.tensor.float_val[0] for one in events if one.tag.startswith("test/")}
    assert shown["test/full-kb/H@1"] == pytest.approx(result.metrics["test"]["full-kb"]["all"]["H@1"])
    assert {name.split("/")[1] for name in shown} == {"full-kb", "candidates", "rerank"}


def test_the_model_file_says_what_it_is(world):
    job, _, _ = world
    with safe_open(job.out / "model.safetensors", framework="pt") as file:
        said = json.loads(file.metadata()["state"])
    assert said["method"] == "mimic" and said["config"]["d_t"] == 8 and said["shapes"]["text.tokens"] == [16]


def test_a_run_that_is_done_is_not_done_again_and_a_lost_file_is_made_again(world):
    job, result, written = world
    before = (job.out / "model.safetensors").stat().st_mtime_ns
    assert training.train(job) == result
    assert (job.out / "model.safetensors").stat().st_mtime_ns == before
    (job.out / "model.safetensors").unlink()
    training.train(job)
    assert bytes_of(job.out) == written


KILL = """
import json, os, sys
import torch._dynamo, torch.utils.tensorboard
from foundation.contracts import from_json
from heads import training
from heads.base import make_head
from heads.contracts import TrainingJob
for fault, value in json.loads(sys.argv[1]):
    job = from_json(TrainingJob, value)
    child = os.fork()
    if child == 0:
        os.environ["MEL_FAULT"] = fault
        training.train(job)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
EPOCHS_KEPT = {"epoch-before:2": 1, "epoch-end": 1, "epoch-end:3": 3, "run-middle": 3, "run-before-end": 3}


@pytest.fixture(scope="module")
def killed(world, tmp_path_factory):
    """fault -> the job of a run that was killed there; "other", "pictures": one with another learning rate and one with
    masked pictures, killed after their second epoch."""
    folder = tmp_path_factory.mktemp("killed")
    jobs = {fault: replace(world[0], out=folder / fault.replace(":", "-")) for fault in EPOCHS_KEPT}
    for name, changed in {"other": {"lr": 0.001}, "pictures": {"picture_dropout": 0.3}}.items():
        jobs[name] = replace(world[0], config={**world[0].config, **changed}, out=folder / name)
    order = [(fault if fault in EPOCHS_KEPT else "epoch-end:2", to_json(job)) for fault, job in jobs.items()]
    ended = subprocess.run(
        [sys.executable, "-c", KILL, json.dumps(order)], capture_output=True, text=True, check=True
    ).stdout
    assert ended.split() == ["-9"] * len(jobs)
    return jobs


@pytest.mark.parametrize("fault", EPOCHS_KEPT)
def test_a_killed_run_goes_on_to_the_same_bytes(world, killed, fault):
    out = killed[fault].out
    assert not (out / "run.json").exists()
    kept = read_tensors(out / "checkpoint.safetensors")[1]["seconds"]
    run = training.train(killed[fault]).run
    assert run["resumed_after"] == EPOCHS_KEPT[fault] and run["seconds"]["train"] >= round(kept, 3) > 0, (
        "what was done before the kill counts"
    )
    assert bytes_of(out) == world[2]
    assert not (out / "checkpoint.safetensors").exists()
    assert len(list((out / "tensorboard").iterdir())) == 1


def test_a_killed_run_with_masked_pictures_goes_on_to_the_same_bytes(world, killed, tmp_path):
    assert training.train(killed["pictures"]).run["resumed_after"] == 2
    whole = replace(killed["pictures"], out=tmp_path / "whole")
    assert training.train(whole).run["resumed_after"] == 0
    assert bytes_of(killed["pictures"].out) == bytes_of(whole.out) != world[2]


def test_a_checkpoint_of_another_configuration_is_not_gone_on_with(world, killed):
    out = killed["other"].out
    assert (Path(out) / "checkpoint.safetensors").exists()
    assert training.train(replace(world[0], out=out)).run["resumed_after"] == 0
    assert bytes_of(out) == world[2]


def test_stopping_looks_at_one_half_of_dev_alone(world, tmp_path):
    job, _, _ = world
    saved = np.load(job.candidates)
    mentions = pq.read_table(job.dataset / "mentions.parquet")
    dev = mentions["split"].to_numpy(zero_copy_only=False) == "dev"
    half = np.array([dev_half(str(gold)) for gold in mentions["gold_id"].to_pylist()])
    histories = {}
    for name in ("choose", "calibrate"):
        ids = saved["ids"].copy()
        ids[dev & (half == name)] = -1
        np.savez(tmp_path / f"{name}.npz", ids=ids, scores=saved["scores"])
        out = tmp_path / name
        training.train(replace(job, candidates=tmp_path / f"{name}.npz", out=out))
        histories[name] = (out / "history.json").read_bytes()
    assert histories["calibrate"] == (job.out / "history.json").read_bytes()
    assert {row["dev MRR"] for row in json.loads(histories["choose"])["epochs"]} == {0.0}


@pytest.mark.parametrize("name", training.OUTPUTS)
def test_a_file_of_a_run_that_changed_is_noticed_and_training_again_mends_it(world, tmp_path, name):
    trained, _, _ = world
    shutil.copytree(trained.out, tmp_path / "run")
    job, before = replace(trained, out=tmp_path / "run"), (trained.out / name).read_bytes()
    record = {**read_sealed(job.out / "run.json"), "job": training.job_digest(job)}
    write_sealed(job.out / "run.json", record)
    training.train(job)
    assert read_sealed(job.out / "run.json") == record, "what is whole is not trained again"
    damaged = bytearray(before)
    damaged[len(damaged) // 2] ^= 1
    (job.out / name).write_bytes(damaged)
    with pytest.raises(UserError, match=rf"{name} has other bytes than .*; delete it and run the TrainHead"):
        load_run(job) if name == "model.safetensors" else read_run(job.out)
    training.train(job)
    assert (job.out / name).read_bytes() == before
    load_run(job)
    read_run(job.out)


def test_patience_ends_a_run_that_gets_no_better(world, tmp_path):
    job, _, _ = world
    result = training.train(replace(job, config={**job.config, "lr": 1e-12, "epochs": 50, "patience": 2}, out=tmp_path))
    assert (result.run["best_epoch"], result.run["epochs"]) == (1, 3)


def test_a_run_without_dev_says_that_no_epoch_was_chosen(world, tmp_path):
    job = replace(build_job(tmp_path / "data", splits=(96, 0, 40)), out=tmp_path / "run")
    result = training.train(replace(job, config={**job.config, "epochs": 2}))
    assert (result.run["chosen_on_dev"], result.run["best_epoch"]) == (False, 2)
    assert result.table.endswith("dev has no mention to choose an epoch on: the last of 2 was taken")
    chosen, _, _ = world
    assert json.loads((chosen.out / "run.json").read_text())["chosen_on_dev"] is True


def test_a_fraction_of_train_is_part_of_a_larger_one(world):
    job, _, _ = world
    bundle = Bundle.load(replace(job, inputs=()), CPU)
    tenth, half = (set(bundle.training_mentions(fraction)[0].tolist()) for fraction in (0.1, 0.5))
    whole, counts = bundle.training_mentions()
    assert (len(tenth), len(half), len(whole)) == (9, 47, 94) and tenth < half < set(whole.tolist())
    assert counts == {"train": 94, "NIL": 1, "outside the KB": 1, "trained on": 94}


def test_hard_negatives_come_from_the_mentions_own_lists_anew_at_each_step(world):
    job, _, _ = world
    bundle = Bundle.load(text_alone(job), CPU)
    index = np.flatnonzero((bundle.table["split"] == "train") & (bundle.gold >= 0))[:16]
    first, second = (bundle.draw(index, 2, 40, np.random.default_rng([0, 1, step])) for step in (1, 2))
    for drawn in (first, second):
        assert all(
            entity in bundle.candidates[row] for row, entities in zip(index, drawn, strict=True) for entity in entities
        )
    assert (first != second).any()
    near = bundle.draw(index, 9, 3, np.random.default_rng(0))
    assert all(set(entities) <= set(bundle.candidates[row, :3]) for row, entities in zip(index, near, strict=True))
    batch = bundle.batch(index, False, first)
    distinct = np.unique([*bundle.gold[index], *first[first >= 0]])
    assert len(batch.entities) == len(distinct) and (distinct[batch.gold.numpy()] == bundle.gold[index]).all()
    assert torch.equal(batch.entities["text.pooled"], bundle.entities.rows(distinct)["text.pooled"])
    placed = batch.drawn.numpy()
    np.testing.assert_array_equal(np.where(placed >= 0, distinct[placed], -1), first)


def test_the_step_size_falls_to_nothing_over_all_epochs(world):
    job, _, _ = world
    config = training.load_config(
        "mimic", {**job.config, "lr": 0.01, "lr_decay": True, "epochs": 2, "image_feature": None}
    )
    bundle = Bundle.load(text_alone(job), CPU)
    mentions, _ = bundle.training_mentions()
    trainer = Trainer(make_head("mimic", config, bundle.shapes), bundle, mentions, 0, "fp32")
    steps = -(-len(mentions) // config.batch_size)
    for epoch in (1, 2):
        trainer.run_epoch(epoch)
        done = epoch * steps - 1
        assert [group["lr"] for group in trainer.optimizer.param_groups] == pytest.approx(
            [0.01 * (1 - done / (2 * steps))] * 2
        )


def test_a_batch_with_lists_points_at_its_own_entities(world):
    job, _, _ = world
    bundle = Bundle.load(text_alone(job), CPU)
    index = np.flatnonzero((bundle.table["split"] == "train") & (bundle.gold >= 0))[:5]
    batch = bundle.batch(index, True)
    distinct = np.unique([*bundle.gold[index], *bundle.candidates[index][bundle.candidates[index] >= 0]])
    columns = batch.candidates.numpy()
    np.testing.assert_array_equal(np.where(columns >= 0, distinct[columns], -1), bundle.candidates[index])


def test_text_alone_trains_to_the_end(tmp_path):
    job = build_job(tmp_path, images=False)
    result = training.train(job)
    assert result.metrics["test"]["full-kb"]["all"]["n"] == 38
    assert "top_vdlu" not in pq.read_schema(job.out / "predictions.parquet").names


def test_resident_and_mapped_features_are_the_same_rows(world):
    job, _, _ = world
    resident, mapped = (Bundle.load(job, CPU) for _ in range(2))
    columns = [*resident.mentions.columns.values()]
    sizes = sorted(column.bytes() for column in columns)
    settle(columns, CPU, sum(sizes) - 1)
    assert sorted(column.bytes() for column in columns if column.resident is not None) == sizes[:-1], (
        "the largest no longer fits"
    )
    settle(columns, CPU, sum(sizes))
    assert all(column.resident is not None for column in columns)
    index = np.array([*range(100, 140), 3, 3])
    left, right = resident.mentions.rows(index), mapped.mentions.rows(index)
    assert set(left) == set(right) and 0 < int(left["image.ok"].sum()) < 42
    for name, column in left.items():
        if isinstance(column, Ragged):
            assert torch.equal(column.values, right[name].values) and torch.equal(column.lengths, right[name].lengths)
        else:
            assert torch.equal(column, right[name])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"compute": Compute(device="gpu")}, "--device 'gpu': unknown"),
        ({"compute": Compute(device="cpu", precision="fp8")}, "--precision 'fp8': unknown"),
        ({"train_fraction": 0.0}, "train_fraction = 0.0: expected more than 0"),
        ({"candidates": Path("/nowhere/c.npz")}, "/nowhere/c.npz: no such file"),
        ({"config": {"lr": 1e30}}, "train with a lower learning rate"),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_line(world, tmp_path, change, message):
    job, _, _ = world
    changed = replace(job, out=tmp_path, **{**change, "config": {**job.config, **change.get("config", {})}})
    with pytest.raises(UserError) as error:
        training.train(changed)
    assert message in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "metrics.json").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there_is_refused(world, tmp_path):
    with pytest.raises(UserError, match="--device cuda: this machine has none"):
        training.train(replace(world[0], compute=Compute(device="cuda"), out=tmp_path))


def test_lists_that_do_not_fit_the_kb_are_refused(world, tmp_path):
    job, _, _ = world
    ids = np.load(job.candidates)["ids"].copy()
    ids[0, 0] = 40
    np.savez(tmp_path / "c.npz", ids=ids, scores=np.zeros(ids.shape, np.float32))
    with pytest.raises(UserError, match="do not fit the 176 mentions and 40 entities"):
        training.train(replace(job, candidates=tmp_path / "c.npz", out=tmp_path))


def test_a_damaged_checkpoint_is_named(world, tmp_path):
    job, _, _ = world
    (tmp_path / "checkpoint.safetensors").write_bytes(os.urandom(200))
    with pytest.raises(UserError, match=r"checkpoint\.safetensors: not a checkpoint of this project"):
        training.train(replace(job, out=tmp_path))


def test_a_head_that_scores_lists_alone_is_judged_on_them(world):
    job, result, _ = world
    config = training.load_config("mimic", job.config)
    bundle = Bundle.load(job, CPU)
    head = make_head("mimic", config, bundle.shapes)
    head.load_state_dict(read_tensors(job.out / "model.safetensors")[0])
    head.scores_blocks = False
    found = measure(head.eval(), bundle)
    columns = found.predictions
    assert found.metrics["test"] == {
        protocol: result.metrics["test"][protocol] for protocol in ("candidates", "rerank")
    }
    listed = columns["rank_candidates"] > 0
    assert (
        columns["gold"][listed]
        == [
            top[rank - 1]
            for top, rank in zip(columns["top"], columns["rank_candidates"], strict=True)
            if 0 < rank <= 10
        ]
    ).all()
    assert np.isnan(columns["gold_score"][~listed]).all() and not np.isnan(columns["gold_score"][listed]).any()


def test_nil_and_golds_outside_the_kb_are_counted_apart_and_have_no_rank(world):
    job, _, _ = world
    bundle = Bundle.load(job, CPU)
    gold = bundle.gold.copy()
    gold[np.flatnonzero((bundle.table["split"] == "dev") & (gold >= 0))[:2]] = -1
    head = make_head("mimic", training.load_config("mimic", job.config), bundle.shapes)
    found = measure(head.eval(), replace(bundle, gold=gold))
    for parts in found.metrics["dev"].values():
        assert (parts["all"]["n"], parts["NIL"], parts["gold outside the KB"]) == (36, {"n": 3}, {"n": 1})
    of_rows = gold[np.isin(bundle.table["split"], ("dev", "test"))]
    for protocol in ("full_kb", "rerank"):
        assert ((found.predictions[f"rank_{protocol}"] > 0) == (of_rows >= 0)).all()


def test_a_run_that_is_not_finished_cannot_be_read(world, tmp_path):
    with pytest.raises(UserError, match="train that head first"):
        load_run(replace(world[0], out=tmp_path))


@pytest.mark.parametrize(("prefix", "refused"), [(["class", "register"], False), ([], True), (["register"], True)])
def test_a_class_state_that_an_encoder_has_not_is_not_read(tmp_path, monkeypatch, prefix, refused):
    """SigLIP's states, for one, are the patches' alone; the feature's spec names what stands before them."""
    original = Store.open

    def opened(folder):
        store = original(folder)
        if store.feature == "image_patches":
            store.spec["preprocessing"] = {"prefix": prefix}
        return store

    job = build_job(tmp_path)
    monkeypatch.setattr(Store, "open", opened)
    bundle = Bundle.load(job, torch.device("cpu"))
    training.new_head(job, bundle, np.arange(8))
    own = replace(job, config={**job.config, "image_global": "class_row"})
    if not refused:
        training.new_head(own, bundle, np.arange(8))
        return
    with pytest.raises(UserError, match=r"mimic: the image encoder has no class token.*image.tokens") as error:
        training.new_head(own, bundle, np.arange(8))
    assert "\n" not in str(error.value)


def test_states_that_differ_in_number_end_in_one_line_where_a_head_reads_as_many_of_each():
    rows = Rows({"image.tokens": Ragged(torch.zeros(3, 4), torch.tensor([1, 2]))})
    with pytest.raises(UserError, match=r"image.tokens: .*differ in number"):
        rows.fixed("image.tokens")
